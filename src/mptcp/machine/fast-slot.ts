/** What the machine and the kernel say to one another about a connection whose packets the kernel takes (fast.ts). */
import type { Run } from '../tables.ts'
import type { Subflow } from './subflow.ts'

/** Bytes both ways that show that there will be more. */
export const FAST_AFTER = 65_536

/** Where data go, both ways. */
export interface FastWay {
  readonly subflow: Subflow
  /** Subflow offsets less data offsets of what is sent and received. */
  readonly out: number
  readonly in: number
  /** The data offset from which that is so of what is received. */
  readonly from: number
}

/** What the kernel knows of a connection. Data offsets; windows as in packets; times of the machine's clock (ms), -Infinity: never. */
export interface FastNumbers {
  /** It takes new data of the local TCP, and data of the peer: from where the machine stopped. */
  readonly sends: boolean
  readonly receives: boolean
  readonly sndMax: number
  readonly rcvMax: number
  readonly tan: number
  readonly dataUna: number
  readonly una: number
  readonly window: number
  readonly remoteWindow: number
  /** Of the local TCP (ms); 0: none. */
  readonly srtt: number
  readonly heardAt: number
  readonly askedAt: number
  readonly expectedAt: number
  readonly dataAt: number
  readonly burst: number
}

export interface FastSlot {
  /** As it is now; the kernel goes on. */
  read(): FastNumbers
  /** What the machine did: the kernel takes over from there. */
  advance(sndMax: number, rcvMax: number, sent: readonly Run[]): void
  /** The kernel takes nothing any more. */
  end(): FastLeft
}

export interface FastLeft {
  readonly numbers: FastNumbers
  /** What it sent, mapping by mapping, as far as it is not acknowledged; data offsets. */
  readonly sent: readonly { readonly dsn: number; readonly length: number }[]
  /** The local port of the subflow, and its constants modulo 2^32. */
  readonly way: { readonly localPort: number; readonly out: number; readonly in: number }
}

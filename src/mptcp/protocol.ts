/** What the main thread and the data path's worker say to each other. */
import type { LedgerInit } from '../linux/ledger.ts'
import type { AccessInfo, Counts, MachineEvent, MptcpInit } from './machine/types.ts'

export interface MptcpSetup {
  readonly ledger: LedgerInit
  /** The file that connections are kept in. */
  readonly kept: string
  /** The kernel may take connections. */
  readonly kernel: boolean
  readonly init: MptcpInit
  readonly accesses: readonly WorkerAccess[]
}

export interface WorkerAccess extends AccessInfo {
  /** Of its interface. */
  readonly index: number
  readonly ethernet: boolean
  /** Of packets that the kernel path is to send by it; undefined while it has no routing table. */
  readonly mark: number | undefined
}

export type MptcpCommand =
  | { readonly type: 'accesses'; readonly accesses: readonly WorkerAccess[] }
  | { readonly type: 'report'; readonly request: number }
  | {
      readonly type: 'handover'
      readonly request: number
      readonly connection: number
      readonly access: string
    }
  | { readonly type: 'add'; readonly request: number; readonly connection: number; readonly access: string }
  | {
      readonly type: 'remove'
      readonly request: number
      readonly connection: number
      readonly subflow: number
    }

export type MptcpWorkerEvent =
  | Exclude<MachineEvent, { type: 'watch' }>
  | { readonly type: 'report'; readonly request: number; readonly report: MptcpReport }
  | { readonly type: 'answer'; readonly request: number; readonly done: boolean }
  /** The kernel takes no connections. */
  | { readonly type: 'slow'; readonly reason: string }
  /** Another program had removed the packet rules. */
  | { readonly type: 'restored' }
  /** Connections end with this process. */
  | { readonly type: 'unkept'; readonly reason: string }

export interface MptcpReport {
  readonly connections: readonly ConnectionReport[]
  readonly counts: Counts & {
    readonly packets: number
    readonly damaged: number
    readonly unsent: number
    readonly overruns: number
    readonly refused_verdicts: number
  }
}

/** A connection as the worker reports it; keys are never in it. */
export interface ConnectionReport {
  readonly id: number
  readonly state: string
  readonly role: string
  /** It is of a host behind this one. */
  readonly forwarded: boolean
  readonly local: Uint8Array
  readonly localPort: number
  readonly remote: Uint8Array
  readonly remotePort: number
  /** Bytes that the peer acknowledged, and that the local TCP did. */
  readonly acknowledged: number
  readonly received: number
  readonly active: number | undefined
  readonly fast: boolean
  readonly subflows: readonly SubflowReport[]
}

export interface SubflowReport {
  readonly id: number
  readonly state: string
  readonly access: string | undefined
  readonly local: Uint8Array
  readonly localPort: number
  readonly backup: boolean
  readonly remoteBackup: boolean
  /** Milliseconds; NaN while not measured. */
  readonly srtt: number
  readonly sentBytes: number
  readonly receivedBytes: number
}

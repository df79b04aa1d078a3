/** One machine and nobody else: segments by hand from both its sides. */
import assert from 'node:assert/strict'
import { seeded } from '../../../lab/seeded.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { MptcpMachine } from '../../../src/mptcp/machine/machine.ts'
import { type OutSegment, Segment, type Tuple } from '../../../src/mptcp/machine/segment.ts'
import type { MptcpInit, Passage } from '../../../src/mptcp/machine/types.ts'
import type { Block } from '../../../src/mptcp/tables.ts'
import type { CapableOption, MptcpOption } from '../../../src/mptcp/wire.ts'
import { forge, packetOf } from './packets.ts'

export const CAPABLE: CapableOption = {
  type: 'capable',
  version: 1,
  checksum: false,
  extension: false,
  noJoin: false,
  sha256: true,
}

export interface Fields {
  readonly seq?: number
  readonly ack?: number
  readonly options?: readonly MptcpOption[]
  readonly sack?: readonly Block[]
  readonly payload?: Uint8Array
  readonly window?: number
  /** A SYN that offers no SACK. */
  readonly plain?: boolean
  /** A SYN with MPTCP's options alone. */
  readonly bare?: boolean
  /** Of a SYN; -1: none. */
  readonly scale?: number
  readonly mss?: number
  readonly md5?: boolean
}

export class Alone {
  readonly machine: MptcpMachine
  now = 0
  readonly #segment = new Segment()

  constructor(init: Partial<MptcpInit> = {}) {
    const random = seeded(1)
    const fill = (out: Uint8Array) => {
      for (let i = 0; i < out.length; i++) out[i] = Math.floor(random() * 256)
      return out
    }
    this.machine = new MptcpMachine({ sha: nodeSha256, random: { fill } }, init)
    this.machine.setAccesses(
      [{ name: 'acc1', addresses: [Uint8Array.of(203, 0, 113, 1)], mtu: 1500, backup: false }],
      0,
    )
  }

  /** A packet is forwarded: what goes on in its place, or undefined when it goes on as it is. `tuple`: of its sender. */
  forward(passage: Passage, tuple: Tuple, flags: number, fields: Fields = {}): OutSegment[] | undefined {
    this.#read(tuple, flags, fields)
    const outgoing = this.machine.isFromLocal(this.#segment, passage)
    if (!outgoing) this.#segment.turn()
    const ours = outgoing
      ? this.machine.handleOutgoing(this.#segment, this.now, passage)
      : this.machine.handleIncoming(this.#segment, passage.from, this.now, passage)
    return this.#sent(ours)
  }

  /** The TCP of this host sends; `tuple`: its own. */
  out(tuple: Tuple, flags: number, fields: Fields = {}): OutSegment[] | undefined {
    this.#read(tuple, flags, fields)
    return this.#sent(this.machine.handleOutgoing(this.#segment, this.now))
  }

  /** A peer sends; `tuple`: that of this host. */
  in(tuple: Tuple, flags: number, fields: Fields = {}): OutSegment[] | undefined {
    this.#read(back(tuple), flags, fields)
    this.#segment.turn()
    return this.#sent(this.machine.handleIncoming(this.#segment, 'acc1', this.now))
  }

  #read(tuple: Tuple, flags: number, fields: Fields): void {
    const packet = forge({ tuple: back(tuple), seq: 1, ...fields, flags })
    const view = new DataView(packet.buffer, packet.byteOffset)
    assert.ok(this.#segment.read(view, packet, 0, packet.length, true))
  }

  #sent(ours: boolean): OutSegment[] | undefined {
    const sent: OutSegment[] = []
    for (let out = this.machine.poll(); out !== undefined; out = this.machine.poll()) sent.push(out)
    return ours ? sent : undefined
  }
}

/** The other end's view. */
export function back({ local, localPort, remote, remotePort }: Tuple): Tuple {
  return { local: remote, localPort: remotePort, remote: local, remotePort: localPort }
}

/** The options of MPTCP that a segment carries. */
export function optionsOf(out: OutSegment): readonly MptcpOption[] {
  return [...segmentOf(out).mptcp]
}

/** Without its payload. */
export function segmentOf(out: OutSegment): Segment {
  const packet = packetOf({ ...out, payload: undefined })
  const segment = new Segment()
  const view = new DataView(packet.buffer, packet.byteOffset)
  assert.ok(segment.read(view, packet, 0, packet.length, out.to === 'wire'))
  return segment
}

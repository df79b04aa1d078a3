/** A server's machine and its peer, every segment by hand: at offsets from the first byte of each side. */
import assert from 'node:assert/strict'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { keyOf } from '../../../src/mptcp/machine/keys.ts'
import type { OutSegment, Tuple } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import type { MachineEvent } from '../../../src/mptcp/machine/types.ts'
import type { MptcpOption } from '../../../src/mptcp/wire.ts'
import { Alone, CAPABLE, type Fields, optionsOf } from './alone.ts'

const { SYN, ACK } = TcpFlag
const SERVER = Uint8Array.of(203, 0, 113, 1)
const PEER = Uint8Array.of(198, 51, 100, 7)
export const WIRE: Tuple = { local: SERVER, localPort: 80, remote: PEER, remotePort: 4000 }
/** Of the peer and of this host's TCP. */
export const PEER_ISN = 1000
export const LOCAL_ISN = 5000
export const PEER_KEY = new Uint8Array(8).fill(2)

/** A server's machine whose connection has its third packet, and the numbers of both ends. */
export class Served extends Alone {
  /** Of the SYN and the SYN/ACK. */
  open(peer: Fields = {}, local: Fields = {}): this {
    this.in(WIRE, SYN, { seq: PEER_ISN, options: [CAPABLE], ...peer })
    this.out(WIRE, SYN | ACK, { seq: LOCAL_ISN, ack: PEER_ISN + 1, ...local })
    const keys = { ...CAPABLE, key: PEER_KEY, peerKey: this.key.bytes }
    this.in(WIRE, ACK, { seq: PEER_ISN + 1, ack: LOCAL_ISN + 1, options: [keys] })
    assert.equal(this.connection.state, 'established')
    return this
  }

  get connection() {
    return this.machine.connections[0]!
  }

  get key() {
    return this.connection.localKey
  }

  /** From the peer, at offsets from the first byte; `map`: data offset and length of a mapping. */
  peer(
    flags: number,
    at: number,
    {
      ack = 1,
      length = 0,
      map = undefined as readonly [dsn: number, ssn: number, length: number] | undefined,
      fin = false,
      options = [] as readonly MptcpOption[],
      tuple = WIRE,
      isn = PEER_ISN,
      localIsn = LOCAL_ISN,
      dataAck = undefined as number | undefined,
      sack = [] as readonly (readonly [number, number])[],
      window = 1000,
    } = {},
  ): OutSegment[] | undefined {
    const remote = keyOf(nodeSha256, PEER_KEY)
    const dss: MptcpOption = {
      type: 'dss',
      dataFin: fin,
      ...(dataAck !== undefined && { ack: dsnAt(this.key, dataAck) }),
      ...(map !== undefined && { map: { dsn: dsnAt(remote, map[0]), ssn: map[1], length: map[2] } }),
    }
    const all = map === undefined && dataAck === undefined ? options : [dss, ...options]
    return this.in(tuple, flags, {
      seq: isn + at,
      ack: localIsn + ack,
      options: all,
      window,
      sack: sack.map(([left, right]) => ({ left: localIsn + left, right: localIsn + right })),
      ...(length > 0 && { payload: new Uint8Array(length) }),
    })
  }

  /** From the local TCP. */
  local(
    flags: number,
    at: number,
    ack: number,
    length = 0,
    more: Pick<Fields, 'window' | 'sack'> = {},
  ): OutSegment[] | undefined {
    return this.out(WIRE, flags, {
      ...more,
      seq: LOCAL_ISN + at,
      ack: PEER_ISN + ack,
      ...(length > 0 && { payload: new Uint8Array(length) }),
    })
  }

  /** A second subflow of the peer, from another port. */
  join(): Tuple {
    const tuple = { ...WIRE, remotePort: 4001 }
    const join = { type: 'join', backup: false, id: 2, token: this.key.token, nonce: 7 } as const
    this.in(tuple, SYN, { seq: PEER_ISN, options: [join] })
    const subflow = this.connection.subflows[1]!
    // Its HMAC is the machine's own business elsewhere (keys.test.ts).
    subflow.state = 'active'
    return tuple
  }
}

export function events({ machine }: Alone): MachineEvent[] {
  const all: MachineEvent[] = []
  for (let event = machine.pollEvent(); event !== undefined; event = machine.pollEvent()) all.push(event)
  return all
}

export const dssOf = (out: OutSegment) => optionsOf(out).find((each) => each.type === 'dss')
export const to = (side: 'wire' | 'local', sent: readonly OutSegment[] | undefined) =>
  (sent ?? []).filter((out) => out.to === side)

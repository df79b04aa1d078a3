/** One machine and its peer, every segment by hand: at offsets from the first byte of each side. */
import assert from 'node:assert/strict'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { joinAckHmac, joinHmac, joinReplyHmac, keyOf } from '../../../src/mptcp/machine/keys.ts'
import type { OutSegment, Tuple } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import type { Subflow } from '../../../src/mptcp/machine/subflow.ts'
import type { AccessInfo, MachineEvent } from '../../../src/mptcp/machine/types.ts'
import type { CapableOption, MptcpOption } from '../../../src/mptcp/wire.ts'
import { Alone, CAPABLE, type Fields, optionsOf } from './alone.ts'

const { SYN, ACK } = TcpFlag
const SERVER = Uint8Array.of(203, 0, 113, 1)
const PEER = Uint8Array.of(198, 51, 100, 7)
export const WIRE: Tuple = { local: SERVER, localPort: 80, remote: PEER, remotePort: 4000 }
/** Of the peer and of this host's TCP. */
export const PEER_ISN = 1000
export const LOCAL_ISN = 5000
export const PEER_KEY = new Uint8Array(8).fill(2)
export const ACCESSES: readonly AccessInfo[] = [
  { name: 'acc1', addresses: [SERVER], mtu: 1500, backup: false },
  { name: 'acc2', addresses: [Uint8Array.of(192, 0, 2, 1)], mtu: 1500, backup: false },
]

/** One connection, and the numbers of both its ends. */
abstract class ByHand extends Alone {
  abstract readonly wire: Tuple

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
      tuple = this.wire,
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
    return this.out(this.wire, flags, {
      ...more,
      seq: LOCAL_ISN + at,
      ack: PEER_ISN + ack,
      ...(length > 0 && { payload: new Uint8Array(length) }),
    })
  }

  /** What the machine says by itself. */
  sent(): OutSegment[] {
    const all: OutSegment[] = []
    for (let out = this.machine.poll(); out !== undefined; out = this.machine.poll()) all.push(out)
    return all
  }

  /** What it says in so many milliseconds, with the time of each. */
  wait(ms: number): (readonly [at: number, out: OutSegment])[] {
    const all = this.sent().map((out) => [this.now, out] as const)
    const end = this.now + ms
    for (
      let at = this.machine.nextTimeout();
      at !== undefined && at <= end;
      at = this.machine.nextTimeout()
    ) {
      this.now = Math.max(at, this.now)
      this.machine.handleTimeout(this.now)
      for (const out of this.sent()) all.push([this.now, out])
    }
    this.now = end
    return all
  }

  /** What the peer does on a further subflow that this host began: its SYN/ACK, and its fourth packet unless `half`. */
  accept(
    subflow: Subflow,
    { id = 9, backup = false, half = false, nonce = 5, dataAck = 1 } = {},
  ): OutSegment[] {
    const { tuple, localNonce, localIsn } = subflow
    const hmac = joinReplyHmac(joinHmac(nodeSha256, PEER_KEY, this.key.bytes, nonce, localNonce))
    const reply = { type: 'join-reply', backup, id, hmac, nonce } as const
    const sent = this.in(tuple, SYN | ACK, { seq: PEER_ISN, ack: (localIsn + 1) >>> 0, options: [reply] })!
    if (!half) sent.push(...this.peer(ACK, 1, { tuple, localIsn, dataAck })!)
    return sent
  }
}

/** A server's machine whose connection has its third packet. */
export class Served extends ByHand {
  readonly wire = WIRE

  /** Of the SYN and the SYN/ACK. */
  open(peer: Fields = {}, local: Fields = {}): this {
    this.in(WIRE, SYN, { seq: PEER_ISN, options: [CAPABLE], ...peer })
    this.out(WIRE, SYN | ACK, { seq: LOCAL_ISN, ack: PEER_ISN + 1, ...local })
    const keys = { ...CAPABLE, key: PEER_KEY, peerKey: this.key.bytes }
    this.in(WIRE, ACK, { seq: PEER_ISN + 1, ack: LOCAL_ISN + 1, options: [keys] })
    assert.equal(this.connection.state, 'established')
    return this
  }

  /** A second subflow of the peer, from another port. */
  join(): Tuple {
    const tuple = { ...WIRE, remotePort: 4001 }
    const join = { type: 'join', backup: false, id: 2, token: this.key.token, nonce: 7 } as const
    this.in(tuple, SYN, { seq: PEER_ISN, options: [join] })
    const { localIsn, localNonce } = this.connection.subflows[1]!
    const hmac = joinAckHmac(joinHmac(nodeSha256, PEER_KEY, this.key.bytes, 7, localNonce))
    this.peer(ACK, 1, { tuple, localIsn, options: [{ type: 'join-ack', hmac }] })
    assert.equal(this.connection.subflows[1]!.state, 'active')
    return tuple
  }
}

/** A client's machine with two accesses; the peer has shown that it has the keys. */
export class Opened extends ByHand {
  readonly wire: Tuple = { ...WIRE, localPort: 5555, remotePort: 80 }

  /** `accesses`: those that work; one that is not named is not there. */
  open(accesses: readonly AccessInfo[] = ACCESSES.slice(0, 1)): this {
    this.machine.setAccesses(accesses, this.now)
    this.handshake()
    this.peer(ACK, 1, { dataAck: 1 })
    assert.equal(this.connection.state, 'established')
    return this
  }

  /** Three packets; the answers are what was sent for each. */
  handshake(answer: Partial<CapableOption> = {}): readonly (OutSegment[] | undefined)[] {
    const options = [{ ...CAPABLE, key: PEER_KEY, ...answer }]
    return [
      this.out(this.wire, SYN, { seq: LOCAL_ISN }),
      this.in(this.wire, SYN | ACK, { seq: PEER_ISN, ack: LOCAL_ISN + 1, options }),
      this.out(this.wire, ACK, { seq: LOCAL_ISN + 1, ack: PEER_ISN + 1 }),
    ]
  }

  /** A connection with a subflow on each access. */
  both(): this {
    this.open(ACCESSES)
    for (const each of this.connection.subflows) if (each.id > 0) this.accept(each)
    assert.equal(this.connection.subflows.filter(({ usable }) => usable).length, 2)
    this.sent()
    return this
  }

  /** From the peer, on a further subflow. */
  on(subflow: Subflow) {
    return { tuple: subflow.tuple, localIsn: subflow.localIsn }
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

/** When further subflows are tried again, of one connection and of many. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { keyOf } from '../../../src/mptcp/machine/keys.ts'
import { payloadLength, Segment, type Tuple } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import type { AccessInfo } from '../../../src/mptcp/machine/types.ts'
import { some } from '../../support/extent.ts'
import { Alone, CAPABLE } from './alone.ts'
import { Pair } from './network.ts'
import { forge } from './packets.ts'

const { SYN, ACK, RST } = TcpFlag
const HOUR = 3_600_000

/** A connection whose server pauses; the peer, or a firewall before it, resets joins while `resets` says so. */
class Resetting {
  readonly pair: Pair
  /** When each join began. */
  readonly joins: number[] = []
  resets = true
  readonly #segment = new Segment()
  readonly #push: (now: number) => void

  constructor(when: 'SYN' | 'third packet', paths = 2) {
    this.pair = new Pair({
      seed: 31,
      bytes: [1000, 20_000_000],
      paths,
      middlebox: (packet, _path, toServer) => {
        const segment = this.#segment
        segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, toServer)
        const join = toServer && segment.option('join') !== undefined
        if (join) this.joins.push(this.pair.now)
        const due = when === 'SYN' ? join : toServer && segment.option('join-ack') !== undefined
        if (!due || !this.resets) return [packet]
        const { tuple, seq, ack } = segment
        const reset =
          when === 'SYN' ? { seq: 0, ack: (seq + 1) >>> 0, flags: RST | ACK } : { seq: ack, flags: RST }
        const [at, answer] = [this.pair.now + 40, forge({ tuple, ...reset })]
        this.pair.at(at, () => this.pair.client.in(answer))
        return when === 'SYN' ? [] : [packet]
      },
    })
    this.pair.client.tcp!.connect(0)
    this.#push = this.pair.server.tcp!.push
    this.pair.at(400, () => {
      this.pair.server.tcp!.push = () => {}
    })
  }

  get connection() {
    return this.pair.client.machine.connections[0]!
  }

  run(until: number): void {
    this.pair.at(until, () => {})
    this.pair.run(() => this.pair.now >= until, 2 * HOUR)
  }

  finish(): void {
    this.pair.server.tcp!.push = this.#push
    this.pair.server.tcp!.push(this.pair.now)
    assert.ok(this.pair.run(() => this.pair.done || this.pair.problem !== ''))
    assert.equal(this.pair.problem, '')
  }
}

for (const when of some(['SYN', 'third packet'] as const))
  test(`MP-26: a peer that resets every further subflow at its ${when} draws ever fewer joins, and its connection goes on`, () => {
    const run = new Resetting(when)
    run.run(HOUR)
    const gaps = run.joins.slice(1).map((at, i) => at - run.joins[i]!)
    assert.ok(run.joins.length >= 8 && run.joins.length <= 18, `${run.joins.length} joins in an hour`)
    assert.ok(gaps[0]! >= 1500 && gaps[0]! <= 2600, `${gaps[0]} ms before the second`)
    assert.ok(Math.max(...gaps) <= 801_000, 'and it is tried again all the same')
    assert.equal(run.connection.state, 'established')
    run.finish()
  })

test('MP-26: a subflow that lasted makes the pause short again, and so does an access that comes back', () => {
  const run = new Resetting('third packet')
  run.run(600_000)
  run.resets = false
  const standby = () => run.connection.subflows.find(({ access, usable }) => access === 'acc2' && usable)
  assert.ok(run.pair.run(() => standby() !== undefined, HOUR))
  run.run(run.pair.now + 60_000)
  const { tuple, high } = standby()!
  const lost = run.pair.now
  run.pair.client.in(forge({ tuple, seq: standby()!.ackAt(high), flags: RST }))
  run.pair.client.flush()
  assert.equal(standby(), undefined)
  assert.ok(run.pair.run(() => standby() !== undefined, 10_000))
  assert.ok(run.pair.now - lost < 3000, `${run.pair.now - lost} ms`)
  // And back to long pauses, until the access is another.
  run.resets = true
  run.pair.client.in(forge({ tuple: standby()!.tuple, seq: standby()!.ackAt(standby()!.high), flags: RST }))
  run.run(run.pair.now + 300_000)
  const before = run.joins.length
  run.run(run.pair.now + 30_000)
  assert.ok(run.joins.length <= before + 1)
  run.resets = false
  run.pair.setAccesses(new Set([0]))
  run.pair.setAccesses(new Set([0, 1]))
  assert.ok(run.pair.run(() => standby() !== undefined, 100))
  run.finish()
})

test('a peer that resets the only subflow each time gets a new one, and not at the pace of the round trip', () => {
  const run = new Resetting('third packet', 1)
  run.run(1000)
  const { first } = run.connection
  run.pair.client.in(forge({ tuple: first!.tuple, seq: first!.ackAt(first!.acked), flags: RST }))
  run.pair.client.flush()
  run.run(HOUR)
  assert.ok(run.joins.length >= 3 && run.joins.length <= 8, `${run.joins.length} joins`)
})

const SERVER = Uint8Array.of(198, 51, 100, 7)
const ACCESSES: readonly AccessInfo[] = [
  { name: 'acc1', addresses: [Uint8Array.of(203, 0, 113, 1)], mtu: 1500, backup: false },
  { name: 'acc2', addresses: [Uint8Array.of(192, 0, 2, 1)], mtu: 1500, backup: false },
]

/** A client with many connections to one server. */
class Many extends Alone {
  readonly #seen = new Set<number>()

  constructor(count: number) {
    super()
    for (let i = 0; i < count; i++) this.#open(i)
  }

  #open(i: number): void {
    const tuple: Tuple = {
      local: ACCESSES[0]!.addresses[0]!,
      localPort: 10_000 + i,
      remote: SERVER,
      remotePort: 80,
    }
    const key = new Uint8Array(8).fill(2)
    this.out(tuple, SYN, { seq: 5000 })
    this.in(tuple, SYN | ACK, { seq: 1000, ack: 5001, options: [{ ...CAPABLE, key }] })
    this.out(tuple, ACK, { seq: 5001, ack: 1001 })
    const { localKey } = this.machine.connections[i]!
    assert.equal(keyOf(nodeSha256, key).token, this.machine.connections[i]!.remoteKey!.token)
    const ack = { type: 'dss', dataFin: false, ack: dsnAt(localKey, 1) } as const
    this.in(tuple, ACK, { seq: 1001, ack: 5001, options: [ack] })
    assert.equal(this.machine.connections[i]!.state, 'established')
  }

  /** Runs for so long (ms); the answer is how many joins began in each millisecond in which one did. */
  joins(time: number): {
    readonly most: number
    readonly tuples: readonly Tuple[]
    readonly from: number
    readonly to: number
  } {
    const end = this.now + time
    const tuples: Tuple[] = []
    const each = new Map<number, number>()
    for (;;) {
      for (let out = this.machine.poll(); out !== undefined; out = this.machine.poll()) {
        // No SYN that is sent again.
        if ((out.flags & SYN) === 0 || this.#seen.has(out.seq)) continue
        this.#seen.add(out.seq)
        assert.equal(payloadLength(out), 0)
        tuples.push(out.tuple)
        each.set(Math.floor(this.now), (each.get(Math.floor(this.now)) ?? 0) + 1)
      }
      const next = this.machine.nextTimeout() ?? Number.POSITIVE_INFINITY
      if (next > end) break
      this.now = Math.max(this.now, next)
      this.machine.handleTimeout(this.now)
    }
    this.now = end
    return {
      most: Math.max(...each.values()),
      tuples,
      from: Math.min(...each.keys()),
      to: Math.max(...each.keys()),
    }
  }
}

test('many connections do not join in step: neither when an access comes, nor after each was refused', () => {
  const many = new Many(400)
  many.now = 60_000
  many.machine.setAccesses(ACCESSES, many.now)
  const first = many.joins(400)
  assert.equal(first.tuples.length, 400)
  assert.ok(first.most <= 12, `${first.most} in one millisecond`)
  const ports = first.tuples.map(({ localPort }) => localPort)
  assert.ok(ports.every((port) => port >= 32_768 && port < 61_000))
  assert.ok(new Set(ports).size > 350, 'of their own, chosen at random')
  for (const tuple of first.tuples) many.in(tuple, RST | ACK, { seq: 0, ack: 0 })
  // What each SYN had in it only its own connection knows: an answer to another counts for nothing.
  assert.ok(many.machine.connections.every(({ subflows }) => subflows.at(-1)!.state === 'syn-sent'))
  const refused = many.now
  for (const { subflows } of many.machine.connections) {
    const { tuple, localIsn } = subflows.at(-1)!
    many.in(tuple, RST | ACK, { seq: 0, ack: (localIsn + 1) >>> 0 })
  }
  const second = many.joins(2600)
  assert.equal(second.tuples.length, 400)
  assert.ok(second.most <= 12, `${second.most} in one millisecond`)
  assert.ok(second.from - refused >= 1500 && second.to - second.from >= 800, `${second.from} to ${second.to}`)
})

test('many connections that lost their only access join at once where they can', () => {
  const many = new Many(50)
  many.machine.setAccesses([ACCESSES[1]!], many.now)
  assert.equal(many.joins(0).tuples.length, 50)
})

/** How connections end whose accesses go as they close, and what is left of them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { payloadLength, Segment, type Tuple } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import { extent, stride } from '../../support/extent.ts'
import { Alone, CAPABLE } from './alone.ts'
import { Pair } from './network.ts'
import { forge } from './packets.ts'

const { SYN, ACK, FIN, PSH } = TcpFlag

/** A transfer whose only access goes at `cut`, for so long (ms). */
function cutOff(bytes: readonly [number, number], cut: number, time: number): Pair {
  const pair = new Pair({ seed: Math.floor(cut), bytes, paths: 1, conditions: { jitter: 3 } })
  const [path] = pair.paths
  pair.client.tcp!.connect(0)
  pair.at(cut, () => {
    path!.works = false
    pair.setAccesses(new Set())
  })
  pair.at(cut + time, () => {
    path!.works = true
    pair.setAccesses(new Set([0]))
  })
  return pair
}

const reasons = (pair: Pair, name: 'client' | 'server') =>
  pair[name].events.flatMap((event) => (event.type === 'ended' ? [event.reason] : []))

for (const time of [1000, 5000, 30_000])
  test(`MP-16, RFC 8684 §3.3.3: the only access goes for ${time / 1000} s at any place of the end: both ends end in order, nothing is reset or left`, () => {
    for (const bytes of [
      [0, 20_000],
      [20_000, 0],
      [20, 30],
    ] as const)
      for (let cut = 70; cut < 330; cut += stride(3.3)) {
        const pair = cutOff(bytes, cut, time)
        const what = `${bytes} bytes, cut at ${cut}`
        assert.ok(
          pair.run(() => pair.done, 150_000),
          what,
        )
        assert.equal(pair.problem, '', what)
        pair.run(() => false, 150_000)
        assert.deepEqual([pair.client.tcp!.done, pair.server.tcp!.done], [true, true], what)
        assert.deepEqual(
          [pair.client.tcp!.state, pair.server.tcp!.state],
          ['established', 'established'],
          what,
        )
        for (const name of ['client', 'server'] as const) {
          assert.deepEqual(reasons(pair, name), ['closed'], `${what}: ${name}`)
          assert.equal(pair[name].machine.connections.length, 0, `${what}: ${name}`)
        }
      }
  })

test('RFC 9293: an access that stays away resets no TCP that has got and sent all but the answer to its FIN', () => {
  let ended = 0
  for (let cut = 70; cut < 330; cut += stride(3.3)) {
    const pair = cutOff([0, 20_000], cut, 10_000_000)
    const { tcp } = pair.client
    pair.run(() => false, 150_000)
    if (tcp!.received < 20_000) continue
    ended++
    assert.deepEqual([tcp!.done, tcp!.state], [true, 'established'], `cut at ${cut}`)
    assert.deepEqual(reasons(pair, 'client'), ['closed'])
    assert.equal(pair.client.machine.connections.length, 0)
  }
  assert.ok(ended > extent(10))
})

for (const knows of [false, true])
  test(`RFC 8684 §3.3.3: a bare reset of the last subflow ends no end that is done: a join ${knows ? 'is refused by one that knows, and nothing is left' : 'reaches one that did not know'}`, () => {
    for (const name of ['client', 'server'] as const) {
      const other = name === 'client' ? 'server' : 'client'
      const segment = new Segment()
      let resets = 0
      const pair = new Pair({
        seed: 8,
        bytes: name === 'client' ? [20_000, 0] : [0, 20_000],
        init: { standby: false },
        paths: 1,
        middlebox: (packet, _path, toServer) => {
          segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, true)
          const { tuple, ack, flags } = segment
          if (toServer !== (name === 'client') || (flags & FIN) === 0 || resets > 0) return [packet]
          // As the kernel of a host whose proxy has given up the subflow.
          resets++
          const reset = forge({ tuple, seq: ack, flags: TcpFlag.RST })
          pair.at(pair.now + 20, () => pair[name].in(reset))
          if (!knows) {
            pair.paths[0]!.works = false
            pair.at(pair.now + 0.01, () => {
              pair.paths[0]!.works = true
            })
          }
          return [packet]
        },
      })
      pair.client.tcp!.connect(0)
      assert.ok(
        pair.run(() => pair.done),
        name,
      )
      pair.run(
        () => pair.client.machine.connections.length + pair.server.machine.connections.length === 0,
        5000,
      )
      assert.deepEqual([resets, pair.problem], [1, ''])
      assert.deepEqual([reasons(pair, name), reasons(pair, other)], [['closed'], ['closed']], name)
    }
  })

test('a peer that resets each subflow of an end that is done draws few joins', () => {
  const segment = new Segment()
  let joins = 0
  const pair = new Pair({
    seed: 8,
    bytes: [20_000, 0],
    paths: 1,
    middlebox: (packet, _path, toServer) => {
      segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, true)
      const { tuple, ack, flags } = segment
      if (toServer && segment.option('join') !== undefined) joins++
      if (!toServer || (flags & FIN) === 0) return [packet]
      const reset = forge({ tuple, seq: ack, flags: TcpFlag.RST })
      pair.at(pair.now + 20, () => pair.client.in(reset))
      return []
    },
  })
  pair.client.tcp!.connect(0)
  assert.ok(pair.run(() => pair.done))
  pair.run(() => pair.client.machine.connections.length === 0, 100_000)
  assert.deepEqual(reasons(pair, 'client'), ['closed'])
  assert.ok(joins > 0 && joins <= 8, `${joins} joins`)
})

test('MP-15: what overtakes the third packet of a join ends no join', () => {
  const segment = new Segment()
  let held: Uint8Array | undefined
  const pair = new Pair({
    seed: 17,
    bytes: [0, 20_000_000],
    init: { standby: false },
    middlebox: (packet, _path, toServer) => {
      segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, toServer)
      if (held !== undefined) {
        const late = held
        held = undefined
        return [packet, late]
      }
      if (segment.option('join-ack') === undefined) return [packet]
      held = packet.slice()
      return []
    },
  })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 400)
  pair.setAccesses(new Set([1]))
  pair.run(() => pair.now > 500)
  assert.equal(held, undefined)
  assert.equal(pair.server.machine.counts.joinsRefused, 0)
  assert.equal(pair.client.machine.connections[0]!.active?.access, 'acc2')
})

test('a connection whose TCP gave up waiting for an acknowledgement, without a word, is forgotten', () => {
  const alone = new Alone()
  const tuple: Tuple = {
    local: Uint8Array.of(203, 0, 113, 1),
    localPort: 40_000,
    remote: Uint8Array.of(198, 51, 100, 7),
    remotePort: 80,
  }
  alone.out(tuple, SYN, { seq: 5000 })
  const options = [{ ...CAPABLE, key: new Uint8Array(8).fill(2) }]
  alone.in(tuple, SYN | ACK, { seq: 1000, ack: 5001, options })
  alone.out(tuple, ACK, { seq: 5001, ack: 1001 })
  const { localKey } = alone.machine.connections[0]!
  const heard = { type: 'dss', dataFin: false, ack: dsnAt(localKey, 1) } as const
  alone.in(tuple, ACK, { seq: 1001, ack: 5001, options: [heard] })
  const run = (until: number) => {
    for (;;) {
      const next = alone.machine.nextTimeout() ?? Number.POSITIVE_INFINITY
      if (next > until) break
      alone.now = next
      alone.machine.handleTimeout(next)
    }
    alone.now = until
  }
  // Idle, it stays for hours; while its TCP sends again it stays too.
  run(3_600_000)
  const sent = alone.out(tuple, PSH | ACK | FIN, { seq: 5001, ack: 1001, payload: new Uint8Array(100) })
  assert.equal(payloadLength(sent![0]!), 100)
  for (let i = 1; i <= 5; i++) {
    run(3_600_000 + 120_000 * i)
    alone.out(tuple, PSH | ACK | FIN, { seq: 5001, ack: 1001, payload: new Uint8Array(100) })
  }
  assert.equal(alone.machine.connections.length, 1)
  run(alone.now + 301_000)
  assert.equal(alone.machine.connections.length, 0)
})

test('one that the kernel carries is there after ten minutes of silence: its TCP still sends again', () => {
  const pair = new Pair({
    seed: 3,
    bytes: [6_000_000, 6_000_000],
    paths: 1,
    queue: 1,
    kernel: ['client', 'server'],
  })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 600)
  const [connection] = pair.client.machine.connections
  assert.notEqual(connection!.fast, undefined)
  const [path] = pair.paths
  path!.works = false
  const until = pair.now + 600_000
  pair.at(until, () => {
    path!.works = true
  })
  pair.run(() => pair.now >= until)
  assert.deepEqual(pair.client.machine.connections, [connection])
  assert.ok(pair.run(() => pair.done || pair.problem !== ''))
  assert.equal(pair.problem, '')
  assert.equal(pair.client.machine.counts.fallbacks + pair.server.machine.counts.fallbacks, 0)
})

/** Routers that say that a packet was too big for them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tupleKey } from '../../../src/mptcp/machine/segment.ts'
import { Pair } from './network.ts'

/** An upload of so many bytes over two subflows that work; `longest` has the bytes of the longest packet up each path. */
function uploadOverTwo(seed: number, bytes: number) {
  const longest = [0, 0]
  const pair = new Pair({
    seed,
    bytes: [bytes, 1000],
    paths: 2,
    middlebox: (packet, path, toServer) => {
      if (toServer) longest[path] = Math.max(longest[path]!, packet.length)
      return [packet]
    },
  })
  pair.client.tcp!.connect(0)
  const { machine } = pair.client
  const both = () => machine.connections[0]?.subflows.filter(({ usable }) => usable).length === 2
  assert.ok(pair.run(both, 10_000))
  return { pair, machine, connection: machine.connections[0]!, longest }
}

test('MP-52: a router’s word about a packet under way makes the packets of that subflow smaller; about another packet it counts nothing', () => {
  const { pair, machine, connection, longest } = uploadOverTwo(5, 3_000_000)
  const moved = connection.subflows[1]!
  assert.ok(machine.handover(connection.id, moved.access!, pair.now))
  assert.ok(pair.run(() => connection.active === moved && moved.outstanding, 10_000))
  const key = tupleKey(moved.tuple)
  for (const offset of [moved.una - 1, moved.next]) machine.tooBig(key, moved.seqAt(offset), 1000, pair.now)
  machine.tooBig(`${key}x`, moved.seqAt(moved.una), 1000, pair.now)
  assert.equal(moved.segmentSize, Number.POSITIVE_INFINITY)
  machine.tooBig(key, moved.seqAt(moved.una), 1000, pair.now)
  assert.equal(moved.segmentSize, 1000 - 40 - 28)
  machine.tooBig(key, moved.seqAt(moved.una), 1400, pair.now)
  assert.equal(moved.segmentSize, 1000 - 40 - 28, 'no larger again')
  longest.fill(0)
  const { sndMax } = connection
  assert.ok(pair.run(() => connection.sndMax > sndMax + 500_000, 60_000))
  assert.ok(longest[1]! > 900 && longest[1]! <= 1000, `${longest[1]} bytes`)
  // Ten minutes later larger ones are tried again.
  const tcp = pair.client.tcp!
  const { push } = tcp
  tcp.push = () => {}
  const later = pair.now + 601_000
  pair.at(later, () => {})
  assert.ok(pair.run(() => pair.now >= later, 2 * later))
  assert.equal(moved.segmentSize, Number.POSITIVE_INFINITY)
  tcp.push = push
  tcp.push(pair.now)
  assert.ok(pair.run(() => pair.done || pair.problem !== ''))
  assert.equal(pair.problem, '')
  assert.ok(longest[1]! > 1400, `${longest[1]} bytes`)
})

test('MP-52: whatever a router says, packets carry 484 bytes and more', () => {
  const pair = new Pair({ seed: 6, bytes: [300_000, 1000] })
  pair.client.tcp!.connect(0)
  const { machine } = pair.client
  assert.ok(pair.run(() => machine.connections[0]?.active?.outstanding === true, 10_000))
  const { active } = machine.connections[0]!
  machine.tooBig(active!.key, active!.seqAt(active!.una), 1, pair.now)
  assert.equal(active!.segmentSize, 552 - 40 - 28)
  assert.ok(pair.run(() => pair.done || pair.problem !== ''))
  assert.equal(pair.problem, '')
})

test('MP-52: an access that comes with a smaller MTU than the connection began with, or gets one, gets no larger packets', () => {
  const { pair, machine, connection, longest } = uploadOverTwo(7, 6_000_000)
  const { access, tuple } = connection.subflows[1]!
  const first = connection.subflows[0]!
  const list = (mtu: number) =>
    [
      { name: first.access!, addresses: [first.tuple.local], mtu: 1500, backup: false },
      { name: access!, addresses: [tuple.local], mtu, backup: false },
    ] as const
  machine.setAccesses(list(1500).slice(0, 1), pair.now)
  pair.client.flush()
  machine.setAccesses(list(1400), pair.now)
  pair.client.flush()
  assert.ok(pair.run(() => connection.subflows.some((each) => each.access === access && each.usable), 10_000))
  for (const mtu of [1400, 1200]) {
    machine.setAccesses(list(mtu), pair.now)
    machine.handover(connection.id, access!, pair.now)
    pair.client.flush()
    const { sndMax } = connection
    longest.fill(0)
    assert.ok(pair.run(() => connection.sndMax > sndMax + 500_000, 60_000))
    assert.ok(longest[1]! > mtu - 100 && longest[1]! <= mtu, `${longest[1]} bytes at ${mtu}`)
  }
  assert.ok(pair.run(() => pair.done || pair.problem !== ''))
  assert.equal(pair.problem, '')
})

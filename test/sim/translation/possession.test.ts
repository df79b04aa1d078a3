/** Which connections a host may take over (E-6): those that it has shown to be its own, one by one. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type CompiledFamily, compile } from '../../../src/translation/tables.ts'
import { Control } from '../../../src/translation/wire.ts'
import { A, B, F, pairOfHosts, peerOf, type SimHost, SimNetwork } from './network.ts'
import { says } from './situations.ts'

const C = '10.7.0.2'
/** The address of a NAT; behind it a host without DIME, and one with. */
const Y = '203.0.113.5'

const moved = (host: SimHost): string[] => {
  const maps: CompiledFamily = compile(host.tables)[4]
  const flows = [...maps.out_flow.values(), ...[...maps.out_one.values()].map((o) => o.flow)]
  return [...flows, ...maps.in_flow.values()].map((f) => `${f.foreign}:${f.foreignPort}`)
}

const takenAt = (host: SimHost, port: number): unknown =>
  [...host.tables.sockets.values()].find((f) => f.foreignPort === port || f.localPort === port)?.taken

/** A host greets V from Y, where V has a connection with another, and moves. */
function neighbour(prepare: (m: SimHost, v: SimHost) => void = () => {}): { v: SimHost; net: SimNetwork } {
  const net = new SimNetwork(4)
  const [v, m] = [net.host(), net.host()]
  v.set(`${F}/24`)
  v.flow(F, 22, Y, 51000)
  net.run(20_000)
  prepare(m, v)
  m.set(`${Y}/24`)
  m.flow(Y, 40001, F, 22)
  net.run(net.now + 5_000)
  assert.equal(peerOf(v).state, 'peer', 'it has its row')
  m.preferred = C
  m.set(`${C}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(v).row.current[4], { local: F, foreign: C }, 'and moves')
  return { v, net }
}

test('a host that speaks from the address of another takes over none of that one’s connections', () => {
  const { v } = neighbour()
  assert.deepEqual(moved(v), [])
  assert.equal(takenAt(v, 51000), undefined)
})

test('nor by guessing, nor with what it knows of its own connection, and it learns nothing by trying', () => {
  const guesses = [
    { sent: 0, received: 0 },
    { sent: 0xffffffff, received: 0xffffffff },
  ]
  for (const guess of guesses) {
    const { v, net } = neighbour((m) => {
      m.flow(Y, 51000, F, 22)
      m.streams = (flow) => (flow.localPort === 51000 ? guess : net0(flow.localPort))
    })
    assert.ok(!moved(v).includes(`${Y}:51000`))
    for (const { bytes, from } of net.log)
      if (from === F && bytes[3] === Control.ACK) assert.ok(!hasTags(bytes), 'no tag for who has shown none')
  }
})

const net0 = (port: number) => ({ sent: port, received: port })

/** Whether an IHMP message has a FLOW_TAGS field. */
function hasTags(bytes: Uint8Array): boolean {
  for (let at = 36; at < bytes.length; at += 4 + ((bytes[at + 2]! << 8) | bytes[at + 3]!))
    if (bytes[at] === 14) return true
  return false
}

test('its own connections it takes with it, whenever they began', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.flow(A, 40007, F, 80)
  ch.flow(F, 80, A, 40007)
  net.run(net.now + 1_000)
  mh.preferred = B
  mh.set(`${B}/24`)
  // One that began just before, of which the other end knows when it has moved.
  mh.flow(A, 40008, F, 80)
  ch.flow(F, 80, A, 40008)
  net.run(net.now + 3_000)
  for (const host of [mh, ch])
    assert.deepEqual(
      [...compile(host.tables)[4].out_flow.values()].map((f) => Math.max(f.localPort, f.foreignPort)).sort(),
      [40000, 40007, 40008],
    )
})

test('an end takes packets in before the other sends any: in at the second message, out at the third', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 3_000)
  const states: string[] = []
  const look = (): void => {
    const state = `${takenAt(mh, 40009) ?? '-'} ${takenAt(ch, 40009) ?? '-'}`
    if (states.at(-1) !== state) states.push(state)
  }
  mh.flow(A, 40009, F, 80)
  ch.flow(F, 80, A, 40009)
  for (let i = 0; i < 300; i++) {
    look()
    const maps = compile(ch.tables)[4]
    const out = [...maps.out_flow.values()].some((f) => f.foreignPort === 40009)
    assert.ok(!out || takenAt(mh, 40009) === 'both')
    net.run(net.now + 1)
  }
  assert.deepEqual(states, ['- -', '- in', 'both in', 'both both'])
})

test('proofs are repeated until both ends have them, whatever is lost', () => {
  for (let seed = 1; seed <= 20; seed++) {
    const { net, mh, ch } = pairOfHosts(seed)
    net.loss = 0.3
    for (let port = 41000; port < 41200; port++) {
      mh.flow(A, port, F, 80)
      ch.flow(F, 80, A, port)
    }
    net.run(net.now + 60_000)
    for (const host of [mh, ch])
      for (const flow of host.tables.sockets.values())
        assert.equal(flow.taken, 'both', `seed ${seed} ${flow.id}`)
  }
})

test('1,000 connections are proven in 13 exchanges, and moved by one', () => {
  const { net, mh, ch } = pairOfHosts()
  const before = mh.machine.stats.exchanges
  for (let port = 41000; port < 42000; port++) {
    mh.flow(A, port, F, 80)
    ch.flow(F, 80, A, port)
  }
  net.run(net.now + 5_000)
  assert.equal(mh.machine.stats.exchanges - before, Math.ceil(1000 / 80))
  const mark = net.log.length
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 5_000)
  assert.equal(compile(ch.tables)[4].out_flow.size, 1001)
  assert.deepEqual(net.types(mark), [`HANDOFF ${B}>${F}`, `ACK ${F}>${B}`, `ACK ${B}>${F}`])
})

test('who speaks from a port of programs without rights is not greeted, and does not answer for a host', () => {
  const net = new SimNetwork(6)
  const [v, m] = [net.host(), net.host()]
  v.set(`${F}/24`)
  m.set(`${A}/24`)
  net.intercept = (packet) => (packet.from === A ? { ...packet, port: 40404 } : packet)
  m.flow(A, 40001, F, 80)
  v.flow(F, 80, A, 40001)
  net.run(10_000)
  assert.ok([...v.machine.hosts()].every((h) => h.state !== 'peer'))
  assert.ok(net.types().every((t) => !t.startsWith(`HELLO_ACK ${F}`)))
  v.known.set(A, m.key!.publicKey)
  net.run(net.now + 130_000)
  assert.ok(
    [...v.machine.hosts()].some((h) => h.state === 'peer'),
    'unless its key is bound to the address',
  )
})

test('a key that is bound to an address needs no proof for the flows there', () => {
  const net = new SimNetwork(6)
  const [v, m] = [net.host(), net.host()]
  v.known.set(A, m.key!.publicKey)
  v.set(`${F}/24`)
  m.set(`${A}/24`)
  m.streams = () => ({ sent: 1, received: 1 })
  m.flow(A, 40001, F, 80)
  v.flow(F, 80, A, 40001)
  net.run(5_000)
  assert.equal(takenAt(v, 40001), 'both')
})

test('what was proven survives a restart; what was not does not become so', () => {
  const { net, mh, ch } = pairOfHosts()
  const other = ch.flow(F, 22, A, 50000)
  assert.equal(other, peerOf(ch).row.hid)
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 3_000)
  const fresh = net.host()
  fresh.key = ch.key
  net.hosts.splice(net.hosts.indexOf(ch), 1)
  for (const saved of ch.machine.save()) fresh.machine.restore(saved)
  fresh.flow(F, 80, A, 40000)
  fresh.flow(F, 22, A, 50000)
  fresh.set(`${F}/24`)
  assert.equal(compile(fresh.tables)[4].out_flow.size, 1, 'at once')
  net.run(net.now + 60_000)
  assert.deepEqual(
    [...compile(fresh.tables)[4].out_flow.values()].map((f) => f.foreignPort),
    [40000],
  )
})

test('what was proven of a connection is nothing to a later one with its addresses and ports', () => {
  const net = new SimNetwork(6)
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  mh.flow(A, 40000, F, 80, 1n)
  ch.flow(F, 80, A, 40000, 2n)
  net.run(5_000)
  assert.equal(takenAt(ch, 40000), 'both')
  for (const [cookie, taken] of [
    [2n, 'both'],
    [3n, undefined],
  ] as const) {
    const fresh = net.host()
    fresh.key = ch.key
    for (const saved of ch.machine.save()) fresh.machine.restore(saved)
    fresh.flow(F, 80, A, 40000, cookie)
    assert.equal(takenAt(fresh, 40000), taken)
  }
})

test('the third message says which proofs it is about: another one proves nothing', () => {
  const { net, mh, ch } = pairOfHosts()
  let third: Uint8Array | undefined
  net.intercept = (packet, message) => {
    if (packet.from !== A || message.control !== Control.ACK) return packet
    third = message.response
    return undefined
  }
  mh.flow(A, 40009, F, 80)
  ch.flow(F, 80, A, 40009)
  net.run(net.now + 100)
  assert.equal(takenAt(ch, 40009), 'in')
  const pair = { local: F, foreign: A }
  says(net, mh, ch, pair, { control: Control.ACK, response: new Uint8Array(16) })
  assert.equal(takenAt(ch, 40009), 'in')
  says(net, mh, ch, pair, { control: Control.ACK, response: third! })
  assert.equal(takenAt(ch, 40009), 'both')
})

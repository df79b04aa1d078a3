/** Rows that turn out to be one host: what was known of either is known of it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encoded } from '../../../src/core/codec.ts'
import { bytesOf, compile } from '../../../src/translation/tables.ts'
import { Control, type IhmpMessage, ihmp, Option } from '../../../src/translation/wire.ts'
import { A, B, F, type Packet, type SimHost, SimNetwork } from './network.ts'

const [C, G, NAT] = ['10.7.0.2', '10.4.0.2', '10.5.0.5']

const rowAt = (host: SimHost, ip: string) => [...host.machine.hosts()].find((h) => h.row.active.has(ip))!

/**
 * A host at A with a connection to each of F and G, addresses of one host; F does not answer. The older of its two rows is
 * that of F: when F answers, in `answer`, the one with all that has happened becomes part of it.
 */
function twoRows(prepare: (net: SimNetwork, one: SimHost, other: SimHost) => void = () => {}) {
  const net = new SimNetwork()
  const [one, other] = [net.host(), net.host()]
  one.set(`${A}/24`)
  other.set(`${F}/24`, `${G}/24`)
  other.preferred = G
  prepare(net, one, other)
  net.cut.add(`${A} ${F}`)
  const hid = one.flow(A, 40000, F, 80)
  other.flow(F, 80, A, 40000)
  one.flow(A, 40001, G, 80)
  other.flow(G, 80, A, 40001)
  net.run(5_000)
  assert.deepEqual(
    [...one.machine.hosts()].map(({ state }) => state),
    ['plain', 'peer'],
  )
  const answer = () => {
    net.cut.delete(`${A} ${F}`)
    net.run(net.now + 70_000)
    assert.deepEqual(
      [...one.machine.hosts()].map(({ row }) => row.hid),
      [hid],
    )
  }
  return { net, one, other, answer }
}

/** The NAT says in passing that it knows IHMP. */
function passes(packet: Packet): Packet {
  const bytes = packet.bytes.slice()
  bytes[5] = bytes[5]! | Option.NS
  return { ...packet, bytes }
}

test('DI-41: one that is behind a NAT that knows IHMP is spoken to there as before', () => {
  const { net, one, other, answer } = twoRows()
  net.nat.set(C, NAT)
  net.intercept = (packet) => (packet.from === C ? passes(packet) : packet)
  other.set(`${F}/24`, `${C}/24`)
  net.run(net.now + 5_000)
  assert.ok(rowAt(one, NAT).confirmed.has(`${A} ${NAT}`))
  answer()
  assert.ok(rowAt(one, NAT).row.nats.has(NAT), 'its ports are those that the NAT gave')
  other.set(`${C}/24`)
  net.run(net.now + 5_000)
  one.preferred = B
  one.set(`${B}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(rowAt(other, B).row.current[4], { local: C, foreign: B })
  assert.deepEqual(rowAt(one, NAT).row.current[4], { local: B, foreign: NAT })
})

test('DI-38, D8: what it said before is repeated in vain', () => {
  const { net, one, other, answer } = twoRows()
  let loss: { readonly packet: Packet; readonly message: IhmpMessage } | undefined
  net.intercept = (packet, message) => {
    if (message.control === Control.ADDR_DOWN) loss = { packet, message }
    return packet
  }
  const all = [`${F}/24`, `${G}/24`, `${C}/24`]
  for (const addresses of [all, all.slice(0, 2), all]) {
    other.set(...addresses)
    net.run(net.now + 2_000)
  }
  answer()
  assert.ok(rowAt(one, F).row.active.has(C))
  const { from, to, bytes } = loss!.packet
  one.machine.handleMessage(bytes, { local: to, foreign: from }, 0, net.now)
  net.run(net.now + 1_000)
  assert.ok(rowAt(one, F).row.active.has(C))
})

test('a message about an address that is late does not undo a newer one', () => {
  const { net, one, other, answer } = twoRows()
  let late: Packet | undefined
  net.intercept = (packet, message) => {
    if (message.control !== Control.ADDR_DOWN) return packet
    late = packet
    return undefined
  }
  const all = [`${F}/24`, `${G}/24`, `${C}/24`]
  for (const addresses of [all, all.slice(0, 2), all]) {
    other.set(...addresses)
    net.run(net.now + 100)
  }
  answer()
  const { from, to, bytes } = late!
  one.machine.handleMessage(bytes, { local: to, foreign: from }, 0, net.now)
  net.run(net.now + 1_000)
  assert.ok(rowAt(one, F).row.active.has(C))
})

test('DI-33: what it has not acknowledged is told', () => {
  const { net, one, other, answer } = twoRows((_, host) => {
    host.set(`${A}/24`, `${C}/24`)
  })
  net.run(net.now + 2_000)
  assert.ok(rowAt(other, C) !== undefined)
  net.intercept = (packet, message) => (message.control === Control.ADDR_DOWN ? undefined : packet)
  net.run(net.now + 54_500) // shortly before the older row is greeted again
  one.set(`${A}/24`)
  answer()
  net.intercept = undefined
  net.run(net.now + 60_000)
  assert.ok(!rowAt(other, A).row.active.has(C))
})

test('DI-41, DI-42: a host that begins behind a NAT that knows IHMP is greeted, spoken to and followed', () => {
  const net = new SimNetwork()
  const [inside, outside] = [net.host(), net.host()]
  net.nat.set(C, NAT)
  net.intercept = (packet) => (packet.from === C ? passes(packet) : packet)
  inside.set(`${C}/24`)
  outside.set(`${F}/24`)
  outside.flows.push({ local: F, foreign: NAT })
  inside.flow(C, 40000, F, 80)
  net.run(2_000)
  const { state, row } = rowAt(outside, NAT)
  assert.equal(state, 'peer')
  assert.ok(row.nats.has(NAT), 'ports there are the NAT’s')
  outside.preferred = G
  outside.set(`${G}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(rowAt(inside, G).row.current[4], { local: C, foreign: G })
  inside.preferred = B
  inside.set(`${B}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(row.current[4], { local: G, foreign: B })
})

test('DI-41, DI-42: a daemon that is started anew knows who is behind a NAT, and the ports that it gave', () => {
  const net = new SimNetwork()
  const [inside, outside] = [net.host(), net.host({ nats: 'any' })]
  net.nat.set(C, NAT)
  net.intercept = (packet) => (packet.from === C ? passes(packet) : packet)
  inside.set(`${A}/24`)
  outside.set(`${F}/24`)
  inside.flow(A, 40000, F, 80)
  outside.flow(F, 80, A, 40000)
  net.run(2_000)
  inside.preferred = C
  inside.set(`${C}/24`)
  net.run(net.now + 2_000)
  const mapping = {
    ...{ protocol: 6, host: bytesOf(C), hostPort: 40000, nat: bytesOf(NAT), natPort: 61_000, remotePort: 80 },
  }
  const entry = { control: Control.NAT_ENTRY, options: Option.NS, sequence: 1, counter: 1, mapping }
  const bytes = encoded(ihmp, { ...entry, hostId: bytesOf(NAT) })
  outside.machine.handleMessage(bytes, { local: F, foreign: NAT }, 0, net.now)
  const before = compile(outside.tables)[4]
  assert.equal(before.out_port.size, 1)
  const again = net.host({ nats: 'any' })
  again.key = outside.key
  net.hosts.splice(net.hosts.indexOf(outside), 1)
  for (const each of outside.machine.save()) again.machine.restore(each)
  again.flow(F, 80, A, 40000)
  again.set(`${F}/24`)
  assert.deepEqual([...compile(again.tables)[4].out_port.keys()], [...before.out_port.keys()])
  assert.deepEqual([...compile(again.tables)[4].in_port.keys()], [...before.in_port.keys()])
  again.preferred = G
  again.set(`${G}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(rowAt(inside, G).row.current[4], { local: C, foreign: G })
})

test('a flow on a pair of its own stays there', () => {
  const { net, one, answer } = twoRows((network, host) => {
    network.cut.add(`${C} ${F}`)
    host.set(`${A}/24`, `${C}/24`)
    host.preferred = A
  })
  net.run(net.now + 1_000)
  const [flow] = one.tables.flows(rowAt(one, G).row.hid)
  assert.equal(one.machine.moveFlows(rowAt(one, G).row.hid, C, [flow!], net.now).length, 1)
  net.run(net.now + 1_000)
  const before = [...compile(one.tables)[4].out_one.values()].map(({ wire }) => wire)
  assert.deepEqual(before, [{ local: C, foreign: G }])
  answer()
  assert.deepEqual(
    [...compile(one.tables)[4].out_one.values()].map(({ wire }) => wire),
    before,
  )
  assert.deepEqual([...rowAt(one, G).diversions.keys()], [flow!.id])
})

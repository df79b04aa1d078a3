/** Single clauses of what is remembered, waited for and given back; each was once nobody's to notice. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateOwnKey, nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import { bytesOf } from '../../../src/translation/tables.ts'
import { Control, encodeSigned, type IhmpMessage, ihmp } from '../../../src/translation/wire.ts'
import { A, B, connected, F, pairOfHosts, peerOf, type SimHost, SimNetwork } from './network.ts'
import { A6, F6, flowsOf, lose, strangers, twoWays } from './situations.ts'

const HOUR = 3_600_000

/** Times after `from` at which messages of this type left this address. */
function timesOf(net: SimNetwork, control: Control, from: string, since: number): number[] {
  return net.log.flatMap((packet) => {
    const message = ihmp.decode(packet.bytes)
    const fits = message.ok && message.value.control === control && packet.from === from
    return fits && packet.at - net.delay >= since ? [packet.at - net.delay - since] : []
  })
}

test('DI-39: a directory that gives one address of a host to another key leaves what the host prefers of the others', () => {
  const { net, mh, ch } = twoWays()
  const { hid } = peerOf(mh).row
  mh.machine.move(hid, B, net.now)
  net.run(net.now + 1_000)
  assert.equal(peerOf(ch).preferred, B)
  ch.known.set(A, generateOwnKey().publicKey)
  ch.machine.handleDirectory(A, net.now)
  net.run(net.now + 1_000)
  assert.deepEqual([...peerOf(ch).row.active], [B])
  assert.equal(peerOf(ch).preferred, B)
  ch.known.set(B, generateOwnKey().publicKey)
  ch.machine.handleDirectory(B, net.now)
  assert.equal(peerOf(ch).preferred, undefined)
})

test('DI-43: a host that names itself by an address of the other family is told of its NAT in addresses of one length', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  ch.set(`${F6}/64`)
  ch.flows.push({ local: F6, foreign: A6 })
  const hello = {
    ...{ control: Control.HELLO, options: 0, sequence: 1, counter: 1_700_000_000_000_000 },
    ...{ hostId: bytesOf(A), receiver: bytesOf(F6), addresses: [bytesOf(A)] },
    ...{ publicKey: mh.key!.publicKey, challenge: new Uint8Array(16), cookie: new Uint8Array(16) },
  }
  const bytes = encodeSigned(hello, (covered) => nodeIhmpCrypto.sign(mh.key!, covered))
  ch.machine.handleMessage(bytes, { local: F6, foreign: A6 }, 0, net.now)
  net.drain()
  const answer = ihmp.decode(net.log[0]!.bytes)
  assert.ok(answer.ok && answer.value.natPair !== undefined)
  const { nat, host } = answer.value.natPair
  assert.deepEqual([...nat], [...bytesOf(A6)])
  assert.deepEqual([...host], [...bytesOf(A), ...new Uint8Array(12)])
})

test('DI-20: what is not acknowledged is repeated after twice the round trip and 20 ms, and after 200 ms at least', () => {
  for (const [delay, first] of [
    [20, 200],
    [100, 420],
    [115, 480],
  ] as const) {
    const net = new SimNetwork()
    net.delay = delay
    const [mh, ch] = [net.host(), net.host()]
    mh.set(`${A}/24`)
    ch.set(`${F}/24`)
    connected(net, mh, A, ch, F)
    lose(net, Control.ACK, 60_000)
    const since = net.now
    mh.set(`${A}/24`, `${B}/24`)
    net.run(net.now + 10_000)
    const times = timesOf(net, Control.ADDR_UP, B, since)
    assert.equal(Math.round(times[1]! - times[0]!), first)
  }
})

test('DI-24: what a host says after the greeting goes to the port that its answer came from', () => {
  const { net, mh, ch } = strangers()
  ch.flows.push({ local: F, foreign: A })
  net.intercept = (packet, { control }) => {
    // Of the other end nothing but its answer arrives, from another port than the usual one.
    if (packet.from !== F) return packet
    return control === Control.HELLO_ACK ? { ...packet, port: 600 } : undefined
  }
  mh.flow(A, 40000, F, 80)
  net.run(2_000)
  const sent = net.log.flatMap(({ bytes, from: source, port }) => {
    const message = ihmp.decode(bytes)
    return message.ok && source === A && message.value.control !== Control.HELLO ? [port] : []
  })
  assert.ok(sent.length > 1)
  assert.deepEqual(new Set(sent), new Set([600]))
})

test('E-6: the end that is to wait three seconds with its proofs waits, whatever becomes of its addresses', () => {
  const { net, mh, ch } = strangers()
  const flowsSent: string[] = []
  net.intercept = (packet, { control }) => {
    if (control === Control.FLOWS) flowsSent.push(packet.from)
    return control === Control.FLOWS ? undefined : packet
  }
  ch.flow(F, 80, A, 40000)
  mh.flow(A, 40000, F, 80)
  net.run(1_000)
  flowsSent.length = 0
  ch.set(`${F}/24`, '10.9.0.2/24')
  net.run(2_500)
  assert.ok(!flowsSent.includes(F))
  net.run(4_000)
  assert.ok(flowsSent.includes(F))
})

test('issue 11, 4: single flows that are given back leave the host where it was moved by hand', () => {
  const { net, mh } = twoWays()
  const { hid } = peerOf(mh).row
  assert.ok(mh.machine.move(hid, B, net.now))
  assert.equal(mh.machine.moveFlows(hid, A, flowsOf(mh), net.now).length, 1)
  net.run(net.now + 1_000)
  mh.machine.giveBack(hid, flowsOf(mh), net.now)
  net.run(net.now + 1_000)
  assert.equal(peerOf(mh).pinned, B)
  assert.deepEqual(peerOf(mh).row.current[4], { local: B, foreign: F })
  mh.machine.giveBack(hid, undefined, net.now)
  net.run(net.now + 1_000)
  assert.equal(peerOf(mh).pinned, undefined)
})

test('a host that was silent for long and greets anew is there: its next silence counts like any other', () => {
  const { net, mh, ch } = pairOfHosts()
  net.hosts.splice(net.hosts.indexOf(mh), 1)
  ch.machine.handleSuspicion(peerOf(ch).row.hid, net.now)
  net.run(net.now + HOUR)
  assert.equal(peerOf(ch).dormant, true)
  // It has lost what it knew, and nothing but its greeting arrives.
  const again: SimHost = net.host()
  again.key = mh.key
  again.set(`${A}/24`)
  const greeting: readonly Control[] = [Control.HELLO, Control.HELLO_ACK]
  net.intercept = (packet, { control, response }: IhmpMessage) =>
    greeting.includes(control) || response !== undefined ? packet : undefined
  again.flow(A, 41_000, F, 80)
  ch.flow(F, 80, A, 41_000)
  net.run(net.now + 200)
  assert.equal(peerOf(ch).dormant, false)
  net.hosts.splice(net.hosts.indexOf(again), 1)
  net.run(net.now + 1_000)
  ch.machine.handleSuspicion(peerOf(ch).row.hid, net.now)
  net.run(net.now + 10_000)
  assert.notEqual(peerOf(ch).detachedAt, undefined, 'its flows are held')
})

test('of one host 256 messages wait for their answers at most; what would be more is not sent either', () => {
  const { net, mh } = twoWays()
  const { hid } = peerOf(mh).row
  net.intercept = () => undefined
  const sent = () => mh.machine.stats.sent
  const before = sent()
  for (let i = 0; i < 600; i++) {
    mh.machine.moveFlows(hid, i % 2 === 0 ? B : A, flowsOf(mh), net.now)
    net.drain()
  }
  assert.equal(sent() - before, 256)
})

test('DI-6: the only access with IPv6 goes: flows of IPv6 go on over IPv4 when the peer agrees, and those of IPv4 stay', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24@acc1`, `${A6}/64@acc2`)
  ch.set(`${F}/24`, `${F6}/64`)
  connected(net, mh, A6, ch, F6)
  mh.set(`${A}/24@acc1`)
  net.run(net.now + 5_000)
  for (const [host, own, other] of [
    [mh, A, F],
    [ch, F, A],
  ] as const) {
    const { row } = peerOf(host)
    assert.deepEqual(row.current[6], { local: own, foreign: other })
    assert.deepEqual([...row.crossed], [6])
  }
  assert.deepEqual([...peerOf(mh).crossable], [6])
})

test('issue 11, 4: moved by hand are flows that are proven, and to an address that has a pair; the others are named as left', () => {
  const { net, mh } = twoWays()
  const { hid } = peerOf(mh).row
  assert.deepEqual(mh.machine.moveFlows(hid, '10.99.0.9', flowsOf(mh), net.now), [])
  assert.deepEqual(mh.machine.moveFlows(999, B, flowsOf(mh), net.now), [])
  lose(net, Control.FLOWS, HOUR)
  mh.flow(A, 40_001, F, 80)
  net.run(net.now + 500)
  const moved = mh.machine.moveFlows(hid, B, flowsOf(mh), net.now)
  assert.deepEqual(
    moved.map(({ localPort }) => localPort),
    [40_000],
  )
  assert.equal(peerOf(mh).row.overrides.size, 1)
})

/** An address that was named or used but not proven gets nothing, and costs its owner nothing. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import { bytesOf, compile, type Ip } from '../../../src/translation/tables.ts'
import { Control, encodeMac, encodeSigned, type IhmpMessage, Option } from '../../../src/translation/wire.ts'
import { B, F, peerOf, type SimHost, SimNetwork } from './network.ts'

const X = '10.5.0.2'
const M = '10.8.0.2'

/** V at F with a connection with each of these hosts, greeted in this order. */
function around(...others: Ip[]): { net: SimNetwork; v: SimHost; hosts: SimHost[] } {
  const net = new SimNetwork(9)
  const v = net.host()
  v.set(`${F}/24`)
  const hosts = others.map((ip, i) => {
    const host = net.host()
    host.preferred = ip
    host.set(`${ip}/24`)
    host.flow(ip, 40001 + i, F, 80)
    v.flow(F, 80, ip, 40001 + i)
    net.run(net.now + 3_000)
    return host
  })
  return { net, v, hosts }
}

/** A message that this host signs for V, with what it likes in it. */
function signed(net: SimNetwork, host: SimHost, hostId: Ip, message: Partial<IhmpMessage>): Uint8Array {
  const whole = {
    control: Control.PATH_PROBE,
    options: 0,
    sequence: 1,
    counter: (1_700_000_000_000 + net.now) * 1_000 + Math.floor(net.random() * 1_000),
    hostId: bytesOf(hostId),
    receiver: bytesOf(F),
    ...message,
  }
  return encodeSigned(whole, (bytes) => nodeIhmpCrypto.sign(host.key!, bytes))
}

const rowAt = (v: SimHost, ip: Ip) => [...v.machine.hosts()].find((h) => h.row.active.has(ip))!

/** The hosts that packets from this address are taken for. */
const takenFor = (v: SimHost, ip: Ip): number[] =>
  [...compile(v.tables)[4].in_pair.values()].filter((e) => e.pair.foreign === ip).map((e) => e.hid)

test('an address that is only claimed is not the claimant’s: packets from its owner stay with the owner', () => {
  const { net, v, hosts } = around(X, M)
  const [s, m] = hosts as [SimHost, SimHost]
  s.preferred = B
  s.set(`${B}/24`)
  net.run(net.now + 5_000)
  const owner = rowAt(v, B).row.hid
  assert.deepEqual(takenFor(v, B), [owner])
  for (let i = 0; i < 20; i++) {
    const claim = signed(net, m, M, { control: Control.ADDR_UP_UNREACHABLE, newAddress: bytesOf(B) })
    v.machine.handleMessage(claim, { local: F, foreign: M }, 0, net.now)
    net.drain()
    assert.deepEqual(takenFor(v, B), [owner])
    net.run(net.now + 1_000)
  }
})

test('an address that a host without DIME uses is not the claimant’s either', () => {
  const { net, v, hosts } = around(M)
  const plain = v.flow(F, 80, B, 40001)
  for (const newAddress of [B, X]) {
    const claim = signed(net, hosts[0]!, M, {
      control: Control.ADDR_UP_UNREACHABLE,
      newAddress: bytesOf(newAddress),
    })
    v.machine.handleMessage(claim, { local: F, foreign: M }, 0, net.now)
  }
  net.run(net.now + 2_000)
  assert.deepEqual(takenFor(v, B), [])
  assert.deepEqual(takenFor(v, X), [])
  assert.notEqual(plain, rowAt(v, M).row.hid)
})

test('a peer that forges the source of its messages gets no pair on which another host has answered', () => {
  const { net, v, hosts } = around(X, M)
  const [s, m] = hosts as [SimHost, SimHost]
  s.preferred = B
  s.set(`${B}/24`)
  net.run(net.now + 5_000)
  const owner = rowAt(v, B).row.hid
  for (let i = 0; i < 10; i++) {
    const handoff = signed(net, m, M, { control: Control.HANDOFF, newAddress: bytesOf(B) })
    v.machine.handleMessage(handoff, { local: F, foreign: B }, 0, net.now)
    net.run(net.now + 1_000)
    assert.deepEqual(takenFor(v, B), [owner])
    assert.deepEqual(rowAt(v, M).row.current[4], { local: F, foreign: M })
  }
})

test('P3: an address whose owner has left is the next one’s, once the owner answers there no more', () => {
  const { net, v, hosts } = around(X, M)
  const [s, m] = hosts as [SimHost, SimHost]
  s.preferred = B
  s.set(`${B}/24`)
  net.run(net.now + 5_000)
  net.hosts.splice(net.hosts.indexOf(s), 1) // without a word
  m.preferred = B
  m.set(`${B}/24`)
  net.run(net.now + 20_000)
  assert.deepEqual(takenFor(v, B), [rowAt(v, B).row.hid])
  assert.deepEqual(rowAt(v, B).row.key, m.key!.publicKey)
})

test('known_keys: an address bound to a key takes no other, claimed, used or proven', () => {
  const { net, v, hosts } = around(M)
  const m = hosts[0]!
  v.known.set(B, new Uint8Array(32).fill(7))
  m.preferred = B
  m.set(`${B}/24`)
  net.run(net.now + 20_000)
  assert.deepEqual(takenFor(v, B), [])
  assert.ok(!peerOf(v).row.active.has(B))
})

test('a socket that is not translated wins over a moved connection that looks the same on the wire', () => {
  const { net, v, hosts } = around(M)
  const m = hosts[0]!
  m.preferred = B
  m.set(`${B}/24`)
  net.run(net.now + 5_000)
  const before = compile(v.tables)[4]
  assert.equal(before.in_flow.size, 1)
  const other = v.tables.addHost()
  const id = `tcp-${F}-80-${B}-40001`
  v.tables.addSocket({
    id,
    protocol: 6,
    local: F,
    localPort: 80,
    foreign: B,
    foreignPort: 40001,
    hid: other.hid,
    inode: 2,
  })
  assert.ok(v.tables.takeChanged().includes(rowAt(v, B).row.hid))
  const after = compile(v.tables)[4]
  assert.equal(after.in_flow.size + after.out_flow.size, 0)
  v.tables.removeSocket(id)
  assert.ok(v.tables.takeChanged().includes(rowAt(v, B).row.hid))
  assert.equal(compile(v.tables)[4].in_flow.size, 1)
})

/** HELLO with NF in the name of whoever has this address, by somebody who writes source addresses as he likes. */
function forced(net: SimNetwork, by: SimHost, source: Ip, keyless = false): Uint8Array {
  const hello = {
    control: Control.HELLO,
    options: Option.NF,
    addresses: [bytesOf('192.168.9.9')],
    challenge: new Uint8Array(16).fill(1),
    cookie: new Uint8Array(16).fill(2),
    response: new Uint8Array(16).fill(3),
  }
  if (!keyless) return signed(net, by, source, { ...hello, publicKey: by.key!.publicKey })
  const counter = (1_700_000_000_000 + net.now) * 1_000
  const whole = { ...hello, sequence: 1, counter, hostId: bytesOf(source), receiver: bytesOf(F) }
  return encodeMac(whole, (bytes) => nodeIhmpCrypto.mac(new Uint8Array(32), bytes))
}

test('DI-45: a host is one-to-one when it has shown at its address that it says so; a forged word changes nothing', () => {
  const net = new SimNetwork(9)
  const [v, host, attacker] = [net.host(), net.host(), net.host()]
  v.set(`${F}/24`)
  v.flow(F, 80, X, 40001)
  assert.equal(peerOf(v).state, 'greeting')
  const bytes = forced(net, attacker, X)
  v.machine.handleMessage(bytes, { local: F, foreign: X }, 0, net.now)
  net.drain()
  assert.equal(peerOf(v).state, 'greeting')
  host.set(`${X}/24`)
  host.flow(X, 40001, F, 80)
  net.run(3_000)
  assert.equal(peerOf(v).state, 'peer')
  v.machine.handleMessage(forced(net, attacker, X), { local: F, foreign: X }, 0, net.now)
  net.drain()
  assert.equal(peerOf(v).state, 'peer')
})

test('DI-20, DI-45: nor does it end an association without keys, also from where its host is', () => {
  const net = new SimNetwork(9)
  const [v, host] = [net.host({ unsigned: 'allow' }), net.host({ unsigned: 'allow' })]
  v.key = undefined
  host.key = undefined
  v.set(`${F}/24`)
  host.set(`${X}/24`)
  host.flow(X, 40001, F, 80)
  v.flow(F, 80, X, 40001)
  net.run(3_000)
  assert.equal(peerOf(v).state, 'peer')
  const sent: IhmpMessage[] = []
  net.intercept = (packet, message) => {
    if (packet.from === F) sent.push(message)
    return packet
  }
  v.machine.handleMessage(forced(net, host, X, true), { local: F, foreign: X }, 0, net.now)
  net.drain()
  assert.equal(peerOf(v).state, 'peer')
  // Who reads the answer there, a neighbour behind the same NAT, can say what it asks for.
  const { challenge } = sent.find(({ control }) => control === Control.HELLO_ACK)!
  const counter = (1_700_000_000_000 + net.now) * 1_000
  const hello = { control: Control.HELLO, options: Option.NF, addresses: [], sequence: 2, counter }
  const more = { challenge: challenge!, cookie: challenge!, response: challenge!, hostId: bytesOf(X) }
  const again = encodeMac({ ...hello, ...more }, (covered) => nodeIhmpCrypto.mac(challenge!, covered))
  v.machine.handleMessage(again, { local: F, foreign: X }, 0, net.now)
  net.drain()
  assert.equal(peerOf(v).state, 'peer')
})

test('DI-45: who was told that it is behind a NAT that does not know IHMP gets no row by a third message', () => {
  const net = new SimNetwork(9)
  const [v, host] = [net.host(), net.host()]
  net.nat.set(B, X)
  v.set(`${F}/24`)
  v.flows.push({ local: F, foreign: X })
  host.set(`${B}/24`)
  let challenge: Uint8Array | undefined
  net.intercept = (packet, message) => {
    if (message.control === Control.HELLO_ACK) challenge = message.challenge
    return message.control === Control.HELLO && (message.options & Option.NF) !== 0 ? undefined : packet
  }
  host.flow(B, 40001, F, 80)
  net.run(100)
  const third = { control: Control.ACK, response: challenge!, hostId: bytesOf(B) }
  v.machine.handleMessage(signed(net, host, B, third), { local: F, foreign: X }, 0, net.now)
  net.drain()
  assert.equal([...v.machine.hosts()].length, 0)
  net.run(10_000)
  assert.equal(v.machine.nextTimeout(), undefined, 'nothing is kept of it')
})

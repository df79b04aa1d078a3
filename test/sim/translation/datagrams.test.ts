/** Hosts that only datagrams show, which may be forged. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { A, B, F, peerOf, SimNetwork } from './network.ts'

/** Headers of UDP over IPv4, and a byte. */
const SMALLEST = 29
const OVERHEAD = 28

test('DI-9a: two hosts with unconnected sockets find each other, and the exchange moves', () => {
  for (let seed = 1; seed <= 5; seed++) {
    const net = new SimNetwork(seed)
    const [mh, ch] = [net.host(), net.host()]
    mh.set(`${A}/24`)
    ch.set(`${F}/24`)
    mh.datagrams(A, 5000, F, 5005)
    ch.datagrams(F, 5005, A, 5000)
    net.run(2_000)
    assert.ok(net.types().includes(`SOLICIT ${A}>${F}`))
    assert.equal(peerOf(mh).state, 'peer')
    mh.preferred = B
    mh.set(`${B}/24`)
    net.run(net.now + 3_000)
    for (const host of [mh, ch]) assert.equal([...host.tables.sockets.values()][0]?.taken, 'both')
    assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  }
})

test('a datagram with a forged source makes at most three times its bytes leave, and its flow is left alone', () => {
  const net = new SimNetwork()
  const v = net.host()
  v.set(`${F}/24`)
  const hid = v.datagrams(F, 5005, A, 5000)!
  net.run(170_000)
  const left = net.log.reduce((sum, p) => sum + p.bytes.length + OVERHEAD, 0)
  assert.ok(left > 0 && left <= 3 * SMALLEST, `${left} bytes`)
  // The kernel has forgotten it.
  v.tables.removeSocket([...v.tables.sockets.keys()][0]!)
  v.machine.handleIdle(hid, net.now)
  v.set(`${F}/24`, '10.3.9.2/24')
  net.run(net.now + 3_600_000)
  assert.equal(net.log.length, 1)
  assert.equal([...v.machine.hosts()].length, 0)
})

test('forged datagrams from everywhere leave room for hosts that are there', () => {
  const net = new SimNetwork()
  const [v, s] = [net.host({ mostHosts: 3_000 }), net.host()]
  v.set(`${F}/24`)
  s.set(`${B}/24`)
  for (let i = 0; i < 4_000; i++) v.datagrams(F, 5005, `10.66.${i >> 8}.${i & 255}`, 5000)
  assert.equal(net.log.length, 2_000)
  s.flow(B, 40000, F, 80)
  v.flow(F, 80, B, 40000)
  net.run(5_000)
  assert.equal(peerOf(s).state, 'peer')
})

test('SOLICIT is answered by one HELLO at most three times as long, and by none to who is a peer or has no flow', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  mh.datagrams(A, 5000, F, 5005)
  const solicit = net.log[0]!
  const mark = net.log.length
  for (let i = 0; i < 100; i++) ch.machine.handleMessage(solicit.bytes, { local: F, foreign: A }, 0, net.now)
  net.run(1_000)
  assert.deepEqual(net.log.slice(mark), [], 'without a flow')
  ch.datagrams(F, 5005, A, 5000)
  net.hosts.splice(net.hosts.indexOf(mh), 1)
  const since = net.log.length
  ch.machine.handleMessage(solicit.bytes, { local: F, foreign: A }, 0, net.now)
  net.run(net.now + 60_000)
  const out = net.log.slice(since)
  assert.equal(out.length, 1)
  assert.ok(out[0]!.bytes.length + OVERHEAD <= 3 * (solicit.bytes.length + OVERHEAD))
})

test('SOLICIT makes nobody greet who is waiting for an answer already', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  mh.datagrams(A, 5000, F, 5005)
  const [solicit] = net.log
  net.hosts.splice(net.hosts.indexOf(mh), 1)
  ch.flow(F, 5005, A, 5000)
  const mark = net.log.length
  for (let n = 0; n < 20; n++) ch.machine.handleMessage(solicit!.bytes, { local: F, foreign: A }, 0, net.now)
  net.run(net.now + 200)
  assert.equal(net.log.length, mark)
})

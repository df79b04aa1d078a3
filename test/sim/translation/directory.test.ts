/** A directory that says whose address it is (DI-39, issue 11, 6): nobody is greeted before it has spoken. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateOwnKey } from '../../../src/translation/keys.ts'
import { A, B, F, pairOfHosts, peerOf, SimNetwork } from './network.ts'

test('DI-39: a host is greeted when the directory has said whose its address is, and not before', () => {
  for (const bound of ['its own', 'none', 'another'] as const) {
    const net = new SimNetwork()
    const [mh, ch] = [net.host(), net.host()]
    mh.set(`${A}/24`)
    ch.set(`${F}/24`)
    mh.awaited = new Set([F])
    mh.flow(A, 40000, F, 80)
    ch.flow(F, 80, A, 40000)
    net.run(net.now + 20_000)
    assert.notEqual(peerOf(mh).state, 'peer', 'it cannot say: not believed')
    assert.equal(peerOf(mh).row.key, undefined)
    mh.awaited.clear()
    if (bound === 'its own') mh.known.set(F, ch.key!.publicKey)
    if (bound === 'another') mh.known.set(F, generateOwnKey().publicKey)
    mh.machine.handleDirectory(F, net.now)
    net.run(net.now + 2_000)
    assert.equal(peerOf(mh).state === 'peer', bound !== 'another', bound)
  }
})

test('DI-39: an address that a greeted host has come to, and that is bound to another key, is not its own', () => {
  const { net, mh, ch } = pairOfHosts()
  ch.awaited = new Set([B])
  mh.preferred = B
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B }, 'a move waits for no name server')
  ch.awaited.clear()
  ch.known.set(B, generateOwnKey().publicKey)
  ch.machine.handleDirectory(B, net.now)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: A })
  assert.ok(!peerOf(ch).row.accepted.has(`${F} ${B}`) && !peerOf(ch).row.active.has(B))
})

test('DI-39, DI-7: a host that does not speak IHMP hears no more of this host because a directory is asked', () => {
  const hellos = (directory: boolean): number => {
    const net = new SimNetwork()
    const mh = net.host()
    mh.set(`${A}/24`)
    mh.flow(A, 40000, F, 80)
    for (let hours = 0; hours < 24; hours++) {
      // Each greeting has asked the directory, and its answer comes while the HELLO waits for its own, or afterwards.
      for (const after of [10, 1_000, 30_000]) {
        net.run(net.now + after)
        if (directory) mh.machine.handleDirectory(F, net.now)
      }
      net.run(net.now + 3_600_000)
    }
    return mh.machine.stats.sent
  }
  assert.ok(hellos(true) <= hellos(false) + 24 * 3 * 3, `${hellos(true)}, ${hellos(false)} without`)
})

test('DI-39: the directory is asked about an address when the host has answered there, not before, and each time again', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = A
  net.intercept = (packet, message) =>
    packet.from === B && message.response !== undefined ? undefined : packet
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 10_000)
  assert.deepEqual(ch.looked, [], 'a peer only names it')
  net.intercept = undefined
  net.run(net.now + 40_000)
  const first = ch.looked.length
  assert.ok(first > 0)
  ch.machine.handleSuspicion(peerOf(ch).row.hid, net.now)
  net.run(net.now + 1_000)
  assert.ok(ch.looked.length > first, 'a later answer of the directory may be another')
  assert.ok(ch.looked.every((ip) => ip === B))
})

test('DI-39: a directory that says what was believed already changes nothing; nor does it for a host that is one-to-one (DI-45)', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = B
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 5_000)
  const mark = net.log.length
  for (const ip of [A, B]) {
    ch.known.set(ip, mh.key!.publicKey)
    ch.machine.handleDirectory(ip, net.now)
  }
  net.run(net.now + 5_000)
  assert.deepEqual([...peerOf(ch).row.active], [A, B])
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  assert.equal(net.log.length, mark)
})

/** Addresses that are lost, one right after the other as those of an access are, come back, or are deprecated. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { A, B, F, pairOfHosts, peerOf, type SimHost } from './network.ts'

const C = '10.5.0.2'
const G = '10.4.0.2'

test('DI-25, DI-37: the loss that was being told from an address that is lost, too, is told from another', () => {
  const { net, mh, ch } = pairOfHosts()
  const deaf = [A, B, C].map((ip) => `${ip} ${G}`)
  for (const pair of deaf) net.cut.add(pair)
  mh.preferred = A
  mh.set(`${A}/24`, `${B}/24`, `${C}/24`)
  net.run(net.now + 5_000)
  ch.set(`${F}/24`, `${G}/24`)
  const probing = () => [...peerOf(mh).requests].some((r) => r.pair.foreign === G)
  while (!probing()) net.run(net.now + 10)
  mh.preferred = B
  mh.set(`${B}/24`, `${C}/24`)
  net.run(net.now + 10)
  mh.preferred = C
  mh.set(`${C}/24`)
  assert.ok(probing(), 'something is asked that will not be answered')
  net.run(net.now + 20_000)
  assert.deepEqual([...peerOf(ch).row.active], [C])
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: C })
  assert.deepEqual([...peerOf(mh).lost], [])
})

/** Pairs on which a host was told to go on, since its events were last looked at. */
function resumed(host: SimHost): string[] {
  const events = host.events.splice(0)
  return events.flatMap((e) => (e.kind === 'resumed' ? [`${e.pair.local} ${e.pair.foreign}`] : []))
}

test('issue 10, C 1: an address that comes back: both ends send on at once what has waited, though nothing has changed', () => {
  for (const outage of [3_000, 60_000]) {
    const { net, mh, ch } = pairOfHosts()
    mh.set()
    net.run(net.now + 10)
    if (outage > 10_000) ch.machine.handleSuspicion(peerOf(ch).row.hid, net.now)
    net.run(net.now + outage)
    resumed(mh)
    resumed(ch)
    const at = net.now
    mh.set(`${A}/24`)
    assert.deepEqual(resumed(mh), [`${A} ${F}`], 'at once: its sockets send from there')
    net.run(at + 3 * net.delay)
    assert.ok(resumed(mh).includes(`${A} ${F}`), 'and when the other host has answered')
    assert.ok(resumed(ch).includes(`${F} ${A}`), `after ${outage} ms`)
  }
})

test('issue 10, C 1: a route that comes after its address lets what has waited go on, too', () => {
  const { net, mh } = pairOfHosts()
  mh.set()
  net.run(net.now + 3_000)
  net.cut.add(`${A} ${F}`)
  mh.set(`${A}/24`)
  net.run(net.now + 500)
  resumed(mh)
  mh.machine.handleRoutes(net.now)
  net.drain()
  assert.deepEqual(resumed(mh), [`${A} ${F}`])
})

test('issue 10, C 6: a deprecated address is used until a preferred one is confirmed, and not told', () => {
  const { net, mh, ch } = pairOfHosts()
  const deprecated = { ip: A, prefixLength: 24, device: 'acc', deprecated: true }
  mh.preferred = A
  const set = (...more: string[]): void => {
    mh.addresses = [deprecated, ...more.map((ip) => ({ ip, prefixLength: 24, device: 'acc' }))]
    mh.machine.handleLocal(mh.addresses, net.now)
    net.drain()
  }
  set()
  net.run(net.now + 10_000)
  assert.equal(peerOf(mh).detachedAt, undefined)
  assert.deepEqual(peerOf(mh).row.current[4], { local: A, foreign: F })
  const at = net.now
  set(B)
  assert.deepEqual(peerOf(mh).row.current[4], { local: A, foreign: F }, 'until the other end has answered')
  net.run(at + 2 * net.delay)
  assert.deepEqual(peerOf(mh).row.current[4], { local: B, foreign: F })
  net.run(at + 1_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  assert.ok(peerOf(mh).confirmed.has(`${A} ${F}`), 'what is under way still arrives')
})

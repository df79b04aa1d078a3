/** Hosts that sleep for long, and addresses that change meanwhile. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { A, B, F, pairOfHosts, peerOf, type SimHost, type SimNetwork } from './network.ts'

const G = '10.4.0.2'
const HOUR = 3_600_000

/** Nothing of this host's runs, and nothing reaches it, for so long; the others notice what TCP would. */
function sleep(net: SimNetwork, sleeping: readonly SimHost[], awake: readonly SimHost[], ms: number): void {
  for (const host of sleeping) net.hosts.splice(net.hosts.indexOf(host), 1)
  for (const host of awake) host.machine.handleSuspicion(peerOf(host).row.hid, net.now)
  net.run(net.now + ms)
  net.hosts.push(...sleeping)
}

for (const hours of [1, 24])
  test(`a host that wakes after ${hours} h, elsewhere or where it was, is followed`, () => {
    for (const to of [A, B]) {
      const { net, mh, ch } = pairOfHosts()
      sleep(net, [mh], [ch], hours * HOUR)
      assert.equal(peerOf(ch).dormant, true)
      assert.equal(ch.tables.sockets.size, 1, 'mere silence is for the transport to judge')
      const told = ch.events.filter((e) => e.kind === 'silent')
      assert.deepEqual(
        told.map((e) => e.flows.length),
        [1],
        'and the applications hear of it, once (DI-32)',
      )
      mh.preferred = to
      mh.set(`${to}/24`)
      net.run(net.now + 320_000)
      assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: to })
      assert.deepEqual(peerOf(mh).row.current[4], { local: to, foreign: F })
      assert.equal(peerOf(ch).dormant, false)
    }
  })

test('a host that wakes elsewhere is followed within a second', () => {
  const { net, mh, ch } = pairOfHosts()
  sleep(net, [mh], [ch], HOUR)
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 1_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
})

test('both sleep for a day; one wakes at another address', () => {
  const { net, mh, ch } = pairOfHosts()
  sleep(net, [mh, ch], [], 24 * HOUR)
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
})

test('the host that stayed awake has moved meanwhile: the sleeper hears of it when it speaks', () => {
  const { net, mh, ch } = pairOfHosts()
  net.hosts.splice(net.hosts.indexOf(mh), 1)
  ch.preferred = F
  ch.set(`${F}/24`, `${G}/24`)
  net.run(net.now + HOUR)
  net.hosts.push(mh)
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
})

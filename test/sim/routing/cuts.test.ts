/** The mobile router's links cut without a word, in virtual time: a spare one, and both at once. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { extent } from '../../support/extent.ts'
import { Link, World } from '../tunnel/harness.ts'
import { accessName, Gateways, missing } from './gateways.ts'

const DELAYS_MS = [10, 15]
const INTERVAL_MS = 5
/** Announcements while no path works. */
const PROBE_MS = 100

/** Both links up, datagrams flow. */
function connected(seed: number): { gateways: Gateways; links: readonly Link[]; told: string[] } {
  const world = new World(seed)
  const links = DELAYS_MS.map((delay) => new Link({ delay }))
  const gateways = new Gateways(world, links)
  const { mobile, home } = gateways
  const told: string[] = []
  world.every(1, Number.POSITIVE_INFINITY, () => {
    for (const gateway of [mobile, home])
      for (const event of gateway.pump(world.now))
        if (event.type === 'decision')
          told.push(`${Math.round(world.now)} ${gateway.node.name} ${event.chosen}: ${event.reason}`)
  })
  for (const index of links.keys()) gateways.openPath(index)
  world.run(600)
  gateways.startFlows(INTERVAL_MS)
  world.run(1500)
  return { gateways, links, told }
}

test('OH-18, OH-22: the link in use is cut at any moment: nothing is lost, and the spare one is not blamed for it', () => {
  for (let seed = 1; seed <= extent(15); seed++) {
    const { gateways, links, told } = connected(seed)
    const { world, mobile, home } = gateways
    for (let cut = 0; cut < 8; cut++) {
      world.run(50 * world.random())
      const used = mobile.carrier === accessName(0) ? 0 : 1
      links[used]!.cut()
      world.run(600)
      links[used]!.mend()
      world.run(900 + 3000 * world.random())
    }
    const [up, down] = [mobile.sent, home.sent]
    world.run(100)
    assert.deepEqual(missing(mobile, home, 0, up), [], `seed ${seed}: ${told.join('\n')}`)
    assert.deepEqual(missing(home, mobile, 0, down), [], `seed ${seed}: ${told.join('\n')}`)
    assert.ok(!told.some((line) => line.includes('losing')), told.join('\n'))
  }
})

test('OH-22, OH-28: both links vanish, one comes back: packets follow within a round trip and one announcement', () => {
  for (let seed = 1; seed <= extent(15); seed++) {
    const { gateways, links, told } = connected(seed)
    const { world, mobile, home } = gateways
    for (const [index, gone] of [2000, 500, 5000, 1000, 3000].entries()) {
      for (const link of links) link.cut()
      world.run(gone + 100 * world.random())
      const back = world.now
      links[index % 2]!.mend()
      world.run(1000)
      const trip = 2 * DELAYS_MS[index % 2]!
      for (const [gateway, trips] of [
        [mobile, 1],
        [home, 1.5],
      ] as const) {
        const first = gateway.node.received.find(({ at }) => at > back)?.at ?? Number.POSITIVE_INFINITY
        const allowed = trips * trip + PROBE_MS + INTERVAL_MS
        assert.ok(first - back <= allowed, `seed ${seed}: ${first - back} ms\n${told.join('\n')}`)
      }
      for (const link of links) link.mend()
      const works = () => mobile.node.usable(gateways.homePeer).length
      world.runUntil(() => works() === links.length, 1500)
      assert.equal(works(), links.length, `seed ${seed}: the other one is not left for long`)
      world.run(4000)
    }
  }
})

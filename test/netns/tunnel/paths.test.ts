/** Two engines with tunnel machines over two accesses, real packets: handover without loss, links that go, holes. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { CloseReason } from '../../../src/tunnel/protocol/api.ts'
import type { TrafficResult } from '../../support/udp-traffic.ts'
import { ANCHOR_PORT, missing } from './bed.ts'
import { Engines } from './engines.ts'

usesPrograms('nft')

const skip = missing('nft') ?? false
const engines = new Engines('p', skip)
if (skip === false) before(() => engines.bed.echo(engines.bed.host))

test('UP-9: two accesses come up as two paths of one session', { skip }, async () => {
  const { bed, anchor } = engines
  const report = await anchor.report()
  assert.deepEqual(report.peers[0]!.paths.map((path) => path.pathId).sort(), [1, 2])
  assert.ok(report.peers[0]!.godwit)
  await engines.losesNothing(async () => {
    const results: TrafficResult[] = []
    for (const inner of ['10.98.0.2', 'fd98::2']) {
      const end = await bed.traffic(bed.host, inner, 5)
      await end.more(40)
      results.push(await end())
    }
    return results
  })
})

test('UP-29: moved to and fro under traffic, nothing is lost, the anchor follows by itself', {
  skip,
}, async () => {
  await engines.losesNothing(async () => {
    const { bed, host } = engines
    const end = await bed.traffic(bed.host, '10.98.0.2', 2)
    for (let n = 0; n < 20; n++) {
      host.do({ do: 'prefer', pathId: 1 + (n % 2) })
      await end.more(20)
    }
    return [await end()]
  })
})

test('an access goes with a link event: what was in the air is sent again, 0 lost', { skip }, async () => {
  await engines.losesNothing(async () => {
    const { bed, host, anchor } = engines
    host.do({ do: 'prefer', pathId: 1 })
    const end = await bed.traffic(bed.host, '10.98.0.2', 2)
    await end.more(100)
    // The kernel reports it 20 ms after the link has died.
    bed.hole(1, 'both')
    await delay(20)
    host.do({ do: 'remove-path', pathId: 1 })
    await anchor.until('path closed', (event) => event.type === 'path-closed')
    await end.more(100)
    return [await end()]
  })
})

for (const direction of ['both', 'up', 'down'] as const)
  test(`a silent hole, ${direction}: found by probes, 0 lost`, { skip }, async () => {
    await engines.losesNothing(async () => {
      const { bed, host } = engines
      host.do({ do: 'prefer', pathId: 1 })
      const end = await bed.traffic(bed.host, '10.98.0.2', 5)
      await end.more(300)
      bed.hole(1, direction)
      await host.pathState(1, 'down', 5000)
      await end.more(100)
      const result = await end()
      bed.mend(1)
      await host.pathState(1, 'up', 10_000)
      console.log(`# ${direction}: gap ${result.gapMs.toFixed(0)} ms`)
      return [result]
    })
  })

/** A packet filter of the host treats what leaves over its first access so. */
function filterFirst(verdict: string): void {
  const { bed } = engines
  bed.run(bed.host, 'nft', [
    `table ip others { chain out { type filter hook output priority 0; oifname acc1 udp dport ${ANCHOR_PORT} ${verdict}; }; }`,
  ])
}

const unfilter = () => engines.bed.run(engines.bed.host, 'nft', ['delete table ip others'])

for (const verdict of ['drop', 'reject'])
  test(`issue 10: a packet filter of the host says ${verdict}: the path cannot send, and is left before it would count as silent; 0 lost`, {
    skip,
  }, async () => {
    await engines.losesNothing(async () => {
      const { bed, host } = engines
      host.do({ do: 'prefer', pathId: 1 })
      const end = await bed.traffic(bed.anchor, '10.98.0.1', 5)
      await end.more(300)
      filterFirst(verdict)
      const event = await host.pathState(1, 'down', 5000)
      unfilter()
      assert.ok(event.type === 'path' && event.path.state.name === 'down')
      assert.equal(event.path.state.reason, CloseReason.error)
      await end.more(100)
      const result = await end()
      await host.pathState(1, 'up', 10_000)
      console.log(`# ${verdict}: gap ${result.gapMs.toFixed(0)} ms`)
      return [result]
    })
  })

test('issue 10: a packet filter of the host drops what is more than 100 datagrams a second: the path stays', {
  skip,
}, async () => {
  const { bed, host } = engines
  host.do({ do: 'prefer', pathId: 1 })
  const end = await bed.traffic(bed.host, '10.98.0.2', 2)
  await end.more(100)
  filterFirst('limit rate over 100/second burst 5 packets drop')
  await end.more(300)
  unfilter()
  const { lost } = await end()
  assert.ok(lost > 100, `${lost}`)
  const left = host.events.some((event) => event.type === 'path' && event.path.state.name === 'down')
  assert.ok(!left, 'left for a rate limit')
})

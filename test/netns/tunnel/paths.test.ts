/** Two engines with tunnel machines over two accesses, real packets: handover without loss, links that go, holes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { TrafficResult } from '../../support/udp-traffic.ts'
import { missing } from './bed.ts'
import { Engines } from './engines.ts'

const skip = missing() ?? false
const engines = new Engines('p', skip)

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

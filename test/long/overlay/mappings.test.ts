/** An hour behind a carrier's NAT that ends mappings at 60 s (issue 13, "How good"), in virtual time. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { type CarrierKinds, carrierWorld } from '../../sim/overlay/carrier.ts'

const HOUR = 3_600_000
const PART = 60_000
const LIFETIME = 60_000

describe('NT-50: an hour of datagrams, one every 5 ms each way, mappings end at 60 s', () => {
  const kinds: readonly CarrierKinds[] = [
    ['port-restricted', 'port-restricted'],
    ['symmetric', 'symmetric'],
  ]
  for (const pair of kinds)
    it(`${pair.join(' and ')}: nothing is lost once the lifetime is known`, (t) => {
      const { flow } = carrierWorld(pair, [LIFETIME, LIFETIME])
      flow.run(LIFETIME + 10_000)
      t.diagnostic(`the first ones cost ${flow.lost().join(' and ')} datagrams`)
      for (let ms = 0; ms < HOUR; ms += PART) {
        flow.run(PART)
        assert.deepEqual(flow.lost(100), [0, 0], `in minute ${ms / 60_000}`)
      }
    })
})

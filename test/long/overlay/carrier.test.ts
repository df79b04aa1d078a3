/** Ten minutes behind a carrier's NAT that ends mappings at 60 s (issue 13, "How good"), on the real kernel. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { OverlayBed } from '../../netns/overlay/bed.ts'

usePrivateNames()

const LIFETIME_MS = 60_000
const TEN_MINUTES = 600_000

for (const [what, kind, way] of [
  ['direct', 'endpoint-independent', 'direct acc1'],
  ['by the relay', 'symmetric', 'relay acc1'],
] as const)
  describe(`a node behind a NAT that ends mappings at 60 s, ${what}`, () => {
    let bed: OverlayBed
    before(async () => {
      bed = await OverlayBed.start({ na1: 'symmetric', nb1: kind }, [
        ['alice', 'acc2'],
        ['bob', 'acc2'],
      ])
    })
    after(async () => {
      await bed?.close()
    })

    it('NT-50: ten minutes of a datagram every 5 ms each way lose none', async (t) => {
      const { lost, before } = await bed.carrierFlow(way, LIFETIME_MS, TEN_MINUTES)
      t.diagnostic(`the first ones cost ${before.join(' and ')} datagrams`)
      assert.deepEqual(lost, [0, 0], bed.log('alice').slice(-6000))
    })
  })

/** A node behind a carrier's NAT that ends mappings at 8 s; test/long has 60 s and ten minutes. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { OverlayBed } from './bed.ts'

usePrivateNames()

const LIFETIME_MS = 8_000

describe('a node behind a NAT that ends mappings at an age', () => {
  let bed: OverlayBed
  before(async () => {
    bed = await OverlayBed.start({ na1: 'symmetric', nb1: 'endpoint-independent' }, [
      ['alice', 'acc2'],
      ['bob', 'acc2'],
    ])
  })
  after(async () => {
    await bed?.close()
  })

  it('NT-50: once the first has ended, a flow of a datagram every 5 ms loses none', async (t) => {
    const { lost, before } = await bed.carrierFlow('direct acc1', LIFETIME_MS, 2 * LIFETIME_MS)
    t.diagnostic(`the first ones cost ${before.join(' and ')} datagrams`)
    assert.deepEqual(lost, [0, 0], bed.log('alice').slice(-6000))
  })
})

/** A host behind a carrier's NAT that ends mappings at 60 s, with its anchor and a server beyond it (issue 13, part 4). */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { LaptopBed, SERVER } from '../../netns/anchoring/laptop-bed.ts'
import { carrierFlow } from '../../support/carrier-flow.ts'

usesPrograms('ip')
usePrivateNames()

const LIFETIME_MS = 60_000

describe('a host behind a NAT that ends mappings at an age', () => {
  let bed: LaptopBed
  before(async () => {
    bed = await LaptopBed.build(topologyNamed('upmt-symmetric'), '[log]\nlevel = "debug"', 4)
    await bed.run('mh', 'ip', 'link', 'set', 'acc2', 'down')
    await bed.daemon('mh')
  })
  after(async () => {
    await bed?.close()
  })

  it('issue 13: once the first has ended, ten minutes of a datagram every 5 ms each way lose none', async (t) => {
    const { programs } = bed.lab
    const { lost, before } = await carrierFlow({
      ...{ programs, nat: 'nat1', client: 'mh', server: 'ch1', address: SERVER },
      ...{ log: () => bed.log('mh'), lifetimeMs: LIFETIME_MS, ms: 600_000 },
    })
    t.diagnostic(`the first ones cost ${before.join(' and ')} datagrams`)
    assert.deepEqual(lost, [0, 0], bed.log('mh').slice(-6000))
  })
})

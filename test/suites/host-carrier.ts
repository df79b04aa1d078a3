/** A host behind a carrier's NAT that ends mappings at an age, with its anchor and a server beyond it (issue 13, part 4). */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { topologyNamed } from '../../lab/topologies/index.ts'
import { usesPrograms } from '../../src/linux/packages.ts'
import { LaptopBed, SERVER } from '../netns/anchoring/laptop-bed.ts'
import { carrierFlow } from '../support/carrier-flow.ts'

usesPrograms('ip')

/** Datagrams every 5 ms each way for `ms`, once the first mapping has ended. */
export function losesNoneBehindCarrier(title: string, lifetimeMs: number, ms: number): void {
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

    it(title, async (t) => {
      const { lost, before } = await carrierFlow({
        ...{ programs: bed.lab.programs, nat: 'nat1', client: 'mh', server: 'ch1', address: SERVER },
        ...{ log: () => bed.log('mh'), lifetimeMs, ms },
      })
      t.diagnostic(`the first ones cost ${before.join(' and ')} datagrams`)
      assert.deepEqual(lost, [0, 0], bed.log('mh').slice(-6000))
    })
  })
}

/** No daemon for half a minute: transfers wait, and end intact. */
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, until } from '../../netns/mptcp/bed.ts'
import { Transfers } from '../../netns/mptcp/transfers.ts'

usesPrograms('curl', 'mptcpize')

const OUTAGE_MS = 30_000
let bed: Bed
let transfers: Transfers

before(async () => {
  bed = new Bed()
  transfers = new Transfers(bed, 'm')
  await bed.serve()
  await bed.daemon('m')
})

after(async () => {
  await bed.close()
})

for (const direction of ['get', 'put'] as const)
  test(`issue 12, part 3: curl ${direction} goes on when the daemon is back after 30 s`, async () => {
    const endless = transfers.endless(direction)
    const { id } = await bed.underWay(2_000_000)
    await bed.end('m', 'SIGKILL')
    await sleep(OUTAGE_MS)
    await bed.daemon('m')
    await transfers.carriesMore(id, 'acc1', 'the same access')
    await endless.finish()
    await until('the connection is closed', async () => (await bed.connections()).length === 0)
    bed.noFaults()
  })

/** The daemon of one device is stopped, or killed, and started again within a second: one single ping each way, then, and none is lost. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { type NodeName, OverlayBed } from './bed.ts'

usesPrograms('ip', 'nft', 'ping', 'unshare')
usePrivateNames()

describe('a device whose daemon is started again', () => {
  let bed: OverlayBed
  before(async () => {
    bed = await OverlayBed.start({}, [
      ['alice', 'acc2'],
      ['bob', 'acc2'],
    ])
  })
  after(async () => {
    await bed?.close()
  })

  const ping = (from: NodeName, to: string, count = 1) =>
    bed.lab.programs.run(from, ...bed.withNames(from, 'ping', '-n', '-c', String(count), '-W', '5', to))

  for (const signal of ['SIGTERM', 'SIGKILL'] as const)
    it(`issue 13: ${signal}: the first packet arrives, whoever sends it, at once and later`, async () => {
      // Their first contact is not what is tested: one answer of two is enough.
      await ping('alice', 'bob.test.example', 2)
      await bed.untilWay('alice', 'direct acc1')
      const [alice] = (await bed.view('alice')).addresses
      for (const first of ['own', 'peer', 'later'] as const) {
        await bed.down('alice', signal)
        await bed.up('alice')
        if (first === 'later') await delay(300)
        const said = first === 'own' ? await ping('alice', 'bob.test.example') : await ping('bob', alice!)
        assert.match(said, / 1 received, 0% packet loss/, first)
        await delay(1_000)
      }
    })
})

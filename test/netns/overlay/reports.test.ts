/** What users of overlays report most often, as their machines are: no IPv6 by decision of who runs the machine. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { OverlayBed } from './bed.ts'

usesPrograms('ip', 'ping', 'unshare')
usePrivateNames()

describe('machines as they are', () => {
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

  const onAlice = (script: string) =>
    bed.lab.programs.run('alice', ...bed.withNames('alice', 'sh', '-ec', script))

  it('NT-29: IPv6 is turned off: names are found, and peers reached, by IPv4', async () => {
    await bed.down('alice')
    const set = (off: 0 | 1) =>
      onAlice(`for each in all default; do echo ${off} > /proc/sys/net/ipv6/conf/$each/disable_ipv6; done`)
    await set(1)
    await bed.up('alice')
    assert.match(bed.log('alice'), /is not used: IPv6 is turned off on this machine/)
    assert.match(
      await onAlice('ping -c 1 -W 5 bob.test.example'),
      /\(100\.96\.\d+\.\d+\).*\n.* bytes from 100\.96/,
    )
    await bed.down('alice')
    await set(0)
    await bed.up('alice')
    assert.match(await onAlice('ping -6 -c 1 -W 5 bob.test.example'), /bytes from fd/)
  })
})

/** A symmetric NAT that counts its ports, and one that lets in only what it has sent to (issue 13, part 4), by nftables. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { OverlayBed } from './bed.ts'

usePrivateNames()
usesPrograms('ping')

describe('a symmetric NAT that counts its ports', () => {
  let bed: OverlayBed
  before(async () => {
    bed = await OverlayBed.start({ na1: 'counting' }, [
      ['alice', 'acc2'],
      ['bob', 'acc2'],
    ])
  })
  after(async () => {
    await bed?.close()
  })

  it('NT-47: the direct way to a node behind a port-restricted one is found by the port', async () => {
    await bed.godwit('alice', 'overlay', 'resolve', 'bob')
    await bed.untilWay('alice', 'direct acc1')
    await bed.untilWay('bob', 'direct acc1')
    const trace = await bed.godwit('alice', 'overlay', 'trace')
    assert.match(trace, /PORTS/)
    const address = (await bed.view('bob')).addresses.find((each) => each.includes('.'))!
    await bed.lab.programs.run('alice', 'ping', ['-c', '3', '-i', '0.2', '-W', '2', address])
  })
})

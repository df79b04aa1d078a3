/** Nodes of the overlay on the real kernel: names, ways, moves, and servers that die. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { OverlayBed } from './bed.ts'

describe('two nodes behind two NATs each', () => {
  let bed: OverlayBed
  before(async () => {
    bed = await OverlayBed.start()
  })
  after(async () => {
    await bed?.close()
  })

  it('NT-29: a name is resolved to virtual addresses, and packets go from end to end', async () => {
    const text = await bed.godwit('alice', 'overlay', 'resolve', 'bob')
    assert.match(text, /bob\.test\.example {2}fd67:/)
    const address = /fd67:\S+/.exec(text)![0]
    await bed.lab.programs.run('alice', 'ping', ['-c', '3', '-i', '0.2', '-W', '2', address])
    await bed.untilWay('alice', 'direct acc1')
    await bed.untilWay('bob', 'direct acc1')
  })
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Poller } from '../../../src/linux/poller.ts'
import { Engine } from '../../../src/tunnel/engine/engine.ts'
import { Fallbacks } from '../../../src/tunnel/engine/fallbacks.ts'
import { DatapathPair } from '../../support/datapath-pair.ts'

const poller: Poller = {
  wakeFd: 0,
  add: () => {},
  remove: () => {},
  wait: () => 0,
  ready: () => 0,
  woken: () => false,
  close: () => {},
}

test('house 13: what goes the slow way is counted, of closed sockets too, and logged once', () => {
  const { a, b } = new DatapathPair()
  const engine = new Engine({ datapath: a.datapath, tun: a.tun, poller, now: () => 0 })
  const lines: string[] = []
  const fallbacks = new Fallbacks(engine, ({ message }) => lines.push(message))
  const [first, second] = a.sockets
  assert.deepEqual(fallbacks.counters(), {
    sends_split: 0,
    sockets_without_gro: 0,
    fragmented: 0,
    recut: 0,
  })
  assert.deepEqual(lines, [])

  first!.split = 3
  first!.splitError = 22
  second!.split = 2
  assert.equal(fallbacks.counters().sends_split, 5)
  assert.match(lines[0]!, /one by one.*slower/)
  assert.match(lines[0]!, /UDP_SEGMENT: EINVAL/)

  engine.closeSocket(0)
  assert.equal(fallbacks.counters().sends_split, 5)
  b.sockets[0]!.coalesces = false
  engine.addSocket(b.sockets[0]!)
  assert.deepEqual(fallbacks.counters(), {
    sends_split: 5,
    sockets_without_gro: 1,
    fragmented: 0,
    recut: 0,
  })
  assert.match(lines[1]!, /UDP_GRO/)
  assert.equal(lines.length, 2)
})

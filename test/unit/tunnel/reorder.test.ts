/** What restoring order costs when a peer's counters are chosen to make it expensive (issue 8, point 12). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Arena } from '../../../src/linux/arena.ts'
import type { Merger } from '../../../src/tunnel/datapath/merge.ts'
import { Reorder } from '../../../src/tunnel/datapath/reorder.ts'
import type { PathTable } from '../../../src/tunnel/datapath/tables.ts'

test('a counter that jumps costs a look at the paths for its packet, not one for each counter left out', () => {
  let looks = 0
  let delivered = 0
  const paths = {
    next: Int32Array.of(-1),
    highestCounter: Float64Array.of(0),
    firstOf: () => {
      looks++
      return 0
    },
  }
  const merger = { add: () => delivered++, flush: () => {} }
  const reorder = new Reorder({
    arena: { u8: new Uint8Array(1 << 20), reserve: () => 0 } as unknown as Arena,
    paths: paths as unknown as PathTable,
    merger: merger as unknown as Merger,
    packets: 16,
  })
  const jump = 8_191
  reorder.open(0, 0, 0, jump, 1, () => false)
  for (let i = 1; i <= 1_000; i++) reorder.take(0, 0, 0, i * jump, 900_000, 100, false, i)
  assert.equal(delivered, 1_000)
  // The first begins the order; each of the others leaves out what is between.
  assert.equal(reorder.counts.lost, 999 * (jump - 1))
  assert.ok(looks <= 2_001, `${looks} looks at the paths for 1,000 packets`)
})

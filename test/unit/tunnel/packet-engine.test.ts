/** The batched engine against the reference, packet by packet (OH-20). */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { fixedKeys } from '../../../bench/fixed-machine.ts'
import { HOLD_MOST } from '../../../src/tunnel/datapath/reorder.ts'
import { extent } from '../../support/extent.ts'
import { ReferenceEngine } from '../../support/reference-engine.ts'
import { numbered, TwoPaths } from '../../support/two-paths.ts'

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

describe('packet engines', () => {
  test('OH-20: the batched engine emits the same bytes on the same paths, and delivers the same packets in the same order', () => {
    const decision = fc.record({
      path: fc.integer({ min: 0, max: 1 }),
      copy: fc.boolean(),
      ordered: fc.boolean(),
    })
    fc.assert(
      fc.property(
        fc.array(decision, { minLength: 1, maxLength: 80 }),
        fc.infiniteStream(
          fc.record({ pick: fc.integer({ min: 0, max: 1 }), lost: fc.integer({ min: 0, max: 9 }) }),
        ),
        (decisions, events) => {
          const two = new TwoPaths()
          const index = two.a.machine.localIndex
          const reference = ([0, 1] as const).map((end) => {
            const { sendKeyAes, receiveKeyAes } = fixedKeys(0, index, index, end)
            const keys = {
              localIndex: index,
              remoteIndex: index,
              sendKey: sendKeyAes,
              receiveKey: receiveKeyAes,
            }
            return new ReferenceEngine(keys, [1, 2])
          })
          const expected: { path: number; datagram: string }[] = []
          for (const [n, { path, copy, ordered }] of decisions.entries()) {
            const copies = copy ? [1 - path] : []
            two.send(n, path, copies, ordered)
            for (const each of reference[0]!.outbound(numbered(n), { path, copies, ordered }))
              expected.push({ path: each.path, datagram: hex(each.datagram) })
          }
          assert.deepEqual(
            two.lines.map(({ path, bytes }) => ({ path, datagram: hex(bytes) })),
            expected,
          )
          // Both receivers see the same arrivals: each path keeps its order and loses some.
          const queues = [0, 1].map((path) => two.lines.filter((line) => line.path === path))
          const delivered: string[] = []
          while (queues[0]!.length + queues[1]!.length > 0) {
            const { pick, lost } = events.next().value!
            const line = (queues[pick]!.length > 0 ? queues[pick]! : queues[1 - pick]!).shift()!
            if (lost === 0) continue
            for (const packet of reference[1]!.inbound(line.path, line.bytes)) delivered.push(hex(packet))
            two.arrive(line)
          }
          for (const packet of reference[1]!.expire()) delivered.push(hex(packet))
          two.wait(HOLD_MOST)
          assert.deepEqual(
            two.out().map((n) => hex(numbered(n))),
            delivered,
          )
        },
      ),
      { numRuns: extent(150) },
    )
  })
})

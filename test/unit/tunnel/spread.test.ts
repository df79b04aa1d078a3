/** Several paths at once: copies of the same ciphertext, and order restored. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { HOLD_MOST } from '../../../src/tunnel/datapath/reorder.ts'
import { HELD, TwoPaths } from '../../support/two-paths.ts'

/** Some packets bypass; the first two never, so that there is an order from the start. */
function isOrdered(n: number, sends: readonly [number, boolean][]): boolean {
  return n < 2 || sends[n]![1]
}

describe('datapath: several paths at once', () => {
  test('OH-16, OH-16a: copies are the same ciphertext; the first wins, and both paths count what they carried', () => {
    const two = new TwoPaths()
    for (let n = 0; n < 10; n++) two.send(n, 0, [1], false)
    assert.equal(two.lines.length, 20)
    const [first, second] = [0, 1].map((path) => two.lines.filter((line) => line.path === path))
    assert.deepEqual(
      first!.map(({ bytes }) => Buffer.from(bytes).toString('hex')),
      second!.map(({ bytes }) => Buffer.from(bytes).toString('hex')),
    )
    // Path 0 loses the odd ones, path 1 those that 3 divides.
    for (let n = 0; n < 10; n++) {
      if (n % 2 === 0) two.arrive(first![n]!)
      if (n % 3 !== 0) two.arrive(second![n]!)
    }
    assert.deepEqual(two.out(), [0, 1, 2, 4, 5, 6, 7, 8])
    const received = two.b.slots.map((slot) => two.b.datapath.counters(slot).receivedPackets)
    assert.deepEqual(received, [5, 6])
    // A replay of what came before is not counted for the path.
    two.arrive(second![1]!)
    assert.equal(two.b.datapath.counters(two.b.slots[1]!).receivedPackets, 6)
    assert.equal(two.out().length, 8)
  })

  test('OH-16: a copy that comes by a path after newer ones is counted for it, once', () => {
    const two = new TwoPaths()
    for (let n = 0; n < 100; n++) two.send(n, 0, [1], false)
    const [first, second] = [0, 1].map((path) => two.lines.filter((line) => line.path === path))
    for (const line of first!) two.arrive(line)
    const counted = () => two.b.datapath.counters(two.b.slots[1]!).receivedPackets
    two.arrive(second![1]!)
    two.arrive(second![0]!)
    assert.equal(counted(), 1, 'what was there before it remembers is not counted')
    for (let n = 99; n >= 2; n--) two.arrive(second![n]!)
    assert.equal(counted(), 99)
    for (const line of second!) two.arrive(line)
    assert.equal(counted(), 99, 'replayed ones are not')
    assert.equal(two.out().length, 100)
  })

  test('OH-17a: whatever the paths do, each keeping its order, packets come out once, in order', () => {
    fc.assert(
      fc.property(
        fc
          .array(fc.tuple(fc.integer({ min: 0, max: 1 }), fc.boolean()), { maxLength: 150 })
          .map((sends) => [[0, true], [1, true], ...sends] as [number, boolean][]),
        fc.infiniteStream(fc.integer({ min: 0, max: 1 })),
        (sends, picks) => {
          const two = new TwoPaths()
          for (const [n, [path]] of sends.entries()) two.send(n, path, [], isOrdered(n, sends))
          const queues = [0, 1].map((path) => two.lines.filter((line) => line.path === path))
          // The first two are there before the race starts, so that both paths are known to be in use.
          for (const [path] of sends.slice(0, 2)) two.arrive(queues[path]!.shift()!)
          while (queues[0]!.length + queues[1]!.length > 0) {
            const pick = picks.next().value as number
            const line = (queues[pick]!.length > 0 ? queues[pick]! : queues[1 - pick]!).shift()!
            two.now += 0.1
            two.arrive(line)
          }
          two.wait(HOLD_MOST)
          const out = two.out()
          assert.deepEqual(
            [...out].sort((a, b) => a - b),
            sends.map((_, n) => n),
          )
          const kept = out.filter((n) => isOrdered(n, sends))
          assert.deepEqual(
            kept,
            [...kept].sort((a, b) => a - b),
          )
        },
      ),
      { numRuns: 60 },
    )
  })

  test('router point 2: a flow that changes to a nearer path keeps its order; a silent path is not waited for', () => {
    const two = new TwoPaths()
    for (let n = 0; n < 4; n++) two.send(n, 0, [], false)
    for (let n = 4; n < 8; n++) two.send(n, 1, [], true)
    const { lines } = two
    two.arrive(lines[0]!)
    two.now += 10
    for (const n of [4, 5]) two.arrive(lines[n]!)
    assert.deepEqual(two.out(), [0])
    for (const n of [1, 2]) two.arrive(lines[n]!)
    assert.deepEqual(two.out(), [0, 1, 2])
    two.arrive(lines[3]!)
    for (const n of [6, 7]) two.arrive(lines[n]!)
    assert.deepEqual(two.out(), [0, 1, 2, 3, 4, 5, 6, 7])

    const cut = new TwoPaths()
    for (let n = 0; n < 4; n++) cut.send(n, 0, [], false)
    for (let n = 4; n < 8; n++) cut.send(n, 1, [], true)
    cut.arrive(cut.lines[0]!)
    cut.now += 80
    for (const line of cut.lines.slice(4)) cut.arrive(line)
    assert.deepEqual(cut.out(), [0, 4, 5, 6, 7])
  })

  test('OH-17a: what is lost holds nothing up once every path has brought something newer, or the time is over', () => {
    const two = new TwoPaths()
    for (let n = 0; n < 6; n++) two.send(n, n % 2)
    const [p0, p1, p2, p3, , p5] = two.lines
    two.arrive(p0!)
    two.arrive(p1!)
    // 2 is lost; 4 shows it, once 3 and 5 have come over the other path.
    two.arrive(p3!)
    assert.deepEqual(two.out(), [0, 1])
    two.arrive(two.lines[4]!)
    assert.deepEqual(two.out(), [0, 1, 3, 4])
    two.send(6, 0)
    two.send(7, 1)
    // 5 and 6 are late: 7 waits for its time, no longer.
    two.arrive(two.lines[7]!)
    assert.deepEqual(two.out(), [0, 1, 3, 4])
    two.wait(HOLD_MOST)
    assert.deepEqual(two.out(), [0, 1, 3, 4, 7])
    two.arrive(p5!)
    two.arrive(p2!)
    assert.deepEqual(two.out(), [0, 1, 3, 4, 7, 5, 2])
  })

  test('OH-17a: more than there is room for is let out, none is lost', () => {
    const two = new TwoPaths()
    const count = 3 * HELD
    for (let n = 0; n <= count; n++) two.send(n, n === 1 ? 0 : n === 0 ? 0 : 1)
    const late = two.lines.find((_, n) => n === 1)!
    two.arrive(two.lines[0]!)
    for (const line of two.lines.slice(2)) two.arrive(line)
    two.wait(HOLD_MOST)
    two.arrive(late)
    assert.deepEqual(
      [...two.out()].sort((a, b) => a - b),
      Array.from({ length: count + 1 }, (_, n) => n),
    )
  })

  test('OH-17c: what a path cannot carry yet waits in its line; what may not wait goes before it', () => {
    const two = new TwoPaths()
    const sent = () => two.lines.map(({ path }) => path)
    const { deadline } = two.a.datapath.sender.pacer
    assert.equal(deadline, Number.POSITIVE_INFINITY)
    for (const [n, wait] of [0, 10, 20, 20].entries()) two.send(n, 0, [], true, two.now + wait)
    two.send(4, 1, [], true, two.now)
    two.send(5, 0, [], false)
    assert.deepEqual(sent(), [0, 1, 0], 'the first, the one on the other path, the one that does not wait')
    assert.equal(two.a.datapath.sender.pacer.deadline, two.now + 10)
    two.wait(10)
    assert.deepEqual(sent(), [0, 1, 0, 0])
    two.wait(10)
    assert.equal(two.lines.length, 6)
    assert.equal(two.a.datapath.sender.pacer.deadline, Number.POSITIVE_INFINITY)
    for (const line of two.lines) two.arrive(line)
    // 5 came without order; the others in that of their sealing.
    assert.deepEqual(
      two.out().filter((n) => n !== 5),
      [0, 1, 2, 3, 4],
    )
  })

  test('OH-17c: what waits for a path that is left goes on another at once; what it had sent is sent again too', () => {
    const two = new TwoPaths()
    two.send(0, 0, [], true, two.now)
    two.send(1, 0, [], true, two.now + 50)
    two.send(2, 0, [], true, two.now + 90)
    // Sealed last, sent second: its arrival says nothing of those that wait.
    two.send(3, 0, [], false)
    assert.equal(two.lines.length, 2)
    two.wait(50)
    assert.equal(two.lines.length, 3)
    const [gone, kept] = two.a.slots as [number, number]
    two.a.datapath.resend(gone, kept, 3, 3_000)
    const moved = two.lines.slice(3)
    assert.deepEqual(
      moved.map(({ path }) => path),
      moved.map(() => 1),
    )
    for (const line of moved) two.arrive(line)
    assert.deepEqual([...two.out()].sort(), [0, 1, 2, 3])
    two.wait(100)
    assert.equal(two.lines.length, 3 + moved.length, 'nothing is sent twice')
  })

  test('OH-17c: waiting batches that the ring needs the room of are sent, not lost', () => {
    const two = new TwoPaths()
    const far = two.now + 1_000
    const count = 40_000
    for (let n = 0; n < count; n++) two.send(n, 0, [], false, far + n)
    assert.ok(two.lines.length > 0, 'the oldest gave way')
    two.wait(1_000 + count)
    assert.equal(two.lines.length, count)
  })
})

/** SEND and RECV tables and the projection of acknowledgements (paper §3.3–3.5, MP-28 to MP-51). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { acknowledged, type Block, merge, project, RecvTable, SendTable } from '../../../src/mptcp/tables.ts'

test('MP-34: mappings that continue one another are one run', () => {
  const table = new RecvTable()
  for (let i = 0; i < 100; i++) assert.ok(table.add(1 + 1000 * i, 5001 + 1000 * i, 1000))
  assert.deepEqual(table.runs, [{ ssn: 1, dsn: 5001, length: 100_000 }])
  assert.ok(table.add(50_001, 55_001, 1000), 'known already')
  assert.equal(table.runs.length, 1)
  assert.ok(table.add(200_001, 1, 10), 'a gap, and data that go back')
  assert.deepEqual(table.atSsn(200_005), { ssn: 200_001, dsn: 1, length: 10 })
  assert.equal(table.atSsn(150_000), undefined)
})

test('MP-34: a mapping that contradicts one that is known is refused', () => {
  const table = new RecvTable()
  assert.ok(table.add(1, 1, 1000))
  assert.equal(table.add(500, 900, 1000), false)
  assert.equal(table.add(1, 2, 1000), false)
  assert.ok(table.add(1001, 3000, 10), 'it touches, but does not overlap')
  assert.deepEqual(table.runs.length, 2)
})

test('hostile mappings are at most as many as the table has room for', () => {
  const table = new RecvTable()
  let taken = 0
  for (let i = 0; i < 2000; i++) if (table.add(1 + 10 * i, 100_000 - 10 * i, 5)) taken++
  assert.equal(taken, RecvTable.LIMIT)
  assert.equal(table.runs.length, RecvTable.LIMIT)
})

test('MP-28, P7: a retransmission finds the mapping of the original, however it is cut', () => {
  const table = new SendTable()
  const first = table.append(1, 1, 60_000)
  const second = table.append(60_001, 60_001, 1448)
  assert.equal(table.atDsn(40_000), first)
  assert.equal(table.atDsn(60_001), second)
  assert.equal(table.atDsn(70_000), undefined)
  table.acknowledge(60_001, 60_001)
  assert.deepEqual(table.runs, [second])
  table.acknowledge(70_000, 60_001)
  assert.deepEqual(table.runs, [second], 'the subflow may have a hole there')
})

test('MP-29: a table that is full joins its oldest mappings', () => {
  const table = new SendTable()
  for (let i = 0; i < SendTable.LIMIT + 10; i++) table.append(1 + 10 * i, 1 + 10 * i, 10)
  assert.equal(table.runs.length, SendTable.LIMIT)
  assert.deepEqual(table.runs[0], { ssn: 1, dsn: 1, length: 110 })
})

test('MP-44: where data go back, the acknowledgement of the subflow does not acknowledge what is missing (Figure 5)', () => {
  // Sent on the subflow: 5 6 7 8, then 1 2 3 4.
  const runs = [
    { ssn: 1, dsn: 5, length: 4 },
    { ssn: 5, dsn: 1, length: 4 },
  ]
  // The subflow has 1 to 6: data 5 to 8 and 1 to 2.
  assert.deepEqual(acknowledged(project(runs, [{ left: 0, right: 7 }], 'dsn'), 1), {
    ack: 3,
    above: [{ left: 5, right: 9 }],
  })
  // All of it: the blocks meet.
  assert.deepEqual(acknowledged(project(runs, [{ left: 0, right: 9 }], 'dsn'), 1), { ack: 9, above: [] })
})

test('MP-46 to MP-48: projection acknowledges nothing undelivered, and all that can be known', () => {
  const permutation = fc
    .tuple(
      fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 12 }),
      fc.infiniteStream(fc.nat()),
    )
    .map(([lengths, order]) => {
      const pieces = lengths.map((length, i) => ({ length, key: order.next().value as number, i }))
      let dsn = 1
      const placed = pieces.map((piece) => {
        const at = dsn
        dsn += piece.length
        return { ...piece, dsn: at }
      })
      placed.sort((a, b) => a.key - b.key || a.i - b.i)
      let ssn = 1
      return placed.map(({ length, dsn: from }) => {
        const run = { ssn, dsn: from, length }
        ssn += length
        return run
      })
    })
  fc.assert(
    fc.property(
      permutation,
      fc.array(fc.nat(300), { maxLength: 6 }),
      fc.nat(300),
      (runs, edges, cumulative) => {
        const total = runs.reduce((sum, { length }) => sum + length, 0)
        const blocks: Block[] = [{ left: 0, right: 1 + (cumulative % (total + 1)) }]
        for (let i = 0; i + 1 < edges.length; i += 2) {
          const [a, b] = [1 + (edges[i]! % total), 1 + (edges[i + 1]! % (total + 1))]
          if (a < b) blocks.push({ left: a, right: b })
        }
        const delivered = new Set<number>()
        for (const run of runs)
          for (let i = 0; i < run.length; i++)
            if (blocks.some(({ left, right }) => run.ssn + i >= left && run.ssn + i < right))
              delivered.add(run.dsn + i)
        const { ack, above } = acknowledged(project(runs, blocks, 'dsn'), 1)
        let want = 1
        while (delivered.has(want)) want++
        assert.equal(ack, want)
        const told = new Set<number>()
        for (const { left, right } of above) for (let i = left; i < right; i++) told.add(i)
        for (const each of delivered) assert.ok(each < ack || told.has(each), `${each} is told`)
        for (const each of told) assert.ok(delivered.has(each), `${each} was delivered`)
      },
    ),
  )
})

test('blocks merge where they overlap or touch', () => {
  assert.deepEqual(
    merge([
      { left: 5, right: 7 },
      { left: 1, right: 3 },
      { left: 3, right: 4 },
      { left: 6, right: 9 },
    ]),
    [
      { left: 1, right: 4 },
      { left: 5, right: 9 },
    ],
  )
})

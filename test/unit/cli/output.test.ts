/** What the command prints fits its terminal, and says numbers with their units. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { evidenceParts } from '../../../src/cli/commands/query.ts'
import { fitTable, wrap } from '../../../src/cli/output.ts'

const HEAD = ['FLOW', 'SOURCE', 'DESTINATION', 'PEER', 'ACCESS']
const ROWS = [
  [
    'f1',
    '198.19.0.1:40000',
    '[2001:db8:1234:5678:9abc:def0:1234:5678]:443',
    'anchor.example.org',
    'wlan0 (by hand)',
  ],
]

test('a table at 80 columns keeps what matters: less important columns go, then long cells are cut (issue 14, point 5)', () => {
  const wide = fitTable(HEAD, ROWS, { drop: ['PEER', 'SOURCE'], shorten: ['DESTINATION'], width: 200 })
  assert.deepEqual(wide[0]!.split(/ +/), HEAD)
  assert.match(wide[1]!, /5678\]:443 .*anchor\.example\.org .*\(by hand\)$/)
  const fitting = fitTable(HEAD, ROWS, { drop: ['PEER', 'SOURCE'], shorten: ['DESTINATION'], width: 80 })
  assert.deepEqual(fitting[0]!.split(/ +/), ['FLOW', 'DESTINATION', 'ACCESS'])
  const narrow = fitTable(HEAD, ROWS, { drop: ['PEER', 'SOURCE'], shorten: ['DESTINATION'], width: 40 })
  assert.ok(
    narrow.every((line) => line.length <= 40),
    narrow.join('\n'),
  )
  assert.match(narrow[1]!, /^f1 +\[2001\S+… +wlan0 \(by hand\)$/)
})

test('long lines break between words, indented', () => {
  assert.deepEqual(wrap('  one two three', '    ', 9), ['  one two', '    three'])
  assert.deepEqual(wrap('short', '  ', 80), ['short'])
})

test('evidence is said in words with units (issue 14, point 5)', () => {
  const evidence = {
    current: null,
    'wlan0.health': 'up',
    'wlan0.for_ms': 125_000,
    'wlan0.rtt_ms': 12.34,
    'wwan0.health': 'down',
    'wwan0.for_ms': 40,
    'wwan0.rtt_ms': null,
    gap_ms: 3.2,
    static: false,
    flows: 2,
  }
  assert.deepEqual(evidenceParts(evidence), [
    'current unknown',
    'wlan0 up for 2 min, round trip 12 ms',
    'wwan0 down for 40 ms',
    'gap 3.2 ms',
    'static no',
    'flows 2',
  ])
})

/** Text that others chose, on a terminal (issue 8, point 12: terminal escapes through names). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { printable, printableJson, printableLines } from '../../../src/core/printable.ts'

const HOSTILE = '\u001b[31mred\u009b2J\u007f\n\u202egnp.exe\u2066é→✓'

test('what a terminal obeys is shown, everything else stays', () => {
  assert.equal(printable(HOSTILE), '\\x1b[31mred\\x9b2J\\x7f\\x0a\\u202egnp.exe\\u2066é→✓')
  assert.equal(printableLines('a\n\u001bb'), 'a\n\\x1bb')
})

test('JSON says the same in its own escapes', () => {
  const text = printableJson(JSON.stringify({ ssid: HOSTILE }))
  assert.match(text, /^[ -~é→✓]*$/)
  assert.deepEqual(JSON.parse(text), { ssid: HOSTILE })
})

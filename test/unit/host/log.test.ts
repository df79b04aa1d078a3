/** What others have a part in, in the log: it is one line, only shown, and not without end (issue 8, point 12). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Log } from '../../../src/host/daemon/log.ts'

function logOf(level: 'info' | 'debug') {
  const lines: string[] = []
  const clock = { now: 0 }
  const log = new Log(level, { write: (line) => lines.push(line) > 0, stamp: false, now: () => clock.now })
  return { log, lines, clock }
}

test('a name that others chose is no command for the terminal that shows the log', () => {
  const { log, lines } = logOf('info')
  log.log('warn', 'host \u001b]0;owned\u0007\u009b2J\u202eevil\u2028x\r\nforged')
  assert.deepEqual(lines, ['warn  host \\x1b]0;owned\\x07\\x9b2J\\u202eevil\\u2028x | forged\n'])
})

test('whoever makes the daemon say something again and again does not fill the disk, nor hide what else is said', () => {
  const { log, lines, clock } = logOf('info')
  for (let i = 0; i < 100_000; i++) {
    clock.now += 1
    log.log('info', `handover ${i}`)
  }
  // A thousand at once, then ten a second for a hundred seconds, each with a line that counts what is missing.
  const written = lines.filter((line) => line.startsWith('info  handover')).length
  assert.ok(written >= 1_990 && written <= 2_001, `${written} of 100,000`)
  assert.ok(lines.length <= 3_001, `${lines.length} lines`)
  assert.ok(lines.includes('info  99 lines were dropped: more than 10 per second\n'))
  log.log('error', 'the disk is full')
  assert.equal(lines.at(-1), 'error the disk is full\n')
})

test('a message has an end; who asks for debug lines gets all of them', () => {
  const { log, lines } = logOf('debug')
  log.log('info', 'x'.repeat(1_000_000))
  assert.equal(lines[0], `info  ${'x'.repeat(4_096)}…\n`)
  for (let i = 0; i < 3_000; i++) log.log('debug', 'seen')
  assert.equal(lines.length, 3_001)
})

test('lines that nobody reads are dropped, and counted for who reads again', () => {
  const lines: string[] = []
  let isRead = true
  const log = new Log('debug', { write: (line) => isRead && lines.push(line) > 0, stamp: false })
  log.log('info', 'before')
  isRead = false
  log.log('warn', 'one')
  log.log('debug', 'two')
  isRead = true
  log.log('info', 'three')
  log.log('info', 'four')
  assert.deepEqual(lines, [
    'info  before\n',
    'warn  2 lines were dropped: nobody read the log\ninfo  three\n',
    'info  four\n',
  ])
})

/** Issue 10 D1: what an access with a cap has carried in a month, over restarts, reboots and devices that come back. */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { interfaceBytes, LinkUsage, monthOf } from '../../../src/routing/usage.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-usage-'))
after(() => rmSync(folder, { recursive: true }))

const at = (text: string) => new Date(text).getTime()

test('issue 10 D1: counted from the first look, over a restart, a reboot and a new device, until the month ends', () => {
  const file = join(folder, 'usage.json')
  let wall = at('2026-03-10T12:00:00')
  let counter: number | undefined = 5_000
  const read = () => new Map(counter === undefined ? [] : [['wwan0', counter]])
  const open = (boot: string) => new LinkUsage({ file, read, wall: () => wall, boot })
  let usage = open('a')
  assert.equal(usage.update('wwan0', 1), 0, 'what was before is not ours to know')
  counter = 7_000
  assert.equal(usage.update('wwan0', 1), 2_000)
  usage.write()
  // Not written, as by a crash: the kernel's counter still has it.
  counter = 7_500
  usage.update('wwan0', 1)
  counter = 9_000
  usage = open('a')
  assert.equal(usage.update('wwan0', 1), 4_000)
  usage.write()
  counter = 300
  usage = open('b')
  assert.equal(usage.update('wwan0', 1), 4_300, 'after a reboot counters begin at zero')
  counter = undefined
  assert.equal(usage.update('wwan0', 1), 4_300, 'the modem is out')
  counter = 50
  assert.equal(usage.update('wwan0', 1), 4_350, 'a new device counts from zero')
  wall = at('2026-04-01T00:00:01')
  counter = 80
  assert.equal(usage.update('wwan0', 1), 30)
  assert.equal(usage.used('wwan0'), 30)
})

test('issue 10 D1: written at most once in the time asked for, and not when nothing has changed; a damaged file counts anew', () => {
  const file = join(folder, 'bounded.json')
  writeFileSync(file, '{"wwan0":')
  let wall = 1e12
  let counter = 0
  const usage = new LinkUsage({
    file,
    read: () => new Map([['wwan0', counter]]),
    wall: () => wall,
    boot: 'a',
  })
  const written = () => readFileSync(file, 'utf8')
  usage.update('wwan0', 1)
  usage.write(60_000)
  const first = written()
  for (let i = 0; i < 11; i++) {
    wall += 5_000
    counter += 1000
    usage.update('wwan0', 1)
    usage.write(60_000)
    assert.equal(written(), first)
  }
  wall += 5_000
  usage.write(60_000)
  assert.match(written(), /"used":11000/)
})

test('issue 10 D1: the month begins on the day that was asked for, also where a month is short', () => {
  assert.equal(monthOf(at('2026-03-10T12:00:00'), 1), '2026-03-01')
  assert.equal(monthOf(at('2026-03-10T12:00:00'), 15), '2026-02-15')
  assert.equal(monthOf(at('2026-03-15T00:00:00'), 15), '2026-03-15')
  assert.equal(monthOf(at('2026-01-05T12:00:00'), 28), '2025-12-28')
  assert.ok((interfaceBytes().get('lo') ?? -1) >= 0)
})

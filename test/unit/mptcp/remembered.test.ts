/** What a killed run is cleaned up after (remembered.ts). */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { RememberedList } from '../../../src/mptcp/remembered.ts'

const folder = mkdtempSync(join(tmpdir(), 'remembered-'))
after(() => rmSync(folder, { recursive: true }))
const path = join(folder, 'list')

test('what is added is there for the next run, until it is deleted; an empty list leaves no file', () => {
  const list = new RememberedList(path)
  assert.deepEqual([[...list.items], existsSync(path)], [[], false])
  list.add('eth0')
  list.add('wlan0')
  list.add('eth0')
  assert.deepEqual([...new RememberedList(path).items], ['eth0', 'wlan0'])
  assert.equal(statSync(path).mode & 0o777, 0o600)
  list.delete('eth0')
  assert.deepEqual([...new RememberedList(path).items], ['wlan0'])
  list.delete('wlan0')
  assert.deepEqual(readdirSync(folder), [])
})

test('a file that is damaged or says something else is an empty list', () => {
  for (const [text, items] of [
    ['["eth0", 7, null, "wlan0"]', ['eth0', 'wlan0']],
    ['{"length": 1, "0": "eth0"}', []],
    ['"eth0"', []],
    ['["eth0"', []],
    ['', []],
  ] as const) {
    writeFileSync(path, text)
    assert.deepEqual([...new RememberedList(path).items], items, text)
  }
})

test('what cannot be written is said once, ends nothing, and is written when it can be', () => {
  const there = join(folder, 'later')
  const faults: string[] = []
  const list = new RememberedList(join(there, 'list'), (reason) => faults.push(reason))
  for (const each of ['10.0.0.1', '10.0.0.2', '10.0.0.3']) list.add(each)
  list.delete('10.0.0.1')
  assert.deepEqual([[...list.items], faults.length], [['10.0.0.2', '10.0.0.3'], 1])
  mkdirSync(there)
  list.save()
  assert.deepEqual([...new RememberedList(join(there, 'list')).items], ['10.0.0.2', '10.0.0.3'])
  rmSync(there, { recursive: true })
})

/** A new key: stored before anybody hears of it, alone once every peer has proven it (issue 14, point 8). */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { announcedKey, KeyRotation } from '../../../src/anchoring/key-rotation.ts'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../../../src/crypto/keys.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-rotation-'))
after(() => rmSync(folder, { recursive: true }))

const names = ['one', 'two']

function fresh(name: string) {
  const keyFile = join(folder, name)
  const old = generatePrivateKey()
  writeFileSync(keyFile, `${encodeKey(old)}\n`, { mode: 0o600 })
  const lines: string[] = []
  const log = (_: unknown, line: string) => lines.push(line)
  return { keyFile, old, lines, make: () => new KeyRotation({ keyFile, end: 'host', log }) }
}

test('the old key stays until the last anchor has the new one, also over a restart in between', () => {
  const { keyFile, old, make } = fresh('a')
  const first = make()
  const next = first.begin()
  assert.equal(statSync(`${keyFile}.next`).mode & 0o777, 0o600)
  assert.deepEqual(first.begin(), next, 'one at a time')
  first.confirmed('one', publicKeyOf(old))
  first.confirmed('one', publicKeyOf(next))
  assert.equal(first.settle(names), undefined)
  assert.deepEqual(first.state(names), [
    { name: 'one', state: 'done' },
    { name: 'two', state: 'waiting' },
  ])
  assert.equal(readFileSync(keyFile, 'utf8').trim(), encodeKey(old))
  const second = make()
  assert.deepEqual(second.next, next)
  for (const name of names) second.confirmed(name, publicKeyOf(next))
  assert.deepEqual(second.settle(names), next)
  assert.equal(readFileSync(keyFile, 'utf8').trim(), encodeKey(next))
  assert.equal(existsSync(`${keyFile}.next`), false)
  assert.equal(second.next, undefined)
})

test('killed between the last two steps: the next start sees that all is done', () => {
  const { keyFile, old, make } = fresh('b')
  writeFileSync(`${keyFile}.next`, encodeKey(old), { mode: 0o600 })
  assert.equal(make().next, undefined)
  assert.equal(existsSync(`${keyFile}.next`), false)
})

test('new peers are told the next key while the change is under way', () => {
  const { keyFile, old, make } = fresh('c')
  assert.deepEqual(announcedKey(keyFile), old)
  const rotation = make()
  const next = rotation.begin()
  assert.deepEqual(announcedKey(keyFile), next)
  assert.deepEqual(rotation.finish(), next, 'whoever has it')
  assert.deepEqual([announcedKey(keyFile), existsSync(`${keyFile}.next`)], [next, false])
})

/** A host's new key: stored before anybody hears of it, alone once every anchor has proven it (issue 14, point 8). */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { KeyRotation } from '../../../src/anchoring/key-rotation.ts'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../../../src/crypto/keys.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-rotation-'))
after(() => rmSync(folder, { recursive: true }))

const anchors = [
  { name: 'one', kind: 'anchor' },
  { name: 'two', kind: 'anchor' },
] as const
const names = anchors.map(({ name }) => name)

function fresh(name: string) {
  const keyFile = join(folder, name)
  const old = generatePrivateKey()
  writeFileSync(keyFile, `${encodeKey(old)}\n`, { mode: 0o600 })
  const lines: string[] = []
  return { keyFile, old, lines, make: () => new KeyRotation({ keyFile, log: (_, line) => lines.push(line) }) }
}

test('the old key stays until the last anchor has the new one, also over a restart in between', () => {
  const { keyFile, old, make } = fresh('a')
  const first = make()
  const next = first.begin(anchors)
  assert.equal(statSync(`${keyFile}.next`).mode & 0o777, 0o600)
  assert.deepEqual(first.begin(anchors), next, 'one at a time')
  first.confirmed('one', publicKeyOf(old), names)
  first.confirmed('one', publicKeyOf(next), names)
  assert.deepEqual(first.state(names), [
    { name: 'one', state: 'done' },
    { name: 'two', state: 'waiting' },
  ])
  assert.equal(readFileSync(keyFile, 'utf8').trim(), encodeKey(old))
  const second = make()
  assert.deepEqual(second.next, next)
  for (const name of names) second.confirmed(name, publicKeyOf(next), names)
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

test('a stock WireGuard server cannot be told: nothing is changed', () => {
  const { keyFile, make } = fresh('c')
  const peers = [...anchors, { name: 'home', kind: 'wireguard' }] as const
  assert.throws(
    () => make().begin(peers),
    /home is a stock WireGuard server, to which a new key cannot be sent/,
  )
  assert.equal(existsSync(`${keyFile}.next`), false)
})

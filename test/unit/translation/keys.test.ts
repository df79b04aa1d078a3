/** Keys bound to addresses (paper § III-C). */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { toBase64 } from '../../../src/core/bytes.ts'
import { FileKeyStore, ownKeyOf, parseKeyFile, writePrivateKeys } from '../../../src/translation/keys.ts'

const folder = mkdtempSync(join(tmpdir(), 'dime-keys-'))
after(() => rmSync(folder, { recursive: true }))
const key = (n: number): Uint8Array => new Uint8Array(32).fill(n)

test('DI-40: a private key belongs to all addresses or to a subnet; the longest prefix wins; it may be changed', () => {
  const path = join(folder, 'private')
  const text = `* ${toBase64(key(1))}\n10.0.0.0/8 ${toBase64(key(2))} # at work\n10.1.0.2 ${toBase64(key(3))}\n`
  writePrivateKeys(path, parseKeyFile(text, path))
  assert.equal(statSync(path).mode & 0o777, 0o600)
  const store = new FileKeyStore(path)
  const at = (ip: string): Uint8Array | undefined => store.own(ip)?.publicKey
  assert.deepEqual(at('192.0.2.1'), ownKeyOf(key(1)).publicKey)
  assert.deepEqual(at('fd00::1'), ownKeyOf(key(1)).publicKey)
  assert.deepEqual(at('10.9.9.9'), ownKeyOf(key(2)).publicKey)
  assert.deepEqual(at('10.1.0.2'), ownKeyOf(key(3)).publicKey)
  writePrivateKeys(path, [{ prefix: undefined, key: key(4) }])
  assert.deepEqual(at('192.0.2.1'), ownKeyOf(key(1)).publicKey, 'not before it is told to')
  store.reload()
  assert.deepEqual(at('10.1.0.2'), ownKeyOf(key(4)).publicKey)
})

test('DI-39: public keys come from a directory file; a damaged one leaves what was known', (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000 })
  const [own, directory] = [join(folder, 'own'), join(folder, 'directory')]
  writeFileSync(directory, `198.51.100.0/24 ${toBase64(key(7))}\n`)
  const faults: string[] = []
  const store = new FileKeyStore(own, [directory, join(folder, 'missing')], (fault) => faults.push(fault))
  assert.deepEqual(store.known('198.51.100.9'), key(7))
  assert.equal(store.known('192.0.2.1'), undefined)
  writeFileSync(directory, '198.51.100.0/24 nonsense\n')
  utimesSync(directory, 2, 2)
  t.mock.timers.tick(2_000)
  assert.deepEqual(store.known('198.51.100.9'), key(7))
  t.mock.timers.tick(2_000)
  store.known('198.51.100.9')
  assert.equal(faults.length, 1, 'said once')
  assert.match(faults[0]!, /directory:1/)
})

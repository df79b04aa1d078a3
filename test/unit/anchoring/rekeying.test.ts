/** New keys of an anchor, at both ends, without an engine (issue 14, point 8). */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { AnchorKeys } from '../../../src/anchoring/anchor-keys.ts'
import { AnchorRekeying, type RekeyingHost } from '../../../src/anchoring/anchor-rekeying.ts'
import { HostKeys, type KeyedPeer } from '../../../src/anchoring/host-keys.ts'
import { KeyRotation } from '../../../src/anchoring/key-rotation.ts'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../../../src/crypto/keys.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-rekeying-'))
after(() => rmSync(folder, { recursive: true }))

const OLD = publicKeyOf(new Uint8Array(32).fill(1))
const NEW = publicKeyOf(new Uint8Array(32).fill(2))
const THIRD = publicKeyOf(new Uint8Array(32).fill(3))
const PEER: KeyedPeer = { name: 'anchor', kind: 'anchor', publicKey: OLD }
const privateKey = new Uint8Array(32).fill(7)

let made = 0
function rotationOf(end: 'host' | 'anchor'): KeyRotation {
  const keyFile = join(folder, `key${++made}`)
  writeFileSync(keyFile, `${encodeKey(generatePrivateKey())}\n`, { mode: 0o600 })
  return new KeyRotation({ keyFile, end, log: () => {} })
}

function hostWith(file: string, peers: readonly KeyedPeer[] = [PEER]) {
  const commands: unknown[] = []
  const lines: string[] = []
  const keys = new HostKeys({
    privateKey,
    peers,
    rotation: rotationOf('host'),
    anchorKeys: new AnchorKeys(file),
    log: (level, line) => lines.push(`${level} ${line}`),
    post: (command) => commands.push(command),
  })
  return { keys, commands, lines }
}

test('a host stores the new key of an anchor before it says so, and starts with what it has stored', () => {
  const file = join(folder, 'a', 'anchor-keys.json')
  mkdirSync(join(folder, 'a'))
  const { keys, commands, lines } = hostWith(file)
  assert.deepEqual(keys.setup(PEER), { publicKey: OLD })
  keys.handle({ type: 'key-offered', name: 'anchor', publicKey: NEW })
  assert.deepEqual(commands, [{ type: 'accept-key', name: 'anchor', publicKey: NEW }])
  assert.equal(statSync(file).mode & 0o777, 0o600)
  const inBetween = hostWith(file).keys
  assert.deepEqual(
    inBetween.setup(PEER),
    { publicKey: OLD, nextPublicKey: NEW },
    'both, until one has proven itself',
  )
  assert.equal(inBetween.keyOf(PEER), encodeKey(OLD))
  keys.handle({ type: 'key-confirmed', name: 'anchor', whose: 'remote', publicKey: NEW })
  assert.deepEqual(lines, [`info anchor has a new key: ${encodeKey(NEW)}`])
  assert.deepEqual(hostWith(file).keys.setup(PEER), { publicKey: NEW })
  keys.handle({ type: 'key-offered', name: 'anchor', publicKey: THIRD })
  keys.handle({ type: 'key-confirmed', name: 'anchor', whose: 'remote', publicKey: THIRD })
  assert.equal(hostWith(file).keys.keyOf(PEER), encodeKey(THIRD), 'and another one')
  const joined = { ...PEER, name: 'other', publicKey: NEW }
  const other = hostWith(file, [joined]).keys
  assert.equal(other.keyOf(joined), encodeKey(NEW), 'an anchor that was joined by that key')
  other.handle({ type: 'key-confirmed', name: 'other', whose: 'remote', publicKey: THIRD })
  assert.equal(
    readFileSync(file, 'utf8').includes(encodeKey(OLD)),
    false,
    'what the configuration has no more is forgotten',
  )
})

test('a full or read-only disk: the anchor is not told, it is said once, and the old key stays', () => {
  const nowhere = join(folder, 'nowhere', 'anchor-keys.json')
  writeFileSync(join(folder, 'nowhere'), '')
  const { keys, commands, lines } = hostWith(nowhere)
  for (let n = 0; n < 3; n++) keys.handle({ type: 'key-offered', name: 'anchor', publicKey: NEW })
  assert.deepEqual(commands, [])
  assert.equal(lines.length, 1)
  assert.match(lines[0]!, /^warn the new key of anchor cannot be stored: .*; its old one stays in use$/)
  rmSync(join(folder, 'nowhere'))
  keys.handle({ type: 'key-offered', name: 'anchor', publicKey: NEW })
  assert.equal(commands.length, 1)
})

test('a damaged file is told, with what to do', () => {
  const file = join(folder, 'damaged.json')
  writeFileSync(file, '{"version":1,"anchors":[{"configured":5}]}')
  assert.throws(() => new AnchorKeys(file), /damaged/)
})

test('a stock WireGuard server cannot be told a new key: nothing is changed', async () => {
  const stock = { ...PEER, name: 'home', kind: 'wireguard' } as const
  const { keys, commands } = hostWith(join(folder, 'none.json'), [PEER, stock])
  await assert.rejects(keys.rekey(0), /home is a stock WireGuard server, to which a new key cannot be sent/)
  assert.deepEqual(commands, [])
  assert.equal(existsSync(join(folder, `key${made}.next`)), false)
})

test('an anchor ends its old key when hosts, earlier invitations and stock clients have the new one, or are gone', async () => {
  const rotation = rotationOf('anchor')
  const commands: { type: string; name?: string }[] = []
  let hosts: RekeyingHost[] = [
    { name: 'laptop', kind: 'godwit' },
    { name: 'phone', kind: 'wireguard' },
    { name: 'invited', kind: 'godwit', expires: 1, anchorKey: OLD },
  ]
  const keys = new AnchorRekeying({ rotation, hosts: () => hosts, post: (command) => commands.push(command) })
  assert.deepEqual(keys.setup, {})
  const first = await keys.rekey(0, false)
  assert.equal(first.finished, false)
  assert.deepEqual(first.hosts, [
    { name: 'laptop', kind: 'host', state: 'waiting' },
    { name: 'phone', kind: 'wireguard', state: 'waiting' },
    { name: 'invited', kind: 'invitation', state: 'waiting' },
  ])
  assert.deepEqual(keys.setup, { nextPrivateKey: rotation.next })
  const fresh = publicKeyOf(rotation.next!)
  hosts.push({ name: 'tablet', kind: 'godwit', expires: 1, anchorKey: fresh })
  keys.confirmed('laptop', OLD)
  for (const name of ['laptop', 'phone']) keys.confirmed(name, fresh)
  assert.deepEqual(
    (await keys.rekey(0, false)).hosts.map(({ state }) => state),
    ['done', 'done', 'waiting', 'waiting'],
  )
  const replaced = () => commands.filter(({ type }) => type === 'replace-key').map(({ name }) => name)
  assert.deepEqual(replaced().slice(3), ['invited', 'tablet'], 'who has it is not asked again')
  hosts = hosts.filter(({ name }) => name !== 'invited') // expired
  keys.settle()
  assert.equal(commands.at(-1)?.type, 'renew-identity')
  assert.equal(rotation.next, undefined)
})

test('`--finish` ends the old key, whoever has the new one', async () => {
  const rotation = rotationOf('anchor')
  const commands: { type: string }[] = []
  const hosts = [{ name: 'laptop', kind: 'godwit' }] as const
  const keys = new AnchorRekeying({ rotation, hosts: () => hosts, post: (command) => commands.push(command) })
  const { finished, hosts: left } = await keys.rekey(0, true)
  assert.deepEqual([finished, left[0]!.state], [true, 'waiting'])
  assert.deepEqual(
    commands.map(({ type }) => type),
    ['replace-key', 'renew-identity'],
  )
})

/** From `anchor init` to `join`: two state directories and the one line between them. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { after, test } from 'node:test'
import { HostStore } from '../../../src/anchoring/hosts.ts'
import { hostDescriptor } from '../../../src/anchoring/index.ts'
import { decodeInvitation } from '../../../src/anchoring/invitation.ts'
import { parseWgQuick } from '../../../src/anchoring/wg-quick.ts'
import { decodeKey, encodeKey, publicKeyOf } from '../../../src/crypto/keys.ts'
import { loadConfig } from '../../../src/host/configuration/config.ts'
import { loadConfigOf } from '../../../src/host/configuration/plan.ts'
import {
  initAnchor,
  invite,
  join,
  joinWireguard,
  leave,
  loadAnchorConfig,
} from '../../../src/host/provisioning/anchoring.ts'
import { State } from '../../../src/host/stores/state.ts'
import { readPrivateKey } from '../../../src/mechanism/files.ts'

const folder = mkdtempSync(joinPath(tmpdir(), 'godwit-setup-'))
after(() => rmSync(folder, { recursive: true }))
let count = 0
const fresh = (): State => new State({ state: joinPath(folder, `s${count++}`) })
const NOW = Date.UTC(2026, 0, 1)

function anchor(extra = ''): { state: State; store: HostStore } {
  const state = fresh()
  initAnchor(state, '192.0.2.1:51820')
  writeFileSync(state.configFile, readFileSync(state.configFile, 'utf8') + extra)
  return { state, store: new HostStore(state.file('hosts.json')) }
}

const hostConfig = (state: State) => loadConfigOf(hostDescriptor, state, { whole: true })

test('UP-8: an invitation makes a host known and gives it its VIpA; the secrets are 0600', () => {
  const { state, store } = anchor()
  const { host, text } = invite(state, store, 'laptop', NOW)
  const mobile = fresh()
  const joined = join(mobile, text, NOW + 1000)
  assert.deepEqual(joined.addresses, ['198.18.0.2/32', 'fd67:6f64:7769:1::2/128'])
  const [peer] = hostConfig(mobile).peer
  assert.equal(peer?.public_key, encodeKey(publicKeyOf(readPrivateKey(state.keyFile))))
  assert.equal(peer?.preshared_key, host.preshared_key)
  // The host proves itself with the invitation's key, and has one of its own to replace it with.
  const invitationKey = readPrivateKey(peer!.invitation_key_file!)
  assert.equal(encodeKey(publicKeyOf(invitationKey)), host.public_key)
  assert.notDeepEqual(readPrivateKey(mobile.keyFile), invitationKey)
  for (const file of [
    mobile.configFile,
    mobile.keyFile,
    peer!.invitation_key_file!,
    state.file('hosts.json'),
  ]) {
    assert.equal(statSync(file).mode & 0o777, 0o600, file)
  }
})

test('an invitation that expired, was cut short or taken twice is refused, and nothing is written', () => {
  const { state, store } = anchor('invitation_hours = 1\n')
  const { text } = invite(state, store, 'laptop', NOW)
  const mobile = fresh()
  assert.throws(() => join(mobile, text, NOW + 3_700_000), { code: 'INVITATION_EXPIRED', kind: 'usage' })
  for (const wrong of [text.slice(0, -3), text.replace('eyJ', 'eyK'), 'hello', '']) {
    assert.throws(() => join(mobile, wrong, NOW), { code: 'INVITATION_INVALID', kind: 'usage' })
  }
  assert.ok(!existsSync(mobile.configFile))
  join(mobile, text, NOW)
  assert.throws(() => join(mobile, text, NOW), {
    code: 'ALREADY_JOINED',
    kind: 'usage',
    hint: /sudo godwit leave anchor/,
  })
})

test('joining a second anchor keeps what the user wrote', () => {
  const mobile = fresh()
  join(mobile, invited(anchor(), 'laptop'), NOW)
  const comment = '# mine\n[log]\nlevel = "debug"\n'
  writeFileSync(mobile.configFile, comment + readFileSync(mobile.configFile, 'utf8'), { mode: 0o600 })
  join(mobile, invited(anchor(), 'laptop'), NOW)
  const config = loadConfig(mobile.configFile)
  assert.equal(config.log.level, 'debug')
  assert.equal(config.peer.length, 2)
  assert.notEqual(config.peer[0]?.name, config.peer[1]?.name)
  assert.ok(readFileSync(mobile.configFile, 'utf8').startsWith(comment))
})

function invited({ state, store }: ReturnType<typeof anchor>, name: string): string {
  return invite(state, store, name, NOW).text
}

test('UP-19: the pool is never given twice; exhausted it is a refusal; an expired invitation frees its address', () => {
  const { state, store } = anchor('pool4 = "198.18.0.0/29"\ninvitation_hours = 1\n')
  for (const name of ['a', 'b', 'c', 'd', 'e']) invite(state, store, name, NOW)
  assert.equal(new Set(store.list().map(({ number }) => number)).size, 5)
  assert.throws(() => invite(state, store, 'f', NOW), { code: 'POOL_EXHAUSTED' })
  store.confirmKey(store.list()[0]!.name, encodeKey(new Uint8Array(32).fill(1)))
  const { host } = invite(state, store, 'f', NOW + 3_700_000)
  assert.equal(host.number, 3) // 2 has joined and stays
  assert.deepEqual(
    store.list().map(({ name }) => name),
    ['a', 'f'],
  )
  assert.throws(() => invite(state, store, 'a', NOW), { kind: 'usage' })
  assert.deepEqual(new HostStore(state.file('hosts.json')).list(), store.list())
})

test('a key that cannot be written counts all the same, and is written when it can be; an invitation is refused', () => {
  const { state, store } = anchor()
  invite(state, store, 'laptop', NOW)
  const key = encodeKey(new Uint8Array(32).fill(1))
  const file = state.file('hosts.json')
  const obstacle = `${file}.${process.pid}.new`
  const before = readFileSync(file, 'utf8')
  mkdirSync(obstacle)
  assert.throws(() => store.offerKey('laptop', key))
  assert.equal(store.list()[0]?.next_public_key, key)
  assert.throws(() => store.confirmKey('laptop', key))
  assert.throws(() => invite(state, store, 'phone', NOW))
  assert.throws(() => store.write())
  assert.equal(readFileSync(file, 'utf8'), before)
  rmSync(obstacle, { recursive: true })
  store.write()
  const [host, ...others] = new HostStore(file).list()
  assert.deepEqual([host?.public_key, host?.next_public_key, host?.expires], [key, undefined, undefined])
  assert.deepEqual(others, [])
  const written = statSync(file).ino
  store.write()
  assert.equal(statSync(file).ino, written, 'nothing to write, nothing written')
})

test('a stock WireGuard client gets a wg-quick file, and a stock server is taken from one', () => {
  const { state, store } = anchor()
  const { host, text } = invite(state, store, 'phone', NOW, { wg: true })
  const parsed = parseWgQuick(text)
  assert.ok(parsed.ok)
  const key = decodeKey(parsed.value.privateKey)
  assert.ok(key.ok)
  assert.equal(encodeKey(publicKeyOf(key.value)), host.public_key)
  const file = joinPath(folder, 'wg0.conf')
  writeFileSync(file, text.replace('198.18.0.2/32', '198.18.0.2/24'))
  const mobile = fresh()
  assert.deepEqual(joinWireguard(mobile, file).addresses, ['198.18.0.2/32', 'fd67:6f64:7769:1::2/128'])
  assert.equal(hostConfig(mobile).peer[0]?.kind, 'wireguard')
  assert.deepEqual(readPrivateKey(mobile.keyFile), key.value)
  assert.equal(leave(mobile, undefined).stock, true)
  writeFileSync(file, text.replace('MTU', 'DNS = 9.9.9.9\nMTU'))
  assert.deepEqual(joinWireguard(fresh(), file).dns, ['9.9.9.9'])
  const other = fresh()
  join(other, invited(anchor(), 'laptop'), NOW)
  assert.throws(() => joinWireguard(other, file), { code: 'KEY_CONFLICT', kind: 'usage' })
})

test('a wg-quick file that is malformed or runs commands is refused with line and reason', () => {
  const good = '[Interface]\nPrivateKey = x\n'
  for (const [text, reason] of [
    ['hello', /line 1: not a WireGuard/],
    [`${good}PostUp = rm -rf /\n`, /line 3: PostUp runs commands/],
    [`${good}[Peer]\n[Peer]\n`, /line 4: there is a second \[Peer\]/],
    [`${good}Colour = red\n`, /colour/],
    [good, /PrivateKey: a key is/],
  ] as const) {
    const parsed = parseWgQuick(text)
    assert.ok(!parsed.ok)
    assert.match(parsed.reason, reason)
  }
})

test('roles are not mixed up: a host does not start as an anchor, nor is a state set up twice', () => {
  const { state } = anchor()
  assert.throws(() => hostConfig(state), { code: 'NOT_A_HOST', kind: 'usage' })
  assert.throws(() => initAnchor(state, 'a:1'), { code: 'CONFIG_EXISTS', kind: 'usage' })
  assert.throws(() => initAnchor(fresh(), 'nowhere'), { kind: 'usage' })
  const mobile = fresh()
  join(mobile, invited(anchor(), 'laptop'), NOW)
  assert.throws(() => loadAnchorConfig(mobile), { code: 'NOT_AN_ANCHOR', kind: 'usage' })
  assert.ok(!decodeInvitation('godwit1..').ok)
})

test('an empty configuration, as a full disk leaves it, is called that', () => {
  for (const text of ['', '\n  \n']) {
    const { state } = anchor()
    writeFileSync(state.configFile, text)
    const empty = {
      code: 'CONFIG_EMPTY',
      kind: 'usage',
      hint: /put it back from a copy; to begin anew, remove it: /,
    }
    assert.throws(() => loadAnchorConfig(state), empty)
    assert.throws(() => hostConfig(state), { code: 'NO_PEER' })
  }
  // One with comments alone is what somebody wrote.
  const { state } = anchor()
  writeFileSync(state.configFile, '# later\n')
  assert.throws(() => loadAnchorConfig(state), { code: 'NOT_AN_ANCHOR' })
})

test('a damaged store is told, not taken for an empty one', () => {
  const file = joinPath(folder, 'hosts.json')
  writeFileSync(file, '{"version":1,"hosts":[{}]}', { mode: 0o600 })
  assert.throws(() => new HostStore(file), { code: 'STORE_INVALID', kind: 'usage' })
})

test('leave undoes join: the file is as it was, or gone with the keys (issue 14, point 2)', () => {
  const mobile = fresh()
  join(mobile, invited(anchor(), 'laptop'), NOW)
  const first = readFileSync(mobile.configFile, 'utf8')
  join(mobile, invited(anchor(), 'laptop'), NOW)
  assert.throws(() => leave(mobile, undefined), { code: 'USAGE', message: /several anchors/ })
  assert.throws(() => leave(mobile, 'nobody'), { code: 'USAGE', hint: 'peers: anchor, anchor-2' })
  assert.deepEqual(leave(mobile, 'anchor-2'), { peer: 'anchor-2', config: mobile.configFile, removed: false })
  assert.equal(readFileSync(mobile.configFile, 'utf8'), first)
  assert.ok(!existsSync(mobile.file('anchor-2.invitation.key')))
  const dime = mobile.file('dime.keys')
  for (const file of [mobile.endpointsFile, dime]) writeFileSync(file, '')
  const { removed, kept } = leave(mobile, undefined)
  assert.deepEqual([removed, kept], [true, dime])
  const { configFile, keyFile, endpointsFile } = mobile
  for (const file of [configFile, keyFile, endpointsFile, mobile.file('anchor.invitation.key')])
    assert.ok(!existsSync(file), file)
  assert.ok(existsSync(dime), 'other hosts may know this one by it')
  assert.throws(() => leave(mobile, undefined), { kind: 'usage' })
})

test('an anchor remembers why a key is worth nothing: used, expired, removed; not without end (issue 14, point 2)', () => {
  const { state, store } = anchor()
  const first = invite(state, store, 'a', NOW)
  store.offerKey('a', encodeKey(publicKeyOf(new Uint8Array(32).fill(7))))
  store.confirmKey('a', encodeKey(publicKeyOf(new Uint8Array(32).fill(7))))
  invite(state, store, 'b', NOW)
  invite(state, store, 'c', NOW + 48 * 3_600_000) // b has expired by then
  store.remove('a')
  const again = new HostStore(state.file('hosts.json'))
  assert.deepEqual(
    again.gone().map(({ name, why }) => [name, why]),
    [
      ['a', 'used'],
      ['b', 'expired'],
      ['a', 'removed'],
    ],
  )
  assert.equal(again.gone()[0]!.public_key, first.host.public_key)
  invite(state, store, 'phone', NOW + 48 * 3_600_000, { wg: true })
  store.remove('phone')
  assert.equal(store.gone().length, 3, 'a stock client could not hear it')
  for (let i = 0; i < 260; i++) {
    invite(state, store, 'again', NOW + 48 * 3_600_000)
    store.remove('again')
  }
  assert.equal(store.gone().length, 256)
})

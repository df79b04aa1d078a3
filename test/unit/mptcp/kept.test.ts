/** The file that connections are taken over from: whose it is, where it was written, and how often it helped. */
import assert from 'node:assert/strict'
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { MappedFile } from '../../../src/linux/mapped-file.ts'
import { KeptFile, keptPath } from '../../../src/mptcp/kept.ts'
import { Connection } from '../../../src/mptcp/machine/connection.ts'
import { keyOf } from '../../../src/mptcp/machine/keys.ts'
import { Records } from '../../../src/mptcp/machine/record.ts'
import { OptionWriter, tupleKey } from '../../../src/mptcp/machine/segment.ts'
import { Subflow } from '../../../src/mptcp/machine/subflow.ts'
import { DEFAULT_INIT, newCounts } from '../../../src/mptcp/machine/types.ts'

const folder = mkdtempSync(join(tmpdir(), 'kept-'))
after(() => rmSync(folder, { recursive: true }))
let count = 0
const newPath = () => join(folder, `file-${count++}`)

interface Made {
  readonly id?: number
  readonly role?: 'client' | 'server'
  readonly forwarded?: boolean
  readonly family?: 4 | 16
}

function connection({ id = 3, role = 'server', forwarded = true, family = 16 }: Made = {}): Connection {
  const address = (last: number) => new Uint8Array(family).fill(last)
  const tuple = { local: address(1), localPort: 4000, remote: address(2), remotePort: 80 }
  const key = tupleKey(tuple)
  const host = {
    ...{ sha: nodeSha256, random: nodeRandom, init: DEFAULT_INIT, writer: new OptionWriter(), accesses: [] },
    ...{ counts: newCounts(), fast: undefined, spare: [], emit: () => {}, tell: () => {} },
  }
  const localKey = keyOf(nodeSha256, new Uint8Array(8).fill(7))
  const made = new Connection({
    ...{ id, host, tuple, key, role, localKey, tcpIsn: 0xffff_fff0 },
    ...{ forwarded, inside: 'lan', now: 0 },
  })
  made.remoteKey = keyOf(nodeSha256, new Uint8Array(8).fill(9))
  made.state = 'established'
  made.sndMax = made.dataUna = 6_000_000_000
  const subflow = new Subflow({
    ...{ id: made.nextSubflowId(), tuple, key, addressId: 0, access: 'wlan0', state: 'active', localIsn: 77 },
    ...{ backup: true, now: 0 },
  })
  made.subflows.push(subflow)
  made.active = subflow
  subflow.next = 5_000_000_000
  subflow.una = 4_999_998_000
  subflow.send.append(4_999_997_000, 5_999_997_000, 2000)
  subflow.send.append(4_999_999_000, 5_999_999_000, 1000)
  return made
}

function addSubflow(it: Connection): void {
  const { tuple, key, access, localIsn } = it.first!
  const second = { id: it.nextSubflowId(), tuple, key, addressId: 1, access, localIsn, backup: true, now: 0 }
  it.subflows.push(new Subflow({ ...second, state: 'active' }))
}

test('a connection over IPv6, beyond 4 GB, is read as it was written', () => {
  const path = newPath()
  const file = new KeptFile(path, 0)
  const before = connection()
  before.noJoin = true
  // In every flag another than its neighbour.
  before.first!.sackPermitted = true
  before.first!.backup = false
  before.first!.remoteBackup = true
  before.first!.home = undefined
  file.records.save(before)
  const [kept, ...more] = new KeptFile(path, 0).kept
  assert.deepEqual(more, [])
  assert.deepEqual([kept!.id, kept!.role, kept!.state, kept!.inside], [3, 'server', 'established', 'lan'])
  const flags = [kept!.forwarded, kept!.confirmed, kept!.answered, kept!.noJoin]
  assert.deepEqual(flags, [true, false, false, true])
  assert.deepEqual([kept!.tuple, kept!.tcpIsn, kept!.sndMax], [before.tuple, 0xffff_fff0, 6_000_000_000])
  const [subflow] = kept!.subflows
  assert.deepEqual([subflow!.access, subflow!.whole, subflow!.home], ['wlan0', true, undefined])
  assert.deepEqual([subflow!.sackPermitted, subflow!.backup, subflow!.remoteBackup], [true, false, true])
  assert.deepEqual(subflow!.send, before.subflows[0]!.send.runs)
  file.remove()
  assert.equal(existsSync(path), false)
})

test('issue 12, part 3: every flag of a connection and a subflow is read as it was written, whatever the others are', () => {
  const bytes = new Uint8Array(Records.byteLength(8))
  const memory = { view: new DataView(bytes.buffer), bytes, room: () => true }
  for (let bits = 0; bits < 1024; bits++) {
    const is = (bit: number) => (bits & (1 << bit)) !== 0
    const role = is(0) ? 'server' : 'client'
    const it = connection({ role, forwarded: is(1), family: is(2) ? 4 : 16 })
    const { first } = it
    it.confirmed = is(3)
    it.answered = is(4)
    it.noJoin = is(5)
    first!.sackPermitted = is(6)
    first!.backup = is(7)
    first!.remoteBackup = is(8)
    first!.home = is(9) ? first!.tuple.local : undefined
    const records = new Records(memory, 8)
    records.save(it)
    const [kept] = new Records(memory, 8).load().kept
    const { tuple, confirmed, answered, noJoin, subflows } = kept!
    assert.deepEqual(
      [kept!.role, kept!.forwarded, tuple, confirmed, answered, noJoin],
      [role, is(1), it.tuple, is(3), is(4), is(5)],
    )
    const [{ sackPermitted, backup, remoteBackup, home } = subflows[0]!] = subflows
    assert.deepEqual(
      [sackPermitted, backup, remoteBackup, home],
      [is(6), is(7), is(8), is(9) ? it.tuple.local : undefined],
    )
    records.forget(3)
  }
})

test('a file that others can write or read, have by another name, or that is none, is not believed', () => {
  const exposures: readonly ((path: string) => void)[] = [
    (path) => chmodSync(path, 0o640),
    (path) => linkSync(path, newPath()),
    (path) => writeFileSync(path, 'short'),
    (path) => {
      rmSync(path)
      symlinkSync('/dev/zero', path)
    },
  ]
  for (const expose of exposures) {
    const path = newPath()
    new KeptFile(path, 0).records.save(connection())
    assert.equal(new KeptFile(path, 0).kept.length, 1)
    expose(path)
    assert.equal(new KeptFile(path, 0).kept.length, 0)
    assert.equal(statSync(path).mode & 0o777, 0o600)
  }
})

test('what was written in another boot or network namespace is worth nothing', () => {
  const path = newPath()
  const file = new KeptFile(path, 0)
  file.records.save(connection())
  const { size } = statSync(path)
  const raw = new MappedFile(path, size)
  raw.bytes[20]! ^= 1
  raw.close()
  assert.equal(new KeptFile(path, 0).kept.length, 0)
})

for (const [what, every] of [
  ['soon after its start', 3000],
  ['when the watchdog of its unit finds that it stands still', 40_000],
] as const)
  test(`what was taken over eight times by daemons that ended ${what} ends`, () => {
    const path = newPath()
    new KeptFile(path, 0).records.save(connection())
    for (let i = 0; i < 8; i++) assert.equal(new KeptFile(path, 1e9 + every * i).kept.length, 1)
    assert.equal(new KeptFile(path, 1e9 + every * 8).kept.length, 0)
  })

test('connections are not kept in a folder where others can put something', () => {
  const runtime = join(folder, 'runtime')
  mkdirSync(runtime, { mode: 0o755 })
  assert.equal(dirname(keptPath('/state', runtime)), runtime)
  chmodSync(runtime, 0o777)
  assert.equal(keptPath('/state', runtime), '/state/mptcp-connections')
  symlinkSync('/nowhere', `${runtime}-link`)
  assert.equal(keptPath('/state', `${runtime}-link`), '/state/mptcp-connections')
})

test('issue 12: the record of a connection with two subflows takes less than 4 KB of memory, which comes in pages', () => {
  const slots = 400
  const bytes = new Uint8Array(Records.byteLength(slots))
  const pages = new Set<number>()
  const room = (at: number, length: number) => {
    for (let page = at >> 12; page <= (at + length - 1) >> 12; page++) pages.add(page)
    return true
  }
  const records = new Records({ view: new DataView(bytes.buffer), bytes, room }, slots)
  for (let id = 0; id < slots; id++) {
    const it = connection({ id })
    addSubflow(it)
    records.save(it)
  }
  assert.ok(pages.size * 4096 < slots * 4000, `${(pages.size * 4096) / slots} bytes each`)
  const kept = new Records({ view: new DataView(bytes.buffer), bytes, room }, slots).load()
  assert.deepEqual([kept.kept.length, kept.refused], [slots, 0])
  assert.ok(kept.kept.every(({ subflows }) => subflows.length === 2))
})

test('a full file system costs the takeover and nothing else', () => {
  const bytes = new Uint8Array(Records.byteLength(8))
  const records = new Records({ view: new DataView(bytes.buffer), bytes, room: () => false }, 8)
  records.save(connection())
  records.forget(3)
  assert.ok(bytes.every((byte) => byte === 0))
})

test('a connection whose next subflow finds no memory is forgotten until it does: what was written is not so any more', () => {
  const bytes = new Uint8Array(Records.byteLength(8))
  const memory = { view: new DataView(bytes.buffer), bytes }
  let full = false
  const records = new Records({ ...memory, room: () => !full }, 8)
  const kept = () => new Records({ ...memory, room: () => true }, 8).load().kept
  const it = connection()
  records.save(it)
  records.save(it)
  assert.equal(kept().length, 1)
  full = true
  addSubflow(it)
  records.save(it)
  assert.equal(kept().length, 0)
  full = false
  for (let i = 0; i < 2; i++) {
    records.save(it)
    assert.deepEqual(kept()[0]?.localKey, it.localKey.bytes)
    assert.equal(kept()[0]?.subflows.length, 2)
  }
})

test('what has no memory is not even read', () => {
  // Of five records that were begun, three have no memory: beyond its end is none here either.
  const bytes = new Uint8Array(64 + 2 * 2048)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, 5, true)
  const records = new Records({ view, bytes, room: (at, length) => at + length <= bytes.length }, 8)
  assert.deepEqual(records.load(), { kept: [], refused: 0 })
})

/** A node on the main thread, with an engine that does nothing: what it remembers of peers, and what it finds at its start. */
import assert from 'node:assert/strict'
import {
  chmodSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { encoded } from '../../../src/core/codec.ts'
import {
  readLease,
  readPairs,
  readPeers,
  writeLease,
  writePairs,
  writePeers,
} from '../../../src/overlay/node/login.ts'
import { NodeNames } from '../../../src/overlay/node/names.ts'
import type { NodeEvent, NodePeer } from '../../../src/overlay/node/protocol.ts'
import { ResolvConf } from '../../../src/overlay/node/resolv-conf.ts'
import { type NodeComponents, type NodeInit, NodeService } from '../../../src/overlay/node/service.ts'
import { leaseCodec } from '../../../src/overlay/wire/lease.ts'
import { Status } from '../../../src/overlay/wire/message.ts'
import type { EngineWorkerEvents } from '../../../src/tunnel/engine/thread.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-service-'))
after(() => rmSync(folder, { recursive: true, force: true }))

function peer(n: number): NodePeer {
  return { name: `n${n}.test.example`, v6: new Uint8Array(16).fill(n & 255) }
}

const nothing = () => {}

function bed(known: readonly NodePeer[] = [], path = join(folder, 'resolv.conf')) {
  const file = new ResolvConf('godwit main', path)
  let hear: (event: NodeEvent) => void = nothing
  let routed = 0
  let kept: readonly NodePeer[] = []
  let onEngineStop = nothing
  let find: (name: string) => Promise<NodePeer | undefined> = async () => undefined
  const recorder = { log: nothing, handover: nothing, decision: nothing }
  const parts = {
    monitor: {
      start: nothing,
      useRouting: () => nothing,
      subscribe: () => nothing,
      accesses: () => [],
    },
    plumbing: {
      apply: nothing,
      cleanUp: nothing,
      watch: () => nothing,
      setPeers: (addresses: readonly Uint8Array[]) => {
        routed = addresses.length
      },
    },
    localNames: ({ lookup }: { lookup: typeof find }) => {
      find = lookup
      return new NodeNames({ lookup, servers: {}, system: { giveBack: nothing }, file, recorder } as never, {
        keeper: 'file',
        zones: ['test.example'],
      })
    },
    protect: () => nothing,
    recorder,
    wall: () => 0,
    endpoints: { get: () => undefined, set: nothing },
    names: {},
    openPush: () => undefined,
    keepPeers: (peers: readonly NodePeer[]) => {
      kept = peers
    },
    startEngine: async (_: URL, __: unknown, { onEvent }: EngineWorkerEvents) => {
      hear = onEvent
      return { post: nothing, stop: async () => onEngineStop() }
    },
  }
  const service = new NodeService(parts as unknown as NodeComponents, {
    ...{ device: 'godwit0', privateKey: new Uint8Array(32), mark: 0, mtu: 1400, accesses: [], known },
    credentials: { name: 'own.test.example' } as NodeInit['credentials'],
    coordinator: { host: '192.0.2.1', port: 6741 },
  })
  const whenEngineStops = (then: () => void) => {
    onEngineStop = then
  }
  return {
    service,
    file,
    whenEngineStops,
    lookup: (name: string) => find(name),
    hear: (event: NodeEvent) => hear(event),
    at: () => ({ routed, kept }),
  }
}

test('issue 8: of peers without end a node remembers, routes and stores 1,024, the ones met last', async () => {
  const { service, hear, at } = bed(Array.from({ length: 1000 }, (_, i) => peer(i)).reverse())
  await service.start()
  for (let n = 1000; n < 2000; n++) hear({ type: 'directed', peer: peer(n), asked: false })
  // Met again: it is not the next to go.
  hear({ type: 'directed', peer: peer(976), asked: true })
  hear({ type: 'directed', peer: peer(2000), asked: false })
  const { kept, routed } = at()
  assert.deepEqual([kept.length, routed], [1024, 1024])
  assert.deepEqual(
    [kept[0]!.name, kept[1]!.name, kept.at(-1)!.name],
    ['n2000.test.example', 'n976.test.example', 'n978.test.example'],
  )
  await service.stop()
})

test('issue 13: a name that has other addresses than in an earlier run: the first question gets the new ones, if the coordinator answers soon', async () => {
  const old = peer(1)
  const { service, hear, lookup } = bed([old])
  await service.start()
  const { name } = old
  assert.deepEqual(await lookup(name), old, 'nobody answers')
  const asked = lookup(name)
  const fresh = { name, v6: new Uint8Array(16).fill(9) }
  hear({ type: 'directed', peer: fresh, asked: true })
  assert.deepEqual(await asked, fresh)
  const again = lookup(name)
  hear({ type: 'refused', name, reason: 'there is no node of this name', status: Status.UNKNOWN_NAME })
  assert.equal(await again, undefined)
  await service.stop()
})

test('issue 9: after a power cut resolv.conf asks a name server that is not there; the next start takes it out first', async () => {
  const path = join(folder, 'resolv.conf')
  writeFileSync(path, 'nameserver 192.0.2.53\n')
  const { service, file } = bed()
  file.set('100.96.0.1')
  assert.match(readFileSync(path, 'utf8'), /100\.96\.0\.1/)
  await service.start()
  assert.equal(readFileSync(path, 'utf8'), 'nameserver 192.0.2.53\n')
  await service.stop()
})

test('issue 9: a daemon that stops gives resolv.conf back before it waits for its engine', async () => {
  const path = join(folder, 'stopped.conf')
  writeFileSync(path, 'nameserver 192.0.2.53\n')
  const { service, file, whenEngineStops } = bed([], path)
  await service.start()
  file.set('100.96.0.1')
  let then = ''
  whenEngineStops(() => {
    then = readFileSync(path, 'utf8')
  })
  await service.stop()
  assert.equal(then, 'nameserver 192.0.2.53\n')
})

test('NT-50: a resolv.conf that another program writes, or puts another in its place, is mended without looking now and then', async () => {
  const path = join(folder, 'watched.conf')
  const link = join(folder, 'linked.conf')
  writeFileSync(path, 'nameserver 192.0.2.53\n')
  symlinkSync(path, link)
  for (const where of [path, link]) {
    const said: string[] = []
    const recorder = {
      log: (_level: string, message: string) => {
        if (message.includes('resolv.conf')) said.push(message)
      },
    }
    const lookup = async () => undefined
    const file = new ResolvConf('godwit main', where)
    const parts = { lookup, servers: {}, system: { giveBack: nothing }, recorder, file }
    const names = new NodeNames(parts as never, { keeper: 'file', zones: ['test.example'] })
    await names.start(['127.0.0.77'])
    const mended = async (times: number) => {
      for (let i = 0; i < 200 && said.length < times; i++) await delay(10)
      assert.equal(said.length, times)
      assert.match(readFileSync(where, 'utf8'), /nameserver 127\.0\.0\.77/)
    }
    writeFileSync(path, 'nameserver 192.0.2.54\n')
    await mended(1)
    writeFileSync(`${path}.new`, 'nameserver 192.0.2.55\n')
    renameSync(`${path}.new`, path)
    await mended(2)
    writeFileSync(path, 'nameserver 192.0.2.56\n')
    await mended(3)
    await delay(200)
    assert.equal(said.length, 3, 'its own change is none')
    names.stop()
    assert.equal(readFileSync(path, 'utf8'), 'nameserver 192.0.2.56\n')
    writeFileSync(path, 'nameserver 192.0.2.53\n')
  }
})

test('issue 13: another program that wants the first line too is not fought: godwit says so and adds its line less often', async () => {
  const path = join(folder, 'fought.conf')
  const theirs = 'nameserver 192.0.2.53\n'
  writeFileSync(path, theirs)
  const said: string[] = []
  const recorder = { log: (level: string, message: string) => said.push(`${level} ${message}`) }
  const file = new ResolvConf('godwit main', path)
  const parts = { lookup: async () => undefined, servers: {}, system: { giveBack: nothing }, recorder, file }
  const names = new NodeNames(parts as never, { keeper: 'file', zones: ['test.example'] })
  await names.start(['127.0.0.77'])
  let times = 0
  for (let i = 0; i < 100; i++) {
    if (readFileSync(path, 'utf8') !== theirs) {
      times++
      writeFileSync(path, theirs)
    }
    await delay(10)
  }
  assert.ok(times >= 5 && times <= 7, `${times}`)
  const warned = said.filter((each) => each.startsWith('warn'))
  assert.equal(warned.length, 1, said.join('\n'))
  assert.match(warned[0]!, /again and again.*ask 127\.0\.0\.77 .*test\.example.*dns = "none"/)
  // It comes back by itself, when that program has ended.
  for (let i = 0; i < 300 && readFileSync(path, 'utf8') === theirs; i++) await delay(10)
  assert.match(readFileSync(path, 'utf8'), /nameserver 127\.0\.0\.77\nnameserver 192/)
  names.stop()
  assert.equal(readFileSync(path, 'utf8'), theirs)
})

test('issue 13: a resolv.conf that a program empties and then writes keeps what it writes; one that stays empty gets our line', async () => {
  const path = join(folder, 'emptied.conf')
  writeFileSync(path, 'nameserver 192.0.2.53\n')
  const recorder = { log: nothing }
  const file = new ResolvConf('godwit main', path)
  const parts = { lookup: async () => undefined, servers: {}, system: { giveBack: nothing }, recorder, file }
  const names = new NodeNames(parts as never, { keeper: 'file', zones: ['test.example'] })
  await names.start(['127.0.0.77'])
  writeFileSync(path, '')
  await delay(150)
  assert.equal(readFileSync(path, 'utf8'), '')
  writeFileSync(path, 'nameserver 192.0.2.54\n')
  const until = async (wanted: RegExp) => {
    for (let i = 0; i < 200 && !wanted.test(readFileSync(path, 'utf8')); i++) await delay(10)
    assert.match(readFileSync(path, 'utf8'), wanted)
  }
  await until(/127\.0\.0\.77\nnameserver 192\.0\.2\.54\n$/)
  writeFileSync(path, '')
  await until(/nameserver 127\.0\.0\.77\n$/)
  names.stop()
})

test('NT-50: a resolv.conf that is a link to a missing file is said, left alone, and used once the file is there', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const path = join(folder, 'dangling.conf')
  symlinkSync('later.conf', path)
  const said: string[] = []
  const recorder = { log: (_: string, message: string) => said.push(message) }
  const parts = { lookup: async () => undefined, servers: { host: () => ({ servers: ['192.0.2.7'] }) } }
  const names = new NodeNames(
    {
      ...{ ...parts, system: { giveBack: nothing }, recorder },
      file: new ResolvConf('godwit main', path),
    } as never,
    { keeper: 'file', zones: ['test.example'] },
  )
  await names.start(['127.0.0.78'])
  t.mock.timers.tick(20_000)
  assert.equal(said.length, 1, 'once')
  assert.match(
    said[0]!,
    /dangling\.conf is a link to later\.conf.*; ask 127\.0\.0\.78 for names that end in test\.example/,
  )
  assert.deepEqual([names.upstream(), (names.view() as { keeper: string }).keeper], [['192.0.2.7'], 'none'])
  writeFileSync(join(folder, 'later.conf'), 'nameserver 192.0.2.53\n')
  t.mock.timers.tick(5_000)
  assert.match(readFileSync(path, 'utf8'), /nameserver 127\.0\.0\.78\nnameserver 192\.0\.2\.53/)
  assert.match(said[1]!, /can be written now/)
  assert.deepEqual(names.upstream(), ['192.0.2.53'])
  names.stop()
  assert.equal(readFileSync(path, 'utf8'), 'nameserver 192.0.2.53\n')
})

test('NT-50: with a resolv.conf that names no server, other names are asked of the one on this machine, as programs do', async () => {
  const path = join(folder, 'nameless.conf')
  writeFileSync(path, 'search home.lan\n')
  const lookup = async () => undefined
  const parts = { lookup, servers: {}, system: { giveBack: nothing }, recorder: { log: nothing } }
  const file = new ResolvConf('godwit main', path)
  const names = new NodeNames({ ...parts, file } as never, { keeper: 'file', zones: ['test.example'] })
  await names.start(['127.0.0.78'])
  assert.deepEqual(names.upstream(), ['127.0.0.1'])
  writeFileSync(path, 'nameserver 127.0.0.78\nnameserver 192.0.2.53\n')
  assert.deepEqual(names.upstream(), ['192.0.2.53'])
  names.stop()
})

test('issue 9: a daemon that stops while it registers its name server leaves no line in resolv.conf', async () => {
  const path = join(folder, 'early.conf')
  writeFileSync(path, 'nameserver 192.0.2.53\n')
  const lookup = async () => undefined
  const parts = { lookup, servers: {}, system: { giveBack: nothing }, recorder: { log: nothing } }
  const file = new ResolvConf('godwit main', path)
  const names = new NodeNames({ ...parts, file } as never, { keeper: 'file', zones: ['test.example'] })
  const started = names.start(['192.0.2.77'])
  names.stop()
  await started
  assert.equal(readFileSync(path, 'utf8'), 'nameserver 192.0.2.53\n')
})

test('issue 13: pairs are kept for their owner alone, and read as they were; a file that is damaged or that others can read is none, and that is said', () => {
  const lost: string[] = []
  const onLost = (message: string) => lost.push(message)
  const path = join(folder, 'pairs.json')
  const pair = (n: number, more: object = {}) => ({
    ...{
      name: `n${n}.test.example`,
      lease: new Uint8Array(150).fill(n),
      pairKey: new Uint8Array(32).fill(n),
    },
    places: [
      { address: Uint8Array.of(198, 51, 100, n), port: 1000 + n },
      { address: new Uint8Array(16).fill(n), port: 6 },
    ],
    ...more,
  })
  const all = [pair(1), pair(2, { zoneKey: new Uint8Array(32).fill(9) })]
  writePairs(path, all)
  assert.equal(statSync(path).mode & 0o777, 0o600)
  assert.deepEqual(readPairs(path, onLost), all)
  chmodSync(path, 0o644)
  assert.deepEqual(readPairs(path, onLost), [])
  writeFileSync(path, '[{"name": "x"}]', { mode: 0o600 })
  chmodSync(path, 0o600)
  assert.deepEqual(readPairs(path, onLost), [])
  assert.deepEqual(readPairs(join(folder, 'none.json'), onLost), [])
  assert.equal(lost.length, 2)
  assert.match(lost[0]!, /pairs\.json is of no use, .*others can read it/)
  assert.match(lost[1]!, /pairs\.json is of no use/)
})

test('issue 13: a half-written list of peers is said, and half a lease is none', () => {
  const lost: string[] = []
  const path = join(folder, 'peers.json')
  const peers = [{ name: 'bob.test.example', v6: new Uint8Array(16).fill(0xfd) }]
  writePeers(path, peers)
  assert.deepEqual(readPeers(path, assert.fail), peers)
  truncateSync(path, 20)
  assert.deepEqual(
    readPeers(path, (message) => lost.push(message)),
    [],
  )
  assert.match(lost.join(), /peers\.json is damaged, and begun anew; .*: /)
  const lease = encoded(leaseCodec, {
    ...{ serial: 1, notBefore: 1, notAfter: 2, publicKey: new Uint8Array(32), name: 'bob.test.example' },
    ...{ v6: new Uint8Array(16).fill(0xfd), signature: new Uint8Array(64) },
  })
  const file = join(folder, 'lease')
  writeLease(file, lease)
  assert.deepEqual(readLease(file), lease)
  for (const length of [0, 1, 40, 100]) {
    truncateSync(file, length)
    assert.equal(readLease(file), undefined)
    writeLease(file, lease)
  }
})

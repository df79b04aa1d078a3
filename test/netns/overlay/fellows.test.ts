/**
 * Two coordinators of one zone with one PostgreSQL and a cluster of three servers of NATS: their nodes reach each other by name, and go on
 * when a server of NATS, all of them, or a coordinator is gone.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { ROAM_SERVER, roam } from '../../../lab/topologies/ntm-roam.ts'
import type { TopologySpec } from '../../../lab/topology.ts'
import type { Inbox } from '../../../src/host/provisioning/overlay-cache.ts'
import type { ShownSoft } from '../../../src/host/provisioning/overlay-soft.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { daemonAt } from '../../support/daemon.ts'
import { cannotRunNats, type NatsPlace, NatsServer } from '../../support/nats.ts'
import { cannotRun, PostgresBed } from '../../support/postgres.ts'

usesPrograms('ping', 'ip', 'unshare')
usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const ZONE = 'test.example'
/** What devices know: the addresses of both coordinators. */
const NAME = 'overlay.test.example'
const HOSTS = ['dc2', 'n1', 'n2', 'n3'] as const
const addressOf = (name: string) =>
  name === 'srv' ? ROAM_SERVER : `192.0.2.${18 + 4 * HOSTS.indexOf(name as (typeof HOSTS)[number])}`
const COORDINATORS = ['srv', 'dc2'] as const
type Coordinator = (typeof COORDINATORS)[number]
const NODES = ['alice', 'bob'] as const
type NodeName = (typeof NODES)[number]
const PLACES: readonly NatsPlace[] = (['n1', 'n2', 'n3'] as const).map((name) => ({
  ...{ name, address: addressOf(name), port: 4222, cluster: 6222 },
}))

function topology(): TopologySpec {
  const spec = roam('overlay-fellows', NODES)
  const hosts = Object.fromEntries(
    HOSTS.map((name, i) => [name, { routes: [{ to: 'default' as const, via: `192.0.2.${17 + 4 * i}` }] }]),
  )
  const links = HOSTS.map((name, i) => ({
    name,
    ends: [
      { host: 'net', iface: name, addresses: [`192.0.2.${17 + 4 * i}/30`] },
      { host: name, iface: 'wan', addresses: [`${addressOf(name)}/30`] },
    ] as const,
  }))
  return { ...spec, hosts: { ...spec.hosts, ...hosts }, links: [...spec.links, ...links] }
}

describe('NT-15, NT-18: two coordinators of one zone', { skip: cannotRun() || cannotRunNats() }, () => {
  let lab: Lab
  let folder: string
  const database = new PostgresBed()
  let nats: NatsServer[] = []
  const programs = new Map<string, Program>()
  const log = (host: string) => readFileSync(join(folder, `${host}.log`), 'utf8')
  const state = (host: string) => ['--state', join(folder, host)]
  /** With the zone's name in /etc/hosts, this coordinator first. */
  const named = (first: Coordinator, ...words: readonly string[]): [string, string[]] => [
    'unshare',
    ['-m', 'sh', '-c', 'mount --bind "$0" /etc/hosts && exec "$@"', join(folder, `hosts-${first}`), ...words],
  ]
  const run = (host: string, first: Coordinator, ...words: readonly string[]) =>
    lab.programs.run(host, ...named(first, ...words))
  const godwit = (host: string, ...args: string[]) =>
    run(host, 'srv', process.execPath, GODWIT, ...args, ...state(host))
  const serve = async (host: Coordinator) => {
    const words = [process.execPath, GODWIT, 'overlay', 'serve', ...state(host)]
    const program = await lab.programs.start(host, ...named(host, ...words), {
      log: join(folder, `${host}.log`),
    })
    programs.set(host, program)
    await program.expect((line) => line.trim() === 'ready', 30_000)
  }
  const up = async (name: NodeName, first: Coordinator) => {
    const words = [process.execPath, GODWIT, 'overlay', 'up', ...state(name)]
    const program = await lab.programs.start(name, ...named(first, ...words), {
      log: join(folder, `${name}.log`),
    })
    programs.set(name, program)
    await program.expect((line) => line.trim() === 'ready', 30_000)
  }
  const kill = async (host: string) => {
    programs.get(host)!.signal('SIGKILL')
    await programs.get(host)!.ended
  }
  const until = async (what: string, holds: () => Promise<boolean> | boolean, ms = 30_000) => {
    for (const end = Date.now() + ms; Date.now() < end; await delay(200)) if (await holds()) return
    const logs = [...COORDINATORS, ...NODES].map((host) => `${host}:\n${log(host).slice(-2500)}`)
    assert.fail(`not in time: ${what} (${said})\n${logs.join('\n')}`)
  }
  const show = async (host: Coordinator) =>
    JSON.parse(await godwit(host, 'overlay', 'soft', 'show', '--json')) as ShownSoft
  const nodesOf = async (host: Coordinator) =>
    Object.fromEntries((await show(host)).report!.coordinators.map(({ name, nodes }) => [name, nodes]))
  let bob = ''
  let said = ''
  /** A tunnel that is built anew is one to a node that its coordinator has to find; the answer, or why there is none. */
  const meet = async (from: NodeName = 'alice') => {
    const name = from === 'alice' ? 'bob' : 'alice'
    const daemon = daemonAt(join(folder, from))
    const words = { name: `${name}.${ZONE}` }
    // It was forgotten before where it was not found.
    await daemon.post('/v1/overlay/forget', words).catch(() => {})
    try {
      await daemon.post('/v1/overlay/resolve', words)
    } catch (error) {
      said = (error as Error).message
      return said
    }
    if (from === 'alice') await run('alice', 'srv', 'ping', '-c', '1', '-W', '5', bob)
    return ''
  }
  /** Where the coordinator is connected to now. */
  const serverOf = (host: Coordinator) => {
    const [at = ''] = [...log(host).matchAll(/NATS \S+ at (\S+):4222/g)].at(-1)!.slice(1)
    return nats.find(({ place }) => place.address === at)!
  }
  const cached = (host: Coordinator) => {
    const cache = join(folder, host, 'overlay-cache')
    return readdirSync(cache).map((name) => ({ name, size: statSync(join(cache, name)).size }))
  }
  /** Files at its cache server, and bytes. */
  const kept = (host: Coordinator) => cached(host).filter(({ name }) => name.endsWith('.data')).length
  const bytesAt = (host: Coordinator) => cached(host).reduce((sum, { size }) => sum + size, 0)
  /** What it has said of the other last. */
  const isThere = (host: Coordinator) =>
    /there$/.test([...log(host).matchAll(/coordinator [ab] (is there|does not answer)/g)].at(-1)?.[1] ?? '')

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-fellows-'))
    chmodSync(folder, 0o755)
    for (const first of COORDINATORS) {
      const all = [first, ...COORDINATORS.filter((each) => each !== first)]
      const lines = all.map((each) => `${addressOf(each)} ${NAME}\n`)
      writeFileSync(join(folder, `hosts-${first}`), `127.0.0.1 localhost\n${lines.join('')}`)
    }
    const starts = async (place: NatsPlace, command: string, args: readonly string[]) =>
      (await lab.programs.start(place.name, command, [...args])).child
    const startNats = async () => {
      lab = await Lab.build(topology())
      nats = PLACES.map((place) => new NatsServer(folder, place, PLACES, starts))
      await Promise.all(nats.map((server) => server.start()))
    }
    const startDatabase = async () => {
      await database.make()
      await database.start()
    }
    await Promise.all([startNats(), startDatabase()])
    const init = ['overlay', 'init', '--zone', ZONE, '--endpoint', NAME, '--dns-port', '0']
    await godwit('srv', ...init)
    await godwit('srv', 'overlay', 'store', 'move', database.url)
    mkdirSync(join(folder, 'dc2'), { mode: 0o700 })
    // As an operator: settings and certificate go to the second host.
    const added = JSON.parse(await godwit('srv', 'overlay', 'account', 'add', 'carol', '--json')) as Record<
      string,
      string
    >
    for (const file of ['overlay-server.json', 'overlay-server.crt', 'overlay-server.key'])
      cpSync(join(folder, 'srv', file), join(folder, 'dc2', file))
    const url = `nats://${PLACES.map(({ address }) => address).join()}`
    const begin = async (host: Coordinator, i: number) => {
      const use = ['overlay', 'soft', 'use', url, '--no-tls', '--name', 'ab'[i]!]
      await godwit(host, ...use, '--endpoint', addressOf(host))
      await serve(host)
    }
    const enter = async (name: NodeName, i: number) => {
      const own = join(folder, name)
      mkdirSync(own, { mode: 0o750 })
      writeFileSync(
        join(own, 'godwit.toml'),
        '[overlay]\naccesses = ["acc1"]\ndns = "none"\n[log]\nlevel = "debug"\n',
      )
      const words = ['overlay', 'login', 'carol', '--server', added.server!, '--pin', added.pin!]
      const typed = 'printf "%s\\n" "$0" | exec "$@"'
      const login = [process.execPath, GODWIT, ...words, '--name', name, ...state(name)]
      await run(name, COORDINATORS[i]!, 'sh', '-c', typed, added.password!, ...login)
      await up(name, COORDINATORS[i]!)
    }
    await Promise.all(COORDINATORS.map(begin))
    await Promise.all(NODES.map(enter))
  })
  after(async () => {
    await lab?.close()
    await database.end()
    rmSync(folder, { recursive: true, force: true })
  })

  it('NT-18: nodes that registered with different coordinators reach each other by name; `soft show` lists both', async () => {
    await until('they know each other', () => COORDINATORS.every(isThere))
    bob = /fd\S+/.exec(await godwit('alice', 'overlay', 'resolve', 'bob'))![0]
    const [shown, said] = await Promise.all([
      show('dc2'),
      godwit('srv', 'doctor').catch((error: Error) => error.message),
      run('alice', 'srv', 'ping', '-c', '3', '-i', '0.2', '-W', '5', bob),
    ])
    assert.equal(shown.report!.replicas, 3)
    assert.deepEqual(
      shown.report!.coordinators.map(({ name, nodes }) => [name, nodes]),
      [
        ['a', 1],
        ['b', 1],
      ],
    )
    assert.match(said, /coordinators: a, b/)
  })

  it('NT-15: the server of NATS of a coordinator is killed: nodes find each other, then and when it is back', async () => {
    const victim = serverOf('srv')
    await victim.kill()
    await until('they find each other', async () => (await meet()) === '')
    await victim.start()
    await until('they find each other', async () => (await meet()) === '')
  })

  it('NT-15: the servers of NATS of both coordinators stop, one paused and one cut off: nodes find each other, then and when they are back', async () => {
    const paused = serverOf('srv')
    const other = serverOf('dc2')
    // At the same one: any other. In any case two of three are gone, and with them the bucket.
    const cut = other === paused ? nats.find((each) => each !== paused)! : other
    const link = (to: 'up' | 'down') => lab.programs.run('net', 'ip', ['link', 'set', cut.place.name, to])
    await link('down')
    paused.signal('SIGSTOP')
    const since = Date.now()
    await until('they find each other', async () => (await meet()) === '')
    console.log(`# found again after ${Date.now() - since} ms`)
    paused.signal('SIGCONT')
    await link('up')
    await until('they find each other', async () => (await meet()) === '')
  })

  it('NT-15: without NATS each coordinator serves its own nodes and says so; when it is back, they find each other', async () => {
    const before = COORDINATORS.map((host) => log(host).length)
    await Promise.all(nats.map((server) => server.kill()))
    await until('both say so', () =>
      COORDINATORS.every((host, i) => /goes on with its own nodes/.test(log(host).slice(before[i]))),
    )
    // The tunnel that stands needs no coordinator.
    await run('alice', 'srv', 'ping', '-c', '3', '-i', '0.2', '-W', '5', bob)
    assert.match(await meet(), /not online/)
    await Promise.all(nats.map((server) => server.start()))
    await until('they find each other', async () => (await meet()) === '')
  })

  it('NT-15, NT-18, NT-26: a coordinator is killed: its node registers with the other, what was established goes on, and so does a file that is being left', async () => {
    const files = [100_000, 40_000_000].map((size, i) => {
      const content = randomBytes(size)
      const path = join(folder, `file${i}.bin`)
      writeFileSync(path, content)
      return { path, content }
    })
    const inbox = async () => JSON.parse(await godwit('bob', 'overlay', 'inbox', '--json')) as Inbox
    const [waits, later] = files as [(typeof files)[0], (typeof files)[0]]
    await godwit('alice', 'overlay', 'send', waits.path, 'bob')
    assert.deepEqual([kept('srv'), kept('dc2')], [1, 0])
    assert.equal((await inbox()).objects.length, 1)
    const ping = await lab.programs.start('alice', 'ping', ['-i', '0.1', bob])
    await ping.expect((line) => /icmp_seq=3/.test(line), 10_000)
    let isLeft = false
    const left = godwit('alice', 'overlay', 'send', later.path, 'bob').then(() => {
      isLeft = true
    })
    await until('it is under way', () => bytesAt('srv') > 2_000_000)
    console.log(`# the file was ${isLeft ? 'left already' : 'under way'}`)
    await kill('srv')
    // A word for its coordinator shows the node that there is none; else its keep-alive does, within half a minute.
    await assert.rejects(
      daemonAt(join(folder, 'alice')).post('/v1/overlay/resolve', { name: `nobody.${ZONE}` }),
    )
    await until('alice is at the other', async () => (await nodesOf('dc2')).b === 2)
    ping.signal('SIGINT')
    await ping.ended
    const lines: string[] = []
    for (let line = await ping.line(); line !== undefined; line = await ping.line()) lines.push(line)
    assert.match(lines.join('\n'), / 0% packet loss/)
    assert.ok(lines.length > 30, 'for more than three seconds')
    assert.equal(await meet('bob'), '')
    await left
    assert.equal(kept('dc2'), 1)
    const { objects, unreached } = await inbox()
    assert.equal(objects.length, 1)
    assert.deepEqual(
      unreached.map(({ server }) => server),
      [`${addressOf('srv')}:6743`],
    )
    const out = join(folder, 'inbox')
    mkdirSync(out)
    // What it could not ask for may be missing.
    await assert.rejects(
      godwit('bob', 'overlay', 'inbox', '--out', out),
      /can be fetched when it answers again/,
    )
    assert.ok(readFileSync(join(out, 'file1.bin')).equals(later.content))
    await serve('srv')
    await until('it is there again', () => isThere('dc2'))
    await godwit('bob', 'overlay', 'inbox', '--out', out)
    assert.ok(readFileSync(join(out, 'file0.bin')).equals(waits.content))
  })

  it('neither has met a fault of its own', () => {
    for (const host of COORDINATORS) assert.doesNotMatch(log(host), /error in the coordinator/)
  })
})

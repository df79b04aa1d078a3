/**
 * Two coordinators of one zone with one PostgreSQL and a cluster of three servers of NATS: their nodes reach each other by name, and go on
 * when a server of NATS, all of them, or a coordinator is gone.
 */
import assert from 'node:assert/strict'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { ROAM_SERVER, roam } from '../../../lab/topologies/ntm-roam.ts'
import type { TopologySpec } from '../../../lab/topology.ts'
import type { ShownSoft } from '../../../src/host/provisioning/overlay-soft.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
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
    assert.fail(`not in time: ${what}\n${logs.join('\n')}`)
  }
  const show = async (host: Coordinator) =>
    JSON.parse(await godwit(host, 'overlay', 'soft', 'show', '--json')) as ShownSoft
  const nodesOf = async (host: Coordinator) =>
    Object.fromEntries((await show(host)).report!.coordinators.map(({ name, nodes }) => [name, nodes]))
  let bob = ''
  /** A device that has met nobody yet, at the first coordinator, finds the other's. */
  const meet = async () => {
    programs.get('alice')!.signal('SIGTERM')
    await programs.get('alice')!.ended
    for (const file of ['overlay-pairs.json', 'overlay-peers.json'])
      rmSync(join(folder, 'alice', file), { force: true })
    await up('alice', 'srv')
    const resolved = await godwit('alice', 'overlay', 'resolve', 'bob').catch((error: Error) => error)
    if (typeof resolved !== 'string') return resolved.message
    await run('alice', 'srv', 'ping', '-c', '1', '-W', '5', bob)
    return ''
  }

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-fellows-'))
    chmodSync(folder, 0o755)
    for (const first of COORDINATORS) {
      const all = [first, ...COORDINATORS.filter((each) => each !== first)]
      const lines = all.map((each) => `${addressOf(each)} ${NAME}\n`)
      writeFileSync(join(folder, `hosts-${first}`), `127.0.0.1 localhost\n${lines.join('')}`)
    }
    await database.make()
    await database.start()
    lab = await Lab.build(topology())
    const starts = async (place: NatsPlace, command: string, args: readonly string[]) =>
      (await lab.programs.start(place.name, command, [...args])).child
    nats = PLACES.map((place) => new NatsServer(folder, place, PLACES, starts))
    for (const server of nats) await server.start()
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
    for (const [i, host] of COORDINATORS.entries()) {
      const use = ['overlay', 'soft', 'use', url, '--no-tls', '--name', 'ab'[i]!]
      await godwit(host, ...use, '--endpoint', addressOf(host))
      await serve(host)
    }
    for (const [i, name] of NODES.entries()) {
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
  })
  after(async () => {
    await lab?.close()
    await database.end()
    rmSync(folder, { recursive: true, force: true })
  })

  it('NT-18: nodes that registered with different coordinators reach each other by name; `soft show` lists both', async () => {
    await until('each has one node', async () => {
      const nodes = await nodesOf('srv')
      return nodes.a === 1 && nodes.b === 1
    })
    const shown = await show('dc2')
    assert.equal(shown.report!.replicas, 3)
    bob = /fd\S+/.exec(await godwit('alice', 'overlay', 'resolve', 'bob'))![0]
    await run('alice', 'srv', 'ping', '-c', '3', '-i', '0.2', '-W', '5', bob)
    assert.match(await godwit('srv', 'doctor').catch((error: Error) => error.message), /coordinators: a, b/)
  })

  for (const fault of ['killed', 'paused', 'cut off'] as const)
    it(`NT-15: a server of NATS is ${fault}: nodes that have not met find each other, then and when it is back`, async () => {
      const victim = nats[(['killed', 'paused', 'cut off'] as const).indexOf(fault)]!
      const link = (to: 'up' | 'down') =>
        lab.programs.run('net', 'ip', ['link', 'set', victim.place.name, to])
      if (fault === 'killed') await victim.kill()
      else if (fault === 'paused') victim.signal('SIGSTOP')
      else await link('down')
      const since = Date.now()
      await until('they find each other', async () => (await meet()) === '')
      const during = Date.now() - since
      if (fault === 'killed') await victim.start()
      else if (fault === 'paused') victim.signal('SIGCONT')
      else await link('up')
      // A device that is started goes to the other one where the first is slow to answer.
      await until('all is as before', async () => {
        const { a = 0, b = 0 } = await nodesOf('srv')
        return a + b === 2 && (await meet()) === ''
      })
      console.log(`# ${fault}: found again after ${during} ms`)
    })

  it('NT-15: without NATS each coordinator serves its own nodes and says so; when it is back, they find each other', async () => {
    for (const server of nats) await server.kill()
    await until('both say so', () =>
      COORDINATORS.every((host) => /goes on with its own nodes/.test(log(host))),
    )
    // The tunnel that stands needs no coordinator.
    await run('alice', 'srv', 'ping', '-c', '3', '-i', '0.2', '-W', '5', bob)
    await until('what is at the other is not found', async () => /not online/.test(await meet()))
    for (const server of nats) await server.start()
    await until('they find each other', async () => (await meet()) === '')
  })

  it('NT-15, NT-18: a coordinator is killed: its node registers with the other, and what was established goes on', async () => {
    const ping = await lab.programs.start('alice', 'ping', ['-i', '0.1', '-c', '300', bob])
    await delay(500)
    await kill('srv')
    await until('alice is at the other', async () => (await nodesOf('dc2')).b === 2, 60_000)
    // Of thirty seconds none was lost: a tunnel needs no coordinator.
    assert.equal(await ping.ended, 0)
    const lines: string[] = []
    for (let line = await ping.line(); line !== undefined; line = await ping.line()) lines.push(line)
    assert.match(lines.join('\n'), / 0% packet loss/)
    await godwit('bob', 'overlay', 'resolve', 'alice')
    await serve('srv')
    await until('it is there again', async () => (await nodesOf('dc2')).a !== undefined)
  })

  it('neither has met a fault of its own', () => {
    for (const host of COORDINATORS) assert.doesNotMatch(log(host), /error in the coordinator/)
  })
})

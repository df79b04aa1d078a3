/**
 * A zone with two coordinators, and every other role in a process of its own beside them; another zone with one. A coordinator is killed while its node has
 * a relayed tunnel and leaves a file, and while a node of the other zone looks for it.
 */
import assert from 'node:assert/strict'
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
import type { TopologySpec } from '../../../lab/topology.ts'
import type { OverlayView } from '../../../src/host/provisioning/overlay.ts'
import type { ShownSoft } from '../../../src/host/provisioning/overlay-soft.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { daemonAt } from '../../support/daemon.ts'
import { cannotRunNats, type NatsPlace, NatsServer } from '../../support/nats.ts'
import { cannotRun, PostgresBed } from '../../support/postgres.ts'
import { unboundConfiguration } from '../../support/unbound.ts'

usesPrograms('ping', 'unbound', 'unshare')
usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const ZONE = 'home.example'
const OTHER = 'work.example'
/** What devices know: the addresses of both coordinators. */
const NAME = 'overlay.home.example'
const RESOLVER = '192.0.2.3'
/** On one network: coordinators a and b, the servers apart on one host, and those of the other zone. */
const PUBLIC = {
  ...{ res: RESOLVER, nats: '192.0.2.4', srv: '192.0.2.11', dc2: '192.0.2.12', apart: '192.0.2.13' },
  ...{ sb: '192.0.2.21', carol: '192.0.2.22' },
} as const
/** Each in a process of its own. */
const APART = { as1: 'as', ns1: 'ns', cs1: 'cs', rs1: 'rs' } as const
const COORDINATORS = ['srv', 'dc2'] as const
type Coordinator = (typeof COORDINATORS)[number]
/** Behind NATs that only a relay connects. */
const INSIDE = ['alice', 'bob'] as const
type Node = (typeof INSIDE)[number] | 'carol'
const NATS: NatsPlace = { name: 'n1', address: PUBLIC.nats, port: 4222, cluster: 6222 }

function topology(): TopologySpec {
  const link = (host: string, iface: string, address: string) => ({
    name: host,
    ends: [
      { host, iface, addresses: [`${address}/24`] },
      { host: 'net', iface: host },
    ] as const,
  })
  const hosts: Record<string, TopologySpec['hosts'][string]> = { net: { bridge: true } }
  for (const host of Object.keys(PUBLIC))
    hosts[host] = host === 'res' ? {} : { routes: [{ to: 'default', via: RESOLVER }] }
  const links: TopologySpec['links'][number][] = Object.entries(PUBLIC).map(([host, address]) =>
    link(host, 'wan', address),
  )
  for (const [i, node] of INSIDE.entries()) {
    hosts[node] = { routes: [{ to: 'default', via: `192.168.${i}.1` }] }
    hosts[`nat${i}`] = {
      ...{ forward: true, nat: { kind: 'symmetric', outside: 'out' } },
      routes: [{ to: 'default', via: RESOLVER }],
    }
    links.push(link(`nat${i}`, 'out', `192.0.2.${31 + i}`), {
      name: node,
      ends: [
        { host: node, iface: 'wan', addresses: [`192.168.${i}.10/24`] },
        { host: `nat${i}`, iface: 'in', addresses: [`192.168.${i}.1/24`] },
      ],
    })
  }
  const summary = 'a zone with two coordinators and servers apart, and one with a single server'
  return { name: 'overlay-fellows-apart', summary, hosts, links }
}

describe('NT-18, NT-20, NT-40: two coordinators, servers apart, and another zone', {
  skip: cannotRun() || cannotRunNats(),
}, () => {
  let lab: Lab
  let folder: string
  const database = new PostgresBed()
  const programs = new Map<string, Program>()
  const log = (name: string) => readFileSync(join(folder, `${name}.log`), 'utf8')
  const state = (name: string) => ['--state', join(folder, name)]
  /** With the zone's name in /etc/hosts, this coordinator first. */
  const named = (first: Coordinator, ...words: readonly string[]): [string, string[]] => [
    'unshare',
    ['-m', 'sh', '-c', 'mount --bind "$0" /etc/hosts && exec "$@"', join(folder, `hosts-${first}`), ...words],
  ]
  /** A command with the state `name`, on its host. */
  const godwit = (host: string, name: string, ...args: string[]) =>
    lab.programs.run(host, ...named('srv', process.execPath, GODWIT, 'overlay', ...args, ...state(name)))
  const start = async (host: string, name: string, first: Coordinator, ...args: string[]) => {
    const words = [process.execPath, GODWIT, 'overlay', ...args, ...state(name)]
    const program = await lab.programs.start(host, ...named(first, ...words), {
      log: join(folder, `${name}.log`),
    })
    programs.set(name, program)
    await program.expect((line) => line.trim() === 'ready', 30_000)
  }
  const until = async (what: string, holds: () => Promise<boolean> | boolean, ms = 30_000) => {
    for (const end = Date.now() + ms; Date.now() < end; await delay(100)) if (await holds()) return
    const logs = [...programs.keys()].map((name) => `${name}:\n${log(name).slice(-2000)}`)
    assert.fail(`not in time: ${what}\n${logs.join('\n')}`)
  }
  const view = (name: Node): Promise<OverlayView> => daemonAt(join(folder, name)).get('/v1/overlay')
  const nodes = async () => {
    const { report } = JSON.parse(await godwit('dc2', 'dc2', 'soft', 'show', '--json')) as ShownSoft
    return Object.fromEntries(report!.coordinators.map((each) => [each.name, each.nodes]))
  }
  const enter = async (name: Node, first: Coordinator, account: Readonly<Record<string, string>>) => {
    const own = join(folder, name)
    mkdirSync(own, { mode: 0o750 })
    const zones = name === 'carol' ? `zones = ["${ZONE}"]\n` : ''
    writeFileSync(
      join(own, 'godwit.toml'),
      `[overlay]\naccesses = ["wan"]\ndns = "none"\n${zones}[log]\nlevel = "debug"\n`,
    )
    const words = ['login', account.account!, '--server', account.server!, '--pin', account.pin!]
    const login = [process.execPath, GODWIT, 'overlay', ...words, '--name', name, ...state(name)]
    const typed = 'printf "%s\\n" "$0" | exec "$@"'
    await lab.programs.run(name, ...named(first, 'sh', '-c', typed, account.password!, ...login))
    // The login has come to one coordinator; the other reads it within a second.
    await delay(1000)
    await start(name, name, first, 'up')
  }
  const added = async (host: string, name: string) =>
    JSON.parse(await godwit(host, name, 'account', 'add', 'dora', '--json')) as Record<string, string>

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-fellows-'))
    chmodSync(folder, 0o755)
    for (const first of COORDINATORS) {
      const all = [first, ...COORDINATORS.filter((each) => each !== first)]
      const lines = all.map((each) => `${PUBLIC[each]} ${NAME}\n`)
      writeFileSync(join(folder, `hosts-${first}`), `127.0.0.1 localhost\n${lines.join('')}`)
    }
    const zoneFile = join(folder, 'example.zone')
    const servers = [
      [ZONE, PUBLIC.srv],
      [ZONE, PUBLIC.dc2],
      [OTHER, PUBLIC.sb],
    ]
    writeFileSync(
      zoneFile,
      [
        '$ORIGIN example.',
        '@ 300 IN SOA ns.example. root.example. 1 3600 600 86400 300',
        '@ 300 IN NS ns.example.',
        `ns 300 IN A ${RESOLVER}`,
        ...[ZONE, OTHER].map((zone) => `${zone}. 300 IN NS dc.${zone}.`),
        ...servers.map(([zone, at]) => `dc.${zone}. 300 IN A ${at}`),
        '',
      ].join('\n'),
    )
    const configuration = join(folder, 'unbound.conf')
    writeFileSync(
      configuration,
      unboundConfiguration({ folder, address: RESOLVER, zone: 'example.', zoneFile }),
    )
    const startDatabase = async () => {
      await database.make()
      await database.start(true)
    }
    const startLab = async () => {
      lab = await Lab.build(topology())
      await lab.programs.start('res', 'unbound', ['-d', '-c', configuration])
      const starts = async (_place: NatsPlace, command: string, args: readonly string[]) =>
        (await lab.programs.start('nats', command, [...args])).child
      await new NatsServer(folder, NATS, [NATS], starts).start()
    }
    const isDatabase = startDatabase()
    await startLab()
    const other = async () => {
      await godwit('sb', 'sb', 'init', '--zone', OTHER, '--endpoint', PUBLIC.sb, '--resolver', RESOLVER)
      await start('sb', 'sb', 'srv', 'serve')
      await enter('carol', 'srv', await added('sb', 'sb'))
    }
    const home = async () => {
      const init = ['--zone', ZONE, '--endpoint', NAME, '--resolver', RESOLVER]
      await godwit('srv', 'srv', 'init', ...init)
      for (const [name, roles] of Object.entries(APART)) {
        const at = ['--endpoint', PUBLIC.apart, '--out', join(folder, `${name}.json`)]
        await godwit('srv', 'srv', 'server', 'add', name, '--roles', roles, ...at)
      }
      await isDatabase
      await godwit('srv', 'srv', 'store', 'move', database.url)
      // As an operator: the settings go to the second host.
      mkdirSync(join(folder, 'dc2'), { mode: 0o700 })
      cpSync(join(folder, 'srv', 'overlay-server.json'), join(folder, 'dc2', 'overlay-server.json'))
      const begin = async (host: Coordinator, i: number) => {
        const use = ['soft', 'use', `nats://${NATS.address}`, '--no-tls', '--name', 'ab'[i]!]
        await godwit(host, host, ...use, '--endpoint', PUBLIC[host])
        await start(host, host, 'srv', 'serve', '--roles', 'dc')
      }
      const apart = async (name: string) => {
        await start('apart', name, 'srv', 'serve', '--settings', join(folder, `${name}.json`))
      }
      await Promise.all([...COORDINATORS.map(begin), ...Object.keys(APART).map(apart)])
      const account = await added('apart', 'as1')
      await Promise.all(INSIDE.map((name, i) => enter(name, COORDINATORS[i]!, account)))
      await godwit('srv', 'srv', 'allow', 'alice', `*.${OTHER}`, '*')
    }
    await Promise.all([home(), other()])
  })
  after(async () => {
    await lab?.close()
    await database.end()
    rmSync(folder, { recursive: true, force: true })
  })

  it('NT-20: each server apart registers with both coordinators, and nodes of both have notifications and a relay', async () => {
    for (const name of Object.keys(APART))
      await until(`${name} knows both`, () =>
        ['a', 'b'].every((each) => new RegExp(`registered with the coordinator ${each}\\b`).test(log(name))),
      )
    for (const name of INSIDE)
      await until(`${name} is notified`, async () => (await view(name)).notified === true)
    assert.deepEqual(await nodes(), { a: 1, b: 1 })
    await godwit('alice', 'alice', 'resolve', 'bob')
    await until('by a relay', async () => (await view('alice')).peers[0]?.way === 'relay')
  })

  it('NT-18, NT-24, NT-26, NT-40: a coordinator is killed under a relayed tunnel and a file that is being left: neither loses anything, and a node of the other zone finds its node', async () => {
    const bob = (await view('bob')).addresses.find((each) => each.includes(':'))!
    const ping = await lab.programs.start('alice', 'ping', ['-i', '0.05', bob])
    await ping.expect((line) => /icmp_seq=3/.test(line), 10_000)
    const file = join(folder, 'file.bin')
    const bytes = Buffer.alloc(16_000_000)
    for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(Math.imul(at, 2_654_435_761) >>> 0, at)
    writeFileSync(file, bytes)
    let isLeft = false
    const left = godwit('alice', 'alice', 'send', file, 'bob').then(() => {
      isLeft = true
    })
    const cache = join(folder, 'cs1', 'overlay-cache')
    const cached = () =>
      readdirSync(cache, { recursive: true, encoding: 'utf8' }).reduce(
        (sum, each) => sum + (statSync(join(cache, each), { throwIfNoEntry: false })?.size ?? 0),
        0,
      )
    await until('it is under way', () => cached() > 1_000_000)
    programs.get('srv')!.signal('SIGKILL')
    await programs.get('srv')!.ended
    const at = Date.now()
    console.log(`# the file was ${isLeft ? 'left already' : 'under way'}`)
    // The node that looks for it has met nobody of that zone yet.
    await until('carol finds alice', () =>
      godwit('carol', 'carol', 'resolve', `alice.${ZONE}`).then(
        (text) => text.includes('fd'),
        () => false,
      ),
    )
    console.log(`# found ${Date.now() - at} ms after its coordinator was killed`)
    const alice = (await view('alice')).addresses.find((each) => each.includes(':'))!
    await lab.programs.run('carol', 'ping', ['-c', '3', '-i', '0.2', '-W', '5', alice])
    await left
    const out = join(folder, 'inbox')
    mkdirSync(out)
    await godwit('bob', 'bob', 'inbox', '--out', out)
    assert.ok(readFileSync(join(out, 'file.bin')).equals(bytes))
    await until('alice is at the other', async () => (await nodes()).b === 2)
    ping.signal('SIGINT')
    await ping.ended
    const lines: string[] = []
    for (let line = await ping.line(); line !== undefined; line = await ping.line()) lines.push(line)
    assert.match(lines.join('\n'), / 0% packet loss/)
    assert.ok(lines.length > 40, 'for more than two seconds')
    // A direction of the other coordinator, by the same relay.
    const daemon = daemonAt(join(folder, 'bob'))
    const words = { name: `alice.${ZONE}` }
    await daemon.post('/v1/overlay/forget', words)
    await daemon.post('/v1/overlay/resolve', words)
    await lab.programs.run('bob', 'ping', ['-c', '3', '-i', '0.2', '-W', '5', alice])
    const peers = async () => (await view('bob')).peers
    await until(
      'by a relay',
      async () => (await peers()).find(({ name }) => name === words.name)?.way === 'relay',
    )
  })

  it('NT-21: both still have notifications, and no server has met a fault of its own', async () => {
    for (const name of INSIDE)
      await until(`${name} is notified`, async () => (await view(name)).notified === true)
    for (const name of [...COORDINATORS, ...Object.keys(APART)])
      assert.doesNotMatch(log(name), /error in the/)
  })
})

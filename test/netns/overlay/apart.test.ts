/** A zone whose servers each run on a host of their own, with two relays: all that nodes do works, and goes on when servers are killed. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { ROAM_SERVER, roam } from '../../../lab/topologies/ntm-roam.ts'
import type { TopologySpec } from '../../../lab/topology.ts'
import type { OverlayView } from '../../../src/host/provisioning/overlay.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { daemonAt, daemonStatus } from '../../support/daemon.ts'

usesPrograms('ping')
usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const ZONE = 'test.example'
/** Each on a host of its name. */
const APART = { as1: 'as', ns1: 'ns', cs1: 'cs', rs1: 'rs', rs2: 'rs' } as const
type Apart = keyof typeof APART
const NAMES = Object.keys(APART) as Apart[]
const addressOf = (name: Apart) => `192.0.2.${18 + 4 * NAMES.indexOf(name)}`
const NODES = ['alice', 'bob'] as const
type NodeName = (typeof NODES)[number]
/** Only a relay connects two nodes behind these. */
const SYMMETRIC = { na1: 'symmetric', nb1: 'symmetric', na2: 'symmetric', nb2: 'symmetric' } as const

function topology(): TopologySpec {
  const spec = roam('overlay-apart', NODES, SYMMETRIC)
  const hosts = Object.fromEntries(
    NAMES.map((name, i) => [name, { routes: [{ to: 'default' as const, via: `192.0.2.${17 + 4 * i}` }] }]),
  )
  const links = NAMES.map((name, i) => ({
    name,
    ends: [
      { host: 'net', iface: name, addresses: [`192.0.2.${17 + 4 * i}/30`] },
      { host: name, iface: 'wan', addresses: [`${addressOf(name)}/30`] },
    ] as const,
  }))
  return { ...spec, hosts: { ...spec.hosts, ...hosts }, links: [...spec.links, ...links] }
}

describe('NT-10, NT-15, NT-21, NT-24, NT-26: every role in a process and on a host of its own', () => {
  let lab: Lab
  let folder: string
  const servers = new Map<string, Program>()
  const daemons = new Map<NodeName, Program>()
  const command = (host: string, ...args: string[]) =>
    lab.programs.run(host, process.execPath, [GODWIT, ...args, '--state', join(folder, host)])
  const log = (host: string) => readFileSync(join(folder, `${host}.log`), 'utf8')

  /** What a host logs from now on: its log goes on over restarts. */
  const newsOf = (host: string) => {
    const before = log(host).length
    return () => log(host).slice(before)
  }

  const serve = async (host: string, ...args: string[]) => {
    const words = [GODWIT, 'overlay', 'serve', ...args, '--state', join(folder, host)]
    const program = await lab.programs.start(host, process.execPath, words, {
      log: join(folder, `${host}.log`),
    })
    servers.set(host, program)
    await program.expect((line) => line.trim() === 'ready', 30_000)
  }
  const up = async (name: NodeName) => {
    const words = [GODWIT, 'overlay', 'up', '--state', join(folder, name)]
    const log = join(folder, `${name}.log`)
    const daemon = await lab.programs.start(name, process.execPath, words, { log })
    daemons.set(name, daemon)
    await daemon.expect((line) => line.trim() === 'ready', 30_000)
  }
  const kill = async (host: string) => {
    servers.get(host)!.signal('SIGKILL')
    await servers.get(host)!.ended
  }
  const view = (name: NodeName): Promise<OverlayView> => daemonAt(join(folder, name)).get('/v1/overlay')
  const until = async (what: string, holds: () => Promise<boolean> | boolean) => {
    for (let i = 0; i < 150; i++) {
      if (await holds()) return
      await delay(200)
    }
    assert.fail(
      `not within half a minute: ${what}\n${['srv', ...NAMES, ...NODES].map((host) => `${host}:\n${log(host).slice(-1500)}`).join('\n')}`,
    )
  }
  const addressOfNode = async (name: NodeName) =>
    (await view(name)).addresses.find((each) => each.includes(':'))!

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-overlay-'))
    lab = await Lab.build(topology())
    await command('srv', 'overlay', 'init', '--zone', ZONE, '--endpoint', ROAM_SERVER, '--dns-port', '0')
    for (const name of NAMES)
      await command(
        'srv',
        'overlay',
        'server',
        'add',
        name,
        '--roles',
        APART[name],
        '--endpoint',
        addressOf(name),
        '--out',
        join(folder, `${name}.json`),
      )
    await serve('srv', '--roles', 'dc')
    await Promise.all(NAMES.map((name) => serve(name, '--settings', join(folder, `${name}.json`))))
    const added = await command('as1', 'overlay', 'account', 'add', 'carol', '--json')
    const { password, server, pin } = JSON.parse(added) as Record<string, string>
    for (const name of NODES) {
      const state = join(folder, name)
      mkdirSync(state, { mode: 0o750 })
      writeFileSync(
        join(state, 'godwit.toml'),
        '[overlay]\naccesses = ["acc1"]\ndns = "none"\n[log]\nlevel = "debug"\n',
      )
      const words = ['overlay', 'login', 'carol', '--server', server!, '--pin', pin!, '--name', name]
      const typed = 'printf "%s\\n" "$0" | exec "$@"'
      await lab.programs.run(name, 'sh', [
        '-c',
        typed,
        password!,
        process.execPath,
        GODWIT,
        ...words,
        '--state',
        state,
      ])
      await up(name)
    }
  })
  after(async () => {
    await lab?.close()
    rmSync(folder, { recursive: true, force: true })
  })

  it('settings of a server apart are its owner’s alone and have no key of the zone; relays have no database', () => {
    const zone = JSON.parse(readFileSync(join(folder, 'srv', 'overlay-server.json'), 'utf8')) as Record<
      string,
      string
    >
    for (const name of NAMES) {
      const file = join(folder, `${name}.json`)
      assert.equal(statSync(file).mode & 0o777, 0o600)
      const text = readFileSync(file, 'utf8')
      assert.ok(!text.includes(zone.zone_seed!) && !text.includes(zone.coordinator_key!))
    }
    for (const name of ['rs1', 'rs2', 'ns1', 'cs1'])
      assert.throws(() => statSync(join(folder, name, 'overlay.db')))
  })

  it('commands run where their data are, and say where that is', async () => {
    const other = async (host: string, ...args: string[]) =>
      await command(host, 'overlay', ...args).then(
        () => assert.fail('it should be refused'),
        (error: Error) => error.message,
      )
    assert.match(await other('srv', 'account', 'add', 'dave'), /server as1[\s\S]*run it on the host/)
    assert.match(await other('as1', 'allow', 'bob', 'alice'), /host of the coordinator/)
    assert.match(await other('rs1', 'account', 'list'), /host of the account server/)
    assert.match(
      await command('as1', 'overlay', 'account', 'list'),
      /carol.*alice\.test\.example bob\.test\.example/,
    )
    assert.match(await command('srv', 'overlay', 'server', 'list'), /rs2 +rs/)
  })

  it('NT-24, NT-25: a relay is killed under a flow: it goes on by the other, and the pair gets back its second when there is one', async () => {
    await command('alice', 'overlay', 'resolve', 'bob')
    const bob = await addressOfNode('bob')
    await until('alice reaches bob by a relay', async () => (await view('alice')).peers[0]?.way === 'relay')
    const paths = async () => (await daemonStatus(join(folder, 'alice'))).peers[0]!.paths
    const relays = (['rs1', 'rs2'] as const).map((name) => ({ name, address: addressOf(name) }))
    await until('both relays are paths', async () => {
      const all = await paths()
      return relays.every(({ address }) =>
        all.some(({ remote, state }) => remote?.startsWith(`${address}:`) && state === 'up'),
      )
    })
    const sent = async () => {
      const all = await paths()
      return relays.map(({ address }) =>
        all.reduce(
          (sum, path) => sum + (path.remote?.startsWith(`${address}:`) === true ? (path.sent_bytes ?? 0) : 0),
          0,
        ),
      )
    }
    const before = await sent()
    await lab.programs.run('alice', 'ping', ['-c', '30', '-i', '0.02', '-s', '1000', bob])
    let victim: 'rs1' | 'rs2' = 'rs1'
    await until('one of them carries it', async () => {
      const grown = (await sent()).map((bytes, i) => bytes - before[i]!)
      victim = grown[0]! > grown[1]! ? 'rs1' : 'rs2'
      return Math.max(...grown) > 20_000
    })
    const ping = await lab.programs.start('alice', 'ping', ['-i', '0.02', bob])
    let answers = 0
    const read = (async () => {
      for (let line = await ping.line(); line !== undefined; line = await ping.line())
        if (line.includes('time=')) answers++
    })()
    const more = async (count: number) => {
      const wanted = answers + count
      await until(`${count} more answers`, () => answers >= wanted)
    }
    await more(50)
    const news = newsOf('srv')
    await kill(victim)
    await more(100)
    await ping.stop()
    await read
    await until('the coordinator has noticed', () => news().includes(`server ${victim} does not answer`))
    await serve(victim)
    await until('it is there again', () => news().includes(`server ${victim} is there`))
  })

  it('NT-21: nodes are connected to the notification server apart, and are again after the coordinator was started anew', async () => {
    const notified = async () => (await Promise.all(NODES.map(view))).every((each) => each.notified === true)
    await until('both are notified', notified)
    const news = newsOf('srv')
    await kill('srv')
    await serve('srv', '--roles', 'dc')
    await until('all servers are there', () =>
      NAMES.every((name) => news().includes(`server ${name} is there`)),
    )
    await until('both are registered', async () =>
      (await Promise.all(NODES.map(view))).every(({ registered }) => registered),
    )
    await until('both are notified again', notified)
  })

  it('NT-21: the notification server is started anew: who was connected is again, and so is who came up meanwhile', async () => {
    const notified = async (name: NodeName) => (await view(name)).notified === true
    await until('both are notified', async () => (await Promise.all(NODES.map(notified))).every(Boolean))
    const news = newsOf('srv')
    await kill('ns1')
    await until('the coordinator has noticed', () => news().includes('server ns1 does not answer'))
    await daemons.get('alice')!.stop()
    await up('alice')
    await until('it is registered without one', async () => (await view('alice')).registered)
    assert.equal(await notified('alice'), false)
    await serve('ns1')
    for (const name of NODES) await until(`${name} is notified again`, () => notified(name))
  })

  it('NT-26: a file goes through the cache server apart', async () => {
    const file = join(folder, 'file.bin')
    writeFileSync(file, Buffer.alloc(300_000, 7))
    await command('alice', 'overlay', 'send', file, 'bob')
    const out = join(folder, 'inbox')
    mkdirSync(out)
    await command('bob', 'overlay', 'inbox', '--out', out)
    assert.deepEqual(readFileSync(join(out, 'file.bin')), readFileSync(file))
  })

  it('NT-13: a login that is revoked at the account server ends at the coordinator, also when that was away meanwhile', async () => {
    await kill('srv')
    assert.match(await command('as1', 'overlay', 'account', 'revoke', 'bob'), /bob\.test\.example/)
    await serve('srv', '--roles', 'dc')
    await until('the coordinator has it', async () =>
      /bob\S+ +carol +revoked/.test(await command('srv', 'overlay', 'account', 'nodes')),
    )
  })

  it('a server that was removed is none any more: its relay is not used', async () => {
    const news = newsOf('rs2')
    await command('srv', 'overlay', 'server', 'remove', 'rs2')
    await until('the relay says so', () => /does not answer/.test(news()))
  })
})

/** Issue 13, part 5: all servers killed, two of three nodes killed and started again at other addresses: names work through the third. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { ROAM_INSIDE, ROAM_SERVER, roam } from '../../../lab/topologies/ntm-roam.ts'
import type { OverlayView } from '../../../src/host/provisioning/overlay.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { daemonAt } from '../../support/daemon.ts'

usesPrograms('ip', 'ping', 'unshare')
usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const NODES = ['alice', 'bob', 'carol'] as const
type NodeName = (typeof NODES)[number]

describe('issue 13: without any server, after two of three nodes were restarted and have moved', () => {
  let lab: Lab
  let folder: string
  let server: Program
  const daemons = new Map<NodeName, Program>()
  const command = (host: string, ...args: string[]) =>
    lab.programs.run(host, process.execPath, [GODWIT, ...args, '--state', join(folder, host)])
  const log = (host: string) => readFileSync(join(folder, `${host}.log`), 'utf8')
  const view = (name: NodeName): Promise<OverlayView> => daemonAt(join(folder, name)).get('/v1/overlay')
  const until = async (what: string, holds: () => Promise<boolean> | boolean) => {
    for (let i = 0; i < 150; i++) {
      if (await holds()) return
      await delay(200)
    }
    assert.fail(
      `not within half a minute: ${what}\n${NODES.map((name) => `${name}:\n${log(name).slice(-2500)}`).join('\n')}`,
    )
  }
  /** With the node's own /etc/resolv.conf, as its programs see it. */
  const withNames = (node: NodeName, ...words: string[]) => {
    const mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return lab.programs.run(node, 'unshare', [
      '-m',
      'sh',
      '-c',
      mount,
      join(folder, node, 'resolv.conf'),
      ...words,
    ])
  }
  const up = async (name: NodeName) => {
    const mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    const words = [process.execPath, GODWIT, 'overlay', 'up', '--state', join(folder, name)]
    const all = ['-m', 'sh', '-c', mount, join(folder, name, 'resolv.conf'), ...words]
    const daemon = await lab.programs.start(name, 'unshare', all, { log: join(folder, `${name}.log`) })
    daemons.set(name, daemon)
    await daemon.expect((line) => line.trim() === 'ready', 30_000)
  }
  const setLink = async (node: NodeName, access: string, isUp: boolean) => {
    await lab.programs.run(node, 'ip', ['link', 'set', access, isUp ? 'up' : 'down'])
    const i = Number(access.slice(3))
    const route = ['default', 'via', `${ROAM_INSIDE[i - 1]}.1`, 'dev', access, 'metric', String(100 * i)]
    if (isUp) await lab.programs.run(node, 'ip', ['route', 'replace', ...route])
  }

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-overlay-'))
    // Carol's NAT lets in who knows her; the two others are behind one that does not.
    const kinds = { nc1: 'endpoint-independent', nc2: 'endpoint-independent' } as const
    lab = await Lab.build(roam('overlay-alone', [...NODES], kinds))
    for (const name of NODES) await setLink(name, 'acc2', false)
    await command(
      'srv',
      'overlay',
      'init',
      '--zone',
      'test.example',
      '--endpoint',
      ROAM_SERVER,
      '--dns-port',
      '0',
    )
    const words = [GODWIT, 'overlay', 'serve', '--state', join(folder, 'srv')]
    server = await lab.programs.start('srv', process.execPath, words, { log: join(folder, 'srv.log') })
    await server.expect((line) => line.trim() === 'ready', 30_000)
    const added = await command('srv', 'overlay', 'account', 'add', 'dave', '--json')
    const { password, server: at, pin } = JSON.parse(added) as Record<string, string>
    for (const name of NODES) {
      const state = join(folder, name)
      mkdirSync(state, { mode: 0o750 })
      writeFileSync(
        join(state, 'godwit.toml'),
        '[overlay]\naccesses = ["acc1", "acc2"]\ndns = "file"\n[log]\nlevel = "debug"\n',
      )
      writeFileSync(join(state, 'resolv.conf'), 'nameserver 192.0.2.53\n')
      const login = ['overlay', 'login', 'dave', '--server', at!, '--pin', pin!, '--name', name]
      const typed = 'printf "%s\\n" "$0" | exec "$@"'
      await lab.programs.run(name, 'sh', [
        '-c',
        typed,
        password!,
        process.execPath,
        GODWIT,
        ...login,
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

  it('issue 13: ping by name works again, through the peer that both know', async () => {
    for (const [from, to] of [
      ['alice', 'bob'],
      ['alice', 'carol'],
      ['bob', 'carol'],
    ] as const) {
      await command(from, 'overlay', 'resolve', to)
      await until(`${from} reaches ${to} directly`, async () =>
        (await view(from)).peers.some(({ name, way }) => name.startsWith(to) && way === 'direct'),
      )
    }
    await until('both have kept their pairs', () =>
      (['alice', 'bob'] as const).every(
        (name) => readFileSync(join(folder, name, 'overlay-pairs.json'), 'utf8').split('"lease"').length > 2,
      ),
    )
    assert.equal(statSync(join(folder, 'alice', 'overlay-pairs.json')).mode & 0o777, 0o600)
    server.signal('SIGKILL')
    await server.ended
    for (const name of ['alice', 'bob'] as const) {
      daemons.get(name)!.signal('SIGKILL')
      await daemons.get(name)!.ended
      await setLink(name, 'acc2', true)
      await setLink(name, 'acc1', false)
    }
    for (const name of ['alice', 'bob'] as const) await up(name)
    assert.match(log('alice'), /the coordinator does not answer; going on as fd/)
    assert.equal((await view('alice')).registered, false)
    await until(
      'alice reaches bob by name',
      async () =>
        await withNames('alice', 'ping', '-n', '-c', '1', '-W', '2', 'bob.test.example').then(
          () => true,
          () => false,
        ),
    )
    await withNames('bob', 'ping', '-n', '-c', '3', '-i', '0.2', '-W', '2', 'alice.test.example')
    await until('both have found carol too', async () =>
      (await Promise.all((['alice', 'bob'] as const).map(view))).every(({ peers }) =>
        peers.some(({ name, way }) => name.startsWith('carol') && way === 'direct'),
      ),
    )
    const peers = (await view('alice')).peers
    assert.equal(peers.find(({ name }) => name.startsWith('bob'))!.way, 'direct')
    assert.match(await command('alice', 'overlay', 'trace'), / MEETING /)
  })
})

/** Two nodes of the overlay, each with two accesses behind NATs of their own, and a public server (lab/topologies/ntm-roam.ts). */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import type { NatKind } from '../../../lab/nat.ts'
import { ROAM_INSIDE, ROAM_SERVER, roam } from '../../../lab/topologies/ntm-roam.ts'
import type { Status } from '../../../src/host/daemon/daemon.ts'
import type { OverlayView } from '../../../src/host/provisioning/overlay.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { carrierFlow } from '../../support/carrier-flow.ts'
import { daemonAt, daemonStatus } from '../../support/daemon.ts'

usesPrograms('ip', 'unshare')

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
export const ZONE = 'test.example'
const CONFIGURATION = `[overlay]
accesses = ["acc1", "acc2"]
dns = "file"
[log]
level = "debug"
`

export type NodeName = 'alice' | 'bob'
export const NODES: readonly NodeName[] = ['alice', 'bob']
const OTHER: Readonly<Record<NodeName, NodeName>> = { alice: 'bob', bob: 'alice' }

export class OverlayBed {
  readonly lab: Lab
  readonly folder: string
  server!: Program
  #account: Readonly<Record<string, string>> = {}
  readonly #daemons = new Map<NodeName, Program>()

  private constructor(lab: Lab, folder: string) {
    this.lab = lab
    this.folder = folder
  }

  /** Servers up, both nodes logged in. `down`: accesses that are not there at first. */
  static async start(
    kinds: Readonly<Record<string, NatKind>> = {},
    down: readonly (readonly [NodeName, string])[] = [],
  ): Promise<OverlayBed> {
    const folder = mkdtempSync(join(tmpdir(), 'godwit-overlay-'))
    const bed = new OverlayBed(await Lab.build(roam('overlay', ['alice', 'bob'], kinds)), folder)
    try {
      for (const [node, access] of down) await bed.setLink(node, access, false)
      await bed.#serve()
      for (const name of NODES) await bed.up(name)
    } catch (error) {
      await bed.close()
      throw error
    }
    return bed
  }

  async close(): Promise<void> {
    await this.lab.close()
    rmSync(this.folder, { recursive: true, force: true })
  }

  /** As a user would: `overlay init`, `serve`, `account add`; on the nodes `login` with what that prints. */
  async #serve(): Promise<void> {
    const init = ['overlay', 'init', '--zone', ZONE, '--endpoint', ROAM_SERVER, '--dns-port', '0']
    await this.#command('srv', ...init)
    await this.serve()
    const added = await this.#command('srv', 'overlay', 'account', 'add', 'carol', '--json')
    this.#account = JSON.parse(added) as Record<string, string>
    for (const name of NODES) await this.login(name)
  }

  /** On a machine that knows nothing of an earlier login. */
  async login(name: NodeName, ...options: string[]): Promise<void> {
    const state = join(this.folder, name)
    rmSync(state, { recursive: true, force: true })
    mkdirSync(state, { mode: 0o750 })
    writeFileSync(join(state, 'godwit.toml'), CONFIGURATION)
    writeFileSync(join(state, 'resolv.conf'), 'nameserver 192.0.2.53\n')
    await this.loginAgain(name, name, ...options)
  }

  /** With what is there from an earlier login. */
  async loginAgain(host: NodeName, name: string, ...options: string[]): Promise<void> {
    const { password, server, pin } = this.#account
    const state = join(this.folder, host)
    const words = [
      'overlay',
      'login',
      'carol',
      '--server',
      server!,
      '--pin',
      pin!,
      '--name',
      name,
      ...options,
    ]
    const typed = 'printf "%s\\n" "$0" | exec "$@"'
    const all = ['-c', typed, password!, process.execPath, GODWIT, ...words, '--state', state]
    await this.lab.programs.run(host, 'sh', all)
  }

  /** The zone's servers, in one process. */
  async serve(): Promise<void> {
    const words = [GODWIT, 'overlay', 'serve', '--state', join(this.folder, 'srv')]
    const log = join(this.folder, 'srv.log')
    this.server = await this.lab.programs.start('srv', process.execPath, words, { log })
    await this.server.expect((line) => line.trim() === 'ready', 30_000)
  }

  #command(host: string, ...args: string[]): Promise<string> {
    const state = ['--state', join(this.folder, host)]
    return this.lab.programs.run(host, process.execPath, [GODWIT, ...args, ...state])
  }

  /** A command of the node that a test need not wait for. */
  begin(name: NodeName, ...args: string[]): Promise<Program> {
    const words = [GODWIT, ...args, '--state', join(this.folder, name)]
    return this.lab.programs.start(name, process.execPath, words)
  }

  /** A command of the node with this file as standard input. */
  godwitWith(name: NodeName, input: string, ...args: string[]): Promise<string> {
    const words = [process.execPath, GODWIT, ...args, '--state', join(this.folder, name)]
    return this.lab.programs.run(name, 'sh', ['-c', 'exec "$@" < "$0"', input, ...words])
  }

  /** Words that run a command with the node's own /etc/resolv.conf. */
  withNames(node: NodeName, ...words: readonly string[]): [string, string[]] {
    const mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return ['unshare', ['-m', 'sh', '-c', mount, join(this.folder, node, 'resolv.conf'), ...words]]
  }

  async up(name: NodeName): Promise<void> {
    const words = this.withNames(
      name,
      process.execPath,
      GODWIT,
      'overlay',
      'up',
      '--state',
      join(this.folder, name),
    )
    const program = await this.lab.programs.start(name, ...words, { log: join(this.folder, `${name}.log`) })
    this.#daemons.set(name, program)
    await program.expect((line) => line.trim() === 'ready', 30_000)
  }

  daemon(name: NodeName): Program {
    return this.#daemons.get(name)!
  }

  async down(name: NodeName, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const program = this.#daemons.get(name)!
    program.signal(signal)
    await program.ended
  }

  log(name: NodeName): string {
    return readFileSync(join(this.folder, `${name}.log`), 'utf8')
  }

  godwit(name: NodeName, ...args: string[]): Promise<string> {
    return this.#command(name, ...args)
  }

  /** For the message of a test that fails: what each node knows, and has done last. */
  async state(): Promise<string> {
    const words = [
      ['overlay', 'peers', '--json'],
      ['paths', '--json'],
      ['overlay', 'trace'],
    ]
    const texts = []
    for (const name of NODES) {
      for (const each of words) texts.push(await this.godwit(name, ...each).catch(String))
      texts.push(this.log(name).split('\n').slice(-60).join('\n'))
      const kernel = 'ip addr; ip rule; ip route show table all; ip -6 route show table all'
      texts.push(await this.lab.programs.run(name, 'sh', ['-c', kernel]).catch(String))
    }
    return texts.join('\n')
  }

  view(name: NodeName): Promise<OverlayView> {
    return daemonAt(join(this.folder, name)).get('/v1/overlay')
  }

  status(name: NodeName): Promise<Status> {
    return daemonStatus(join(this.folder, name))
  }

  /** The way to the other node, as packets take it. */
  async way(name: NodeName): Promise<string> {
    const { peers } = await this.view(name)
    // One of an earlier name may be there, too.
    const peer = peers.find((each) => each.name.startsWith(`${OTHER[name]}.`))
    return `${peer?.way ?? 'none'} ${peer?.access ?? ''}`.trim()
  }

  untilWay(name: NodeName, wanted: string): Promise<void> {
    return this.until(`${name} uses ${wanted}`, async () => (await this.way(name)) === wanted)
  }

  async setLink(node: NodeName, access: string, up: boolean): Promise<void> {
    await this.lab.programs.run(node, 'ip', ['link', 'set', access, up ? 'up' : 'down'])
    if (!up) return
    // The kernel drops an interface's IPv4 routes with it.
    const i = Number(access.slice(3))
    const via = `${ROAM_INSIDE[i - 1]}.1`
    await this.lab.programs.run(node, 'ip', [
      ...['route', 'replace', 'default', 'via', via, 'dev', access, 'metric', String(100 * i)],
    ])
  }

  /** From alice to bob this way, her first NAT being a carrier's: datagrams lost in `ms` after it was learned, and before that. */
  async carrierFlow(way: string, lifetimeMs: number, ms: number): ReturnType<typeof carrierFlow> {
    await this.godwit('alice', 'overlay', 'resolve', 'bob')
    await this.untilWay('alice', way)
    const address = (await this.view('bob')).addresses.find((each) => each.includes('.'))!
    const { programs } = this.lab
    const log = () => this.log('alice')
    return carrierFlow({
      ...{ programs, nat: 'na1', client: 'alice', server: 'bob' },
      ...{ address, log, lifetimeMs, ms },
    })
  }

  /** `ms`: between two looks. */
  async until(what: string, holds: () => Promise<boolean> | boolean, ms = 250): Promise<void> {
    for (let i = 0; i < 30_000 / ms; i++) {
      if (await holds()) return
      await delay(ms)
    }
    const logs = [...this.#daemons.keys()].map((name) => `${name}:\n${this.log(name).slice(-3000)}`)
    assert.fail(`not within half a minute: ${what}\n${logs.join('\n')}`)
  }
}

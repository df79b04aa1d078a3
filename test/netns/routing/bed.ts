/**
 * Two mobile routers and a gateway at home, with stock programs on the terminals behind them. The routers are set up as a
 * user would: `godwit router init`, `add` with the other's card, `up`.
 *
 *   ta ── ma ══ acc1, acc2 ══╗
 *                            net ── hg ── srv
 *   tb ── mb ══ acc1, acc2 ══╝
 */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import type { TopologySpec } from '../../../lab/topology.ts'
import type { Status } from '../../../src/host/daemon/daemon.ts'
import { daemonAt, daemonStatus } from '../../support/daemon.ts'

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
export const DEVICE = 'gwrt0'
export const SERVER = { 4: '10.2.0.2', 6: 'fd00:2::2' } as const
export const TERMINAL_A = { 4: '10.1.0.2', 6: 'fd00:1::2' } as const
export const TERMINAL_B = { 4: '10.3.0.2', 6: 'fd00:3::2' } as const
/** Of the gateway at home. */
export const PORT = 51820
export const HOME = { 4: '192.0.2.2', 6: '2001:db8:a::2' } as const
export type RouterName = 'ma' | 'mb' | 'hg'
export type TerminalName = 'ta' | 'tb' | 'srv'

/** A site: its number is in all its addresses. */
function site(terminal: string, router: string, number: number): TopologySpec['links'] {
  return [
    {
      name: `lan${number}`,
      ends: [
        { host: terminal, iface: 'lan', addresses: [`10.${number}.0.2/24`, `fd00:${number}::2/64`] },
        { host: router, iface: 'lan', addresses: [`10.${number}.0.1/24`, `fd00:${number}::1/64`] },
      ],
    },
  ]
}

/** An access of a mobile router. */
function access(router: string, name: string, number: number, emulated: boolean): TopologySpec['links'] {
  return [
    {
      name: `${router}-${name}`,
      emulated,
      ends: [
        { host: router, iface: name, addresses: [`192.168.${number}.2/24`, `2001:db8:${number}::2/64`] },
        {
          host: 'net',
          iface: `${router}${name}`,
          addresses: [`192.168.${number}.1/24`, `2001:db8:${number}::1/64`],
        },
      ],
    },
  ]
}

const uplinks = (first: number) =>
  [first, first + 1].flatMap((number, index) => [
    { to: 'default', via: `192.168.${number}.1`, dev: `acc${index + 1}`, metric: 100 * (index + 1) },
    { to: 'default6', via: `2001:db8:${number}::1`, dev: `acc${index + 1}`, metric: 100 * (index + 1) },
  ])
const gateway = (number: number) => [
  { to: 'default', via: `10.${number}.0.1` },
  { to: 'default6', via: `fd00:${number}::1` },
]

const topology: TopologySpec = {
  name: 'sites',
  summary: 'two mobile routers and a gateway at home',
  hosts: {
    ta: { routes: gateway(1) },
    ma: { forward: true, routes: uplinks(11) },
    tb: { routes: gateway(3) },
    mb: { forward: true, routes: uplinks(21) },
    net: { forward: true },
    hg: {
      forward: true,
      routes: [
        { to: 'default', via: '192.0.2.1' },
        { to: 'default6', via: '2001:db8:a::1' },
      ],
    },
    srv: { routes: gateway(2) },
  },
  links: [
    ...site('ta', 'ma', 1),
    ...site('srv', 'hg', 2),
    ...site('tb', 'mb', 3),
    ...access('ma', 'acc1', 11, true),
    ...access('ma', 'acc2', 12, true),
    ...access('mb', 'acc1', 21, false),
    ...access('mb', 'acc2', 22, false),
    {
      name: 'home',
      ends: [
        { host: 'net', iface: 'hg', addresses: ['192.0.2.1/28', '2001:db8:a::1/64'] },
        { host: 'hg', iface: 'wan', addresses: ['192.0.2.2/28', '2001:db8:a::2/64'] },
      ],
    },
  ],
}

/** Options that name the subnets of a site. */
const behind = (option: string, number: number) => [
  ...[option, `10.${number}.0.0/24`],
  ...[option, `fd00:${number}::/64`],
]

const CLASSES = `
[[router.class]]
name = "voice"
match = ["proto:udp+port:5004"]
scheduler = "duplicate"
unordered = true
`

/** What `router classes --json` prints. */
export interface RouterView {
  readonly classes: readonly {
    readonly peer: string
    readonly name: string
    readonly mode: string
    readonly carriers: readonly string[]
    readonly copies: readonly string[]
    readonly reason: string
    readonly bytes: number
  }[]
  readonly counters: Readonly<Record<string, number>>
}

export class Sites {
  readonly lab: Lab
  readonly #folder: string
  readonly #daemons = new Map<RouterName, Program>()

  private constructor(lab: Lab, folder: string) {
    this.lab = lab
    this.#folder = folder
  }

  /**
   * All three routers up, every path works; `extra`: more lines of their configuration; `accesses`: patterns of what the mobile ones use.
   * mb checks no sources of its own site: only the far end does.
   */
  static async start(
    extra: Partial<Record<RouterName, string>> = {},
    accesses: readonly string[] = ['acc1', 'acc2'],
  ): Promise<Sites> {
    const folder = mkdtempSync(join(tmpdir(), 'godwit-sites-'))
    const sites = new Sites(await Lab.build(topology), folder)
    try {
      await sites.#setUp(extra, accesses)
    } catch (error) {
      await sites.close()
      throw error
    }
    return sites
  }

  async close(): Promise<void> {
    await this.lab.close()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  async #setUp(extra: Partial<Record<RouterName, string>>, patterns: readonly string[]): Promise<void> {
    const accesses = patterns.flatMap((pattern) => ['--access', pattern])
    const options: Record<RouterName, string[]> = {
      hg: ['--endpoint', `${HOME[4]}:${PORT}`, ...behind('--subnet', 2)],
      ma: [...accesses, ...behind('--subnet', 1)],
      mb: [...accesses, ...behind('--subnet', 3)],
    }
    const cards = {} as Record<RouterName, string>
    for (const name of ['hg', 'ma', 'mb'] as const)
      cards[name] = (await this.json<{ card: string }>(name, 'router', 'init', ...options[name])).card
    await this.godwit('hg', 'router', 'add', 'bus', cards.ma)
    await this.godwit('hg', 'router', 'add', 'boat', cards.mb)
    await this.godwit('ma', 'router', 'add', 'home', cards.hg, ...behind('--via', 3))
    await this.godwit('mb', 'router', 'add', 'home', cards.hg, ...behind('--via', 1))
    for (const name of ['hg', 'ma', 'mb'] as const)
      this.#edit(name, (text) => `${text.replace('[router]', '[router]\nscheduler = "weighted"')}${CLASSES}`)
    // One of them comes over IPv6, and does not look at the sources of its own site.
    this.#edit('mb', (text) => text.replace(`"${HOME[4]}:`, `"[${HOME[6]}]:`).replace(/^subnets = .*$/m, ''))
    for (const [name, lines] of Object.entries(extra))
      this.#edit(name as RouterName, (text) => `${text}\n${lines}\n`)
    await this.up('hg')
    await Promise.all([this.up('ma'), this.up('mb')])
    for (const name of ['ma', 'mb'] as const) await this.untilPaths(name, ['acc1', 'acc2'])
  }

  #edit(name: RouterName, change: (text: string) => string): void {
    const file = join(this.#folder, name, 'godwit.toml')
    writeFileSync(file, change(readFileSync(file, 'utf8')))
  }

  async up(name: RouterName): Promise<void> {
    const args = [GODWIT, 'router', 'up', '--state', join(this.#folder, name)]
    const log = join(this.#folder, `${name}.log`)
    const program = await this.lab.programs.start(name, process.execPath, args, { log })
    this.#daemons.set(name, program)
    await program.expect((line) => line.trim() === 'ready', 60_000)
  }

  async down(name: RouterName, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const program = this.#daemons.get(name)!
    program.signal(signal)
    await program.ended
  }

  log(name: RouterName): string {
    return readFileSync(join(this.#folder, `${name}.log`), 'utf8')
  }

  godwit(name: RouterName, ...args: string[]): Promise<string> {
    const words = [GODWIT, ...args, '--state', join(this.#folder, name)]
    return this.lab.programs.run(name, process.execPath, words)
  }

  async json<T>(name: RouterName, ...args: string[]): Promise<T> {
    return JSON.parse(await this.godwit(name, ...args, '--json')) as T
  }

  status(name: RouterName): Promise<Status> {
    return daemonStatus(join(this.#folder, name))
  }

  view(name: RouterName): Promise<RouterView> {
    return daemonAt(join(this.#folder, name)).get('/v1/router')
  }

  /** Waits until exactly these accesses carry, to every peer. */
  untilPaths(name: RouterName, accesses: readonly string[]): Promise<void> {
    return this.until(`paths of ${name} over ${accesses.join(' and ') || 'nothing'}`, async () => {
      const { peers } = await this.status(name)
      return peers.every(({ paths }) => {
        const up = paths.filter(({ state }) => state === 'up' || state === 'degrading')
        return (
          up
            .map(({ access }) => access)
            .sort()
            .join() === [...accesses].sort().join()
        )
      })
    })
  }

  async until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
    for (let i = 0; i < 240; i++) {
      if (await holds()) return
      await delay(250)
    }
    const logs = [...this.#daemons.keys()].map((name) => `${name}:\n${this.log(name).slice(-2000)}`)
    assert.fail(`not within a minute: ${what}\n${logs.join('\n')}`)
  }

  /** Ends with what it printed, whatever its status. */
  async said(host: string, command: string, ...args: string[]): Promise<string> {
    const program = await this.lab.programs.start(host, 'sh', [
      '-c',
      'exec "$@" 2>&1',
      'sh',
      command,
      ...args,
    ])
    const lines: string[] = []
    for (let line = await program.line(); line !== undefined; line = await program.line()) lines.push(line)
    await program.ended
    return lines.join('\n')
  }
}

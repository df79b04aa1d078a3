/**
 * A bed for DIME: mobile host m with two accesses, router r, correspondent c; both run `godwit dime up`. Addresses
 * 10.1.0.2 and 10.2.0.2 (fd00:1::2, fd00:2::2) at m, 10.3.0.2 (fd00:3::2) at c.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ControlClient } from '../../../src/host/control/client.ts'
import type { Status, Why } from '../../../src/host/daemon/daemon.ts'
import type { HostView, SocketView } from '../../../src/host/provisioning/translation.ts'
import { ignoreMissing, programName } from '../../../src/linux/bpf.ts'
import { createNamespace, deleteNamespace, inNamespace, spawnIn } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Rtnetlink } from '../../../src/linux/rtnetlink/index.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { Tcx, tcxObstacle, tcxPrograms } from '../../../src/linux/tcx.ts'
import { daemonAt } from '../../support/daemon.ts'

usesPrograms('ip', 'nft')

/** Why there can be no eBPF programs on devices here. */
export const NO_PROGRAMS = tcxObstacle()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))

export type Name = 'm' | 'r' | 'c'

export class Bed {
  readonly folder = mkdtempSync(join(tmpdir(), 'dime-'))
  readonly rtnl: Record<Name, Rtnetlink>
  readonly #programs: ChildProcess[] = []
  readonly daemons = new Map<Name, ChildProcess>()
  readonly #logs = new Map<Name, { text: string }>()
  /** Lines for `[dime]` in the daemons' configuration. */
  settings = 'nat_keys = "any"'
  /** Kernel state of each host before any daemon started. */
  readonly before: Record<'m' | 'c', string>

  constructor() {
    for (const name of ['m', 'r', 'c'] as const) createNamespace(this.netns(name))
    this.rtnl = {
      m: new Rtnetlink(this.netns('m')),
      r: new Rtnetlink(this.netns('r')),
      c: new Rtnetlink(this.netns('c')),
    }
    for (const rtnl of Object.values(this.rtnl)) rtnl.setLink('lo', { up: true })
    const sysctls = new KernelSysctls(this.netns('r'))
    sysctls.set('net.ipv4.ip_forward', 1)
    sysctls.set('net.ipv6.conf.all.forwarding', 1)
    this.#link('m', 'acc1', 'lan1', 1)
    this.#link('m', 'acc2', 'lan2', 2)
    this.#link('c', 'wan', 'lan3', 3)
    this.rtnl.c.addAddress('wan', '10.3.0.2/24')
    this.rtnl.c.addAddress('wan', 'fd00:3::2/64', { noDad: true })
    this.rtnl.c.addRoute({ to: 'default', via: '10.3.0.1', dev: 'wan' })
    this.rtnl.c.addRoute({ to: 'default6', via: 'fd00:3::1', dev: 'wan' })
    this.up(1)
    this.before = { m: this.kernelState('m'), c: this.kernelState('c') }
  }

  netns(name: Name): string {
    return `dime-${name}-${process.pid}`
  }

  #link(host: 'm' | 'c', name: string, far: string, n: number): void {
    this.rtnl[host].createLink({
      kind: 'veth',
      name,
      index: 100 + n,
      peer: { name: far, index: 200 + n, netns: this.netns('r') },
    })
    this.rtnl[host].setLink(name, { up: true })
    this.rtnl.r.setLink(far, { up: true })
    this.rtnl.r.addAddress(far, `10.${n}.0.1/24`)
    this.rtnl.r.addAddress(far, `fd00:${n}::1/64`, { noDad: true })
  }

  /** Access n gets its addresses, and the default routes if `preferred`. */
  up(n: 1 | 2, preferred = true): void {
    const { m } = this.rtnl
    m.addAddress(`acc${n}`, `10.${n}.0.2/24`)
    m.addAddress(`acc${n}`, `fd00:${n}::2/64`, { noDad: true })
    const metric = (preferred ? 50 : 200) + n
    m.addRoute({ to: 'default', via: `10.${n}.0.1`, dev: `acc${n}`, metric })
    m.addRoute({ to: 'default6', via: `fd00:${n}::1`, dev: `acc${n}`, metric })
  }

  /** Access n loses its addresses and routes. */
  down(n: 1 | 2): void {
    const { m } = this.rtnl
    m.deleteAddress(`acc${n}`, `10.${n}.0.2/24`)
    m.deleteAddress(`acc${n}`, `fd00:${n}::2/64`)
    for (const metric of [50 + n, 200 + n]) {
      m.deleteRoute({ to: 'default', via: `10.${n}.0.1`, dev: `acc${n}`, metric })
      m.deleteRoute({ to: 'default6', via: `fd00:${n}::1`, dev: `acc${n}`, metric })
    }
  }

  spawn(
    name: Name,
    command: string,
    args: readonly string[],
    stdio: 'ignore' | 'pipe' = 'ignore',
  ): ChildProcess {
    const program = spawnIn(this.netns(name), command, args, {
      stdio: stdio === 'pipe' ? ['pipe', 'pipe', 'pipe'] : 'ignore',
    })
    this.#programs.push(program)
    return program
  }

  run(name: Name, command: string, ...args: string[]): string {
    return execFileSync('ip', ['netns', 'exec', this.netns(name), command, ...args], { encoding: 'utf8' })
  }

  state(name: Name): string {
    return join(this.folder, name)
  }

  /** What the newest daemon of a host has logged. */
  log(name: Name): string {
    return this.#logs.get(name)?.text ?? ''
  }

  /** Starts the daemon of a host and waits for `ready`. */
  async daemon(name: Name, ...args: string[]): Promise<ChildProcess> {
    mkdirSync(this.state(name), { recursive: true, mode: 0o700 })
    const config = join(this.state(name), 'godwit.toml')
    writeFileSync(config, `[log]\nlevel = "debug"\n\n[dime]\n${this.settings}\n`)
    const command = args.length > 0 ? args : ['dime', 'up']
    const daemon = this.spawn(
      name,
      process.execPath,
      [GODWIT, ...command, '--state', this.state(name)],
      'pipe',
    )
    this.daemons.set(name, daemon)
    const log = { text: '' }
    this.#logs.set(name, log)
    daemon.stderr!.on('data', (bytes) => {
      log.text += bytes
    })
    await new Promise<void>((ready, fail) => {
      daemon.stdout!.on('data', (bytes) => String(bytes).includes('ready') && ready())
      daemon.on('exit', () => fail(new Error(`the daemon of ${name} ended: ${log.text}`)))
    })
    return daemon
  }

  async end(name: Name, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const daemon = this.daemons.get(name)
    if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return
    const gone = new Promise((done) => daemon.once('exit', done))
    daemon.removeAllListeners('exit')
    daemon.kill(signal)
    await Promise.race([gone, new Promise<void>((done) => daemon.once('exit', () => done()))])
    this.daemons.delete(name)
  }

  #client(name: Name): ControlClient {
    return daemonAt(this.state(name))
  }

  async hosts(name: Name): Promise<HostView[]> {
    return (await this.#client(name).get<{ hosts: HostView[] }>('/v1/dime/hosts')).hosts
  }

  async sockets(name: Name): Promise<SocketView[]> {
    return (await this.#client(name).get<{ sockets: SocketView[] }>('/v1/dime/sockets')).sockets
  }

  /** Pairs of addresses on which a peer has answered: `own foreign`. */
  async ways(name: Name): Promise<string[]> {
    return (await this.hosts(name)).flatMap((h) => h.confirmed.map((p) => `${p.local} ${p.foreign}`))
  }

  status(name: Name): Promise<Status> {
    return this.#client(name).get<Status>('/v1/status')
  }

  why(name: Name, flow: string): Promise<Why> {
    return this.#client(name).get<Why>(`/v1/why?flow=${flow}`)
  }

  move(name: Name, what: string, access: string): Promise<unknown> {
    return this.#client(name).post('/v1/move', { what, access })
  }

  /** Waits until both ends have greeted each other and know at least one flow that can move. */
  async greeted(): Promise<void> {
    for (const name of ['m', 'c'] as const)
      await until(`${name} knows its peer and a flow`, async () => {
        const peers = (await this.hosts(name)).filter((h) => h.state === 'peer').map((h) => h.hid)
        return (await this.sockets(name)).some((s) => s.proven && peers.includes(s.hid))
      })
  }

  /** Both ends send on m's address of access n. */
  async on(n: 1 | 2): Promise<void> {
    const local = `10.${n}.0.2`
    await until(`both ends use ${local}`, async () => {
      const m = (await this.sockets('m')).filter((s) => s.proven)
      const c = (await this.sockets('c')).filter((s) => s.proven)
      const all = [...m.map((s) => s.wire_local), ...c.map((s) => s.wire)]
      return m.length > 0 && c.length > 0 && all.every((each) => each === local)
    })
  }

  /** Everything godwit might change: rules, tables, addresses, nftables, settings. */
  kernelState(name: 'm' | 'c'): string {
    const lo = this.rtnl[name].addresses({ link: 'lo' }).map((a) => a.address)
    const sysctls = new KernelSysctls(this.netns(name))
    return JSON.stringify({
      rules: this.rtnl[name].rules(),
      lo,
      links: this.rtnl[name].links().map((l) => l.name),
      programs: this.programs(name),
      nft: this.run(name, 'nft', 'list', 'ruleset'),
      arp: sysctls.get('net.ipv4.conf.all.arp_ignore'),
      ports: sysctls.get('net.ipv4.ip_local_reserved_ports'),
    })
  }

  /** eBPF programs on the devices of a host; 0 where the kernel can have none. */
  programs(name: 'm' | 'c'): number {
    return this.#programIds(name).length
  }

  /** Those of the fast path alone: others stay for a minute after a connection has crossed to IPv6 for a moment. */
  fastPrograms(name: 'm' | 'c'): number {
    const isFast = (id: number): boolean =>
      ignoreMissing(() => programName(id))?.startsWith('godwit_fast') === true
    return this.#programIds(name).filter(isFast).length
  }

  #programIds(name: 'm' | 'c'): number[] {
    if (NO_PROGRAMS !== undefined) return []
    const links = this.rtnl[name].links()
    const on = (index: number): number[] => [
      ...tcxPrograms(index, Tcx.INGRESS),
      ...tcxPrograms(index, Tcx.EGRESS),
    ]
    return inNamespace(this.netns(name), () => links.flatMap(({ index }) => on(index)))
  }

  async close(): Promise<void> {
    for (const name of [...this.daemons.keys()]) await this.end(name)
    for (const program of this.#programs) program.kill('SIGKILL')
    for (const rtnl of Object.values(this.rtnl)) rtnl.close()
    for (const name of ['m', 'r', 'c'] as const) deleteNamespace(this.netns(name))
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Polls until `condition` holds; fails after `seconds`. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  seconds = 60,
): Promise<void> {
  const end = Date.now() + seconds * 1000
  while (!(await condition())) {
    assert.ok(Date.now() < end, `not within ${seconds} s: ${what}`)
    await pause(50)
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms))
}

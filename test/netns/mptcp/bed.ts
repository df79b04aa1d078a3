/**
 * A bed for the MPTCP proxy: mobile host m with two accesses, router r, server c. Addresses 10.1.0.2 and 10.2.0.2
 * (fd00:1::2, fd00:2::2) at m, 10.3.0.2 (fd00:3::2) at c, which has the kernel's MPTCP on port 80 and plain TCP on 81.
 *
 * With a host behind, m is a router for h (192.168.77.2, fd00:7::2): IPv4 is masqueraded, IPv6 is not.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ControlClient } from '../../../src/host/control/client.ts'
import type { Status } from '../../../src/host/daemon/daemon.ts'
import type { ConnectionView } from '../../../src/host/provisioning/mptcp.ts'
import { createNamespace, deleteNamespace, spawnIn } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Rtnetlink } from '../../../src/linux/rtnetlink/index.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { daemonAt } from '../../support/daemon.ts'

usesPrograms('curl', 'ip', 'mptcpize', 'nft', 'nstat', 'tcpdump', 'tshark')

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const SERVER = fileURLToPath(new URL('./server.js', import.meta.url))
/** Counters that the peer's kernel raises when what it gets is wrong. */
const FAULTS =
  /Err|NoMatch|NoToken|MismatchHMAC|BadHMAC|Fallback|MPFail|Corruption|AckHMacFailure|SynAckHMacFailure/i

/** Severity of what tshark calls an error. */
const EXPERT_ERROR = '0x00800000'

export type Name = 'h' | 'm' | 'r' | 'c'

const MASQUERADE = `table ip nat {
  chain out { type nat hook postrouting priority srcnat; oifname { "acc1", "acc2" } masquerade; }
}
table inet filter {
  chain forward { type filter hook forward priority filter; ct state invalid drop; }
}`

export class Bed {
  readonly folder = mkdtempSync(join(tmpdir(), 'mptcp-'))
  readonly #names: readonly Name[]
  readonly rtnl: Record<Name, Rtnetlink>
  readonly #programs: ChildProcess[] = []
  readonly #daemons = new Map<Name, ChildProcess>()

  constructor({ behind = false }: { readonly behind?: boolean } = {}) {
    this.#names = behind ? ['h', 'm', 'r', 'c'] : ['m', 'r', 'c']
    for (const name of this.#names) createNamespace(this.netns(name))
    this.rtnl = Object.fromEntries(
      this.#names.map((name) => [name, new Rtnetlink(this.netns(name))]),
    ) as Record<Name, Rtnetlink>
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
    for (const n of [1, 2] as const) this.up(n)
    if (behind) this.#hostBehind()
  }

  #hostBehind(): void {
    const { h, m, r } = this.rtnl
    m.createLink({ kind: 'veth', name: 'lan', peer: { name: 'eth0', netns: this.netns('h') } })
    m.setLink('lan', { up: true })
    h.setLink('eth0', { up: true })
    m.addAddress('lan', '192.168.77.1/24')
    m.addAddress('lan', 'fd00:7::1/64', { noDad: true })
    h.addAddress('eth0', '192.168.77.2/24')
    h.addAddress('eth0', 'fd00:7::2/64', { noDad: true })
    h.addRoute({ to: 'default', via: '192.168.77.1', dev: 'eth0' })
    h.addRoute({ to: 'default6', via: 'fd00:7::1', dev: 'eth0' })
    r.addRoute({ to: 'fd00:7::/64', via: 'fd00:1::2', dev: 'lan1', metric: 100 })
    const sysctls = new KernelSysctls(this.netns('m'))
    sysctls.set('net.ipv4.ip_forward', 1)
    sysctls.set('net.ipv6.conf.all.forwarding', 1)
    this.rules('m', MASQUERADE)
  }

  /** Adds nftables rules. */
  rules(name: Name, rules: string): void {
    const file = join(this.folder, `${name}.nft`)
    writeFileSync(file, rules)
    this.run(name, 'nft', '-f', file)
  }

  netns(name: Name): string {
    return `mptcp-${name}-${process.pid}`
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

  /** Access n gets its addresses and default routes; the first is preferred. */
  up(n: 1 | 2): void {
    const { m } = this.rtnl
    m.addAddress(`acc${n}`, `10.${n}.0.2/24`)
    m.addAddress(`acc${n}`, `fd00:${n}::2/64`, { noDad: true })
    const metric = 100 * n
    m.addRoute({ to: 'default', via: `10.${n}.0.1`, dev: `acc${n}`, metric })
    m.addRoute({ to: 'default6', via: `fd00:${n}::1`, dev: `acc${n}`, metric })
  }

  /** Access n loses its addresses, and its routes with them. */
  down(n: 1 | 2): void {
    const { m } = this.rtnl
    m.deleteRoute({ to: 'default6', via: `fd00:${n}::1`, dev: `acc${n}`, metric: 100 * n })
    m.deleteAddress(`acc${n}`, `fd00:${n}::2/64`)
    m.deleteAddress(`acc${n}`, `10.${n}.0.2/24`)
  }

  /** What access n carries is lost, both ways, and nobody says so; or no longer. */
  silence(n: 1 | 2, silent: boolean): void {
    if (!silent) {
      this.run('r', 'nft', 'delete', 'table', 'inet', `silence${n}`)
      return
    }
    this.rules(
      'r',
      `table inet silence${n} {
      chain in { type filter hook prerouting priority -300; iifname lan${n} drop; }
      chain out { type filter hook postrouting priority 300; oifname lan${n} drop; }
    }`,
    )
  }

  spawn(name: Name, command: string, ...args: string[]): ChildProcess {
    const program = spawnIn(this.netns(name), command, args, { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#programs.push(program)
    return program
  }

  run(name: Name, command: string, ...args: string[]): string {
    return execFileSync('ip', ['netns', 'exec', this.netns(name), command, ...args], { encoding: 'utf8' })
  }

  /** A server: with the kernel's MPTCP on 80, without on 81. */
  async serve(name: Name = 'c'): Promise<void> {
    const node = [process.execPath, SERVER, 'serve'] as const
    const servers = [
      this.spawn(name, 'mptcpize', 'run', ...node, '80'),
      this.spawn(name, node[0], node[1], node[2], '81'),
    ]
    for (const server of servers) await once(server.stdout!, 'data')
  }

  async daemon(name: 'm' | 'c', settings = ''): Promise<ChildProcess> {
    const state = join(this.folder, name)
    mkdirSync(state, { recursive: true, mode: 0o700 })
    writeFileSync(join(state, 'godwit.toml'), `[log]\nlevel = "debug"\n\n[mptcp]\n${settings}\n`)
    const daemon = this.spawn(name, process.execPath, GODWIT, 'mptcp', 'up', '--state', state)
    this.#daemons.set(name, daemon)
    let log = ''
    daemon.stderr!.on('data', (bytes) => {
      log += bytes
      writeFileSync(join(this.folder, `${name}.log`), log)
    })
    await new Promise<void>((ready, fail) => {
      daemon.stdout!.on('data', (bytes) => String(bytes).includes('ready') && ready())
      daemon.on('exit', () => fail(new Error(`the daemon of ${name} ended: ${log}`)))
    })
    return daemon
  }

  log(name: 'm' | 'c'): string {
    return readFileSync(join(this.folder, `${name}.log`), 'utf8')
  }

  async end(name: 'm' | 'c', signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const daemon = this.#daemons.get(name)
    if (daemon === undefined) return
    this.#daemons.delete(name)
    daemon.removeAllListeners('exit')
    const gone = once(daemon, 'exit')
    daemon.kill(signal)
    if (daemon.exitCode === null && daemon.signalCode === null) await gone
  }

  #client(name: 'm' | 'c'): ControlClient {
    return daemonAt(join(this.folder, name))
  }

  async connections(name: 'm' | 'c' = 'm'): Promise<ConnectionView[]> {
    return (await this.#client(name).get<{ connections: ConnectionView[] }>('/v1/mptcp/connections'))
      .connections
  }

  status(name: 'm' | 'c' = 'm'): Promise<Status> {
    return this.#client(name).get<Status>('/v1/status')
  }

  metrics(name: 'm' | 'c' = 'm'): Promise<string> {
    return this.#client(name).metrics()
  }

  post(path: string, body: object): Promise<unknown> {
    return this.#client('m').post(path, body)
  }

  /** The connection that a transfer runs over, once so many bytes went over it and a second subflow is ready. */
  async underWay(bytes: number): Promise<ConnectionView> {
    let found: ConnectionView | undefined
    await until(`a connection has carried ${bytes} bytes and has two subflows`, async () => {
      found = (await this.connections()).find(
        (each) =>
          each.state === 'established' &&
          each.acknowledged_bytes + each.received_bytes >= bytes &&
          each.subflows.filter(({ state }) => state === 'active').length > 1,
      )
      return found !== undefined
    })
    return found!
  }

  /** Counters of the server's MPTCP since the bed began. */
  counters(): Map<string, number> {
    const lines = this.run('c', 'nstat', '-asz').split('\n')
    return new Map(lines.flatMap((line) => (/^(MPTcpExt\w+)\s+(\d+)/.test(line) ? [counter(line)] : [])))
  }

  /** The server's kernel found nothing wrong with what it got. */
  noFaults(): void {
    const faults = [...this.counters()].filter(([name, value]) => value > 0 && FAULTS.test(name))
    assert.deepEqual(faults, [])
  }

  /** Captures the server's packets while `work` runs; the answer is what tshark finds wrong with them, a line each. */
  async captured(work: () => Promise<void>): Promise<string> {
    const file = join(this.folder, 'server.pcap')
    const tcpdump = this.spawn(
      'c',
      'tcpdump',
      '--immediate-mode',
      '-Z',
      'root',
      '-U',
      '-i',
      'wan',
      '-s',
      '160',
      '-w',
      file,
      'tcp',
    )
    let said = ''
    tcpdump.stderr!.on('data', (bytes) => {
      said += bytes
    })
    await until('tcpdump listens', () => said.includes('listening on'))
    await work()
    const ended = once(tcpdump, 'close')
    tcpdump.kill('SIGINT')
    await ended
    const shark = (filter: string) =>
      this.run(
        'c',
        'tshark',
        '-r',
        file,
        '--disable-protocol',
        'http',
        '-Y',
        filter,
        '-T',
        'fields',
        '-e',
        'frame.number',
      )
    assert.notEqual(shark('tcp.options.mptcp.subtype == 1 && tcp.flags.syn == 1'), '', said)
    return shark(`_ws.malformed || _ws.expert.severity >= ${EXPERT_ERROR} || tcp.options.mptcp.subtype > 8`)
  }

  /** Everything godwit might change on m. */
  kernelState(): string {
    return JSON.stringify({
      rules: this.rtnl.m.rules(),
      lo: this.rtnl.m.addresses({ link: 'lo' }).map(({ address }) => address),
      nft: this.run('m', 'nft', 'list', 'ruleset'),
    })
  }

  async close(): Promise<void> {
    for (const name of [...this.#daemons.keys()]) await this.end(name as 'm' | 'c')
    for (const program of this.#programs) program.kill('SIGKILL')
    for (const rtnl of Object.values(this.rtnl)) rtnl.close()
    for (const name of this.#names) deleteNamespace(this.netns(name))
    rmSync(this.folder, { recursive: true, force: true })
  }
}

function counter(line: string): [string, number] {
  const [name, value] = line.split(/\s+/)
  return [name!, Number(value)]
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
    await new Promise((done) => setTimeout(done, 50))
  }
}

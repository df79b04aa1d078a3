/**
 * Two hosts and a network between them, for tests with real engines: the mobile host has two accesses, the anchor one
 * address, a router joins them. The router can lose everything that comes from or goes to an access, silently.
 *
 *   host  acc1 10.101.1.1 ── 10.101.1.254 ┐
 *         acc2 10.101.2.1 ── 10.101.2.254 ┤ router │ 10.101.9.254 ── 10.101.9.1 eth0  anchor
 *
 * Inner addresses: 10.98.0.1 and fd98::1 at the host, 10.98.0.2 and fd98::2 at the anchor.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { parseAddress } from '../../../src/core/address.ts'
import { generatePrivateKey, publicKeyOf } from '../../../src/crypto/keys.ts'
import { createNamespace, deleteNamespace, spawnIn } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import type { PathConfig, PeerConfig } from '../../../src/tunnel/protocol/machine.ts'
import type { NodeCommand, NodeEvent, NodePeer, NodeReport, NodeSetup } from '../../support/tunnel-node.ts'
import type { TrafficResult } from '../../support/udp-traffic.ts'

usesPrograms('ip')

const TRAFFIC = new URL('../../support/udp-traffic.js', import.meta.url).pathname
/** How long `Traffic.more` waits for an answer, milliseconds. */
const MORE_MS = 15_000
const ECHO_PORT = 9007
const PROGRAM = new URL('../../support/tunnel-node.js', import.meta.url).pathname
export const ANCHOR_PORT = 51_820
export const TUN = 'gwt0'

export function missing(...programs: string[]): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root'
  for (const program of ['ip', ...programs])
    if (spawnSync('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin; command -v ${program}`]).status !== 0)
      return `needs ${program}`
  return undefined
}

export function bytes(address: string): Uint8Array {
  const parsed = parseAddress(address)
  assert.ok(parsed.ok, address)
  return parsed.value
}

export class Bed {
  readonly host: string
  readonly router: string
  readonly anchor: string
  readonly nodes: TunnelNode[] = []
  readonly #programs = new Set<ChildProcess>()

  constructor(label: string) {
    this.host = `tun-${label}h-${process.pid}`
    this.router = `tun-${label}r-${process.pid}`
    this.anchor = `tun-${label}a-${process.pid}`
    for (const name of [this.host, this.router, this.anchor]) {
      createNamespace(name)
      this.ip(name, 'link', 'set', 'lo', 'up')
    }
    this.#link(this.host, 'acc1', '10.101.1.1', '10.101.1.254')
    this.#link(this.host, 'acc2', '10.101.2.1', '10.101.2.254')
    this.#link(this.anchor, 'eth0', '10.101.9.1', '10.101.9.254')
    this.run(this.router, 'sh', ['-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward'])
    for (const n of [1, 2])
      this.ip(this.host, 'route', 'add', 'default', 'via', `10.101.${n}.254`, 'metric', `${n}`)
    this.ip(this.anchor, 'route', 'add', 'default', 'via', '10.101.9.254')
  }

  #link(netns: string, name: string, address: string, gateway: string): void {
    const far = `to-${name}`
    this.ip(netns, 'link', 'add', name, 'type', 'veth', 'peer', 'name', far, 'netns', this.router)
    this.ip(netns, 'address', 'add', `${address}/24`, 'dev', name)
    this.ip(netns, 'link', 'set', name, 'up')
    this.ip(this.router, 'address', 'add', `${gateway}/24`, 'dev', far)
    this.ip(this.router, 'link', 'set', far, 'up')
  }

  ip(netns: string, ...words: string[]): string {
    return execFileSync('ip', ['-n', netns, ...words], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  }

  run(netns: string, command: string, args: readonly string[]): string {
    return execFileSync('ip', ['netns', 'exec', netns, command, ...args], { encoding: 'utf8' })
  }

  /** Starts a program that stays until `close`. */
  start(netns: string, command: string, args: readonly string[]): ChildProcess {
    const child = spawnIn(netns, command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    this.#programs.add(child)
    return child
  }

  /** Loses silently what goes up or comes down an access (1 or 2), or both ways. */
  hole(access: number, direction: 'up' | 'down' | 'both'): void {
    this.mend(access)
    if (direction !== 'down')
      this.ip(
        this.router,
        'rule',
        'add',
        'priority',
        `${100 + access}`,
        'iif',
        `to-acc${access}`,
        'blackhole',
      )
    if (direction !== 'up')
      this.ip(
        this.router,
        ...['rule', 'add', 'priority', `${200 + access}`],
        ...['to', `10.101.${access}.0/24`, 'iif', 'to-eth0', 'blackhole'],
      )
  }

  mend(access: number): void {
    for (const priority of [100 + access, 200 + access])
      spawnSync('ip', ['-n', this.router, 'rule', 'del', 'priority', `${priority}`])
  }

  /** Starts an engine in a namespace and gives its device addresses. */
  async node(netns: string, setup: NodeSetup, inner: readonly string[]): Promise<TunnelNode> {
    const node = await TunnelNode.start(netns, setup)
    this.nodes.push(node)
    for (const address of inner)
      this.ip(
        netns,
        'address',
        'replace',
        address,
        'dev',
        setup.device,
        ...(address.includes(':') ? ['nodad'] : []),
      )
    this.ip(netns, 'link', 'set', setup.device, 'mtu', `${setup.mtu}`, 'up')
    return node
  }

  /** An echo server on every address of a namespace. */
  async echo(netns: string): Promise<void> {
    const child = this.start(netns, process.execPath, [TRAFFIC, 'echo', `${ECHO_PORT}`])
    await once(child.stdout!, 'data')
  }

  /** Numbered datagrams to the echo server from now on, once the first was answered. */
  async traffic(netns: string, to: string, intervalMs: number, size = 100): Promise<Traffic> {
    const child = spawnIn(
      netns,
      process.execPath,
      [TRAFFIC, 'send', to, `${ECHO_PORT}`, `${intervalMs}`, `${size}`],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    )
    this.#programs.add(child)
    let output = ''
    child.stdout!.on('data', (data) => {
      output += data
    })
    await Promise.race([once(child.stdout!, 'data'), once(child, 'exit')])
    const word = 'answers '
    const answered = () => Number.parseInt(output.slice(output.lastIndexOf(word) + word.length), 10)
    const end = async () => {
      child.stdin!.end()
      await once(child, 'close')
      return JSON.parse(output.trim().split('\n').at(-1)!) as TrafficResult
    }
    const more = async (count: number) => {
      const wanted = answered() + count
      while (answered() < wanted) {
        assert.equal(child.exitCode, null, 'the traffic has ended')
        await once(child.stdout!, 'data', { signal: AbortSignal.timeout(MORE_MS) })
      }
    }
    return Object.assign(end, { more })
  }

  /** Ends what `start` and `echo` started. */
  async stopPrograms(): Promise<void> {
    for (const program of this.#programs) {
      if (program.exitCode !== null || program.signalCode !== null) continue
      program.kill('SIGKILL')
      await once(program, 'exit')
    }
    this.#programs.clear()
  }

  async close(): Promise<void> {
    for (const node of this.nodes) await node.stop()
    await this.stopPrograms()
    for (const name of [this.host, this.router, this.anchor]) deleteNamespace(name)
  }
}

/** Call it to end the datagrams and learn what became of them. */
export interface Traffic {
  (): Promise<TrafficResult>
  /** Once so many more were answered; rejects when no answer comes for 15 s. */
  more(count: number): Promise<void>
}

/** An engine in its own process. */
export class TunnelNode {
  readonly events: NodeEvent[] = []
  readonly process: ChildProcess
  #watchers: (() => void)[] = []

  private constructor(child: ChildProcess) {
    this.process = child
    child.on('message', (event: NodeEvent) => {
      this.events.push(event)
      for (const watcher of [...this.#watchers]) watcher()
    })
  }

  static async start(netns: string, setup: NodeSetup): Promise<TunnelNode> {
    const child = spawnIn(netns, process.execPath, [PROGRAM], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      serialization: 'advanced',
      env: { ...process.env, NODE_TEST_CONTEXT: undefined },
    })
    child.send(setup)
    const [first] = await Promise.race([once(child, 'message'), once(child, 'exit')])
    assert.equal(first, 'ready', 'the engine did not start')
    return new TunnelNode(child)
  }

  do(command: NodeCommand): void {
    this.process.send(command)
  }

  /** The first event that `test` accepts, of those that are there or come within `limit` milliseconds. */
  async until<T extends NodeEvent>(
    what: string,
    test: (event: NodeEvent) => event is T,
    limit?: number,
  ): Promise<T>
  async until(what: string, test: (event: NodeEvent) => boolean, limit?: number): Promise<NodeEvent>
  async until(what: string, test: (event: NodeEvent) => boolean, limit = 10_000): Promise<NodeEvent> {
    const there = this.events.find(test)
    if (there !== undefined) return there
    return new Promise((resolve, reject) => {
      const end = () => {
        clearTimeout(timer)
        this.#watchers = this.#watchers.filter((each) => each !== look)
      }
      const look = () => {
        const event = this.events.find(test)
        if (event === undefined) return
        end()
        resolve(event)
      }
      const timer = setTimeout(() => {
        end()
        reject(new Error(`${what} did not happen; last events: ${summary(this.events)}`))
      }, limit)
      this.#watchers.push(look)
    })
  }

  pathState(pathId: number, state: string, limit?: number): Promise<NodeEvent> {
    return this.until(
      `path ${pathId} ${state}`,
      (event) => event.type === 'path' && event.path.pathId === pathId && event.path.state.name === state,
      limit,
    )
  }

  async report(): Promise<NodeReport> {
    const before = this.events.length
    this.do({ do: 'report' })
    const isReport = (event: NodeEvent): event is NodeReport =>
      event.type === 'report' && this.events.indexOf(event) >= before
    return this.until('report', isReport)
  }

  async kill(): Promise<void> {
    this.process.kill('SIGKILL')
    await once(this.process, 'exit')
  }

  async stop(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return
    this.process.disconnect()
    await once(this.process, 'exit')
  }
}

function summary(events: readonly NodeEvent[]): string {
  return events
    .slice(-12)
    .map((event) =>
      event.type === 'path' ? `path ${event.path.pathId} ${event.path.state.name}` : event.type,
    )
    .join(', ')
}

/** Keys and set-ups of a mobile host with two accesses and an anchor. */
export class Couple {
  readonly hostKey = generatePrivateKey()
  readonly anchorKey = generatePrivateKey()
  readonly hostAddresses = ['10.98.0.1/24', 'fd98::1/64']
  readonly anchorAddresses = ['10.98.0.2/24', 'fd98::2/64']

  path(n: number): PathConfig {
    return {
      pathId: n,
      socket: n - 1,
      remote: { address: bytes('10.101.9.1'), port: ANCHOR_PORT },
      mtu: 1500,
    }
  }

  hostSetup(paths: readonly number[] = [1, 2], config: Partial<PeerConfig> = {}): NodeSetup {
    const peer: NodePeer = {
      config: { publicKey: publicKeyOf(this.anchorKey), dialect: 'godwit', ...config },
      inner: [bytes('10.98.0.2'), bytes('fd98::2')],
      paths: paths.map((n) => this.path(n)),
    }
    return {
      device: TUN,
      mtu: 1420,
      privateKey: this.hostKey,
      sockets: [1, 2].map((n) => ({ family: 4, port: 0, device: `acc${n}` })),
      peers: [peer],
      implicit: false,
    }
  }

  anchorSetup(config: Partial<PeerConfig> = {}, rest: Partial<NodeSetup> = {}): NodeSetup {
    const peer: NodePeer = {
      config: { publicKey: publicKeyOf(this.hostKey), ...config },
      inner: [bytes('10.98.0.1'), bytes('fd98::1')],
      paths: [],
    }
    return {
      device: TUN,
      mtu: 1420,
      privateKey: this.anchorKey,
      sockets: [{ family: 6, port: ANCHOR_PORT }],
      peers: [peer],
      implicit: true,
      ...rest,
    }
  }
}

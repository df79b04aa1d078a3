/** What the overlay's scenarios share: a zone's servers on gw-srv, nodes that have logged in, and their control sockets. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ControlClient } from '../../src/host/control/client.ts'
import type { OverlayView, TraceStep } from '../../src/host/provisioning/overlay.ts'
import { usesPrograms } from '../../src/linux/packages.ts'
import { LOGIN_FILE } from '../../src/overlay/node/login.ts'
import type { Program } from '../hosts.ts'
import { Godwit } from '../product.ts'
import type { ScenarioContext } from '../scenario.ts'

export const ZONE = 'lab.example'
const LOGINS_AT_ONCE = 3
const RESOLV_CONF = 'resolv.conf'

usesPrograms('unshare')

export class OverlayServer {
  readonly godwit: Godwit
  program!: Program
  #password = ''
  #pin = ''
  #url = ''

  private constructor(context: ScenarioContext) {
    this.godwit = new Godwit(context, 'srv')
  }

  /** `addresses`: those of gw-srv, the endpoint first. */
  static async start(context: ScenarioContext, addresses: readonly string[]): Promise<OverlayServer> {
    const server = new OverlayServer(context)
    const { godwit } = server
    const init = ['overlay', 'init', '--zone', ZONE, '--endpoint', addresses[0]!, '--dns-port', '0']
    await godwit.run(...init, ...addresses.flatMap((address) => ['--address', address]))
    server.program = await godwit.daemon('overlay', 'serve')
    const added = await godwit.json<Record<string, string>>('overlay', 'account', 'add', 'carol')
    server.#password = added.password!
    server.#pin = added.pin!
    server.#url = added.server!
    return server
  }

  /** A node on this host. `url`: where the account server is for it; default: the endpoint. */
  async node(
    context: ScenarioContext,
    role: string,
    more: { readonly url?: string; readonly accesses?: readonly string[]; readonly names?: boolean } = {},
  ): Promise<OverlayNode> {
    const godwit = new Godwit(context, role)
    const accesses = JSON.stringify(more.accesses ?? ['*'])
    godwit.configure(`[overlay]\ndns = "${more.names ? 'file' : 'none'}"\naccesses = ${accesses}\n`)
    if (more.names) writeFileSync(join(godwit.state, RESOLV_CONF), 'nameserver 192.0.2.53\n')
    const words = ['--server', more.url ?? this.#url, '--pin', this.#pin, '--name', role]
    await godwit.runWith(this.#password, 'overlay', 'login', 'carol', ...words)
    if (more.url !== undefined) useCoordinator(godwit, new URL(more.url).host)
    const node = new OverlayNode(context, godwit, more.names === true)
    await node.up()
    return node
  }

  /** Nodes on these hosts, some at a time: a login takes a CPU's while. */
  async nodes(
    context: ScenarioContext,
    roles: readonly string[],
    urlOf: (role: string) => string | undefined = () => undefined,
  ): Promise<Map<string, OverlayNode>> {
    const nodes = new Map<string, OverlayNode>()
    const left = [...roles]
    const work = async () => {
      for (let role = left.shift(); role !== undefined; role = left.shift()) {
        const url = urlOf(role)
        nodes.set(role, await this.node(context, role, url === undefined ? {} : { url }))
      }
    }
    await Promise.all(Array.from({ length: LOGINS_AT_ONCE }, work))
    return nodes
  }
}

/** The endpoint of the zone is an IPv4 address here; by the DNS a node would find the server's address of either family. */
function useCoordinator(godwit: Godwit, coordinator: string): void {
  const file = join(godwit.state, LOGIN_FILE)
  const login = JSON.parse(readFileSync(file, 'utf8')) as object
  writeFileSync(file, JSON.stringify({ ...login, coordinator }))
}

export class OverlayNode {
  readonly #context: ScenarioContext
  readonly godwit: Godwit
  readonly control: ControlClient
  program!: Program

  readonly #names: boolean

  constructor(context: ScenarioContext, godwit: Godwit, names: boolean) {
    this.#context = context
    this.#names = names
    this.godwit = godwit
    this.control = new ControlClient(`${godwit.state}/control.sock`)
  }

  get name(): string {
    return `${this.godwit.role}.${ZONE}`
  }

  async up(): Promise<void> {
    const words = ['overlay', 'up']
    this.program = this.#names
      ? await this.godwit.daemonThrough((...command) => this.withNames(...command), ...words)
      : await this.godwit.daemon(...words)
  }

  /** Words that run a command with the name server that this node's daemon configures (`dns = "file"`). */
  withNames(...words: readonly string[]): readonly [string, string[]] {
    const mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return ['unshare', ['-m', 'sh', '-c', mount, join(this.godwit.state, RESOLV_CONF), ...words]]
  }

  view(): Promise<OverlayView> {
    return this.control.get('/v1/overlay')
  }

  /** Its virtual IPv6 address. */
  async address(): Promise<string> {
    return (await this.view()).addresses.find((address) => address.includes(':'))!
  }

  async trace(since = 0): Promise<readonly TraceStep[]> {
    const { steps } = await this.control.get<{ steps: TraceStep[] }>('/v1/overlay/trace')
    return steps.filter(({ at }) => at > since)
  }

  async forget(other: OverlayNode): Promise<void> {
    await this.control.post('/v1/overlay/forget', { name: other.name }).catch(() => {})
  }

  async resolve(other: OverlayNode): Promise<void> {
    await this.control.post('/v1/overlay/resolve', { name: other.name })
  }

  /** How packets go to the other: `lan`, `direct`, `relay` or `none`. */
  async way(other: OverlayNode): Promise<string> {
    return (await this.view()).peers.find(({ name }) => name === other.name)?.way ?? 'none'
  }

  /** Waits until packets go this way; whether they did within the time (ms). */
  async untilWay(other: OverlayNode, ways: readonly string[], withinMs: number): Promise<boolean> {
    for (const end = performance.now() + withinMs; performance.now() < end; ) {
      if (ways.includes(await this.way(other))) return true
      await this.#context.sleep(20)
    }
    return false
  }
}

/** Milliseconds from the question for the name to the first answer of the other node, to datagrams every 5 ms; `client`: first-byte on `from`. */
export async function firstByte(
  client: Program,
  from: OverlayNode,
  to: OverlayNode,
  withinMs: number,
): Promise<number> {
  return (await firstContact(client, from, to, withinMs)).ms
}

/** The same, with when it began (ms of the machine's clock). */
export async function firstContact(
  client: Program,
  from: OverlayNode,
  to: OverlayNode,
  withinMs: number,
): Promise<{ readonly ms: number; readonly since: number }> {
  client.tell(`ask ${await to.address()}`)
  await from.resolve(to)
  const line = await client.expect((each) => each.startsWith('{"ms"'), withinMs)
  return JSON.parse(line) as { ms: number; since: number }
}

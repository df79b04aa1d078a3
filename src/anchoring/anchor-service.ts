/**
 * The anchor on the main thread: interface, forwarding and masquerade, the hosts it knows, and the engine worker. The
 * list of hosts (invitations and their keys) belongs to the daemon and is given as `AnchorHosts`.
 */
import { formatAddress, type Prefix } from '../core/address.ts'
import { GodwitError } from '../core/errors.ts'
import { formatEndpoint, protocolName } from '../core/flow.ts'
import type {
  ControlRoute,
  DecisionRecord,
  FlowStatus,
  Mechanism,
  Metric,
  Move,
  Offer,
  PeerStatus,
  Recorder,
} from '../core/mechanism.ts'
import type { Guarded } from '../linux/guard.ts'
import type { PathReport } from '../tunnel/events.ts'
import { pathStatus } from '../tunnel/reports.ts'
import { Requests } from '../tunnel/requests.ts'
import { EngineWorker } from '../tunnel/worker.ts'
import type { AnchorPlumbing } from './plumbing.ts'
import type { AnchorSetup, Command, Event, PeerReport } from './protocol.ts'

/** A host as the anchor's store has it. */
export interface KnownHost {
  readonly name: string
  readonly kind: 'godwit' | 'wireguard'
  readonly publicKey: Uint8Array
  readonly presharedKey: Uint8Array
  /** Offered by the host and stored, not in use yet. */
  readonly nextPublicKey?: Uint8Array
  readonly number: number
  /** Milliseconds since the Unix epoch; absent once it has joined. */
  readonly expires?: number
}

export interface AnchorHosts {
  list(): readonly KnownHost[]
  /** Remembers the key that the host wants to be known by, beside the one it has. Throws when it cannot be stored. */
  offerKey(name: string, publicKey: Uint8Array): void
  /** The offered key is in use: the old one is worth nothing, the invitation is redeemed. */
  confirmKey(name: string, publicKey: Uint8Array): void
}

export interface AnchorInit {
  readonly device: string
  readonly mtu: number
  readonly privateKey: Uint8Array
  readonly listenPort: number
  readonly pool4: Prefix
  readonly pool6: Prefix
}

export interface AnchorComponents {
  readonly plumbing: AnchorPlumbing
  /** Puts back what another program takes away; the returned function ends it. */
  readonly protect: (guarded: Guarded) => () => void
  readonly hosts: AnchorHosts
  readonly recorder: Recorder
  readonly wall: () => number
  readonly routes?: readonly ControlRoute[]
}

const EXPIRY_CHECK_MS = 30_000
const MOST_FLOWS_LISTED = 10_000

export class AnchorService implements Mechanism {
  readonly name = 'anchor'
  readonly follows = {
    reason: 'an anchor follows its hosts and has no accesses itself',
    hint: 'move on the host: godwit move WHAT ACCESS',
  }
  readonly routes: readonly ControlRoute[]
  readonly #parts: AnchorComponents
  readonly #init: AnchorInit
  #worker: EngineWorker | undefined
  #peers: readonly PeerReport[] = []
  #paths: readonly PathReport[] = []
  #counters: Readonly<Record<string, number>> = {}
  readonly #served = new Map<string, KnownHost>()
  readonly #requests = new Requests<Extract<Event, { readonly type: 'listed' }>>()
  #expiry: NodeJS.Timeout | undefined
  #unprotect: (() => void) | undefined
  #stopping = false

  constructor(parts: AnchorComponents, init: AnchorInit) {
    this.#parts = parts
    this.#init = init
    this.routes = parts.routes ?? []
  }

  async start(): Promise<void> {
    const { device, mtu, privateKey, listenPort, pool4, pool6 } = this.#init
    const setup: AnchorSetup = { role: 'anchor', device, mtu, privateKey, listenPort, pool4, pool6 }
    try {
      this.#worker = await EngineWorker.start(new URL('./worker.js', import.meta.url), setup, {
        onEvent: (event) => this.#handle(event as Event),
        onEnd: (error) => this.#ended(error),
      })
      this.#parts.plumbing.apply(mtu)
      this.#unprotect = this.#parts.protect({
        name: this.name,
        devices: () => [device],
        restore: () => this.#parts.plumbing.restore(),
      })
      this.refresh()
      this.#expiry = setInterval(() => this.refresh(), EXPIRY_CHECK_MS)
    } catch (error) {
      // Another daemon's interface is not ours to remove.
      if (!(error instanceof GodwitError && error.code === 'TUN_BUSY')) await this.stop()
      throw error
    }
  }

  async stop(): Promise<void> {
    this.#stopping = true
    this.#unprotect?.()
    clearInterval(this.#expiry)
    this.#requests.end(new GodwitError('STOPPING', 'the daemon is stopping'))
    await this.#worker?.stop()
    this.#worker = undefined
    await this.cleanUp()
  }

  async cleanUp(): Promise<void> {
    this.#parts.plumbing.cleanUp()
  }

  /** Serves exactly the hosts that the store has and whose invitation has not expired. Call it when the store changed. */
  refresh(): void {
    const now = this.#parts.wall()
    const wanted = new Map<string, KnownHost>()
    for (const host of this.#parts.hosts.list())
      if (host.expires === undefined || host.expires > now) wanted.set(host.name, host)
    for (const [name, served] of this.#served) {
      const host = wanted.get(name)
      if (host !== undefined && sameHost(host, served)) continue
      this.#served.delete(name)
      this.#post({ type: 'remove-peer', name })
    }
    for (const host of wanted.values()) {
      if (this.#served.has(host.name)) continue
      this.#served.set(host.name, host)
      const { name, kind, publicKey, presharedKey, number, nextPublicKey, expires } = host
      const invited = expires !== undefined
      this.#post({
        type: 'add-peer',
        peer: {
          name,
          kind,
          publicKey,
          presharedKey,
          number,
          invited,
          ...(nextPublicKey && { nextPublicKey }),
        },
      })
    }
  }

  peers(): readonly PeerStatus[] {
    const paths = new Map<string, PathReport[]>()
    for (const path of this.#paths) {
      const list = paths.get(path.peer)
      if (list === undefined) paths.set(path.peer, [path])
      else list.push(path)
    }
    return this.#peers.map((peer) => {
      const own = paths.get(peer.name) ?? []
      const host = this.#served.get(peer.name)
      return {
        name: peer.name,
        kind: host?.kind === 'wireguard' ? 'wireguard' : 'host',
        state: peer.established ? 'up' : 'down',
        paths: own.map((path) => ({ ...pathStatus(path), access: this.#init.device })),
        ...(host && { public_key: Buffer.from(host.publicKey).toString('base64') }),
        addresses: [peer.v4, peer.v6].filter((each) => each !== undefined).map(formatAddress),
      } satisfies PeerStatus
    })
  }

  async flows(): Promise<readonly FlowStatus[]> {
    if (this.#worker === undefined) return []
    const { flows } = await this.#requests.ask((request) =>
      this.#post({ type: 'list', request, limit: MOST_FLOWS_LISTED }),
    )
    return flows.map(({ id, flow, peer, access }) => ({
      id,
      proto: protocolName(flow.protocol),
      src: formatEndpoint(flow.local, flow.localPort),
      dst: formatEndpoint(flow.remote, flow.remotePort),
      app: '',
      mechanism: this.name,
      peer,
      access,
    }))
  }

  /** An anchor follows its hosts (UP-5). */
  async move(): Promise<Move | undefined> {
    return undefined
  }

  offer(): Offer {
    return {
      mechanism: this.name,
      carries: false,
      reason: 'an anchor carries what its hosts send, nothing of its own machine',
      cost: { bytes: 0, rtt_ms: null },
      survives: [],
      needs: [],
    }
  }

  why(): readonly DecisionRecord[] | undefined {
    return undefined
  }

  metrics(): readonly Metric[] {
    return Object.entries(this.#counters).map(([name, value]) => ({
      name: name === 'flows' ? 'godwit_paft_rows' : `godwit_anchor_${name}_total`,
      help: name === 'flows' ? 'Rows of the PAFT.' : `Packets or rows: ${name}.`,
      type: name === 'flows' ? 'gauge' : 'counter',
      value,
    }))
  }

  #handle(event: Event): void {
    const { recorder, hosts } = this.#parts
    switch (event.type) {
      case 'log':
        recorder.log(event.level, event.message)
        break
      case 'status':
        this.#peers = event.peers
        this.#paths = event.paths
        this.#counters = event.counters
        break
      case 'listed':
        this.#requests.answered(event)
        break
      case 'key-offered':
        try {
          hosts.offerKey(event.name, event.publicKey)
          this.#post({ type: 'accept-key', name: event.name, publicKey: event.publicKey })
        } catch (error) {
          recorder.log('error', `the key of ${event.name} cannot be stored: ${(error as Error).message}`)
        }
        break
      case 'key-confirmed': {
        hosts.confirmKey(event.name, event.publicKey)
        const host = hosts.list().find(({ name }) => name === event.name)
        if (host !== undefined) this.#served.set(event.name, host)
        recorder.log('info', `${event.name} has joined`)
        break
      }
      default:
        break
    }
  }

  #post(command: Command): void {
    this.#worker?.post(command)
  }

  #ended(error: GodwitError | undefined): void {
    this.#worker = undefined
    if (!this.#stopping) throw error ?? new GodwitError('ENGINE_FAILED', 'the packet engine ended')
  }
}

function sameHost(a: KnownHost, b: KnownHost): boolean {
  return a.number === b.number && a.kind === b.kind && Buffer.from(a.publicKey).equals(b.publicKey)
}

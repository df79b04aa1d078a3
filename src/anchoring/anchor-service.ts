/**
 * The anchor on the main thread: interface, forwarding and masquerade, the hosts it knows, and the engine worker. The
 * list of hosts (invitations and their keys) belongs to the daemon and is given as `AnchorHosts`.
 */
import * as z from 'zod'
import { formatAddress, type Prefix } from '../core/address.ts'
import type { GodwitError } from '../core/errors.ts'
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
import { postRoute } from '../core/mechanism.ts'
import { Shared } from '../core/shared.ts'
import { takeEvery } from '../core/steps.ts'
import { encodeKey } from '../crypto/keys.ts'
import type { Guarded } from '../linux/guard.ts'
import type { Passage } from '../linux/passage/passage.ts'
import type { ConnectionTableWatch } from '../mechanism/connection-table.ts'
import { CarrierListener } from '../tunnel/carrier/listener.ts'
import type { CarrierServerInit } from '../tunnel/carrier/server.ts'
import type { PathReport } from '../tunnel/engine/events.ts'
import type { SeenStore } from '../tunnel/engine/greetings.ts'
import { pathStatus } from '../tunnel/engine/reports.ts'
import {
  deviceIsForeign,
  type OwnEvent,
  type StartEngine,
  type TimestampStore,
  TunnelHost,
} from '../tunnel/engine/tunnel-host.ts'
import { AnchorRekeying } from './anchor-rekeying.ts'
import type { PortForwards } from './forwards.ts'
import type { KeyRotation } from './key-rotation.ts'
import type { LastSeen } from './last-seen.ts'
import type { AnchorPlumbing } from './plumbing.ts'
import type { AnchorAnswers, AnchorCommand, AnchorEvent, AnchorSetup, EngineStatus } from './protocol.ts'
import { history } from './report.ts'
import { Status } from './wire.ts'

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
  /** The anchor's public key that its invitation names. */
  readonly anchorKey?: Uint8Array
}

/** A key that was a host's or an invitation's. */
export interface GoneHost {
  readonly name: string
  readonly publicKey: Uint8Array
  readonly presharedKey: Uint8Array
  readonly why: 'used' | 'expired' | 'removed'
}

export interface AnchorHosts {
  list(): readonly KnownHost[]
  /** Keys that are no longer valid. Their holders are told the reason and get nothing else. */
  gone(): readonly GoneHost[]
  /**
   * Stores a key that the host wants to use, beside its current one. Throws when it cannot be written; the key is valid
   * all the same.
   */
  offerKey(name: string, publicKey: Uint8Array): void
  /** The offered key is in use: the old one is worth nothing, the invitation is redeemed. Throws as above. */
  confirmKey(name: string, publicKey: Uint8Array): void
  /** Writes what could not be written. */
  write(): void
}

export interface AnchorInit {
  readonly device: string
  readonly mtu: number
  readonly privateKey: Uint8Array
  /** Those after the first are done without where another program has them. */
  readonly listenPorts: readonly number[]
  readonly pool4: Prefix
  readonly pool6: Prefix
  /** How long an invitation can be taken. */
  readonly invitationHours: number
  /** Takes new keys. */
  readonly rotation: KeyRotation
  /** Takes hosts by WebSocket too. */
  readonly websocket?: () => CarrierServerInit
}

export interface AnchorComponents {
  readonly plumbing: AnchorPlumbing
  /** Past the packet filters of others. */
  readonly passage: Pick<Passage, 'restore' | 'cleanUp' | 'watch'>
  /** Ports that lead to hosts. */
  readonly forwards: Pick<PortForwards, 'apply' | 'restore' | 'cleanUp'>
  /** Restores what another program removes; the returned function ends this. */
  readonly protect: (guarded: Guarded) => () => void
  readonly hosts: AnchorHosts
  readonly recorder: Recorder
  /** Timestamp of the handshakes with which the anchor greets its hosts when it starts. */
  readonly timestamp?: TimestampStore
  /** Where hosts were last, over restarts. */
  readonly seen?: SeenStore
  /** When they were. */
  readonly lastSeen?: LastSeen
  readonly wall: () => number
  readonly connections?: Pick<ConnectionTableWatch, 'check'>
  readonly routes?: readonly ControlRoute[]
  /** Default: an engine in a worker thread. */
  readonly startEngine?: StartEngine
}

const REKEY = z.strictObject({ wait_ms: z.int().min(0).max(60_000), finish: z.boolean().optional() })
/** How often it is looked whether invitations have ended, and whether the machine has room. */
const LOOK_MS = 30_000
/** Delay before another attempt to write a key that could not be stored. */
const STORE_AGAIN_MS = 5_000
const MOST_FLOWS_LISTED = 10_000

export class AnchorService implements Mechanism {
  readonly name = 'anchor'
  readonly follows = {
    reason: 'an anchor has no accesses of its own; its hosts choose theirs',
    hint: 'move on the host: godwit move WHAT ACCESS',
  }
  readonly routes: readonly ControlRoute[]
  readonly #parts: AnchorComponents
  readonly #init: AnchorInit
  readonly #tunnel: TunnelHost<AnchorSetup, AnchorCommand, AnchorEvent, EngineStatus, AnchorAnswers>
  #carriers: CarrierListener | undefined
  readonly #served = new Map<string, KnownHost>()
  readonly #keys: AnchorRekeying
  /** Names of earlier keys that the engine has, for refusing them. */
  readonly #refused = new Set<string>()
  #expiry: NodeJS.Timeout | undefined
  /** Hosts whose own key is in memory alone. */
  readonly #unwritten = new Set<string>()
  #storing: NodeJS.Timeout | undefined
  #ending = false
  #unprotect: (() => void) | undefined

  #flowsLeftOut = 0
  /** Listing flows blocks the engine's packets for a moment, so callers at the same time share one list. */
  readonly #plainFlows = new Shared<readonly FlowStatus[]>()
  readonly #watchedFlows = new Shared<readonly FlowStatus[]>()
  #invitationHours: number

  constructor(parts: AnchorComponents, init: AnchorInit) {
    this.#parts = parts
    this.#init = init
    this.routes = [
      ...(parts.routes ?? []),
      postRoute('/v1/anchor/rekey', REKEY, ({ body }) =>
        this.#keys.rekey(body.wait_ms, body.finish === true),
      ),
    ]
    this.#invitationHours = init.invitationHours
    const { websocket: _, invitationHours: __, rotation, ...setup } = init
    this.#tunnel = new TunnelHost(parts, {
      entry: new URL('./worker.js', import.meta.url),
      setup: { role: 'anchor', ...setup },
      onEvent: (event) => this.#handle(event),
      onStatus: ({ paths }) => {
        this.#carriers?.follow(paths)
        this.#parts.lastSeen?.follow(paths)
      },
    })
    this.#keys = new AnchorRekeying({
      rotation,
      hosts: () => [...this.#served.values()],
      post: (command) => this.#tunnel.post(command),
    })
  }

  get failure(): Promise<GodwitError> {
    return this.#tunnel.failure
  }

  responds(): Promise<boolean> {
    return this.#tunnel.responds()
  }

  async start(): Promise<void> {
    try {
      await this.#tunnel.start()
      const { plumbing, passage, forwards } = this.#parts
      plumbing.apply(this.#init.mtu)
      passage.restore()
      this.#unprotect = this.#parts.protect({
        name: this.name,
        devices: () => [this.#init.device],
        restore: () => [...plumbing.restore(), ...forwards.restore(), ...passage.restore()],
        watch: (changed) => passage.watch(changed),
      })
      this.refresh()
      await this.#takeWebSockets()
      this.#expiry = setInterval(() => this.#look(), LOOK_MS)
    } catch (error) {
      // What made it fail may be in the way here too, and is told.
      if (!deviceIsForeign(error)) await this.stop().catch(() => {})
      throw error
    }
  }

  get invitationHours(): number {
    return this.#invitationHours
  }

  /** Takes another setting while hosts stay. */
  reload(invitationHours: number): void {
    this.#invitationHours = invitationHours
  }

  async #takeWebSockets(): Promise<void> {
    const { websocket } = this.#init
    if (websocket === undefined) return
    const { recorder } = this.#parts
    const report = (level: 'info' | 'warn', message: string) => recorder.log(level, message)
    this.#carriers = new CarrierListener({ report }, websocket())
    await this.#carriers.start()
  }

  async stop(): Promise<void> {
    this.#unprotect?.()
    clearInterval(this.#expiry)
    await this.#tunnel.stop()
    this.#parts.lastSeen?.write()
    await this.#carriers?.stop()
    this.#ending = true
    this.#storeAgain()
    await this.cleanUp()
  }

  async cleanUp(): Promise<void> {
    const { passage, forwards, plumbing } = this.#parts
    takeEvery(
      () => passage.cleanUp(),
      () => forwards.cleanUp(),
      () => plumbing.cleanUp(),
    )
  }

  #look(): void {
    this.refresh()
    this.#parts.connections?.check()
  }

  /**
   * Serves exactly the hosts that the store has and whose invitation has not expired, and their ports. Call it when a store
   * changed.
   */
  refresh(): void {
    const now = this.#parts.wall()
    const wanted = new Map<string, KnownHost>()
    const gone: GoneHost[] = [...this.#parts.hosts.gone()]
    for (const host of this.#parts.hosts.list())
      if (host.expires === undefined || host.expires > now) wanted.set(host.name, host)
      else gone.push({ ...host, why: 'expired' })
    for (const [name, served] of this.#served) {
      const host = wanted.get(name)
      if (host !== undefined && sameHost(host, served)) continue
      this.#served.delete(name)
      this.#tunnel.removePeer(name)
      this.#unwritten.delete(name)
    }
    for (const host of wanted.values()) {
      if (this.#served.has(host.name)) continue
      this.#served.set(host.name, host)
      const { name, kind, publicKey, presharedKey, number, nextPublicKey, expires } = host
      this.#tunnel.addPeer({
        name,
        kind,
        publicKey,
        presharedKey,
        number,
        invited: expires !== undefined,
        ...(nextPublicKey && { nextPublicKey }),
        ...this.#keys.setup,
      })
    }
    this.#keys.settle()
    this.#refuse(gone)
    this.#parts.lastSeen?.keep((name) => wanted.has(name))
    this.#parts.forwards.apply()
  }

  #refuse(gone: readonly GoneHost[]): void {
    // Names of hosts have no colon.
    const wanted = new Map(gone.map((each) => [`${each.why}:${encodeKey(each.publicKey)}`, each]))
    for (const id of [...this.#refused])
      if (!wanted.has(id)) {
        this.#refused.delete(id)
        this.#tunnel.removePeer(id)
      }
    for (const [id, { name, why, publicKey, presharedKey }] of wanted) {
      if (this.#refused.has(id)) continue
      this.#refused.add(id)
      this.#tunnel.addPeer({
        name: id,
        calls: name,
        kind: 'godwit',
        publicKey,
        presharedKey,
        number: 0,
        refused: { used: Status.USED, expired: Status.EXPIRED, removed: Status.REMOVED }[why],
      })
    }
  }

  peers(): readonly PeerStatus[] {
    const paths = new Map<string, PathReport[]>()
    const { status } = this.#tunnel
    for (const path of status?.paths ?? []) {
      const list = paths.get(path.peer)
      if (list === undefined) paths.set(path.peer, [path])
      else list.push(path)
    }
    return (status?.peers ?? []).map((peer) => {
      const own = paths.get(peer.name) ?? []
      const host = this.#served.get(peer.name)
      const lastSeen = this.#parts.lastSeen?.get(peer.name)
      return {
        name: peer.name,
        kind: host?.kind === 'wireguard' ? 'wireguard' : 'host',
        state: peer.established ? 'up' : 'down',
        paths: own.map((path) => ({ ...pathStatus(path), access: this.#init.device })),
        ...(host && { public_key: Buffer.from(host.publicKey).toString('base64') }),
        addresses: [peer.v4, peer.v6].filter((each) => each !== undefined).map(formatAddress),
        ...(lastSeen !== undefined && { last_seen: lastSeen }),
      } satisfies PeerStatus
    })
  }

  get flowsLeftOut(): number {
    return this.#flowsLeftOut
  }

  flows(watched = false): Promise<readonly FlowStatus[]> {
    return (watched ? this.#watchedFlows : this.#plainFlows).ask(() => this.#listFlows(watched))
  }

  async #listFlows(watched: boolean): Promise<readonly FlowStatus[]> {
    const { flows, total } = await this.#tunnel.ask('list', { limit: MOST_FLOWS_LISTED, watched })
    this.#flowsLeftOut = total - flows.length
    return flows.map((report) => {
      const { id, flow, peer, access } = report
      return {
        id,
        proto: protocolName(flow.protocol),
        src: formatEndpoint(flow.local, flow.localPort),
        dst: formatEndpoint(flow.remote, flow.remotePort),
        app: '',
        mechanism: this.name,
        peer,
        access,
        ...history(report),
      }
    })
  }

  /** An anchor follows its hosts (UP-5). */
  async move(): Promise<Move | undefined> {
    return undefined
  }

  offer(): Offer {
    return {
      mechanism: this.name,
      carries: false,
      reason: 'an anchor carries only traffic of its hosts, not of its own machine',
      cost: { bytes: 0, rtt_ms: null },
      survives: [],
      needs: [],
    }
  }

  why(): readonly DecisionRecord[] | undefined {
    return undefined
  }

  metrics(): readonly Metric[] {
    return Object.entries(this.#tunnel.status?.counters ?? {}).map(([name, value]) => ({
      name: name === 'flows' ? 'godwit_paft_rows' : `godwit_anchor_${name}_total`,
      help: name === 'flows' ? 'Rows of the PAFT.' : `Packets or rows: ${name}.`,
      type: name === 'flows' ? 'gauge' : 'counter',
      value,
    }))
  }

  #handle(event: OwnEvent<AnchorEvent>): void {
    const { recorder, hosts } = this.#parts
    const { name, publicKey } = event
    if (event.type === 'key-confirmed' && event.whose === 'own') {
      this.#keys.confirmed(name, publicKey)
      return
    }
    switch (event.type) {
      case 'key-offered': {
        const stored = this.#store(name, () => hosts.offerKey(name, publicKey))
        // A host that has joined forgets its old key for the new one: it offers that again until it is safe here.
        if (stored || this.#served.get(name)?.expires !== undefined)
          this.#tunnel.post({ type: 'accept-key', name, publicKey })
        break
      }
      case 'key-confirmed': {
        const invited = this.#served.get(name)?.expires !== undefined
        this.#store(name, () => hosts.confirmKey(name, publicKey))
        const host = hosts.list().find((each) => each.name === name)
        if (host !== undefined) this.#served.set(name, host)
        this.refresh()
        recorder.log('info', invited ? `${name} has joined` : `${name} has a new key`)
        break
      }
      default:
        event satisfies never
    }
  }

  /** A full disk must not keep a host from its anchor. Returns whether the change is on the disk. */
  #store(name: string, change: () => void): boolean {
    try {
      change()
      return true
    } catch (error) {
      if (!this.#unwritten.has(name))
        this.#parts.recorder.log(
          'error',
          `the key of ${name} cannot be stored: ${(error as Error).message}; godwit tries again, but the key is lost if the anchor stops before`,
        )
      this.#unwritten.add(name)
      this.#storing ??= setTimeout(() => this.#storeAgain(), STORE_AGAIN_MS)
      return false
    }
  }

  #storeAgain(): void {
    clearTimeout(this.#storing)
    this.#storing = undefined
    if (this.#unwritten.size === 0) return
    try {
      this.#parts.hosts.write()
      for (const name of this.#unwritten) this.#parts.recorder.log('info', `the key of ${name} is stored`)
      this.#unwritten.clear()
    } catch {
      // It has been logged already.
      if (!this.#ending) this.#storing = setTimeout(() => this.#storeAgain(), STORE_AGAIN_MS)
    }
  }
}

function sameHost(a: KnownHost, b: KnownHost): boolean {
  return a.number === b.number && a.kind === b.kind && Buffer.from(a.publicKey).equals(b.publicKey)
}

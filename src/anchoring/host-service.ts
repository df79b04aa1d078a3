/**
 * The mobile host on the main thread (UP-36, MMCE): accesses, routing, which application a flow belongs to, and the
 * engine worker that carries the packets. Implements what the daemon asks of a mechanism.
 */
import * as z from 'zod'
import { type AccessMonitor, MeteredLinks, noAccess } from '../access/index.ts'
import { formatAddress, type Prefix, parseAddress } from '../core/address.ts'
import { type GodwitError, usageError } from '../core/errors.ts'
import { formatEndpoint, protocolName } from '../core/flow.ts'
import type {
  Application,
  ControlRoute,
  DecisionRecord,
  FlowStatus,
  Mechanism,
  Metric,
  Move,
  MoveOptions,
  Offer,
  PeerStatus,
  Pin,
  Recorder,
  WayStatus,
} from '../core/mechanism.ts'
import { postRoute, takesPackets } from '../core/mechanism.ts'
import { matchesPattern } from '../core/pattern.ts'
import { type FlowFacts, formatSelector, type Selector } from '../core/selector.ts'
import { Shared } from '../core/shared.ts'
import { subjectOf } from '../core/subject.ts'
import type { Cgroups } from '../linux/cgroup.ts'
import type { Guarded } from '../linux/guard.ts'
import type { Ledger } from '../linux/ledger.ts'
import { watchRemovedTables } from '../linux/nf-watch.ts'
import type { FlowOwners } from '../linux/owners.ts'
import type { CarriedPeer, HttpProxy } from '../tunnel/carrier/carriers.ts'
import type { EndpointCache, EndpointResolver, HostPort } from '../tunnel/engine/endpoints.ts'
import { FIRST_MTU, MAX_OVERHEAD, narrowestMtu } from '../tunnel/engine/inner-mtu.ts'
import { isUsable, pathStatus } from '../tunnel/engine/reports.ts'
import {
  deviceIsForeign,
  type OwnEvent,
  type StartEngine,
  type TimestampStore,
  TunnelHost,
} from '../tunnel/engine/tunnel-host.ts'
import type { AnchorKeys } from './anchor-keys.ts'
import { FlowApplications, type HostPolicy } from './applications.ts'
import { HostKeys, type KeyedPeer } from './host-keys.ts'
import type { KeyRotation } from './key-rotation.ts'
import type { NameServers } from './name-servers.ts'
import type { HostPlumbing } from './plumbing.ts'
import { PortalWatch } from './portal.ts'
import type {
  AccessSetup,
  EngineStatus,
  FlowReport,
  HostAnswers,
  HostCommand,
  HostEvent,
  HostSetup,
} from './protocol.ts'
import { history, silentReason } from './report.ts'

export interface HostPeer extends KeyedPeer {
  /** In the order in which they are tried. */
  readonly endpoints: readonly HostPort[]
  /** Where the peer accepts WebSockets. */
  readonly websocket?: Omit<CarriedPeer, 'name'>
  readonly presharedKey?: Uint8Array
  readonly keepalive: number
  /** Virtual address that a WireGuard server assigned to this host. */
  readonly v4?: Uint8Array
  readonly v6?: Uint8Array
}

export interface AccessUse {
  readonly pattern: string
  readonly use: 'normal' | 'backup' | 'never'
  readonly cost: number
}

export interface MobileHostInit {
  readonly device: string
  readonly ledger: Ledger
  readonly privateKey: Uint8Array
  readonly fix4: Prefix
  readonly fix6: Prefix
  /** The virtual interface disappears with a killed daemon, and traffic takes the ordinary routes. Default: it stays. */
  readonly passing?: boolean
  /** MTU of the virtual interface; absent: the smallest that its paths carry. */
  readonly mtu?: number
  readonly peers: readonly HostPeer[]
  /** For WebSockets. */
  readonly proxy?: HttpProxy
  /** The first is the default. */
  readonly policies: readonly HostPolicy[]
  readonly accesses: readonly AccessUse[]
  /** Takes new keys. */
  readonly rotation: KeyRotation
  /** Takes new keys of anchors. */
  readonly anchorKeys: AnchorKeys
  /** Metered accesses become backups unless `accesses` has an entry for them. Default: no. */
  readonly metered?: boolean
  /** Looks for captive portals. Default: no. */
  readonly captivePortal?: boolean
}

/** The settings that a running host can change. */
export interface LiveSettings extends Pick<MobileHostInit, 'policies' | 'accesses'> {
  readonly except: readonly Selector[]
}

export interface MobileHostComponents {
  readonly monitor: AccessMonitor
  readonly plumbing: HostPlumbing
  readonly nameServers: NameServers
  /** Restores what another program removes; the returned function ends this. */
  readonly protect: (guarded: Guarded) => () => void
  readonly owners: FlowOwners
  readonly cgroups: Cgroups | undefined
  readonly recorder: Recorder
  /** Addresses of endpoints that are names, over restarts. */
  readonly endpoints: EndpointCache
  /** Resolves them over each access. */
  readonly names: EndpointResolver
  readonly timestamp: TimestampStore
  /** Default: an engine in a worker thread. */
  readonly startEngine?: StartEngine
}

const MOST_FLOWS_LISTED = 10_000
/** As many as the engine has rows. */
const MOST_FLOWS = 1 << 17
/** How long answers to probes are waited for; a status comes once a second. */
const PING_MS = 1500
const REKEY = z.strictObject({ wait_ms: z.int().min(0).max(60_000) })

export class MobileHostService implements Mechanism {
  readonly name = 'anchoring'
  /** UPMT's static mode: the anchor must not move the flows by what arrives, until the next move without it. */
  readonly moveOptions = ['static']
  readonly routes: readonly ControlRoute[]
  #init: MobileHostInit
  readonly #parts: MobileHostComponents
  readonly #applications: FlowApplications
  readonly #tunnel: TunnelHost<HostSetup, HostCommand, HostEvent, EngineStatus, HostAnswers>
  #unprotect: (() => void) | undefined
  #unroute: (() => void) | undefined
  #unwatch: (() => void) | undefined
  #flowsLeftOut = 0
  /** Listing flows blocks the engine's packets for a moment, so callers at the same time share one list. */
  readonly #plainFlows = new Shared<readonly FlowStatus[]>()
  readonly #watchedFlows = new Shared<readonly FlowStatus[]>()
  /** The access that everything was moved to by hand. */
  #all: string | undefined
  #portals: PortalWatch | undefined
  #metered: MeteredLinks | undefined
  readonly #keys: HostKeys

  constructor(parts: MobileHostComponents, init: MobileHostInit) {
    this.#parts = parts
    this.#init = init
    this.#applications = new FlowApplications(parts.owners, init.policies)
    this.routes = [postRoute('/v1/host/rekey', REKEY, ({ body }) => this.#keys.rekey(body.wait_ms))]
    const { device, fix4, fix6, privateKey, ledger, mtu, passing, peers, proxy } = init
    const carried = peers.flatMap(({ name, websocket }) => (websocket ? [{ name, ...websocket }] : []))
    const mark = ledger.anchoring.bypassMark
    this.#tunnel = new TunnelHost(parts, {
      entry: new URL('./worker.js', import.meta.url),
      setup: {
        role: 'host',
        device,
        mtu: mtu ?? FIRST_MTU,
        privateKey,
        fix4: fix4.address,
        fix6: fix6.address,
        mark,
        ...(passing !== undefined && { passing }),
      },
      onEvent: (event) => this.#handle(event),
      onStatus: (status) => this.#report(status),
      works: ({ peers, paths }) =>
        peers.some(
          ({ name, v4, v6, joining }) =>
            joining !== true &&
            (v4 !== undefined || v6 !== undefined) &&
            paths.some(({ peer, state }) => peer === name && isUsable(state)),
        ),
      ...(carried.length > 0 && { carriers: { peers: carried, mark, ...(proxy && { proxy }) } }),
      // UP-37: the virtual interface's MTU is what the narrowest path leaves.
      ...(mtu === undefined && {
        mtu: { of: narrowestMtu, set: (fitting) => parts.plumbing.setMtu(fitting) },
      }),
    })
    this.#keys = new HostKeys({
      privateKey,
      peers,
      rotation: init.rotation,
      anchorKeys: init.anchorKeys,
      log: (level, message) => parts.recorder.log(level, message),
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
      this.#postPolicies()
      for (const peer of this.#init.peers) this.#addPeer(peer)
      this.#parts.monitor.start()
      this.#unroute = this.#parts.monitor.useRouting()
      this.#tunnel.followAccesses(this.#parts.monitor, (name) => this.#accessSetup(name))
      this.#parts.plumbing.apply(this.#init.mtu ?? FIRST_MTU)
      this.#unwatch = this.#parts.monitor.watch(() => this.#parts.plumbing.followNetwork())
      this.#parts.nameServers.start()
      this.#unprotect = this.#parts.protect({
        name: this.name,
        devices: () => [this.#init.device],
        restore: () => this.#parts.plumbing.restore(),
        watch: (removed) => watchRemovedTables(undefined, removed),
      })
      if (this.#init.metered === true) this.#metered = this.#watchMetered()
      if (this.#init.captivePortal === true) this.#portals = this.#watchPortals()
    } catch (error) {
      if (!deviceIsForeign(error)) await this.stop()
      throw error
    }
  }

  #postPolicies(): void {
    this.#tunnel.post({
      type: 'policies',
      policies: this.#init.policies.map(({ name, prefer, fallback, moveUp, peer }) => ({
        name,
        prefer,
        fallback,
        moveUp,
        ...(peer !== undefined && { peer }),
      })),
    })
  }

  /**
   * Applies these settings while flows continue; each flow goes where its policy now says. Moves by hand stay.
   * Repeatable: what failed is done by the next call.
   */
  async reload({ except, policies, accesses }: LiveSettings): Promise<void> {
    this.#parts.plumbing.change({ except, selected: policies.flatMap(({ match }) => match) })
    if (JSON.stringify(accesses) !== JSON.stringify(this.#init.accesses)) {
      this.#init = { ...this.#init, accesses }
      this.#tunnel.tellAccesses()
    }
    if (JSON.stringify(policies) === JSON.stringify(this.#init.policies)) return
    const { flows } = await this.#tunnel.ask('list', { limit: MOST_FLOWS, watched: false })
    const single = flows.flatMap(({ id, pinned }) =>
      pinned === undefined || pinned === this.#all ? [] : [[id, pinned] as const],
    )
    this.#init = { ...this.#init, policies }
    this.#postPolicies()
    this.#tunnel.post({
      type: 'identify',
      flows: this.#applications.replacePolicies(policies, new Map(single)),
    })
  }

  untilReady(): Promise<void> {
    return this.#tunnel.untilReady()
  }

  waiting(): string {
    const held = 'traffic for the tunnel is held until then'
    const states = this.#parts.monitor.accesses()
    const up = states.filter(({ name, state }) => state !== 'down' && this.#accessSetup(name) !== undefined)
    if (up.length === 0) {
      const why = states.map(({ name, reason }) => `${name}: ${reason ?? 'down'}`).join('; ')
      return `no access network is up${why === '' ? '' : ` (${why})`}; ${held}`
    }
    const peers = this.peers().map(({ name, refused }) => {
      const { endpoints } = this.#init.peers.find((peer) => peer.name === name)!
      const where = endpoints.map(({ host, port }) => `${host}, port ${port}`).join('; ')
      const six =
        endpoints.every(({ host }) => isIpv6(host)) && !up.some(({ families }) => families.includes(6))
      const why = refused ?? (six ? 'no network of this host has IPv6' : undefined)
      return `${name} (${where})${why === undefined ? '' : `: ${why}`}`
    })
    return `waiting for an answer from ${peers.join(' or ')} over ${up.map(({ name }) => name).join(', ')}; ${held}`
  }

  async stop(): Promise<void> {
    this.#unprotect?.()
    this.#unwatch?.()
    this.#parts.nameServers.stop()
    this.#metered?.stop()
    this.#metered = undefined
    this.#portals?.stop()
    this.#portals = undefined
    this.#tunnel.retire()
    // Rules before the worker, so that traffic takes the ordinary routes before the engine stops.
    await this.cleanUp()
    this.#unroute?.()
    await this.#tunnel.stop()
    this.#parts.plumbing.cleanUp()
  }

  async cleanUp(): Promise<void> {
    this.#parts.nameServers.cleanUp()
    this.#parts.plumbing.cleanUp()
  }

  // ---- what is now

  peers(): readonly PeerStatus[] {
    return this.#init.peers.map((peer) => {
      const { status } = this.#tunnel
      const report = status?.peers.find(({ name }) => name === peer.name)
      const paths = (status?.paths ?? []).filter((path) => path.peer === peer.name)
      const works = paths.some(({ state }) => isUsable(state))
      const addresses = [report?.v4, report?.v6].filter((each) => each !== undefined).map(formatAddress)
      return {
        name: peer.name,
        kind: peer.kind,
        state: works && addresses.length > 0 ? 'up' : paths.length > 0 ? 'connecting' : 'down',
        paths: paths.map((path) =>
          path.carrier === undefined || peer.websocket === undefined
            ? pathStatus(path)
            : { ...pathStatus(path), remote: peer.websocket.url },
        ),
        public_key: this.#keys.keyOf(peer),
        addresses,
        ...(report?.refused !== undefined && { refused: report.refused }),
      } satisfies PeerStatus
    })
  }

  /** Probes every path and reports the results a moment later, or the reason why there is no path. */
  async ping(): Promise<readonly WayStatus[]> {
    this.#tunnel.post({ type: 'wake' })
    await new Promise((done) => setTimeout(done, PING_MS))
    const accesses = this.#parts.monitor
      .accesses()
      .filter(({ name }) => this.#accessSetup(name) !== undefined)
    return this.peers().flatMap((peer) =>
      accesses.flatMap(({ name, state, reason }): WayStatus[] => {
        const { endpoints } = this.#init.peers.find((each) => each.name === peer.name)!
        const [{ host, port }] = endpoints as [HostPort]
        const base = { peer: peer.name, access: name, rtt_ms: null, mtu: null, ok: false }
        const configured = { ...base, remote: `${host}:${port}` }
        if (state === 'down') return [{ ...configured, reason: `down: ${reason}` }]
        const paths = peer.paths.filter(({ access }) => access === name)
        if (paths.length === 0)
          return [{ ...configured, reason: `${host} has no known address over ${name}` }]
        return paths.map((path) => {
          const ok = takesPackets(path) && peer.refused === undefined
          const { remote, rtt_ms, mtu = null } = path
          return ok
            ? { ...base, ok, remote, rtt_ms, mtu }
            : {
                ...base,
                remote,
                reason: peer.refused ?? silentReason(remote),
              }
        })
      }),
    )
  }

  get flowsLeftOut(): number {
    return this.#flowsLeftOut
  }

  flows(watched = false): Promise<readonly FlowStatus[]> {
    return (watched ? this.#watchedFlows : this.#plainFlows).ask(() => this.#listFlows(watched))
  }

  async #listFlows(watched: boolean): Promise<readonly FlowStatus[]> {
    const listed = await this.#tunnel.ask('list', { limit: MOST_FLOWS_LISTED, watched })
    this.#flowsLeftOut = listed.total - listed.flows.length
    const living = new Set<string>()
    const flows = listed.flows.map((report) => {
      living.add(report.id)
      return this.#status(report)
    })
    if (listed.total <= MOST_FLOWS_LISTED) this.#applications.keep(living)
    return flows
  }

  #status(report: FlowReport): FlowStatus {
    const { flow } = report
    return {
      id: report.id,
      proto: protocolName(flow.protocol),
      src: formatEndpoint(flow.local, flow.localPort),
      dst: formatEndpoint(flow.remote, flow.remotePort),
      app: this.#applications.name(report.app),
      mechanism: this.name,
      peer: report.peer,
      access: report.access,
      policy: report.policy,
      ...history(report),
      ...(report.pinned !== undefined && { pinned: report.pinned }),
    }
  }

  offer(flow: FlowFacts): Offer {
    const family = flow.dst?.length === 16 ? 6 : 4
    const up = this.peers().filter(({ state }) => state === 'up')
    const rtts = up.flatMap(({ paths }) => paths.flatMap(({ rtt_ms }) => rtt_ms ?? []))
    const has = (this.#tunnel.status?.peers ?? []).some(
      ({ v4, v6 }) => (family === 6 ? v6 : v4) !== undefined,
    )
    const outside = this.#parts.plumbing.whyOutside(flow)
    const obstacle =
      outside ??
      (up.length === 0
        ? 'no anchor answers'
        : has
          ? undefined
          : `no anchor has assigned this host an IPv${family} address`)
    return {
      mechanism: this.name,
      carries: obstacle === undefined,
      reason: obstacle ?? `${up.map(({ name }) => name).join(' and ')} carries it, over any access`,
      cost: { bytes: MAX_OVERHEAD, rtt_ms: rtts.length === 0 ? null : Math.min(...rtts) },
      survives: ['access', 'address', 'outage', 'restart'],
      needs: [],
    }
  }

  why(id: string): readonly DecisionRecord[] | undefined {
    const record = this.#applications.why(id, this.name)
    return record === undefined ? undefined : [record]
  }

  metrics(): readonly Metric[] {
    return Object.entries(this.#tunnel.status?.counters ?? {}).map(([name, value]) => ({
      name: name === 'flows' ? 'godwit_paft_rows' : `godwit_anchoring_${name}_total`,
      help: name === 'flows' ? 'Rows of the PAFT.' : `Packets or rows: ${name}.`,
      type: name === 'flows' ? 'gauge' : 'counter',
      value,
    }))
  }

  // ---- moves and applications

  async move(what: Selector, access: string, options: MoveOptions = {}): Promise<Move | undefined> {
    const text = formatSelector(what)
    let flows: readonly string[] | 'all' = 'all'
    if (what.kind !== 'all') {
      await this.flows()
      flows = this.#applications.select(what)
      if (flows.length === 0 && what.kind === 'flow') return undefined
    }
    const moved = await this.#tunnel.ask('move', {
      subject: subjectOf(text),
      flows,
      access,
      static: options.static === true,
    })
    if (what.kind === 'all') {
      this.#applications.followNone()
      this.#all = access
    } else if (what.kind !== 'flow') this.#applications.follow(what, access)
    return moved.flows > 0 || what.kind === 'all'
      ? { flows: moved.flows }
      : { flows: 0, note: `no flow matches ${text} now; new ones will use ${access}` }
  }

  async giveBack(what: Selector): Promise<Move | undefined> {
    const listed = await this.flows()
    let ids: readonly string[] = listed.map(({ id }) => id)
    let changed = false
    if (what.kind === 'all') {
      changed = this.#all !== undefined || this.#applications.followed().length > 0
      this.#applications.followNone()
      this.#all = undefined
    } else {
      ids = this.#applications.select(what)
      if (ids.length === 0 && what.kind === 'flow') return undefined
      changed = this.#applications.unfollow(what)
    }
    const back = {
      subject: subjectOf(formatSelector(what)),
      flows: what.kind === 'all' ? 'all' : ids,
      static: false,
    } as const
    const moved = await this.#tunnel.ask('move', back)
    // `godwit run --access` is not a move by hand.
    for (const [access, flows] of this.#applications.started(ids))
      await this.#tunnel.ask('move', { ...back, flows, access })
    if (what.kind !== 'all' && moved.flows === 0 && !changed && this.#all !== undefined)
      return { flows: 0, note: `everything was moved to ${this.#all} by hand; to undo: godwit move all auto` }
    return { flows: moved.flows }
  }

  pins(): readonly Pin[] {
    const all = this.#all === undefined ? [] : [{ what: 'all', access: this.#all }]
    return [...this.#applications.followed(), ...all]
  }

  async adopt(application: Application): Promise<void> {
    const { policy } = application
    if (policy !== undefined && !this.#init.policies.some(({ name }) => name === policy)) {
      throw usageError(`there is no policy ${policy}`, {
        hint: `policies: ${this.#init.policies.map(({ name }) => name).join(', ')}`,
      })
    }
    const { access } = application
    const { monitor } = this.#parts
    if (access !== undefined && monitor.access(access) === undefined)
      throw noAccess(access, monitor.accesses(), monitor.unused())
    this.#parts.cgroups?.setMark(application.cgroup, this.#markOf(application))
    if (application.direct !== true) this.#applications.adopt(application)
  }

  /** Past the tunnel its sockets go by main, or by the access that was asked for. */
  #markOf({ direct, access }: Application): number {
    const { ledger } = this.#init
    if (direct !== true) return ledger.anchoring.control
    const table = access === undefined ? undefined : this.#parts.monitor.table(access)
    return table === undefined ? ledger.anchoring.bypassMark : ledger.accessMark(table)
  }

  async release(application: Application): Promise<void> {
    this.#applications.release(application)
  }

  // ---- events of the engine

  #handle(event: OwnEvent<HostEvent>): void {
    const { recorder, monitor } = this.#parts
    switch (event.type) {
      case 'new-flows':
        this.#identify(event.flows)
        break
      case 'traffic':
        monitor.setTraffic(event.flows)
        break
      case 'send-failed':
        monitor.checkCarriers()
        break
      case 'decision':
        recorder.decision({
          at: Date.now(),
          mechanism: this.name,
          subject: event.subject,
          chosen: event.chosen,
          reason: event.reason,
          evidence: event.evidence,
        })
        break
      case 'handover':
        recorder.handover(
          {
            at: event.at,
            subject: event.subject,
            from: event.from,
            to: event.to,
            cause: event.cause,
            gap_ms: null,
            lost_packets: null,
          },
          event.key,
        )
        break
      case 'handover-measured':
        recorder.measured?.(event.key, {
          gap_ms: event.gapMs === null ? null : Math.round(event.gapMs * 10) / 10,
          lost_packets: event.lost,
        })
        break
      case 'key-offered':
      case 'key-confirmed':
        this.#keys.handle(event)
        break
      default:
        event satisfies never
    }
  }

  #watchMetered(): MeteredLinks {
    const { monitor, recorder } = this.#parts
    let before: ReadonlySet<string> = new Set()
    const links = new MeteredLinks({
      changed: (names) => {
        for (const name of new Set([...before, ...names])) {
          if (before.has(name) === names.has(name)) continue
          monitor.describe(name, { metered: names.has(name) || undefined })
          const own = this.#init.accesses.some(({ pattern }) => matchesPattern(pattern, name))
          if (own || monitor.access(name) === undefined) continue
          const now = names.has(name)
            ? 'is metered according to NetworkManager: it is a backup now'
            : 'is no longer metered'
          recorder.log('info', `${name} ${now}`)
        }
        before = names
        this.#tunnel.tellAccesses()
      },
    })
    links.start()
    return links
  }

  #watchPortals(): PortalWatch {
    const { monitor, plumbing, recorder } = this.#parts
    return new PortalWatch({
      anchors: this.#init.peers.flatMap(({ endpoints }) => endpoints.map(({ host }) => host)),
      now: () => performance.now(),
      pass: (passages) => plumbing.setPassages(passages),
      report: (access, url) => {
        monitor.describe(access, { portal: url })
        const sign = `a captive portal answers in place of the anchor: sign in at ${url} with a browser`
        recorder.log('warn', `${access}: ${url === undefined ? 'no captive portal any more' : sign}`)
      },
    })
  }

  /** Accesses over which no anchor answers may be behind a portal. */
  #lookForPortals(paths: EngineStatus['paths']): void {
    const { monitor } = this.#parts
    const works = (name: string) => paths.some(({ access, state }) => access === name && isUsable(state))
    const silent = monitor.accesses().flatMap(({ name, state, addresses }) => {
      const address = addresses.find(({ family }) => family === 4)?.address
      const table = monitor.table(name)
      if (state === 'down' || works(name) || address === undefined || table === undefined) return []
      return [{ name, address, table }]
    })
    this.#portals?.update(silent, !paths.some(({ state }) => isUsable(state)))
  }

  /** Reports the quality of an access from the paths over it. */
  #report({ paths }: EngineStatus): void {
    if (paths.some(({ state }) => isUsable(state))) this.#parts.nameServers.tunnelReady()
    this.#lookForPortals(paths)
    for (const { name } of this.#parts.monitor.accesses()) {
      const own = paths.filter(({ access }) => access === name)
      const usable = own.filter(({ state }) => isUsable(state))
      const tried = own.some(({ state }) => state === 'down')
      this.#parts.monitor.setQuality(name, {
        rttMs: usable[0]?.rttMs ?? Number.NaN,
        loss: usable[0]?.loss ?? Number.NaN,
        working: usable.length > 0 ? true : tried ? false : undefined,
      })
    }
  }

  #identify(flows: Extract<HostEvent, { type: 'new-flows' }>['flows']): void {
    this.#tunnel.post({ type: 'identify', flows: this.#applications.identify(flows, Date.now()) })
    // Ended flows are forgotten when flows are listed, which may not happen for months.
    if (this.#applications.crowded) void this.flows().catch(() => {})
  }

  // ---- to the engine

  #accessSetup(name: string): AccessSetup | undefined {
    const access = this.#parts.monitor.access(name)
    const rule = this.#init.accesses.find(({ pattern }) => matchesPattern(pattern, name))
    if (access === undefined || rule?.use === 'never') return undefined
    return {
      name,
      up: access.state !== 'down',
      // The engine's own view of path quality is newer.
      health: access.state === 'degrading' ? 'up' : access.state,
      since: access.since,
      detail: access.reason,
      families: access.families,
      addresses: access.addresses.flatMap(({ address }) => bytesOf(address)),
      mtu: access.mtu,
      use: rule?.use ?? (this.#metered?.has(name) === true ? 'backup' : 'normal'),
      cost: rule?.cost ?? 0,
      generation: access.generation,
    }
  }

  #addPeer({ endpoints, ...peer }: HostPeer): void {
    this.#tunnel.addPeer(
      {
        name: peer.name,
        kind: peer.kind === 'anchor' ? 'godwit' : 'wireguard',
        ...this.#keys.setup(peer),
        keepalive: peer.keepalive,
        ...(peer.presharedKey && { presharedKey: peer.presharedKey }),
        ...(peer.kind === 'wireguard' && peer.v4 && { v4: peer.v4 }),
        ...(peer.kind === 'wireguard' && peer.v6 && { v6: peer.v6 }),
      },
      endpoints,
    )
  }
}

function isIpv6(host: string): boolean {
  const address = parseAddress(host)
  return address.ok && address.value.length === 16
}

function bytesOf(text: string): Uint8Array[] {
  const address = parseAddress(text)
  return address.ok ? [address.value] : []
}

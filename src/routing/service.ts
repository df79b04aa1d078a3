/**
 * A router on the main thread, mobile or at home: accesses and radios, routes, and the engine worker that carries the
 * packets. Implements what the daemon asks of a mechanism. It sees packets of terminals and no flows: what it shows and
 * explains are traffic classes towards its peers.
 */

import * as z from 'zod'
import type { AccessMonitor } from '../access/index.ts'
import { contains, formatPrefix, maskAddress, overlaps, type Prefix, parseAddress } from '../core/address.ts'
import { GodwitError, usageError } from '../core/errors.ts'
import {
  type ClassStatus,
  type ControlRoute,
  type DecisionRecord,
  type FlowStatus,
  type Mechanism,
  type Metric,
  type Move,
  type Offer,
  type PeerStatus,
  postRoute,
  type Recorder,
} from '../core/mechanism.ts'
import { matchesPattern } from '../core/pattern.ts'
import { type FlowFacts, formatSelector, type Selector } from '../core/selector.ts'
import { takeEvery } from '../core/steps.ts'
import { formatSubject } from '../core/subject.ts'
import type { Guarded } from '../linux/guard.ts'
import type { Passage } from '../linux/passage/passage.ts'
import type { EndpointCache, EndpointResolver } from '../tunnel/engine/endpoints.ts'
import type { SeenStore } from '../tunnel/engine/greetings.ts'
import { FIRST_MTU, MAX_OVERHEAD, SteadyMtu, widestMtu } from '../tunnel/engine/inner-mtu.ts'
import { finite, isUsable, pathStatus } from '../tunnel/engine/reports.ts'
import {
  deviceIsForeign,
  type OwnEvent,
  type StartEngine,
  type TimestampStore,
  TunnelHost,
} from '../tunnel/engine/tunnel-host.ts'
import { MODES, type Mode } from '../tunnel/scheduling/schedulers.ts'
import type { RouterPlumbing } from './plumbing.ts'
import type {
  AccessSetup,
  AccessUse,
  ClassReport,
  ClassSetup,
  RoutedPath,
  RouterCommand,
  RouterEvent,
  RouterSetup,
  RouterStatus,
} from './protocol.ts'
import type { RadioKeeper } from './radios.ts'
import type { LinkUsage } from './usage.ts'

export interface Site {
  readonly name: string
  readonly publicKey: Uint8Array
  readonly presharedKey?: Uint8Array
  readonly keepalive: number
  /** Name or address; absent: it comes to us. */
  readonly endpoint?: { readonly host: string; readonly port: number }
  readonly subnets: readonly Prefix[]
}

/** `backup`: only while nothing else works. Of accesses equally preferred the cheaper is taken. */
export interface AccessLimit {
  readonly pattern: string
  readonly use: 'normal' | 'backup' | 'never'
  readonly cost: number
  /** Share of `round-robin`, 1 to 15. */
  readonly weight: number
  /** Bytes a month; beyond, it is a backup. */
  readonly cap?: number
  /** Day of the month on which that begins. */
  readonly capDay: number
  readonly metered: boolean
  /** Between probes of a metered or backup access that stands by. */
  readonly standbyMs: number
}

export interface RouterInit {
  readonly device: string
  readonly privateKey: Uint8Array
  readonly listenPort?: number
  /** MTU of the tunnel device; absent: the largest that one of its paths carries. */
  readonly mtu?: number
  readonly mark: number
  readonly sites: readonly Site[]
  /** Subnets behind this gateway; empty: not said. */
  readonly own: readonly Prefix[]
  /** Patterns of interfaces, the most preferred first; empty for a gateway that only listens. */
  readonly accesses: readonly string[]
  /** The tunnel's packets have the service class of what they hold. */
  readonly carryDscp?: boolean
  /** How accesses may be used, by pattern ([access.NAME]). */
  readonly rules: readonly AccessLimit[]
  readonly classes: readonly ClassSetup[]
}

export interface RouterComponents {
  /** Absent when there are no accesses to watch. */
  readonly monitor: AccessMonitor | undefined
  readonly plumbing: RouterPlumbing
  /** Past the packet filters of others. */
  readonly passage: Pick<Passage, 'restore' | 'cleanUp' | 'watch'>
  /** Puts back what another program takes away; the returned function ends it. */
  readonly protect: (guarded: Guarded) => () => void
  readonly radios: ((use: (access: string, use: AccessUse) => void) => RadioKeeper) | undefined
  readonly recorder: Recorder
  readonly wall: () => number
  /** Addresses of endpoints that are names, over restarts. */
  readonly endpoints: EndpointCache
  /** Resolves them over each access. */
  readonly names: EndpointResolver
  readonly timestamp: TimestampStore
  /** Where sites that come to us were last, over restarts. */
  readonly seen?: SeenStore
  /** What accesses with a cap have carried. */
  readonly usage: Pick<LinkUsage, 'used' | 'update' | 'write'>
  /** Default: an engine in a worker thread. */
  readonly startEngine?: StartEngine
}

/** Between two looks at what capped accesses have carried. */
const USAGE_MS = 5_000
/** What they have carried is written this often at most. */
const USAGE_WRITE_MS = 60_000
/** Schedulers that use several paths at a time. */
const SPREADING: readonly Mode[] = ['round-robin', 'weighted', 'duplicate']
const SCHEDULER = z.strictObject({ name: z.string().min(1), scheduler: z.string().min(1) })
const SOURCE_RETRY_MS = 1_000
/** Tries before it is logged. */
const SOURCE_TRIES = 5

export class RouterService implements Mechanism {
  readonly name = 'routing'
  readonly routes: readonly ControlRoute[]
  readonly #init: RouterInit
  readonly #parts: RouterComponents
  readonly #tunnel: TunnelHost<RouterSetup, RouterCommand, RouterEvent, RouterStatus>
  #sourceTimer: NodeJS.Timeout | undefined
  #usageTimer: NodeJS.Timeout | undefined
  /** Accesses whose cap is reached. */
  readonly #spent = new Set<string>()
  /** Networks that share a prefix with a site, as reported. */
  readonly #overlaps = new Set<string>()
  #radios: RadioKeeper | undefined
  #unprotect: (() => void) | undefined
  #unroute: (() => void) | undefined

  constructor(parts: RouterComponents, init: RouterInit) {
    this.#parts = parts
    this.#init = init
    const { device, privateKey, listenPort, mark, mtu, own, carryDscp } = init
    const steady = new SteadyMtu(FIRST_MTU)
    this.#tunnel = new TunnelHost(parts, {
      entry: new URL('./worker.js', import.meta.url),
      setup: {
        device,
        mtu: mtu ?? FIRST_MTU,
        privateKey,
        mark,
        own,
        ...(carryDscp !== undefined && { carryDscp }),
        ...(listenPort !== undefined && { listenPort }),
      },
      onEvent: (event) => this.#handle(event),
      onStatus: (status) => {
        this.#tellRadios(status)
        this.#describeAccesses()
      },
      works: ({ paths }) => paths.some(({ state }) => isUsable(state)),
      ...(mtu === undefined && {
        mtu: {
          of: (paths, now) => steady.follow(widestMtu(paths.filter(({ state }) => isUsable(state))), now),
          set: (fitting) => parts.plumbing.setMtu(fitting),
        },
      }),
    })
    this.routes = [
      { method: 'GET', path: '/v1/router', handle: () => this.#view() },
      postRoute('/v1/router/scheduler', SCHEDULER, ({ body }) => this.#setScheduler(body)),
    ]
  }

  get failure(): Promise<GodwitError> {
    return this.#tunnel.failure
  }

  responds(): Promise<boolean> {
    return this.#tunnel.responds()
  }

  async start(): Promise<void> {
    const { mtu, sites, classes } = this.#init
    const { plumbing, passage } = this.#parts
    try {
      await this.#tunnel.start()
      this.#tunnel.post({ type: 'classes', classes })
      for (const { endpoint, ...site } of sites)
        this.#tunnel.addPeer({ ...site, leads: endpoint !== undefined }, endpoint ? [endpoint] : [])
      plumbing.apply(mtu ?? FIRST_MTU)
      passage.restore()
      this.#unprotect = this.#parts.protect({
        name: this.name,
        devices: () => [this.#init.device],
        ownsAddress: (address) => plumbing.isSource(address),
        restore: () => {
          const restored = [...plumbing.restore(), ...passage.restore()]
          this.#findSource()
          return restored
        },
        watch: (changed) => passage.watch(changed),
      })
      this.#findSource()
      const { monitor } = this.#parts
      if (monitor !== undefined) {
        monitor.start()
        this.#unroute = monitor.useRouting()
        this.#tunnel.followAccesses(
          monitor,
          (name) => this.#accessSetup(monitor, name),
          (name) => {
            this.#tellTerms(name)
            this.#noteOverlap(monitor, name)
          },
        )
        if (this.#init.rules.some(({ cap }) => cap !== undefined)) {
          this.#countUsage()
          this.#usageTimer = setInterval(() => this.#countUsage(), USAGE_MS)
        }
      }
      this.#radios = this.#parts.radios?.((access, use) => {
        monitor?.setDraining(access, use.draining)
        this.#tunnel.post({ type: 'use', access, use })
      })
      this.#radios?.start()
    } catch (error) {
      // What made it fail may be in the way here too, and is told.
      if (!deviceIsForeign(error)) await this.stop().catch(() => {})
      throw error
    }
  }

  /** A gateway that is only called waits for nobody. */
  async untilReady(): Promise<void> {
    if (this.#init.sites.some(({ endpoint }) => endpoint !== undefined)) await this.#tunnel.untilReady()
  }

  waiting(): string {
    const called = this.#init.sites.flatMap(({ name, endpoint }) =>
      endpoint === undefined ? [] : `${name} (${endpoint.host}, port ${endpoint.port})`,
    )
    return `waiting for an answer from ${called.join(' or ')}; what is for their subnets is held until then`
  }

  async stop(): Promise<void> {
    this.#unprotect?.()
    this.#tunnel.retire()
    this.#radios?.stop()
    this.#unroute?.()
    clearInterval(this.#sourceTimer)
    clearInterval(this.#usageTimer)
    this.#parts.usage.write()
    await this.#tunnel.stop()
    await this.cleanUp()
  }

  async cleanUp(): Promise<void> {
    const { passage, plumbing } = this.#parts
    takeEvery(
      () => passage.cleanUp(),
      () => plumbing.cleanUp(),
    )
  }

  peers(): readonly PeerStatus[] {
    const reports = this.#tunnel.status?.peers ?? []
    const established = new Set(reports.filter((peer) => peer.established).map(({ name }) => name))
    return this.#init.sites.map((site) => {
      const paths = this.#paths.filter((path) => path.peer === site.name)
      const works = paths.some(({ state }) => isUsable(state))
      return {
        name: site.name,
        kind: 'router',
        state: works ? 'up' : paths.length > 0 || established.has(site.name) ? 'connecting' : 'down',
        paths: paths.map((path) => ({ ...pathStatus(path), state: stateOf(path) })),
        public_key: Buffer.from(site.publicKey).toString('base64'),
      }
    })
  }

  /** Terminals' flows are their own; a router sorts packets into classes. */
  flows(): readonly FlowStatus[] {
    return []
  }

  /** Each class towards each peer. */
  classes(): readonly ClassStatus[] {
    return this.#classes.map((each) => ({
      id: classId(each),
      name: each.name,
      peer: each.peer,
      mechanism: this.name,
      scheduler: each.mode,
      access: [...each.carriers, ...each.copies].join('+'),
    }))
  }

  offer(flow: FlowFacts): Offer {
    const { dst } = flow
    const site = this.#init.sites.find(({ subnets }) =>
      subnets.some((prefix) => dst?.length === prefix.address.length && contains(prefix, dst)),
    )
    const paths = this.#paths.filter((path) => path.peer === site?.name && isUsable(path.state))
    const rtts = paths.map(({ rttMs }) => rttMs).filter(Number.isFinite)
    const reason =
      site === undefined
        ? 'no site has the destination among its subnets'
        : paths.length === 0
          ? `nothing answers at ${site.name}`
          : `${site.name} has the destination, over ${paths.map(({ access }) => access).join(' and ')}`
    return {
      mechanism: this.name,
      carries: paths.length > 0,
      reason,
      cost: { bytes: MAX_OVERHEAD, rtt_ms: rtts.length === 0 ? null : Math.min(...rtts) },
      survives: ['access', 'address', 'outage', 'restart'],
      needs: ['a godwit router in front of the destination'],
    }
  }

  async move(what: Selector, access: string): Promise<Move | undefined> {
    const classes = what.kind === 'all' ? undefined : this.#classesOf(what)
    if (classes?.length === 0) return undefined
    const works = this.#paths.some((path) => path.access === access && isUsable(path.state))
    if (!works)
      throw new GodwitError('ACCESS_DOWN', `nothing answers over ${access}`, {
        hint: '`godwit paths` shows what works',
      })
    this.#tunnel.post({ type: 'prefer', access, ...(classes && { classes }) })
    const moved = this.#classes.filter(({ name }) => classes === undefined || classes.includes(name))
    const spread = moved.some(({ mode }) => SPREADING.includes(mode))
    return { flows: moved.length, ...(spread && { note: 'spreading classes keep their paths' }) }
  }

  /** Names of the classes that are meant: by name, with or without a site, or by one of their selectors. */
  #classesOf(what: Selector): string[] {
    const text = formatSelector(what)
    const named = this.#init.classes.filter(({ name, match }) =>
      what.kind === 'flow'
        ? what.id === name || this.#init.sites.some((site) => what.id === `${name}.${site.name}`)
        : match.some((selector) => formatSelector(selector) === text),
    )
    return named.map(({ name }) => name)
  }

  why(id: string): readonly DecisionRecord[] | undefined {
    const found = this.#classes.find((each) => classId(each) === id)
    if (found === undefined) return undefined
    return [
      {
        at: this.#parts.wall(),
        mechanism: this.name,
        subject: { kind: 'policy', name: found.name, peer: found.peer },
        what: id,
        chosen: [...found.carriers, ...found.copies].join('+') || 'none',
        reason: found.reason,
        evidence: { scheduler: found.mode, bytes: found.bytes, copied_bytes: found.copiedBytes },
      },
    ]
  }

  metrics(): readonly Metric[] {
    return Object.entries(this.#tunnel.status?.counters ?? {}).map(([name, value]) => ({
      name: `godwit_routing_${name}_total`,
      help: `Since the start: ${name.replaceAll('_', ' ')}.`,
      type: 'counter' as const,
      value,
    }))
  }

  #view(): object {
    return {
      classes: this.#classes.map(({ copiedBytes, ...rest }) => ({ ...rest, copied_bytes: copiedBytes })),
      counters: this.#tunnel.status?.counters ?? {},
      links: this.#radios?.links() ?? [],
      controller: this.#radios?.counts ?? {},
    }
  }

  #setScheduler({ name, scheduler }: z.output<typeof SCHEDULER>): object {
    const known = this.#init.classes.map((each) => each.name)
    if (!known.includes(name)) throw usageError(`there is no class ${name}; there are ${known.join(', ')}`)
    const mode = MODES.find((each) => each === scheduler)
    if (mode === undefined)
      throw usageError(`there is no scheduler ${scheduler}; there are ${MODES.join(', ')}`)
    this.#tunnel.post({ type: 'mode', name, mode })
    return { class: name, scheduler }
  }

  /** The LAN may get its address after us, or another one. */
  #findSource(): void {
    clearInterval(this.#sourceTimer)
    if (this.#parts.plumbing.missingSources().length === 0) return
    let tries = 0
    this.#sourceTimer = setInterval(() => {
      if (!this.#parts.plumbing.findSources()) {
        if (++tries !== SOURCE_TRIES) return
        const missing = this.#parts.plumbing.missingSources().join(', ')
        const reason = 'what this gateway itself says does not reach the other site'
        this.#parts.recorder.log('warn', `no address of this machine is in ${missing} yet: ${reason}`)
        return
      }
      clearInterval(this.#sourceTimer)
    }, SOURCE_RETRY_MS)
  }

  #accessSetup(monitor: AccessMonitor, name: string): AccessSetup | undefined {
    const access = monitor.access(name)
    const priority = this.#init.accesses.findIndex((pattern) => matchesPattern(pattern, name))
    if (access === undefined || priority < 0) return undefined
    const { state, families, mtu, generation } = access
    // The list first, then the cost.
    const costs = [...new Set(this.#init.rules.map(({ cost }) => cost).concat(0))].sort((a, b) => a - b)
    const rank = priority * costs.length + costs.indexOf(this.#limit(name)?.cost ?? 0)
    return { name, up: state !== 'down', families, mtu, generation, priority: rank + 1 }
  }

  #limit(name: string): AccessLimit | undefined {
    return this.#init.rules.find(({ pattern }) => matchesPattern(pattern, name))
  }

  /** A backup, or what has reached its cap, carries nothing while anything else works, and is probed seldom. */
  #tellTerms(access: string): void {
    const limit = this.#limit(access)
    if (limit === undefined) return
    const reserve = limit.use === 'backup' || this.#spent.has(access)
    const terms = {
      reserve,
      weight: limit.weight,
      ...((reserve || limit.metered || limit.cap !== undefined) && { standbyMs: limit.standbyMs }),
    }
    this.#tunnel.post({ type: 'terms', access, terms })
  }

  /** A network that has the prefix of a site (a hotspot with home's): both cannot be reached, and the site is. */
  #noteOverlap(monitor: AccessMonitor, name: string): void {
    for (const { address, prefixLength } of monitor.access(name)?.addresses ?? []) {
      const parsed = parseAddress(address)
      if (!parsed.ok || prefixLength === 0) continue
      const network = { address: maskAddress(parsed.value, prefixLength), length: prefixLength }
      for (const site of this.#init.sites)
        for (const subnet of site.subnets) {
          if (subnet.length === 0 || !overlaps(subnet, network)) continue
          const text = `${name} is in ${formatPrefix(network)}, and ${formatPrefix(subnet)} is behind ${site.name}`
          if (this.#overlaps.has(text)) continue
          this.#overlaps.add(text)
          this.#parts.recorder.log(
            'warn',
            `${text}: packets for both go to ${site.name}; machines of that network are not reached, its way to the Internet is; to reach both, give one another prefix`,
          )
        }
    }
  }

  /** Accesses with a cap: beyond it they are backups, until the month ends. */
  #countUsage(): void {
    const { monitor, usage, recorder } = this.#parts
    for (const { name } of monitor?.accesses() ?? []) {
      const limit = this.#limit(name)
      if (limit?.cap === undefined) continue
      const spent = usage.update(name, limit.capDay) >= limit.cap
      if (spent === this.#spent.has(name)) continue
      if (spent) this.#spent.add(name)
      else this.#spent.delete(name)
      const text = spent
        ? `${name} has carried its cap of ${limit.cap} bytes: from now on it is a backup, until day ${limit.capDay} of the month`
        : `a new month of ${name} has begun: it is used again`
      recorder.log('warn', text)
      this.#tellTerms(name)
    }
    usage.write(USAGE_WRITE_MS)
  }

  #handle(event: OwnEvent<RouterEvent>): void {
    const { recorder, wall } = this.#parts
    switch (event.type) {
      case 'decision': {
        const { subject, chosen, reason, evidence } = event
        recorder.decision({ at: wall(), mechanism: this.name, subject, chosen, reason, evidence })
        recorder.log('info', `${formatSubject(subject)}: ${chosen}: ${reason}`)
        break
      }
      case 'handover': {
        const { subject, from, to, cause } = event
        recorder.handover({ at: wall(), subject, from, to, cause, gap_ms: null, lost_packets: null })
        break
      }
      case 'drained':
        this.#radios?.drained(event.access)
        break
      default:
        event satisfies never
    }
  }

  /** What paths and radios say of the accesses, for status. */
  #describeAccesses(): void {
    const links = new Map((this.#radios?.links() ?? []).map((link) => [link.name, link]))
    for (const { name } of this.#parts.monitor?.accesses() ?? []) {
      const paths = this.#paths.filter((path) => path.access === name)
      const link = links.get(name)
      const radio = link && {
        point: link.point ?? null,
        signal_dbm: finite(link.dbm),
        radio: link.fading ? 'fading' : (link.state as string),
      }
      const limit = this.#limit(name)
      this.#parts.monitor?.describe(name, {
        ...(limit?.cap !== undefined && { cap_bytes: limit.cap, used_bytes: this.#parts.usage.used(name) }),
        rtt_ms: finite(Math.min(...paths.map(({ rttMs }) => rttMs))),
        loss: paths.length === 0 ? null : Math.max(...paths.map(({ loss }) => loss)),
        ...radio,
      })
    }
  }

  /** What the paths say of the links below them. */
  #tellRadios({ paths }: RouterStatus): void {
    if (this.#radios === undefined) return
    for (const { name } of this.#radios.links()) {
      const own = paths.filter((path) => path.access === name)
      const heardAt = Math.max(Number.NEGATIVE_INFINITY, ...own.map(({ lastReceivedAt }) => lastReceivedAt))
      const alive = own.some(({ state }) => isUsable(state))
      this.#radios.evidence(name, alive, heardAt)
    }
  }

  get #paths(): readonly RoutedPath[] {
    return this.#tunnel.status?.paths ?? []
  }

  get #classes(): readonly ClassReport[] {
    return this.#tunnel.status?.classes ?? []
  }
}

/** The state that `paths` shows: what the path itself is, then how it is used. */
function stateOf({ state, draining, fading }: RoutedPath): string {
  if (!isUsable(state)) return state
  if (draining) return 'draining'
  return fading && state === 'up' ? 'fading' : state
}

function classId(each: ClassReport): string {
  return `${each.name}.${each.peer}`
}

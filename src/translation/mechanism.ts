/** DIME as the daemon sees it: status, flows, moves and reasons (core/mechanism.ts). */

import * as z from 'zod'
import { toBase64 } from '../core/bytes.ts'
import { GodwitError } from '../core/errors.ts'
import { formatEndpoint } from '../core/flow.ts'
import { Protocol } from '../core/ip.ts'
import {
  type ControlRoute,
  type DecisionRecord,
  type FlowStatus,
  type Mechanism,
  type Metric,
  type Move,
  type Offer,
  type PeerStatus,
  type Pin,
  postRoute,
} from '../core/mechanism.ts'
import { type FlowFacts, formatSelector, matches, type Selector } from '../core/selector.ts'
import { userName } from '../linux/proc.ts'
import type { Services } from '../mechanism/services.ts'
import { KeyDirectory, resolverAsker } from './directory/directory.ts'
import { DirectoryKeyStore, localResolver } from './directory/keys.ts'
import { FileKeyStore } from './keys.ts'
import type { IhmpOptions } from './machine/types.ts'
import { type FlowView, type TranslationInit, TranslationService } from './service.ts'
import { bytesOf, familyOf, type Ip, ipOf, type Pair } from './tables.ts'

export interface TranslationConfig {
  readonly port: number
  readonly interfaces?: readonly string[] | undefined
  readonly watchUdp: boolean
  readonly fastPath: boolean
  /** Own private keys (`godwit dime key set`). */
  readonly keyFile: string
  /** Public keys of others. */
  readonly knownKeys: readonly string[]
  /** Whether keys of others come from the DNS, and from which resolver of this machine. */
  readonly directory: 'none' | 'dns'
  readonly resolver?: Ip | undefined
  readonly stateFile: string
  /** Where other hosts may be found when both have moved at once. */
  readonly names: readonly string[]
  readonly ihmp: Partial<IhmpOptions>
}

/** What `godwit dime hosts --json` prints for a host; the columns of the HID table first. */
export interface HostView {
  readonly hid: number
  readonly active: readonly Ip[]
  readonly unreachable: readonly Ip[]
  readonly local: readonly Ip[]
  /** Base64; null: none. */
  readonly key: string | null
  readonly state: string
  readonly detached: boolean
  readonly current: readonly Pair[]
  /** Pairs on which it has answered: those that flows can be moved to. */
  readonly confirmed: readonly Pair[]
  readonly flows: number
  readonly rtt_ms: number | null
}

/** What `godwit dime sockets --json` prints for a row of the socket table. */
export interface SocketView {
  readonly socket: string
  readonly bound: string
  readonly bound_local: string
  readonly hid: number
  readonly wire: string
  readonly wire_local: string
  /** Whether the other end has shown that it is its own: only then it is moved. */
  readonly proven: boolean
}

/** To clean up: without a key of this host's, which would be made. */
const NO_KEYS: TranslationInit['keys'] = { own: () => undefined, known: () => undefined, reload: () => {} }

export class TranslationMechanism implements Mechanism {
  readonly name = 'translation'
  readonly #config: TranslationConfig
  readonly #services: Services
  readonly #names = new Map<number, string>()
  #service: TranslationService | undefined

  constructor(config: TranslationConfig, services: Services) {
    this.#config = config
    this.#services = services
  }

  #build(): TranslationService {
    const { keyFile, knownKeys, directory, resolver } = this.#config
    const { recorder, clock, random } = this.#services
    const warn = (text: string): void => recorder.log('warn', text)
    const files = new FileKeyStore(keyFile, knownKeys, warn)
    if (directory === 'none') return this.#compose(files)
    const asked: KeyDirectory = new KeyDirectory({
      ask: resolverAsker(
        () => resolver ?? localResolver(),
        (length) => random.fill(new Uint8Array(length)),
      ),
      now: () => clock.now(),
      changed: (ip) => service.handleDirectory(ip),
      warn,
    })
    const service = this.#compose(new DirectoryKeyStore(files, asked), asked)
    return service
  }

  #compose(keys: TranslationInit['keys'], asked?: KeyDirectory): TranslationService {
    const config = this.#config
    return new TranslationService(
      { ...config, devices: config.interfaces, ledger: this.#services.ledger },
      { keys, ...(asked && { directory: asked }), services: this.#services },
    )
  }

  async start(): Promise<void> {
    const service = this.#build()
    this.#service = service
    try {
      await service.start()
    } catch (error) {
      service.stop()
      this.#service = undefined
      throw error
    }
  }

  async stop(): Promise<void> {
    this.#service?.stop()
    this.#service = undefined
  }

  async cleanUp(): Promise<void> {
    this.#compose(NO_KEYS).cleanUp()
  }

  peers(): readonly PeerStatus[] {
    const service = this.#service
    if (service === undefined) return []
    const out: PeerStatus[] = []
    for (const host of service.machine.hosts()) {
      if (host.state !== 'peer') continue
      out.push({
        name: hostName(host.row.hid),
        kind: 'host',
        state: host.detachedAt === undefined ? 'up' : 'down',
        paths: [...host.confirmed.values()].map(({ pair }, i) => ({
          id: i + 1,
          access: service.accesses.get(pair.local) ?? pair.local,
          remote: formatEndpoint(bytesOf(pair.foreign), this.#config.port),
          state: service.accesses.has(pair.local) ? 'up' : 'down',
          rtt_ms: host.rtt ?? null,
          loss: null,
        })),
        addresses: [...host.row.active],
        ...(host.row.key === undefined ? {} : { public_key: toBase64(host.row.key) }),
      })
    }
    return out
  }

  flows(): readonly FlowStatus[] {
    return this.#views().map((view) => this.#status(view))
  }

  /** Flows with hosts that speak IHMP. */
  #views(): FlowView[] {
    const service = this.#service
    return service?.flows().filter((v) => service.machine.host(v.hid)?.state === 'peer') ?? []
  }

  #status({ found, hid, wire, own }: FlowView): FlowStatus {
    const access = this.#service?.accesses.get(wire.local) ?? ''
    return {
      id: found.id,
      proto: found.protocol === 6 ? 'tcp' : 'udp',
      src: formatEndpoint(bytesOf(found.local), found.localPort),
      dst: formatEndpoint(bytesOf(found.foreign), found.foreignPort),
      app: this.#app(found.inode, found.socket?.uid),
      mechanism: this.name,
      peer: hostName(hid),
      access,
      ...(own?.chosen === 'here' && { pinned: access }),
    }
  }

  #app(inode: number, uid: number | undefined): string {
    if (inode === 0) return ''
    const known = this.#names.get(inode)
    if (known !== undefined) return known
    const name = this.#services.owners.program(inode, uid)
    if (this.#names.size > 10_000) this.#names.clear()
    this.#names.set(inode, name)
    return name
  }

  async move(what: Selector, access: string): Promise<Move | undefined> {
    const service = this.#service
    if (service === undefined) return undefined
    const views = this.#views().filter((view) => this.#matches(view, what))
    if (views.length === 0) return undefined
    const locals = [...service.accesses].filter(([, device]) => device === access).map(([ip]) => ip)
    let moved = 0
    const failed = new Set<number>()
    for (const [hid, flows] of byHost(views)) {
      const count =
        what.kind !== 'all'
          ? this.#moveFlows(service, hid, locals, flows)
          : locals.some((local) => service.move(hid, local))
            ? flows.length
            : 0
      moved += count
      if (count < flows.length) failed.add(hid)
    }
    if (moved === 0)
      throw new GodwitError(
        'NO_PATH',
        what.kind === 'all'
          ? `no other host can be reached over ${access} now`
          : `${formatSelector(what)} cannot be reached over ${access}`,
        {
          hint: '`godwit dime hosts` shows which pairs of addresses work',
        },
      )
    const names = [...failed].map(hostName).join(', ')
    return { flows: moved, ...(failed.size > 0 ? { note: `not reached over ${access}: ${names}` } : {}) }
  }

  /** To the first of these own addresses over which the host answers, in each family. */
  #moveFlows(
    service: TranslationService,
    hid: number,
    locals: readonly Ip[],
    flows: readonly FlowView[],
  ): number {
    let moved = 0
    for (const family of [4, 6] as const) {
      const ids = flows.filter((v) => familyOf(v.found.local) === family).map((v) => v.found.id)
      for (const local of locals.filter((l) => familyOf(l) === family)) {
        const count = service.moveFlows(hid, local, ids)
        moved += count
        if (count > 0) break
      }
    }
    return moved
  }

  async giveBack(what: Selector): Promise<Move | undefined> {
    const service = this.#service
    const views = this.#views().filter((view) => this.#matches(view, what))
    if (service === undefined || views.length === 0) return undefined
    let flows = 0
    for (const [hid, of] of byHost(views)) {
      const whole = what.kind === 'all' && service.machine.host(hid)?.pinned !== undefined
      const moved = whole ? of : of.filter((v) => v.own !== undefined)
      flows += moved.length
      service.giveBack(hid, what.kind === 'all' ? undefined : moved.map((v) => v.found.id))
    }
    return { flows }
  }

  pins(): readonly Pin[] {
    const accesses = new Set<string>()
    for (const { pinned } of this.#service?.machine.hosts() ?? [])
      if (pinned !== undefined) accesses.add(this.#service?.accesses.get(pinned) ?? pinned)
    return [...accesses].map((access) => ({ what: 'all', access }))
  }

  #matches(view: FlowView, selector: Selector): boolean {
    const { found } = view
    const uid = found.socket?.uid
    return matches(selector, {
      id: found.id,
      proto: found.protocol,
      dst: bytesOf(found.foreign),
      dstPort: found.foreignPort,
      executable: this.#app(found.inode, uid),
      uid,
      user: uid === undefined ? undefined : userName(uid),
    })
  }

  /** Nothing is added to a packet, and the way is the ordinary one. */
  offer(flow: FlowFacts): Offer {
    const { carries, reason, rtt } = this.#reach(flow)
    return {
      mechanism: this.name,
      carries,
      reason,
      cost: { bytes: 0, rtt_ms: rtt ?? null },
      survives: ['access', 'address', 'both', 'outage', 'restart'],
      needs: ['godwit with DIME, at an address that can be reached'],
    }
  }

  #reach({ proto, dst }: FlowFacts): { carries: boolean; reason: string; rtt?: number | undefined } {
    const none = (reason: string) => ({ carries: false, reason })
    if (this.#service === undefined) return none('it has not started')
    if (proto !== undefined && proto !== Protocol.TCP && proto !== Protocol.UDP)
      return none('only TCP and UDP are translated')
    if (dst === undefined) return none('the destination is not known')
    const ip = ipOf(dst)
    for (const host of this.#service.machine.hosts()) {
      if (!host.row.active.has(ip)) continue
      if (host.state !== 'peer') return none(`the host at ${ip} has not answered as one that runs DIME`)
      if (host.detachedAt !== undefined) return none(`${hostName(host.row.hid)} is out of reach now`)
      return { carries: true, reason: `${hostName(host.row.hid)} runs DIME too`, rtt: host.rtt }
    }
    return none(`no host with DIME is known at ${ip}: it is asked when the first connection is there`)
  }

  why(flowId: string): readonly DecisionRecord[] | undefined {
    const service = this.#service
    const view = this.#views().find((v) => v.found.id === flowId)
    if (service === undefined || view === undefined) return undefined
    const host = service.machine.host(view.hid)
    const { found, wire } = view
    const { own } = view
    return [
      {
        at: this.#services.clock.wall(),
        mechanism: this.name,
        subject: { kind: 'flow', id: flowId },
        what: flowId,
        chosen: service.accesses.get(wire.local) ?? wire.local,
        reason:
          host?.detachedAt === undefined
            ? reasonOf(view)
            : waitsFor(hostName(view.hid), [...service.accesses.keys()], [...host.row.active]),
        evidence: {
          socket: `${found.local} → ${found.foreign}`,
          wire: `${wire.local} → ${wire.foreign}`,
          hid: view.hid,
          key: host?.row.key === undefined ? 'none' : toBase64(host.row.key),
          pairs: [...(host?.confirmed.keys() ?? [])].join(', '),
          detached: host?.detachedAt !== undefined,
          ...(own && { own_way: own.chosen, both_directions: own.followed }),
        },
      },
    ]
  }

  get routes(): readonly ControlRoute[] {
    return [
      { method: 'GET', path: '/v1/dime/hosts', handle: () => ({ hosts: this.#hostViews() }) },
      { method: 'GET', path: '/v1/dime/sockets', handle: () => ({ sockets: this.#socketViews() }) },
      postRoute('/v1/dime/rekey', z.strictObject({}), () => this.#service?.rekey()),
    ]
  }

  #hostViews(): HostView[] {
    const service = this.#service
    if (service === undefined) return []
    return [...service.machine.hosts()].map((host) => ({
      hid: host.row.hid,
      active: [...host.row.active],
      unreachable: [...host.row.unreachable],
      local: [...host.row.local],
      key: host.row.key === undefined ? null : toBase64(host.row.key),
      state: host.state,
      detached: host.detachedAt !== undefined,
      current: [host.row.current[4], host.row.current[6]].filter((p) => p !== undefined),
      confirmed: [...host.confirmed.values()].map((c) => c.pair),
      flows: service.tables.flows(host.row.hid).size,
      rtt_ms: host.rtt ?? null,
    }))
  }

  #socketViews(): SocketView[] {
    return (this.#service?.flows() ?? []).map(({ found, hid, wire, proven }) => ({
      socket: `${found.protocol === 6 ? 'tcp' : 'udp'}:${found.inode}`,
      bound: formatEndpoint(bytesOf(found.foreign), found.foreignPort),
      bound_local: formatEndpoint(bytesOf(found.local), found.localPort),
      hid,
      wire: wire.foreign,
      wire_local: wire.local,
      proven,
    }))
  }

  metrics(): readonly Metric[] {
    const service = this.#service
    if (service === undefined) return []
    const { stats } = service.machine
    const { elements, transactions, changes, scan_ms: scan } = service.counts
    const counter = (name: string, help: string, value: number): Metric => ({
      name: `godwit_dime_${name}`,
      help,
      type: 'counter',
      value,
    })
    const gauge = (name: string, help: string, value: number): Metric => ({
      name: `godwit_dime_${name}`,
      help,
      type: 'gauge',
      value,
    })
    const refused = stats.malformed + stats.unauthenticated + stats.replayed + stats.excessive
    return [
      counter('messages_sent_total', 'IHMP messages sent.', stats.sent),
      counter('messages_received_total', 'IHMP messages received.', stats.received),
      counter('messages_refused_total', 'Malformed, unauthenticated, replayed or too many.', refused),
      counter('exchanges_total', 'Messages that were acknowledged.', stats.exchanges),
      counter('map_transactions_total', 'Changes of the translation maps.', transactions),
      counter('map_changes_total', 'Elements added to or removed from the maps.', changes),
      gauge('map_elements', 'Elements in the maps.', elements),
      gauge('scan_seconds', 'Duration of the last look at the sockets.', scan / 1000),
    ]
  }
}

function byHost(views: readonly FlowView[]): Map<number, FlowView[]> {
  const out = new Map<number, FlowView[]>()
  for (const view of views) {
    const flows = out.get(view.hid)
    if (flows === undefined) out.set(view.hid, [view])
    else flows.push(view)
  }
  return out
}

function reasonOf({ found, wire, own }: FlowView): string {
  if (own?.chosen === 'there')
    return 'the other host has moved this flow by hand: it goes over a pair of its own'
  if (own !== undefined)
    return `moved by hand; the other host ${own.followed ? 'sends it this way too' : 'has not said that it follows'}`
  return wire.local !== found.local || wire.foreign !== found.foreign
    ? 'the other host runs godwit too, and one of the two has moved: addresses are rewritten on both'
    : 'the other host runs godwit too; nothing has moved, so nothing is rewritten'
}

/** Why no pair of addresses leads to a host now. */
function waitsFor(host: string, own: readonly Ip[], foreign: readonly Ip[]): string {
  const waits = 'nothing is rewritten, and the connection waits'
  if (own.length === 0) return `this host has no network now: ${waits} for one`
  const families = (addresses: readonly Ip[]) => [...new Set(addresses.map(familyOf))]
  const [here, there] = [families(own), families(foreign)]
  if (here.some((family) => there.includes(family)))
    return `${host} does not answer over any network of this host now: ${waits} until it does`
  const only = (of: readonly number[]) => of.map((family) => `IPv${family}`).join(' and ')
  return `this host has ${only(here)} alone now, ${host} ${only(there)}: ${waits} for a network with ${only(there)}; a translator between the two (NAT64) cannot carry it, since none speaks IHMP`
}

function hostName(hid: number): string {
  return `host${hid}`
}

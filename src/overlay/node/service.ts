/**
 * A node on the main thread: accesses, the virtual interface, names, and the engine worker that does signalling and packets.
 * Implements what the daemon asks of a mechanism. Established tunnels outlive every server: without a coordinator only
 * new names cannot be resolved.
 */

import * as z from 'zod'
import type { AccessMonitor } from '../../access/index.ts'
import { formatAddress, kindOf, parseAddress } from '../../core/address.ts'
import { GodwitError, usageError } from '../../core/errors.ts'
import { formatEndpoint } from '../../core/flow.ts'
import { Protocol } from '../../core/ip.ts'
import {
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
} from '../../core/mechanism.ts'
import { matchesPattern } from '../../core/pattern.ts'
import type { FlowFacts, Selector } from '../../core/selector.ts'
import { encodeKey, publicKeyOf } from '../../crypto/keys.ts'
import type { Guarded } from '../../linux/guard.ts'
import type { FlowOwners } from '../../linux/owners.ts'
import type { SocketTable } from '../../linux/sockdiag.ts'
import {
  type EndpointCache,
  type EndpointResolver,
  Endpoints,
  type HostPort,
} from '../../tunnel/engine/endpoints.ts'
import { FIRST_MTU, MAX_OVERHEAD, widestMtu } from '../../tunnel/engine/inner-mtu.ts'
import { finite, isUsable, pathStatus } from '../../tunnel/engine/reports.ts'
import {
  deviceIsForeign,
  type OwnEvent,
  type StartEngine,
  type TimestampStore,
  TunnelHost,
} from '../../tunnel/engine/tunnel-host.ts'
import type { Credentials, Step } from '../machine/api.ts'
import type { KeptPair } from '../machine/memory.ts'
import { zoneOf } from '../machine/names.ts'
import { Status } from '../wire/message.ts'
import { addressesOf } from './forwarder.ts'
import { KeptFiles } from './kept-files.ts'
import { COORDINATOR_PORT, MAX_PEERS } from './login.ts'
import type { NodeNames } from './names.ts'
import { NotificationClient } from './notification-client.ts'
import type { NodePlumbing } from './plumbing.ts'
import type {
  NodeAccess,
  NodeCommand,
  NodeEvent,
  NodePeer,
  NodeSetup,
  NodeStatus,
  OverlayPath,
  PeerReport,
} from './protocol.ts'
import type { Renewal } from './renewal.ts'
import { Translation, type TranslationParts } from './translation.ts'

export interface NodeInit {
  /** Why it cannot start: no login yet. It can still clean up. */
  readonly missing?: GodwitError
  readonly device: string
  readonly privateKey: Uint8Array
  readonly credentials: Credentials
  readonly coordinator: HostPort
  readonly lease?: Uint8Array
  /** Pairs of earlier runs, the one used last first. */
  readonly kept?: readonly KeptPair[]
  /** Peers of earlier runs, the last first. */
  readonly known: readonly NodePeer[]
  /** MTU of the device; absent: the largest that one of its paths carries. */
  readonly mtu?: number
  readonly mark: number
  /** Patterns of interfaces, most preferred first. */
  readonly accesses: readonly string[]
  /** Absent: no notification server is used. */
  readonly notifications?: { readonly keepAliveMs: number; readonly push?: string }
}

export interface NodeComponents {
  readonly monitor: AccessMonitor
  readonly plumbing: NodePlumbing
  /** Names for the programs of this machine. */
  readonly localNames: (parts: {
    readonly lookup: (name: string) => Promise<NodePeer | undefined>
  }) => NodeNames
  readonly protect: (guarded: Guarded) => () => void
  readonly recorder: Recorder
  readonly wall: () => number
  /** The clock of the engine, milliseconds. */
  readonly now: () => number
  readonly endpoints: EndpointCache
  readonly names: EndpointResolver & { readonly nat64?: TranslationParts['ask'] }
  readonly timestamp: TimestampStore
  readonly sockets: SocketTable
  readonly owners: Pick<FlowOwners, 'program'>
  readonly keepLease: (lease: Uint8Array) => void
  /** The notification in a message of a push service; undefined: it is not for this node. */
  readonly openPush: (message: Uint8Array) => Uint8Array | undefined
  /** Prolongs the login; absent: there is none. */
  readonly renewal?: (report: (level: 'info' | 'warn', message: string) => void) => Renewal
  readonly keepPeers: (peers: readonly NodePeer[]) => void
  readonly keepPairs: (pairs: readonly KeptPair[]) => void
  readonly startEngine?: StartEngine
}

/** Time limit for resolving a name (ms). */
const RESOLVE_MS = 12_000
/** The name of a known peer may be another node's by now, at other addresses: an answer waits so long for the coordinator's (ms). */
const KNOWN_MS = 250
/** Steps of the conversation that are kept for `trace`. */
const MAX_STEPS = 2_000
const RESOLVE = z.strictObject({ name: z.string().min(1).max(253) })
const FORGET = RESOLVE
/** Base64 of at most 4,096 bytes. */
const PUSHED = z.strictObject({ message: z.base64().min(1).max(5464) })

interface Registered {
  readonly v6: Uint8Array
  readonly v4?: Uint8Array
  readonly observed: string
  readonly until: number
}

interface Waiting {
  readonly resolve: (peer: NodePeer | undefined) => void
  readonly reject: (error: GodwitError) => void
}

export class NodeService implements Mechanism {
  readonly name = 'overlay'
  readonly routes: readonly ControlRoute[]
  readonly #init: NodeInit
  readonly #parts: NodeComponents
  readonly #tunnel: TunnelHost<NodeSetup, NodeCommand, NodeEvent, NodeStatus>
  readonly #endpoints: Endpoints
  readonly #names: NodeNames
  readonly #notifications: NotificationClient | undefined
  readonly #renewal: Renewal | undefined
  readonly #files: KeptFiles
  readonly #translation: Translation
  /** By name, the one met last at the end. */
  readonly #known: Map<string, NodePeer>
  readonly #waiting = new Map<string, Waiting[]>()
  readonly #refused = new Map<string, string>()
  readonly #steps: (Step & { readonly wall: number })[] = []
  /** Reported already. */
  readonly #conflicts = new Set<string>()
  #registered: Registered | undefined
  /** Of the last lease, while no coordinator has answered since the start. */
  #kept: Pick<Registered, 'v6' | 'v4'> | undefined
  #running = false
  #trouble: string | undefined
  #preferred: string | undefined
  #untilRegistered: (() => void)[] = []
  #unprotect: (() => void) | undefined
  #unwatch: (() => void) | undefined
  #unroute: (() => void) | undefined

  constructor(parts: NodeComponents, init: NodeInit) {
    this.#parts = parts
    this.#init = init
    this.#known = new Map([...init.known].reverse().map((peer) => [peer.name, peer]))
    const { device, privateKey, mark, mtu, credentials, lease, notifications } = init
    const { plumbing, recorder } = parts
    this.#tunnel = new TunnelHost(parts, {
      entry: new URL('./worker.js', import.meta.url),
      setup: {
        ...{ device, mtu: mtu ?? FIRST_MTU, privateKey, mark, credentials },
        ...(lease !== undefined && { lease }),
        ...(init.kept !== undefined && { kept: init.kept }),
        ...(notifications !== undefined && {
          notifications: notifications.push === undefined ? {} : { push: notifications.push },
        }),
      },
      onEvent: (event) => this.#handle(event),
      onStatus: (status) => this.#followCoordinator(status),
      ...(mtu === undefined && {
        mtu: {
          of: (paths) => widestMtu(paths.filter(({ state }) => isUsable(state))),
          set: (fitting) => plumbing.setMtu(fitting),
        },
      }),
    })
    this.#endpoints = new Endpoints({
      cache: parts.endpoints,
      resolver: parts.names,
      onRemotes: (_name, endpoints) => this.#tunnel.post({ type: 'coordinator', endpoints }),
      report: (message) => recorder.log('warn', message),
    })
    if (notifications !== undefined) this.#notifications = this.#notificationClient(notifications.keepAliveMs)
    this.#translation = new Translation({
      ask: async (name) => (await parts.names.nat64?.(name)) ?? [],
      onFound: () => {
        if (this.#running) this.#tunnel.tellAccesses()
      },
    })
    this.#files = new KeptFiles((level, message) => recorder.log(level, message))
    this.#renewal = parts.renewal?.((level, message) => recorder.log(level, message))
    this.#names = parts.localNames({
      lookup: async (name) => {
        const peer = await this.#lookup(name)
        return peer && this.#usable(peer)
      },
    })
    this.routes = [
      { method: 'GET', path: '/v1/overlay', handle: () => this.#view() },
      { method: 'GET', path: '/v1/overlay/trace', handle: () => ({ steps: this.#steps }) },
      postRoute('/v1/overlay/resolve', RESOLVE, async ({ body }) => this.#resolved(body.name)),
      postRoute('/v1/overlay/notification', PUSHED, ({ body }) => this.#pushed(body.message)),
      postRoute('/v1/overlay/forget', FORGET, ({ body }) => this.#forget(body.name)),
    ]
  }

  get failure(): Promise<GodwitError> {
    return this.#tunnel.failure
  }

  responds(): Promise<boolean> {
    return this.#tunnel.responds()
  }

  async start(): Promise<void> {
    const { plumbing, monitor, protect } = this.#parts
    const { mtu, coordinator } = this.#init
    if (this.#init.missing !== undefined) throw this.#init.missing
    // After a power cut, resolv.conf may still name this daemon's server, which is not running yet.
    this.#names.cleanUp()
    try {
      await this.#tunnel.start()
      this.#running = true
      this.#tunnel.post({ type: 'known', peers: [...this.#known.values()] })
      plumbing.apply(mtu ?? FIRST_MTU)
      plumbing.setPeers([...this.#known.values()].flatMap(addressesOf))
      this.#unprotect = protect({
        name: this.name,
        devices: () => [this.#init.device],
        restore: () => plumbing.restore(),
      })
      this.#unwatch = plumbing.watch()
      monitor.start()
      this.#unroute = monitor.useRouting()
      this.#renewal?.start()
      this.#endpoints.start({ name: COORDINATOR, endpoints: [coordinator] })
      this.#tunnel.followAccesses(
        monitor,
        (name) => this.#accessSetup(name),
        (name) => {
          const access = monitor.access(name)
          if (access !== undefined) this.#endpoints.setAccess({ ...access, up: access.state !== 'down' })
        },
      )
    } catch (error) {
      if (!deviceIsForeign(error)) await this.stop()
      throw error
    }
  }

  /** Registered: then names can be resolved, and this node can be. */
  async untilReady(): Promise<void> {
    if (this.#registered !== undefined) return
    await Promise.race([
      new Promise<void>((resolve) => this.#untilRegistered.push(resolve)),
      this.#tunnel.failure.then((error) => Promise.reject(error)),
    ])
  }

  waiting(): string {
    const { host, port } = this.#init.coordinator
    return `waiting for the coordinator ${host}, UDP port ${port}: ${this.#renewal?.ended ?? this.#trouble ?? 'no answer yet'}`
  }

  async stop(): Promise<void> {
    this.#running = false
    this.#unwatch?.()
    this.#unprotect?.()
    this.#tunnel.retire()
    this.#endpoints.stop()
    this.#notifications?.stop()
    this.#renewal?.stop()
    this.#translation.stop()
    this.#unroute?.()
    this.#names.stop()
    this.#endWaiting(new GodwitError('STOPPING', 'the daemon is stopping'))
    for (const done of this.#untilRegistered.splice(0)) done()
    await this.#tunnel.stop()
    this.#files.stop()
    await this.cleanUp()
  }

  async cleanUp(): Promise<void> {
    this.#names.cleanUp()
    this.#parts.plumbing.cleanUp()
  }

  // ---- names

  /** The virtual addresses of a name. Undefined: there is no such node. Rejects when that is not known now. */
  async #lookup(name: string): Promise<NodePeer | undefined> {
    const own = this.#own()
    if (own !== undefined && name === own.name) return own
    const known = this.#known.get(name)
    const asked = this.#ask(name)
    if (known === undefined) return asked
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(known), KNOWN_MS)
      const answer = (peer: NodePeer | undefined) => {
        clearTimeout(timer)
        resolve(peer)
      }
      asked.then(answer, () => answer(known))
    })
  }

  /** The peer with the addresses that programs of this machine can use: both ends need one of the family. */
  #usable(peer: NodePeer): NodePeer {
    const { v4, ...rest } = peer
    const isFree = (address: Uint8Array | undefined) =>
      address !== undefined && this.#parts.plumbing.conflict(address) === undefined
    return isFree(v4) && isFree(this.#own()?.v4) ? peer : rest
  }

  #ask(name: string): Promise<NodePeer | undefined> {
    const established = this.#reports.some((peer) => peer.name === name && peer.access !== undefined)
    const known = this.#known.get(name)
    if (established && known !== undefined) return Promise.resolve(known)
    if (!this.#running) return Promise.reject(new GodwitError('STOPPING', 'the node is not running'))
    return new Promise((resolve, reject) => {
      const entry = { resolve, reject }
      const timer = setTimeout(() => {
        this.#settle(name, (each) => each.reject(new GodwitError('NO_ANSWER', `nobody answers for ${name}`)))
      }, RESOLVE_MS)
      const waiting = this.#waiting.get(name) ?? []
      this.#waiting.set(name, [
        ...waiting,
        {
          resolve: (peer) => {
            clearTimeout(timer)
            entry.resolve(peer)
          },
          reject: (error) => {
            clearTimeout(timer)
            entry.reject(error)
          },
        },
      ])
      this.#tunnel.post({ type: 'resolve', name })
    })
  }

  #settle(name: string, end: (waiting: Waiting) => void): void {
    const waiting = this.#waiting.get(name) ?? []
    this.#waiting.delete(name)
    for (const each of waiting) end(each)
  }

  #endWaiting(error: GodwitError): void {
    for (const name of [...this.#waiting.keys()]) this.#settle(name, (each) => each.reject(error))
  }

  /** NT-29 for people: waits for a way, and reports which one it is. */
  async #resolved(text: string): Promise<object> {
    const name = this.#fullName(text)
    const peer = await this.#ask(name)
    if (peer === undefined)
      throw new GodwitError('NAME_UNKNOWN', `there is no node ${name}`, {
        hint: 'the name of a node ends in its zone; `godwit overlay peers` lists known nodes',
      })
    for (let i = 0; i < 100; i++) {
      const report = this.#reports.find((each) => each.name === name)
      if (report?.access !== undefined) break
      await new Promise((done) => setTimeout(done, 50))
    }
    const report = this.#reports.find((each) => each.name === name)
    return {
      name,
      addresses: addressesOf(peer).map(formatAddress),
      way: report?.kind ?? null,
      access: report?.access ?? null,
    }
  }

  /** A first label alone is a name of the own zone. */
  #fullName(text: string): string {
    const name = text.toLowerCase().replace(/\.$/, '')
    return name.includes('.') ? name : `${name}.${zoneOf(this.#init.credentials.name)}`
  }

  #forget(text: string): object {
    const name = this.#fullName(text)
    if (!this.#known.delete(name)) throw usageError(`${name} is not among the peers`)
    this.#tunnel.post({ type: 'forget', name })
    this.#peersChanged()
    return { forgotten: name }
  }

  /** Fig. 5 step 10, by a push service. */
  #pushed(message: string): object {
    const bytes = this.#parts.openPush(Buffer.from(message, 'base64'))
    if (bytes === undefined)
      throw new GodwitError('PUSH_UNREADABLE', 'the message was not encrypted for this node', {
        hint: 'is the endpoint in [overlay] push the one that received it?',
      })
    this.#tunnel.post({ type: 'notification', bytes })
    return { notified: true }
  }

  #own(): NodePeer | undefined {
    const own = this.#registered ?? this.#kept
    if (own === undefined) return undefined
    const { v6, v4 } = own
    return { name: this.#init.credentials.name, v6, ...(v4 !== undefined && { v4 }) }
  }

  // ---- events

  #handle(event: OwnEvent<NodeEvent>): void {
    const { recorder, wall } = this.#parts
    switch (event.type) {
      case 'registered':
        this.#noteRegistration(event)
        break
      case 'unregistered':
        if (this.#trouble !== event.reason)
          recorder.log('warn', `${event.reason}; existing tunnels continue, other names cannot be resolved`)
        this.#trouble = event.reason
        // It does not answer those whose login has ended.
        this.#renewal?.look()
        break
      case 'keep':
        this.#files.keep('what peers are found by', () => this.#parts.keepPairs(event.pairs))
        break
      case 'alone':
        this.#noteAlone(event)
        break
      case 'directed':
        this.#noteDirection(event.peer)
        this.#tunnel.post({ type: 'routed', name: event.peer.name })
        break
      case 'refused': {
        this.#refused.delete(event.name)
        this.#refused.set(event.name, event.reason)
        if (this.#refused.size > MAX_PEERS) this.#refused.delete(this.#refused.keys().next().value!)
        const gone = event.status === Status.UNKNOWN_NAME
        if (gone) this.#noteGone(event.name)
        this.#settle(event.name, (each) =>
          gone
            ? each.resolve(undefined)
            : each.reject(new GodwitError('NAME_REFUSED', `${event.name}: ${event.reason}`)),
        )
        break
      }
      case 'steps':
        this.#noteSteps(event.steps)
        break
      case 'handover': {
        const { peer, from, to, cause } = event
        const subject = { kind: 'peer', name: peer } as const
        const at = wall()
        recorder.decision({ at, mechanism: this.name, subject, chosen: to, reason: cause })
        if (from !== 'none' && to !== 'none')
          recorder.handover({ at, subject, from, to, cause, gap_ms: null, lost_packets: null })
        recorder.log('info', `${peer}: ${from} -> ${to}: ${cause}`)
        break
      }
      default:
        event satisfies never
    }
  }

  #noteRegistration(event: Extract<NodeEvent, { type: 'registered' }>): void {
    const { recorder, keepLease } = this.#parts
    const { v6, v4, encoded, observed, until, notification } = event
    if (this.#running) this.#notifications?.want(notification)
    const first = this.#registered === undefined
    this.#registered = { v6, observed, until, ...(v4 !== undefined && { v4 }) }
    this.#trouble = undefined
    const addresses = addressesOf({ name: '', v6, ...(v4 !== undefined && { v4 }) })
    this.#files.keep('the lease', () => keepLease(encoded))
    this.#useAddresses(addresses)
    if (!first) return
    recorder.log(
      'info',
      `registered as ${this.#init.credentials.name}, ${addresses.map(formatAddress).join(' ')}`,
    )
    if (this.#kept === undefined) this.#startNames(addresses)
    this.#kept = undefined
  }

  /** Nobody says who is where now: peers are found where they were, or by each other. */
  #noteAlone({ v6, v4 }: Extract<NodeEvent, { type: 'alone' }>): void {
    if (this.#registered !== undefined || !this.#running) return
    this.#kept = { v6, ...(v4 !== undefined && { v4 }) }
    const addresses = addressesOf({ name: '', ...this.#kept })
    this.#parts.recorder.log(
      'warn',
      `the coordinator does not answer; going on as ${addresses.map(formatAddress).join(' ')} with the peers of before`,
    )
    this.#useAddresses(addresses)
    this.#startNames(addresses)
  }

  #useAddresses(addresses: readonly Uint8Array[]): void {
    const { plumbing, recorder } = this.#parts
    try {
      plumbing.setOwn(addresses)
      for (const address of addresses) {
        const conflict = plumbing.conflict(address)
        if (conflict === undefined || this.#conflicts.has(conflict)) continue
        this.#conflicts.add(conflict)
        const other = address.length === 4 ? 'IPv6' : 'IPv4'
        recorder.log('warn', `${conflict}; peers stay reachable at their ${other} addresses`)
      }
    } catch (error) {
      recorder.log('warn', `the lease could not be applied: ${(error as Error).message}`)
    }
  }

  #startNames(addresses: readonly Uint8Array[]): void {
    const usable = addresses.filter((each) => this.#parts.plumbing.conflict(each) === undefined)
    void this.#names.start(usable.map(formatAddress)).finally(() => {
      for (const done of this.#untilRegistered.splice(0)) done()
    })
  }

  #notificationClient(keepAliveMs: number): NotificationClient {
    const { name } = this.#init.credentials
    const parts = {
      onNotification: (bytes: Uint8Array) => this.#tunnel.post({ type: 'notification', bytes }),
      onConnected: (connected: boolean) => this.#tunnel.post({ type: 'notified', connected }),
      register: () => this.#tunnel.post({ type: 'register' }),
      onStep: (what: string, isSent: boolean) => {
        const [from, to] = isSent ? [name, 'notification'] : ['notification', name]
        this.#noteSteps([{ type: 'step', at: this.#parts.now(), from, to, what }])
      },
      log: (message: string) => this.#parts.recorder.log('info', message),
    }
    return new NotificationClient(parts, keepAliveMs)
  }

  #noteSteps(steps: readonly Step[]): void {
    const wall = this.#parts.wall()
    const now = this.#parts.now()
    for (const step of steps) this.#steps.push({ ...step, wall: wall - (now - step.at) })
    this.#steps.splice(0, Math.max(0, this.#steps.length - MAX_STEPS))
  }

  #noteDirection(peer: NodePeer): void {
    this.#refused.delete(peer.name)
    const before = this.#known.get(peer.name)
    const same =
      before !== undefined &&
      addressesOf(before).map(formatAddress).join() === addressesOf(peer).map(formatAddress).join()
    this.#known.delete(peer.name)
    this.#known.set(peer.name, peer)
    if (this.#known.size > MAX_PEERS) this.#known.delete(this.#known.keys().next().value!)
    if (!same) this.#peersChanged()
    this.#settle(peer.name, (each) => each.resolve(peer))
  }

  /** Its zone has no such node: one that gets the name later is another, at other addresses. */
  #noteGone(name: string): void {
    const works = this.#reports.some((peer) => peer.name === name && peer.access !== undefined)
    if (works || !this.#known.delete(name)) return
    this.#tunnel.post({ type: 'forget', name })
    this.#peersChanged()
  }

  #peersChanged(): void {
    const { plumbing, recorder, keepPeers } = this.#parts
    const list = [...this.#known.values()].reverse()
    try {
      plumbing.setPeers(list.flatMap(addressesOf))
    } catch (error) {
      recorder.log('warn', `a peer could not be added: ${(error as Error).message}`)
    }
    this.#files.keep('the list of peers', () => keepPeers(list))
  }

  /** The coordinator's name is asked for again while it does not answer. */
  #followCoordinator({ paths }: NodeStatus): void {
    const works = this.#registered !== undefined && this.#trouble === undefined
    const row = paths[0]
    const pseudo = this.#parts.monitor.accesses().map(({ name }) => ({
      ...{ id: 0, remote: '', rttMs: Number.NaN, loss: 0, mtu: 0, sentBytes: 0, receivedBytes: 0 },
      ...{
        peer: COORDINATOR,
        access: name,
        state: works ? 'up' : 'down',
        lastReceivedAt: row?.lastReceivedAt ?? 0,
      },
    }))
    this.#endpoints.follow(pseudo as never, performance.now())
  }

  #accessSetup(name: string): NodeAccess | undefined {
    const access = this.#parts.monitor.access(name)
    const priority = this.#init.accesses.findIndex((pattern) => matchesPattern(pattern, name))
    if (access === undefined || priority < 0) return undefined
    const { state, families, mtu, generation } = access
    const nat64 =
      state === 'down' || families.includes(4) ? undefined : this.#translation.prefix(name, generation)
    const addresses = access.addresses.flatMap(({ address }) => {
      const parsed = parseAddress(address)
      return parsed.ok && kindOf(parsed.value) !== 'link-local' ? [parsed.value] : []
    })
    return {
      name,
      up: state !== 'down',
      families,
      mtu,
      generation,
      addresses,
      ...(nat64 !== undefined && { nat64 }),
      priority: this.#rank(name, priority),
    }
  }

  /** The list first; among equals the order in which the kernel has them. */
  #rank(name: string, priority: number): number {
    const all = this.#parts.monitor.accesses()
    return priority * 100 + all.findIndex((each) => each.name === name)
  }

  // ---- what the daemon asks

  get #reports(): readonly PeerReport[] {
    return this.#tunnel.status?.peers ?? []
  }

  get #paths(): readonly OverlayPath[] {
    return this.#tunnel.status?.paths ?? []
  }

  peers(): readonly PeerStatus[] {
    return this.#reports.map((peer) => {
      const paths = this.#paths.filter((path) => path.peer === peer.name)
      const refused = this.#refused.get(peer.name)
      return {
        name: peer.name,
        kind: 'node',
        state: peer.access !== undefined ? 'up' : 'connecting',
        paths: paths.map((path) => pathStatus(path)),
        public_key: encodeKey(peer.publicKey),
        addresses: addressesOf(peer).map(formatAddress),
        ...(refused !== undefined && peer.access === undefined && { refused }),
      }
    })
  }

  flows(): readonly FlowStatus[] {
    const byAddress = new Map(
      this.#reports.flatMap((peer) => addressesOf(peer).map((a) => [formatAddress(a), peer])),
    )
    if (byAddress.size === 0) return []
    return this.#parts.sockets.sockets({ protocols: [Protocol.TCP, Protocol.UDP] }).flatMap((socket) => {
      const peer = byAddress.get(formatAddress(socket.remoteAddress))
      if (peer === undefined || socket.remotePort === 0) return []
      return [
        {
          id: `ov${socket.cookie.toString(36)}`,
          proto: socket.protocol === Protocol.TCP ? 'tcp' : 'udp',
          src: formatEndpoint(socket.localAddress, socket.localPort),
          dst: formatEndpoint(socket.remoteAddress, socket.remotePort),
          app: this.#parts.owners.program(socket.inode, socket.uid),
          mechanism: this.name,
          peer: peer.name,
          access: peer.access ?? '',
        },
      ]
    })
  }

  offer({ dst }: FlowFacts): Offer {
    const peer = this.#reports.find((each) =>
      addressesOf(each).some((address) => dst !== undefined && formatAddress(address) === formatAddress(dst)),
    )
    const used = this.#paths.find((path) => path.used && path.peer === peer?.name)
    const reason =
      peer === undefined
        ? 'the destination is not the virtual address of a known node'
        : used === undefined
          ? `there is no path to ${peer.name} now`
          : `${peer.name} has the address; ${peer.reason}`
    return {
      mechanism: this.name,
      carries: used !== undefined,
      reason,
      cost: { bytes: MAX_OVERHEAD, rtt_ms: used === undefined ? null : finite(used.rttMs) },
      survives: ['access', 'address', 'outage', 'both'],
      needs: ['a node of the overlay at the other end'],
    }
  }

  async move(what: Selector, access: string): Promise<Move | undefined> {
    if (what.kind !== 'all') return undefined
    const works = this.#paths.some((path) => path.access === access && isUsable(path.state))
    if (!works && this.#reports.length > 0)
      throw new GodwitError('ACCESS_DOWN', `no peer answers over ${access}`, {
        hint: '`godwit paths` shows what works',
      })
    this.#preferred = access
    this.#tunnel.post({ type: 'prefer', access })
    return { flows: this.flows().length }
  }

  why(id: string): readonly DecisionRecord[] | undefined {
    const flow = this.flows().find((each) => each.id === id)
    const peer = this.#reports.find((each) => each.name === flow?.peer)
    if (peer === undefined) return undefined
    const used = this.#paths.find((path) => path.used && path.peer === peer.name)
    return [
      {
        at: this.#parts.wall(),
        mechanism: this.name,
        subject: { kind: 'peer', name: peer.name },
        what: id,
        chosen: used === undefined ? 'none' : `${used.access} (${used.kind})`,
        reason: peer.reason,
        evidence: {
          rtt_ms: used === undefined ? null : finite(used.rttMs),
          ways: this.#paths.filter((path) => path.peer === peer.name && isUsable(path.state)).length,
          preferred: this.#preferred ?? null,
        },
      },
    ]
  }

  metrics(): readonly Metric[] {
    const counters = Object.entries(this.#tunnel.status?.counters ?? {}).map(([name, value]) => ({
      name: `godwit_overlay_${name}_total`,
      help: `Since the start: ${name.replaceAll('_', ' ')}.`,
      type: 'counter' as const,
      value,
    }))
    const registered = this.#registered !== undefined && this.#trouble === undefined ? 1 : 0
    return [
      ...counters,
      {
        name: 'godwit_overlay_registered',
        help: 'Whether the coordinator knows the location of this node.',
        type: 'gauge' as const,
        value: registered,
      },
    ]
  }

  #view(): object {
    const own = this.#own()
    const { host, port } = this.#init.coordinator
    return {
      name: this.#init.credentials.name,
      public_key: encodeKey(publicKeyOf(this.#init.privateKey)),
      addresses: own === undefined ? [] : addressesOf(own).map(formatAddress),
      coordinator: port === COORDINATOR_PORT ? host : `${host}:${port}`,
      registered: this.#registered !== undefined && this.#trouble === undefined,
      trouble: this.#renewal?.ended ?? this.#trouble ?? null,
      login_expires: this.#renewal?.expires ?? null,
      observed: this.#registered?.observed ?? null,
      notified: this.#notifications?.isConnected ?? false,
      names: this.#names.view(),
      peers: [...this.#known.values()].reverse().map((peer) => {
        const report = this.#reports.find((each) => each.name === peer.name)
        return {
          name: peer.name,
          public_key: report === undefined ? null : encodeKey(report.publicKey),
          addresses: addressesOf(peer).map(formatAddress),
          way: report?.kind ?? null,
          access: report?.access ?? null,
          reason: report?.reason ?? this.#refused.get(peer.name) ?? 'not used since the start',
        }
      }),
    }
  }
}

const COORDINATOR = 'the coordinator'

/**
 * The mobile host's protocol core: association with anchors, the tunnel of every flow, and reports of changes to the
 * anchors. Pure: the tunnel machine and sockets are injected, time is an argument, events come out of `poll`.
 *
 * Policies choose the access of flows (policies.ts); announcements.ts reports changes to anchors, handovers.ts records
 * them.
 */

import { formatAddress, kindOf } from '../../core/address.ts'
import type { Subject } from '../../core/subject.ts'
import type { PathConfig, PathView, TunnelCommands, TunnelEvent } from '../../tunnel/protocol/api.ts'
import type { HostForwarder } from '../forwarders/host.ts'
import type {
  AccessSetup,
  HostEvent,
  Identified,
  PeerReport,
  PolicySetup,
  RemoteAnchor,
} from '../protocol.ts'
import type { Signalling, SignallingEvents, Tally } from '../signalling/api.ts'
import { FrameSignalling } from '../signalling/frames-host.ts'
import type { FlowTuple } from '../tables/flow-key.ts'
import type { Paft } from '../tables/paft.ts'
import { NOWHERE, type TunnelTable } from '../tables/tunnels.ts'
import { Announcements, type Collected } from './announcements.ts'
import { HandoverRecords } from './handovers.ts'
import { type Anchor, describe, type HostPath, healthOf } from './host-state.ts'
import { FIRST_POLICY, Policies, type Policy } from './policies.ts'

export interface HostMachineParts {
  readonly tunnel: TunnelCommands
  readonly paft: Paft
  readonly tunnels: TunnelTable
  readonly forwarder: HostForwarder
  /** Milliseconds since the Unix epoch, for records. */
  readonly wall: () => number
  /** Data exchanged with a peer so far. */
  readonly tally: (peer: number) => Tally
  /** How the anchor is spoken to (UP-4); absent: control frames inside the tunnel. */
  readonly signalling?: (events: SignallingEvents) => Signalling
}

export class HostMachine implements SignallingEvents {
  readonly #parts: HostMachineParts
  readonly #anchors = new Map<number, Anchor>()
  readonly #paths = new Map<number, HostPath>()
  readonly #accesses = new Map<string, AccessSetup>()
  readonly #events: HostEvent[] = []
  readonly #signalling: Signalling
  readonly #records: HandoverRecords
  readonly #announcements: Announcements
  readonly #policies: Policies

  constructor(parts: HostMachineParts) {
    this.#parts = parts
    this.#signalling = parts.signalling?.(this) ?? new FrameSignalling(parts.tunnel, this)
    this.#announcements = new Announcements({
      paft: parts.paft,
      forwarder: parts.forwarder,
      signalling: this.#signalling,
      pathAt: (tid) => this.#pathAt(tid),
    })
    this.#records = new HandoverRecords({
      forwarder: parts.forwarder,
      signalling: this.#signalling,
      tally: parts.tally,
      emit: (event) => this.#events.push(event),
    })
    this.#policies = new Policies({
      paft: parts.paft,
      forwarder: parts.forwarder,
      announcements: this.#announcements,
      anchors: this.#anchors,
      paths: this.#paths,
      accesses: this.#accesses,
      pathAt: (tid) => this.#pathAt(tid),
      emit: (event) => this.#events.push(event),
      watch: (subject, oldTid, tid, cause, now) => this.#watch(subject, -1, oldTid, tid, cause, now),
    })
  }

  poll(): HostEvent | undefined {
    return this.#events.shift()
  }

  nextTimeout(): number | undefined {
    let next = this.#policies.nextTimeout()
    for (const other of [this.#signalling.nextTimeout(), this.#records.nextTimeout()])
      if (other !== undefined && (next === undefined || other < next)) next = other
    return next
  }

  handleTimeout(now: number): void {
    this.#signalling.handleTimeout(now)
    this.#records.handleTimeout(now)
    this.#policies.handleTimeout(now)
  }

  // ---- commands

  /** The peer is known to the tunnel machine under `index`. */
  addAnchor(index: number, setup: RemoteAnchor): void {
    const known = setup.v4 !== undefined || setup.v6 !== undefined
    const anchor: Anchor = {
      index,
      setup,
      association: known ? { name: 'associated', v4: setup.v4, v6: setup.v6 } : { name: 'none' },
      established: false,
      joining: setup.invited === true,
    }
    this.#anchors.set(index, anchor)
    if (known) this.#parts.forwarder.associate(index, setup.v4, setup.v6)
  }

  /** Access states from the monitor; paths follow by `addPath`. */
  setAccess(access: AccessSetup, now: number): void {
    this.#accesses.set(access.name, access)
    this.#policies.reconsider(`${access.name}: ${access.detail}`, now)
  }

  removeAccess(name: string, now: number): void {
    this.#accesses.delete(name)
    this.#policies.reconsider(`${name} is gone`, now)
  }

  /** Opens a path over an access towards an anchor; returns its slot. */
  addPath(
    peer: number,
    access: string,
    config: PathConfig,
    localPort: number,
    now: number,
  ): number | undefined {
    const anchor = this.#anchors.get(peer)
    if (anchor === undefined) return undefined
    const { pathId, remote } = config
    const slot = this.#signalling.setUpTunnel(peer, config, now)
    const { v4, v6 } =
      anchor.association.name === 'associated' ? anchor.association : { v4: undefined, v6: undefined }
    const row = this.#parts.tunnels.open({
      slot,
      peer,
      localTun: { interface: access, index: localPort },
      remoteTun: { endPoint: formatAddress(remote.address), index: remote.port },
      vipNat: { ...(v4 && { v4 }), ...(v6 && { v6 }) },
      unTid: anchor.setup.kind === 'wireguard' ? 0 : pathId,
    })
    this.#paths.set(slot, {
      slot,
      anchor,
      access,
      pathId,
      tid: row.localTid,
      health: 'down',
      since: now,
      rttMs: Number.NaN,
      loss: Number.NaN,
      carried: isLoopback(remote.address),
      replaced: false,
    })
    const view = this.#parts.tunnel.path(slot)
    if (view !== undefined) this.#pathChanged(view, now)
    return slot
  }

  /** Paths of an access, to be closed. */
  pathsOf(access: string): { readonly slot: number }[] {
    return [...this.#paths.values()].filter((path) => path.access === access)
  }

  /** Packets to this anchor go over the socket. */
  isUsed(peer: number, socket: number): boolean {
    const isThere = ({ slot, anchor }: HostPath) =>
      anchor.index === peer && this.#parts.tunnel.path(slot)?.socket === socket
    return this.#policies.tids().some((tid) => {
      const path = this.#pathAt(tid)
      return path !== undefined && isThere(path)
    })
  }

  /** Another socket of the same access is there: its paths are preferred. */
  noteReplaced(socket: number): void {
    for (const path of this.#paths.values())
      if (this.#parts.tunnel.path(path.slot)?.socket === socket) path.replaced = true
  }

  setPolicies(setups: readonly PolicySetup[], now: number): void {
    this.#policies.set(setups, now)
  }

  /** The main thread has found out whose flows these are. */
  identify(flows: readonly Identified[], now: number): void {
    const { paft } = this.#parts
    const moved = new Map<number, FlowTuple[]>()
    for (const { id, policy, app, pin } of flows) {
      const row = paft.findId(id)
      if (row < 0) continue
      let index = this.#policies.active(policy + FIRST_POLICY)
      if (pin !== undefined) index = this.#policies.pinned(index, pin, now)
      const chosen = this.#policies.get(index)
      if (chosen === undefined) continue
      const before = paft.groupAt(row)
      paft.setOwner(row, index, app)
      // Unidentified flows have the default policy, here and at the anchor.
      if (before === index || (before < FIRST_POLICY && index === FIRST_POLICY)) continue
      collect(moved, index, paft.tupleAt(row))
    }
    this.#announceJoined(moved, now)
  }

  /**
   * Explicit handover by the user: pins these flows (or everything) to an access, or gives them back to their policies
   * (undefined). Returns how many flows that is, or why it cannot be done. `isStatic`: packets must not move them at the anchor from now on; moving them again without it
   * ends that.
   */
  move(
    subject: Subject,
    ids: readonly string[] | 'all',
    access: string | undefined,
    isStatic: boolean,
    now: number,
  ): number | string {
    const works =
      access === undefined ||
      [...this.#paths.values()].some((path) => path.access === access && path.health !== 'down')
    if (!works && access !== undefined) {
      const known = this.#accesses.get(access)
      if (known === undefined) return `there is no access ${access}`
      return known.health === 'down'
        ? `${access} is down (${known.detail})`
        : `${access} is up, but nothing answers over it`
    }
    if (ids === 'all') return this.#policies.pinAll(access, now)
    const { paft } = this.#parts
    let count = 0
    const moved = new Map<number, FlowTuple[]>()
    const fixed: Collected = new Map()
    let from = ''
    let target: Policy | undefined
    const cause = access === undefined ? 'returned to the policy' : 'moved by hand'
    for (const id of ids) {
      const row = paft.findId(id)
      if (row < 0) continue
      const before = paft.groupAt(row)
      const own = this.#policies.get(before) === undefined ? this.#policies.active(FIRST_POLICY) : before
      const index =
        access === undefined ? this.#policies.unpinned(own) : this.#policies.pinned(own, access, now)
      const policy = this.#policies.get(index)
      if (policy === undefined || (access === undefined && index === own)) continue
      const tid = this.#parts.forwarder.tidOf(row)
      from ||= this.#accessOf(tid)
      target = policy
      count++
      if (count === 1 && tid !== policy.tid) this.#watch(subject, row, tid, policy.tid, cause, now)
      paft.setOwner(row, index, paft.appAt(row))
      if (this.#announcements.hold(id, isStatic))
        this.#announcements.collect(fixed, policy.tid, paft.tupleAt(row))
      if (before !== index) collect(moved, index, paft.tupleAt(row))
    }
    this.#announceJoined(moved, now)
    this.#announcements.setMode(fixed, isStatic, now)
    if (target !== undefined)
      this.#events.push({
        type: 'decision',
        subject,
        chosen: access ?? target.access ?? 'none',
        reason: cause,
        evidence: { from, flows: count, policy: target.setup.name, static: isStatic },
      })
    return count
  }

  /** Flows that have another policy now, by that. */
  #announceJoined(flows: ReadonlyMap<number, readonly FlowTuple[]>, now: number): void {
    for (const [index, tuples] of flows)
      this.#announcements.joined(index, tuples, this.#policies.get(index)?.tid ?? NOWHERE, now)
  }

  // ---- from the tunnel

  handleTunnelEvent(event: TunnelEvent, now: number): void {
    const anchor = this.#anchors.get(event.peer as number)
    if (anchor === undefined) return
    switch (event.type) {
      case 'session':
        anchor.established = event.up
        break
      case 'hello':
        // Counters of a restarted anchor start again from zero.
        if (event.restarted || anchor.association.name === 'none') this.#records.begin(anchor.index)
        if (event.restarted) this.#announcements.forgotten()
        if (event.restarted || anchor.association.name !== 'associated' || anchor.setup.kind === 'godwit')
          this.#associate(anchor, now)
        break
      case 'path':
        this.#pathChanged(event.path, now)
        break
      case 'quality': {
        const path = this.#paths.get(event.slot)
        if (path !== undefined) {
          path.rttMs = event.rttMs
          path.loss = event.loss
        }
        break
      }
      case 'path-closed': {
        const path = this.#paths.get(event.slot)
        if (path === undefined) break
        this.#paths.delete(event.slot)
        this.#parts.tunnels.close(path.tid)
        this.#policies.reconsider(`the path over ${path.access} has closed`, now)
        break
      }
      case 'key-confirmed':
        if (event.whose === 'remote') break
        anchor.joining = false
        if (anchor.association.name === 'associated')
          this.#parts.forwarder.associate(anchor.index, anchor.association.v4, anchor.association.v6)
        break
      case 'frame':
        this.#signalling.handleFrame(anchor.index, event.code, event.body, now)
        break
      default:
        break
    }
  }

  #pathChanged(view: PathView, now: number): void {
    const path = this.#paths.get(view.slot)
    if (path === undefined) return
    const health = healthOf(view.state.name, path.anchor.setup.kind)
    path.rttMs = view.rttMs
    path.loss = view.loss
    if (health === path.health) return
    path.health = health
    path.since = now
    this.#parts.tunnels.setUsable(path.tid, health !== 'down')
    if (path.anchor.association.name === 'none' && health !== 'down') this.#associate(path.anchor, now)
    this.#policies.reconsider(describe(path, view), now)
  }

  // ---- association (UP-8)

  #associate(anchor: Anchor, now: number): void {
    if (anchor.setup.kind === 'wireguard') return
    if (anchor.association.name !== 'associated') anchor.association = { name: 'requested' }
    this.#signalling.associate(anchor.index, now)
  }

  refused(index: number, reason: string): void {
    const anchor = this.#anchors.get(index)
    if (anchor === undefined) return
    anchor.association = { name: 'refused', reason }
    this.#log(
      'warn',
      `${anchor.setup.name} refuses this host: ${reason}; get another invitation there (godwit anchor invite NAME), then godwit leave and godwit join`,
    )
  }

  associated(index: number, v4: Uint8Array | undefined, v6: Uint8Array | undefined, now: number): void {
    const anchor = this.#anchors.get(index)
    if (anchor === undefined) return
    const first = anchor.association.name !== 'associated'
    anchor.association = { name: 'associated', v4, v6 }
    // Until then packets wait.
    if (!anchor.joining) this.#parts.forwarder.associate(index, v4, v6)
    for (const path of this.#paths.values()) {
      if (path.anchor === anchor)
        this.#parts.tunnels.update(path.tid, { vipNat: { ...(v4 && { v4 }), ...(v6 && { v6 }) } })
    }
    this.#policies.announceUntold(now)
    if (first)
      this.#log('info', `associated with ${anchor.setup.name}: ${v4 ? formatAddress(v4) : 'no IPv4'}`)
  }

  tallied(index: number, sent: number, far: Tally, now: number): void {
    this.#records.tallied(index, sent, far, now)
  }

  /** Whether data flows; without, nothing is asked of anybody. */
  setTraffic(flows: boolean, now: number): void {
    this.#records.setTraffic(flows, now)
  }

  #pathAt(tid: number): HostPath | undefined {
    const row = this.#parts.tunnels.get(tid)
    return row === undefined ? undefined : this.#paths.get(row.slot)
  }

  #accessOf(tid: number): string {
    return this.#pathAt(tid)?.access ?? 'none'
  }

  // ---- records

  #watch(subject: Subject, row: number, oldTid: number, tid: number, cause: string, now: number): void {
    const to = this.#pathAt(tid)
    const from = this.#pathAt(oldTid)
    const event = {
      at: this.#parts.wall(),
      subject,
      from: from?.access ?? 'none',
      to: to?.access ?? 'none',
      cause,
    }
    if (to === undefined) this.#records.waiting(event)
    else this.#records.watch(event, row, to.anchor.index, from?.slot ?? -1, to.slot, now)
  }

  #log(level: 'warn' | 'info', message: string): void {
    this.#events.push({ type: 'log', level, message })
  }

  // ---- what is now

  peerReports(): PeerReport[] {
    return [...this.#anchors.values()].map(({ setup, established, association, joining }) => ({
      name: setup.name,
      established,
      ...(joining && { joining }),
      ...(association.name === 'associated' && association.v4 && { v4: association.v4 }),
      ...(association.name === 'associated' && association.v6 && { v6: association.v6 }),
      ...(association.name === 'refused' && { refused: association.reason }),
    }))
  }

  /** Where a row is: names of its policy, peer and access. */
  whereabouts(row: number): { policy: string; peer: string; access: string; pinned?: string } {
    const path = this.#pathAt(this.#parts.forwarder.tidOf(row))
    const policy = this.#policies.of(row)
    return {
      policy: policy?.label ?? '',
      ...(policy?.rules.pinned !== undefined && { pinned: policy.rules.pinned }),
      peer: path?.anchor.setup.name ?? '',
      access: path?.access ?? '',
    }
  }

  pathAccess(slot: number): string | undefined {
    return this.#paths.get(slot)?.access
  }

  pathIsCarried(slot: number): boolean {
    return this.#paths.get(slot)?.carried === true
  }
}

function isLoopback(address: Uint8Array): boolean {
  return kindOf(address) === 'loopback'
}

function collect(into: Map<number, FlowTuple[]>, group: number, tuple: FlowTuple): void {
  const list = into.get(group)
  if (list === undefined) into.set(group, [tuple])
  else list.push(tuple)
}

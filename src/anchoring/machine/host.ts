/**
 * The mobile host's protocol core: association with anchors, which tunnel every flow takes, and telling the anchor when
 * that changes. Pure: the tunnel machine and sockets are given, time is an argument, what happened comes out of `poll`.
 *
 * A *policy* says which access its flows use (access/policy.ts decides, with hysteresis). Flows of the same policy go by
 * the same tunnel; `move` pins a copy of the policy to an access, so that the reasons stay the same for one flow and for
 * all. The first policy is the default, for flows not yet identified too.
 */
import { type AccessPolicy, chooseAccess, worse } from '../../access/policy.ts'
import { formatAddress } from '../../core/address.ts'
import { TimerTable } from '../../core/timers.ts'
import type { PathConfig, PathView, TunnelCommands, TunnelEvent } from '../../tunnel/machine/api.ts'
import { type HostForwarder, REPORTED } from '../forwarders/host.ts'
import type { AccessSetup, Event, Identified, PeerReport, PeerSetup, PolicySetup } from '../protocol.ts'
import type { Signalling, SignallingEvents, Tally } from '../signalling/api.ts'
import { FrameSignalling } from '../signalling/frames-host.ts'
import type { FlowTuple } from '../tables/flow-key.ts'
import type { Paft } from '../tables/paft.ts'
import { NOWHERE, type TunnelTable } from '../tables/tunnels.ts'
import { MOST_FLOWS } from '../wire.ts'
import { Announcements, type Collected } from './announcements.ts'
import { HandoverRecords } from './handovers.ts'
import { type Anchor, describe, type HostPath, healthOf } from './host-state.ts'

/** Index of the first policy: those before it are the forwarder's. */
export const FIRST_POLICY = REPORTED + 1
const MOST_POLICIES = 4096

interface Policy {
  readonly setup: PolicySetup
  /** Name of the policy, and of the access it is pinned to. */
  readonly label: string
  rules: AccessPolicy
  /** Index of the policy that it is a pinned copy of. */
  readonly base: number
  access: string | undefined
  tid: number
  reason: string
}

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
  #policies: (Policy | undefined)[] = []
  readonly #pinned = new Map<string, number>()
  readonly #events: Event[] = []
  readonly #timers = new TimerTable<'reconsider'>()
  readonly #signalling: Signalling
  readonly #records: HandoverRecords
  readonly #announcements: Announcements

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
  }

  poll(): Event | undefined {
    return this.#events.shift()
  }

  nextTimeout(): number | undefined {
    let next = this.#timers.next()
    for (const other of [this.#signalling.nextTimeout(), this.#records.nextTimeout()])
      if (other !== undefined && (next === undefined || other < next)) next = other
    return next
  }

  handleTimeout(now: number): void {
    this.#signalling.handleTimeout(now)
    this.#records.handleTimeout(now)
    if (this.#timers.expire(now) !== undefined) this.#reconsider(undefined, now)
  }

  // ---- commands

  /** The peer is known to the tunnel machine under `index`. */
  addAnchor(index: number, setup: PeerSetup): void {
    const known = setup.v4 !== undefined || setup.v6 !== undefined
    const anchor: Anchor = {
      index,
      setup,
      association: known ? { name: 'associated', v4: setup.v4, v6: setup.v6 } : { name: 'none' },
      established: false,
    }
    this.#anchors.set(index, anchor)
    if (known) this.#parts.forwarder.associate(index, setup.v4, setup.v6)
  }

  /** Access states from the monitor; paths follow by `addPath`. */
  setAccess(access: AccessSetup, now: number): void {
    this.#accesses.set(access.name, access)
    this.#reconsider(`${access.name}: ${access.detail}`, now)
  }

  removeAccess(name: string, now: number): void {
    this.#accesses.delete(name)
    this.#reconsider(`${name} is gone`, now)
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
    // A slot that is free again may be given anew before its path is told to have closed.
    const before = this.#paths.get(slot)
    if (before !== undefined) this.#parts.tunnels.close(before.tid)
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
    })
    const view = this.#parts.tunnel.path(slot)
    if (view !== undefined) this.#pathChanged(view, now)
    return slot
  }

  /** Paths of an access, to be closed. */
  pathsOf(access: string): { readonly slot: number; readonly pathId: number }[] {
    return [...this.#paths.values()].filter((path) => path.access === access)
  }

  /** Replaces the policies; rows keep theirs by index, pinned copies are dropped. */
  setPolicies(setups: readonly PolicySetup[], now: number): void {
    const before = this.#policies
    this.#policies = new Array(FIRST_POLICY)
    this.#pinned.clear()
    for (const setup of setups) {
      const index = this.#policies.length
      const old = before[index]
      this.#policies.push({
        setup,
        label: setup.name,
        rules: { prefer: setup.prefer, fallback: setup.fallback, moveUp: setup.moveUp },
        base: index,
        access: old?.access,
        tid: old?.tid ?? NOWHERE,
        reason: old?.reason ?? '',
      })
    }
    this.#reconsider('the policies were read', now)
  }

  /** The main thread has found out whose flows these are. */
  identify(flows: readonly Identified[], now: number): void {
    const { paft } = this.#parts
    const moved: Collected = new Map()
    for (const { id, policy, app, pin } of flows) {
      const row = paft.findId(id)
      if (row < 0) continue
      let index = policy + FIRST_POLICY
      if (pin !== undefined) index = this.#pinnedCopy(index, pin, now)
      const chosen = this.#policies[index]
      if (chosen === undefined) continue
      paft.setOwner(row, index, app)
      if (paft.tidAt(row) === chosen.tid) continue
      paft.setTid(row, chosen.tid)
      this.#announcements.collect(moved, chosen.tid, paft.tupleAt(row))
    }
    this.#announcements.announceAll(moved, now)
  }

  /**
   * Explicit handover by the user: pins these flows (or everything) to an access. Returns how many flows that is, or why
   * it cannot be done. `isStatic`: packets must not move them at the anchor from now on; moving them again without it
   * ends that.
   */
  move(
    what: string,
    ids: readonly string[] | 'all',
    access: string,
    isStatic: boolean,
    now: number,
  ): number | string {
    const works = [...this.#paths.values()].some((path) => path.access === access && path.health !== 'down')
    if (!works) {
      const known = this.#accesses.get(access)
      if (known === undefined) return `there is no access ${access}`
      return known.health === 'down'
        ? `${access} is down (${known.detail})`
        : `${access} is up, but nothing answers over it`
    }
    const { paft } = this.#parts
    if (ids === 'all') {
      paft.settle()
      const count = paft.size
      for (let row = 0; row < paft.slots; row++) {
        if (!paft.occupied(row)) continue
        const policy = this.#policies[paft.policyAt(row)]
        if (policy !== undefined) paft.setOwner(row, policy.base, paft.appAt(row))
      }
      this.#pinned.clear()
      let end = FIRST_POLICY
      while (this.#policies[end]?.base === end) end++
      this.#policies.length = end // pinned copies stand behind
      for (const policy of this.#policies)
        if (policy !== undefined) policy.rules = { ...policy.rules, pinned: access }
      this.#announcements.holdNone(now)
      this.#reconsider('moved by hand', now, 'all')
      // Rows that had been pinned elsewhere follow, even where nothing was to be decided.
      for (const [index, policy] of this.#policies.entries())
        if (policy !== undefined) this.#rebind(index, policy.tid, now)
      return count
    }
    let count = 0
    const moved: Collected = new Map()
    const fixed: Collected = new Map()
    let from = ''
    let target: Policy | undefined
    for (const id of ids) {
      const row = paft.findId(id)
      if (row < 0) continue
      const own = this.#policies[paft.policyAt(row)] ?? this.#policies[FIRST_POLICY]
      if (own === undefined) continue
      const index = this.#pinnedCopy(own.base, access, now)
      const policy = this.#policies[index]!
      from ||= this.#accessOf(paft.tidAt(row))
      target = policy
      count++
      if (count === 1) this.#watch(what, row, paft.tidAt(row), policy, 'moved by hand', now)
      paft.setOwner(row, index, paft.appAt(row))
      if (this.#announcements.hold(id, isStatic))
        this.#announcements.collect(fixed, policy.tid, paft.tupleAt(row))
      if (paft.tidAt(row) === policy.tid) continue
      paft.setTid(row, policy.tid)
      this.#announcements.collect(moved, policy.tid, paft.tupleAt(row))
    }
    this.#announcements.announceAll(moved, now)
    this.#announcements.setMode(fixed, isStatic, now)
    if (target !== undefined)
      this.#events.push({
        type: 'decision',
        what,
        chosen: access,
        reason: 'moved by hand',
        evidence: { from, flows: count, policy: target.setup.name, static: isStatic },
      })
    return count
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
        // Counts of an anchor that restarted begin anew.
        if (event.restarted || anchor.association.name === 'none') this.#records.begin(anchor.index)
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
        if (path === undefined || path.pathId !== event.pathId) break
        this.#paths.delete(event.slot)
        this.#parts.tunnels.close(path.tid)
        this.#reconsider(`the path over ${path.access} has closed`, now)
        this.#parts.tunnels.release(this.#parts.tunnels.retire())
        break
      }
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
    this.#reconsider(describe(path, view), now)
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
    this.#log('warn', `${anchor.setup.name} refuses this host: ${reason}`)
  }

  associated(index: number, v4: Uint8Array | undefined, v6: Uint8Array | undefined): void {
    const anchor = this.#anchors.get(index)
    if (anchor === undefined) return
    const first = anchor.association.name !== 'associated'
    anchor.association = { name: 'associated', v4, v6 }
    this.#parts.forwarder.associate(index, v4, v6)
    for (const path of this.#paths.values()) {
      if (path.anchor === anchor)
        this.#parts.tunnels.update(path.tid, { vipNat: { ...(v4 && { v4 }), ...(v6 && { v6 }) } })
    }
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

  // ---- policies

  #pinnedCopy(base: number, access: string, now: number): number {
    const key = `${base} ${access}`
    const known = this.#pinned.get(key)
    if (known !== undefined) return known
    const policy = this.#policies[base]
    if (policy === undefined || this.#policies.length >= MOST_POLICIES) return base
    const index = this.#policies.length
    const copy: Policy = {
      ...policy,
      label: `${policy.setup.name}, pinned to ${access}`,
      rules: { ...policy.rules, pinned: access },
      access: undefined,
      tid: NOWHERE,
    }
    this.#policies.push(copy)
    this.#pinned.set(key, index)
    this.#decide(copy, index, 0, 'moved by hand', now)
    return index
  }

  /** Something changed (`cause`; undefined: time has passed): asks every policy again. */
  #reconsider(cause: string | undefined, now: number, what?: string): void {
    this.#timers.clear('reconsider')
    const flows = this.#flowsOfPolicies()
    for (const [index, policy] of this.#policies.entries()) {
      if (policy !== undefined) this.#decide(policy, index, flows[index]!, cause, now, what)
    }
  }

  /** Rows of each policy; those not identified yet are the default's. */
  #flowsOfPolicies(): Int32Array {
    const { paft } = this.#parts
    const flows = new Int32Array(this.#policies.length)
    paft.settle()
    for (let row = 0; row < paft.slots; row++)
      if (paft.occupied(row)) flows[Math.max(FIRST_POLICY, paft.policyAt(row))]!++
    return flows
  }

  #decide(
    policy: Policy,
    index: number,
    flows: number,
    cause: string | undefined,
    now: number,
    what?: string,
  ): void {
    const anchor = this.#anchorOf(policy)
    const candidates = [...this.#paths.values()]
      .filter((path) => path.anchor === anchor)
      .map((path) => {
        const access = this.#accesses.get(path.access)
        const health = access === undefined ? 'down' : worse(access.health, path.health)
        return {
          access: path.access,
          health,
          since: Math.max(path.since, access?.since ?? 0),
          ...(access !== undefined && access.health !== 'up' && { detail: access.detail }),
          rttMs: path.rttMs,
          use: access?.use ?? 'normal',
          cost: access?.cost ?? 0,
        } as const
      })
    // Holding on to what is in use protects flows; without any, the best is taken at once.
    const current = flows > 0 ? policy.access : undefined
    const choice = chooseAccess(candidates, current, policy.rules, now)
    if (choice.reconsiderAt !== undefined) this.#timers.setEarlier('reconsider', choice.reconsiderAt)
    const path =
      choice.access === undefined
        ? undefined
        : [...this.#paths.values()].find(
            (each) => each.anchor === anchor && each.access === choice.access && each.health !== 'down',
          )
    const tid = path?.tid ?? NOWHERE
    if (tid === policy.tid && choice.access === policy.access) return
    const before = policy.access
    const oldTid = policy.tid
    policy.access = choice.access
    policy.tid = tid
    policy.reason = choice.reason
    if (index === FIRST_POLICY) this.#parts.forwarder.defaultTid = tid
    const rows = this.#rebind(index, tid, now)
    this.#events.push({
      type: 'decision',
      what: `policy ${policy.label}`,
      chosen: choice.access ?? 'none',
      reason: choice.reason,
      evidence: { ...choice.evidence, ...(cause !== undefined && { cause }), flows: rows },
    })
    const subject = what ?? (this.#policies.length === FIRST_POLICY + 1 ? 'all' : `policy ${policy.label}`)
    if (before !== undefined && before !== choice.access && rows > 0)
      this.#watch(subject, -1, oldTid, policy, cause ?? choice.reason, now)
  }

  /** Rows of a policy follow it to its tunnel. */
  #rebind(index: number, tid: number, now: number): number {
    const { paft } = this.#parts
    paft.settle()
    const tuples: FlowTuple[] = []
    let rows = 0
    let others = 0
    const anchor = this.#anchorAt(tid)
    for (let row = 0; row < paft.slots; row++) {
      if (!paft.occupied(row)) continue
      const policy = paft.policyAt(row)
      if (policy === index || (policy < FIRST_POLICY && index === FIRST_POLICY)) {
        rows++
        if (paft.tidAt(row) !== tid) {
          paft.setTid(row, tid)
          if (anchor !== undefined && tuples.length <= MOST_FLOWS * 8) tuples.push(paft.tupleAt(row))
        }
      } else if (paft.tidAt(row) !== tid) others++
    }
    // Nothing goes elsewhere: one frame says it all, and moves the anchor's default too.
    if (anchor !== undefined) this.#announcements.announce(anchor, others === 0 ? 'all' : tuples, now, tid)
    return rows
  }

  #anchorOf(policy: Policy): Anchor | undefined {
    for (const anchor of this.#anchors.values())
      if (policy.setup.peer === undefined || anchor.setup.name === policy.setup.peer) return anchor
    return undefined
  }

  #pathAt(tid: number): HostPath | undefined {
    const row = this.#parts.tunnels.get(tid)
    return row === undefined ? undefined : this.#paths.get(row.slot)
  }

  #anchorAt(tid: number): Anchor | undefined {
    return this.#pathAt(tid)?.anchor
  }

  #accessOf(tid: number): string {
    return this.#pathAt(tid)?.access ?? 'none'
  }

  // ---- records

  #watch(what: string, row: number, oldTid: number, policy: Policy, cause: string, now: number): void {
    const to = this.#pathAt(policy.tid)
    const from = this.#pathAt(oldTid)
    const event = {
      at: this.#parts.wall(),
      what,
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
    return [...this.#anchors.values()].map(({ setup, established, association }) => ({
      name: setup.name,
      established,
      ...(association.name === 'associated' && association.v4 && { v4: association.v4 }),
      ...(association.name === 'associated' && association.v6 && { v6: association.v6 }),
      ...(association.name === 'refused' && { refused: association.reason }),
    }))
  }

  /** Where a row is: names of its policy, peer and access. */
  whereabouts(row: number): { policy: string; peer: string; access: string } {
    const { paft } = this.#parts
    const path = this.#pathAt(paft.tidAt(row))
    const policy = this.#policies[paft.policyAt(row)] ?? this.#policies[FIRST_POLICY]
    return {
      policy: policy?.label ?? '',
      peer: path?.anchor.setup.name ?? '',
      access: path?.access ?? '',
    }
  }

  pathAccess(slot: number): string | undefined {
    return this.#paths.get(slot)?.access
  }

  /** Whether associated with an anchor and a path to it works: traffic flows. */
  get ready(): boolean {
    return [...this.#paths.values()].some(
      (path) => path.health !== 'down' && path.anchor.association.name === 'associated',
    )
  }
}

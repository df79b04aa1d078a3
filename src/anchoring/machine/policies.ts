/**
 * The policies of a mobile host: which access, and so which tunnel, the flows of each policy use now (access/policy.ts
 * decides, with hysteresis). Flows of the same policy are a group of the PAFT and use the same tunnel. A flow that was
 * moved by hand gets a copy of its policy that is pinned to an access, so that reasons are recorded alike for one flow
 * and for all. The first policy is the default, also for flows that are not identified yet.
 *
 * A flow stays with the anchor it began at, because its other end knows that anchor's address. New flows of a policy
 * without a peer use the first anchor that is up: for each anchor other than the first there is a copy of the policy.
 */

import { type AccessPolicy, chooseAccess, worse } from '../../access/policy.ts'
import { EVERYTHING, type Subject } from '../../core/subject.ts'
import { TimerTable } from '../../core/timers.ts'
import { type HostForwarder, MOST_POLICIES, REPORTED } from '../forwarders/host.ts'
import type { AccessSetup, HostEvent, PolicySetup } from '../protocol.ts'
import type { Paft } from '../tables/paft.ts'
import { NOWHERE } from '../tables/tunnels.ts'
import type { Announcements } from './announcements.ts'
import type { Anchor, HostPath } from './host-state.ts'

/** Index of the first policy: those before it are the forwarder's. */
export const FIRST_POLICY = REPORTED + 1

export interface Policy {
  readonly setup: PolicySetup
  /** Name of the policy, and of the access it is pinned to. */
  label: string
  rules: AccessPolicy
  /** Index of the policy that it is a copy of, pinned or for another anchor. */
  readonly base: number
  /** The peer's name; undefined: the first that there is. */
  readonly peer: string | undefined
  access: string | undefined
  tid: number
}

export interface PoliciesParts {
  readonly paft: Paft
  readonly forwarder: HostForwarder
  readonly announcements: Announcements
  readonly anchors: ReadonlyMap<number, Anchor>
  readonly paths: ReadonlyMap<number, HostPath>
  readonly accesses: ReadonlyMap<string, AccessSetup>
  /** The path behind a local_tid. */
  readonly pathAt: (tid: number) => HostPath | undefined
  readonly emit: (event: HostEvent) => void
  /** Flows went from one tunnel to another. */
  readonly watch: (subject: Subject, oldTid: number, tid: number, cause: string, now: number) => void
}

export class Policies {
  readonly #parts: PoliciesParts
  #policies: (Policy | undefined)[] = []
  readonly #pinned = new Map<string, number>()
  /** By policy: its copies for other anchors than its first. */
  readonly #elsewhere = new Map<number, Map<string, number>>()
  /** By policy: the copy that new flows use, if not the policy itself. */
  readonly #active = new Map<number, number>()
  /** The access that everything is pinned to. */
  #all: string | undefined
  readonly #timers = new TimerTable<'reconsider'>()

  constructor(parts: PoliciesParts) {
    this.#parts = parts
  }

  nextTimeout(): number | undefined {
    return this.#timers.next()
  }

  handleTimeout(now: number): void {
    if (this.#timers.expire(now) !== undefined) this.reconsider(undefined, now)
  }

  /** The policy with this index. */
  get(index: number): Policy | undefined {
    return this.#policies[index]
  }

  /** That of a row; of one not identified yet the default. */
  of(row: number): Policy | undefined {
    return this.#policies[this.#parts.paft.groupAt(row)] ?? this.#policies[this.active(FIRST_POLICY)]
  }

  /** Index of the policy or its copy that new flows of the policy `base` use. */
  active(base: number): number {
    return this.#active.get(base) ?? base
  }

  /** Replaces the policies. Rows keep theirs by index, pinned copies are dropped, the setting of `pinAll` stays. */
  set(setups: readonly PolicySetup[], now: number): void {
    const before = this.#policies
    this.#policies = new Array(FIRST_POLICY)
    this.#pinned.clear()
    this.#elsewhere.clear()
    this.#active.clear()
    for (const setup of setups) {
      const index = this.#policies.length
      const old = before[index]
      this.#policies.push({
        setup,
        label: setup.name,
        rules: withPin({ prefer: setup.prefer, fallback: setup.fallback, moveUp: setup.moveUp }, this.#all),
        base: index,
        peer: setup.peer,
        access: old?.access,
        tid: old?.tid ?? NOWHERE,
      })
    }
    this.reconsider('the policies were loaded', now)
  }

  /** The copy of the policy at `of` that is pinned to an access, made when there is none; its index. */
  pinned(of: number, access: string, now: number): number {
    const policy = this.#policies[of]
    if (policy === undefined) return of
    const key = `${policy.base} ${policy.peer ?? ''} ${access}`
    const known = this.#pinned.get(key)
    if (known !== undefined) return known
    const index = this.#copy(policy, {
      label: `${policy.setup.name}, pinned to ${access}`,
      rules: { ...policy.rules, pinned: access },
    })
    if (index === undefined) return of
    this.#pinned.set(key, index)
    this.#decide(this.#policies[index]!, index, 0, 'moved by hand', now)
    return index
  }

  #copy(policy: Policy, changes: Partial<Policy>): number | undefined {
    const index = this.#freeIndex()
    if (index >= MOST_POLICIES) return undefined
    this.#policies[index] = { ...policy, ...changes, access: undefined, tid: NOWHERE }
    this.#parts.forwarder.bind(index, NOWHERE)
    return index
  }

  /** Sends new flows of a policy to the first anchor that is up; without one they stay where they were. */
  #chooseAnchor(base: number, policy: Policy): void {
    const { anchors } = this.#parts
    if (policy.peer !== undefined || anchors.size < 2) return
    const [first] = anchors.values()
    const up = [...anchors.values()].find((anchor) => this.#isUp(anchor))
    if (up === undefined) return
    const before = this.active(base)
    if (up === first) this.#active.delete(base)
    else {
      const name = up.setup.name
      const copies = this.#elsewhere.get(base) ?? new Map<string, number>()
      this.#elsewhere.set(base, copies)
      const index =
        copies.get(name) ?? this.#copy(policy, { label: `${policy.setup.name}, by ${name}`, peer: name })
      if (index === undefined) return
      copies.set(name, index)
      this.#active.set(base, index)
    }
    if (before === this.active(base)) return
    this.#parts.emit({
      type: 'decision',
      subject: subjectOf(policy),
      chosen: up.setup.name,
      reason: `${up.setup.name} is the first anchor that is up: new flows go through it`,
      evidence: { flows: this.#parts.paft.rowsOf(before) },
    })
  }

  #isUp(anchor: Anchor): boolean {
    if (anchor.association.name !== 'associated' || anchor.joining) return false
    return [...this.#parts.paths.values()].some((path) => path.anchor === anchor && path.health !== 'down')
  }

  /** Index of a pinned copy that no flow has any more, else the next. */
  #freeIndex(): number {
    const used = new Set([
      ...this.#pinned.values(),
      ...[...this.#elsewhere.values()].flatMap((copies) => [...copies.values()]),
    ])
    const free = this.#policies.findIndex(
      (policy, index) =>
        policy !== undefined &&
        policy.base !== index &&
        !used.has(index) &&
        this.#parts.paft.rowsOf(index) === 0,
    )
    return free < 0 ? this.#policies.length : free
  }

  /** The policy of a flow at `index` without a pin: the same policy, at the same anchor. */
  unpinned(index: number): number {
    const policy = this.#policies[index]
    if (policy === undefined || policy.rules.pinned === undefined || policy.base === index) return index
    const elsewhere =
      policy.peer === undefined ? undefined : this.#elsewhere.get(policy.base)?.get(policy.peer)
    return elsewhere ?? policy.base
  }

  /**
   * Moves everything to this access, whatever single flows were pinned to; undefined: every policy decides again. Returns
   * the number of flows.
   */
  pinAll(access: string | undefined, now: number): number {
    this.#pinned.clear()
    this.#all = access
    for (const policy of this.#policies) {
      if (policy === undefined) continue
      policy.label = policy.setup.name
      policy.rules = withPin(policy.rules, access)
    }
    this.#parts.announcements.holdNone(now)
    this.reconsider(access === undefined ? 'returned to the policy' : 'moved by hand', now, EVERYTHING)
    return this.#parts.paft.size
  }

  /** Something changed (`cause`; undefined: time has passed): evaluates every policy again. */
  reconsider(cause: string | undefined, now: number, subject?: Subject): void {
    this.#timers.clear('reconsider')
    for (const [index, policy] of [...this.#policies.entries()])
      if (policy?.base === index) this.#chooseAnchor(index, policy)
    const told = new Set<string>()
    for (const [index, policy] of this.#policies.entries())
      if (policy !== undefined) this.#decide(policy, index, this.#flowsOf(index), cause, now, subject, told)
    this.#bindDefault()
  }

  /** Flows that are not identified, or of no group, use the default policy's tunnel. */
  #bindDefault(): void {
    const { forwarder } = this.#parts
    const policy = this.#policies[this.active(FIRST_POLICY)]
    if (policy !== undefined) forwarder.bindOthers(policy.tid, this.#policies.length)
  }

  /** An anchor now accepts reports: sends what it has missed. */
  announceUntold(now: number): void {
    for (const [index, policy] of this.#policies.entries())
      if (policy !== undefined) this.#parts.announcements.repeat(index, policy.tid, now)
    this.#parts.announcements.repeatStatic(now)
  }

  /** Tunnels that packets of the policies take. */
  tids(): number[] {
    return this.#policies.flatMap((policy) => (policy === undefined ? [] : policy.tid))
  }

  /** Flows of a policy; those not identified yet are the default's. */
  #flowsOf(index: number): number {
    const { paft } = this.#parts
    return paft.rowsOf(index) + (index === this.active(FIRST_POLICY) ? paft.rowsOf(REPORTED) : 0)
  }

  #decide(
    policy: Policy,
    index: number,
    flows: number,
    cause: string | undefined,
    now: number,
    subject?: Subject,
    /** Moves of everything that are recorded: policies that make the same one are one record. */
    told = new Set<string>(),
  ): void {
    const { paths, accesses, forwarder, announcements, emit, watch } = this.#parts
    const anchor = this.#anchorOf(policy)
    const candidates = bestOfEach([...paths.values()].filter((path) => path.anchor === anchor)).map(
      (path) => {
        const access = accesses.get(path.access)
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
      },
    )
    // Holding on to what is in use protects flows; without any, the best is taken at once.
    const current = flows > 0 ? policy.access : undefined
    const choice = chooseAccess(candidates, current, policy.rules, now)
    if (choice.reconsiderAt !== undefined) this.#timers.setEarlier('reconsider', choice.reconsiderAt)
    const path =
      choice.access === undefined
        ? undefined
        : bestOfEach([...paths.values()].filter((each) => each.anchor === anchor)).find(
            (each) => each.access === choice.access && each.health !== 'down',
          )
    const tid = path?.tid ?? NOWHERE
    if (tid === policy.tid && choice.access === policy.access) return
    const before = policy.access
    const oldTid = policy.tid
    policy.access = choice.access
    policy.tid = tid
    forwarder.bind(index, tid)
    const rows = flows
    announcements.moved(index, tid, now)
    emit({
      type: 'decision',
      subject: subjectOf(policy),
      chosen: choice.access ?? 'none',
      reason: choice.reason,
      evidence: { ...choice.evidence, ...(cause !== undefined && { cause }), flows: rows },
    })
    const about = subject ?? (this.#policies.length === FIRST_POLICY + 1 ? EVERYTHING : subjectOf(policy))
    if (before === undefined || before === choice.access || rows === 0) return
    const move = `${oldTid} ${policy.tid}`
    if (about === EVERYTHING && told.has(move)) return
    told.add(move)
    watch(about, oldTid, policy.tid, cause ?? choice.reason, now)
  }

  #anchorOf(policy: Policy): Anchor | undefined {
    for (const anchor of this.#parts.anchors.values())
      if (policy.peer === undefined || anchor.setup.name === policy.peer) return anchor
    return undefined
  }
}

function withPin({ pinned: _, ...rules }: Policy['rules'], access: string | undefined): Policy['rules'] {
  return access === undefined ? rules : { ...rules, pinned: access }
}

/** One path for each access: by UDP if that works. */
function bestOfEach(paths: readonly HostPath[]): HostPath[] {
  const best = new Map<string, HostPath>()
  for (const path of paths) {
    const known = best.get(path.access)
    if (known === undefined || rank(path) < rank(known)) best.set(path.access, path)
  }
  return [...best.values()]
}

function rank({ carried, health, replaced }: HostPath): number {
  return (health === 'down' ? 4 : 0) + (carried ? 2 : 0) + (replaced ? 1 : 0)
}

/** A copy for flows that were moved by hand names their access. */
function subjectOf({ setup, rules, label }: Policy): Subject {
  const { name } = setup
  return {
    kind: 'policy',
    name,
    ...(label !== name && rules.pinned !== undefined && { pinned: rules.pinned }),
  }
}

/**
 * Whose flows these are, on the main thread of a mobile host: which application each belongs to, the policy and access that
 * follow from it, and what the user has done to applications by hand.
 */
import type { Application, DecisionRecord } from '../core/mechanism.ts'
import { formatSelector, matches, type Selector } from '../core/selector.ts'
import type { FlowOwner, FlowOwners } from '../linux/owners.ts'
import type { Identified, PolicySetup } from './protocol.ts'
import type { FlowTuple } from './tables/flow-key.ts'

export interface HostPolicy extends PolicySetup {
  /** Any of these; empty: only `godwit run --policy`. */
  readonly match: readonly Selector[]
}

/** What is kept about a flow, for display and moves. */
interface Known {
  readonly owner: FlowOwner
  readonly policy: number
  readonly why: string
  readonly at: number
}

/** Initial size of the list of known flows, and its maximum: as many as the engine has rows. */
const CROWD = 10_000
const MOST_KNOWN = 1 << 17

interface Verdict {
  readonly policy: number
  readonly why: string
  /** Access that the flow is pinned to. */
  readonly pin?: string
}

export class FlowApplications {
  readonly #owners: FlowOwners
  #policies: readonly HostPolicy[]
  readonly #known = new Map<string, Known>()
  readonly #names: string[] = ['']
  readonly #started = new Map<string, Application>()
  /** Applications moved by selector: new flows of theirs follow. Newest first. */
  #moved: { readonly selector: Selector; readonly access: string }[] = []
  /** So many flows may be known before it is asked which of them live. */
  #crowd = CROWD

  /** The first policy is the default. */
  constructor(owners: FlowOwners, policies: readonly HostPolicy[]) {
    this.#owners = owners
    this.#policies = policies
  }

  /** Finds out whose new flows are; `at` is milliseconds since the Unix epoch. */
  identify(flows: readonly { readonly id: string; readonly flow: FlowTuple }[], at: number): Identified[] {
    return flows.map(({ id, flow }) => {
      const owner = this.#owners.find(id, flow)
      const { policy, why, pin } = this.#verdict(owner)
      this.#known.set(id, { owner, policy, why, at })
      if (this.#known.size > MOST_KNOWN) this.#known.delete(this.#known.keys().next().value!)
      return { id, policy, app: this.#indexOf(owner.app), ...(pin !== undefined && { pin }) }
    })
  }

  /** Replaces the policies; known flows are identified again. `pins`: single flows that were moved by hand. */
  replacePolicies(policies: readonly HostPolicy[], pins: ReadonlyMap<string, string>): Identified[] {
    this.#policies = policies
    return [...this.#known].map(([id, { owner, at }]) => {
      const { policy, why, pin } = this.#verdict(owner)
      this.#known.set(id, { owner, policy, why, at })
      const kept = pins.get(id) ?? pin
      return { id, policy, app: this.#indexOf(owner.app), ...(kept !== undefined && { pin: kept }) }
    })
  }

  /** Whether there may be many that ended, so that it is time for `keep`. Says so once as they grow. */
  get crowded(): boolean {
    if (this.#known.size <= this.#crowd) return false
    this.#crowd = 2 * this.#known.size
    return true
  }

  /** Forgets flows that are not among these. */
  keep(living: ReadonlySet<string>): void {
    for (const id of this.#known.keys()) if (!living.has(id)) this.#known.delete(id)
    this.#crowd = Math.max(CROWD, 2 * this.#known.size)
  }

  /** Ids of the flows that a selector means. */
  select(what: Selector): string[] {
    return [...this.#known].filter(([, { owner }]) => matches(what, owner.facts)).map(([id]) => id)
  }

  /** From now on new flows of the selector go over that access. */
  follow(selector: Selector, access: string): void {
    const text = formatSelector(selector)
    const others = this.#moved.filter((each) => formatSelector(each.selector) !== text)
    this.#moved = [{ selector, access }, ...others]
  }

  /** Moves by hand that new flows follow, newest first. */
  followed(): readonly { readonly what: string; readonly access: string }[] {
    return this.#moved.map(({ selector, access }) => ({ what: formatSelector(selector), access }))
  }

  /** New flows of the selector go by their policies again. Returns whether that changes anything. */
  unfollow(selector: Selector): boolean {
    const text = formatSelector(selector)
    const others = this.#moved.filter((each) => formatSelector(each.selector) !== text)
    const changed = others.length < this.#moved.length
    this.#moved = others
    return changed
  }

  /** Of these flows those of programs that `godwit run --access` started, by that access. */
  started(ids: Iterable<string>): Map<string, string[]> {
    const out = new Map<string, string[]>()
    for (const id of ids) {
      const cgroup = this.#known.get(id)?.owner.cgroupId
      const access = [...this.#started.values()].find(({ cgroupId }) => cgroupId === cgroup)?.access
      if (access !== undefined) out.set(access, [...(out.get(access) ?? []), id])
    }
    return out
  }

  /** Everything was moved: no application goes its own way any more. */
  followNone(): void {
    this.#moved = []
  }

  /** A program that `godwit run` started. */
  adopt(application: Application): void {
    this.#started.set(application.id, application)
  }

  release(application: Application): void {
    this.#started.delete(application.id)
  }

  /** The name that goes with `Identified.app`. */
  name(app: number): string {
    return this.#names[app] ?? ''
  }

  /** Why a flow has its policy. */
  why(id: string, mechanism: string): DecisionRecord | undefined {
    const known = this.#known.get(id)
    if (known === undefined) return undefined
    const { owner, policy, why, at } = known
    return {
      at,
      mechanism,
      subject: { kind: 'flow', id },
      what: id,
      chosen: `policy ${this.#policies[policy]?.name ?? ''}`,
      reason: why,
      evidence: {
        executable: owner.facts.executable ?? null,
        user: owner.facts.user ?? null,
        cgroup: owner.facts.cgroup ?? null,
        pid: owner.pid ?? null,
      },
    }
  }

  #verdict(owner: FlowOwner): Verdict {
    const moved = this.#moved.find(({ selector }) => matches(selector, owner.facts))
    const pin = moved === undefined ? {} : { pin: moved.access }
    for (const application of this.#started.values()) {
      if (application.cgroupId !== owner.cgroupId) continue
      const index = this.#policies.findIndex(({ name }) => name === application.policy)
      return {
        policy: Math.max(0, index),
        why: `started by godwit run (${application.id})`,
        ...(application.access === undefined ? pin : { pin: application.access }),
      }
    }
    for (const [index, { name, match }] of this.#policies.entries()) {
      const selector = match.find((each) => matches(each, owner.facts))
      if (selector !== undefined)
        return { policy: index, why: `${formatSelector(selector)} matches policy ${name}`, ...pin }
    }
    return { policy: 0, why: 'no policy matches; the default', ...pin }
  }

  #indexOf(app: string): number {
    const known = this.#names.indexOf(app)
    return known >= 0 ? known : this.#names.push(app) - 1
  }
}

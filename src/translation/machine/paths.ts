/**
 * Pairs of addresses: which are accepted, which are confirmed, which one packets are sent on; probing (DI-26…28), silence
 * (DI-16), detachment (D2).
 *
 * A pair is *accepted* (packets from there are this host's) as soon as an authenticated message came on it, or is sent on it
 * from a new own address to one where the host has answered before, and *confirmed* (packets are sent there) only when the foreign host answered a challenge that was sent to it
 * there. So inbound translation is in place at both ends before either sends, and no host can direct traffic to an
 * address at which it does not receive.
 */
import { type Candidate, choosePair, classify, type LocalAddress } from '../policy.ts'
import { bytesOf, familyOf, type Ip, type Pair, pairKey, samePair } from '../tables.ts'
import { Control, Option } from '../wire.ts'
import type { Host } from './host.ts'
import { type Body, type Messages, PROBE_TRIES, TRIES } from './messages.ts'
import { left } from './renumbering.ts'
import type { IhmpState } from './state.ts'

/** Packets under way when an address was lost may still arrive on the pair. */
const GRACE_MS = 10_000
/** A pair that did not answer is probed again after this, doubled each time: networks are mended. */
const RETRY_MS = 15_000
const RETRY_MOST_MS = 300_000
/** Pairs of one host that are asked again; the oldest make room. */
const MOST_SILENT = 256
/** The peer may still send on pairs of the other family for as long as it has not seen that the own one works. */
const UNCROSS_MS = 60_000
/** The addresses of an access go, and come, one after the other: how long the other family is not yet the way out. */
const CROSS_WAIT_MS = 300

const NEVER = Number.POSITIVE_INFINITY

export class Paths {
  readonly #state: IhmpState
  readonly #messages: Messages
  readonly #announce: (host: Host, local: LocalAddress, now: number) => void
  readonly #settle: (host: Host, now: number) => void
  /** Pairs that are accepted for a while yet, by HID and pair. */
  readonly #expiring = new Map<string, { readonly at: number; readonly host: Host; readonly pair: Pair }>()

  /**
   * `announce` tells a host that has no other way about an own address (movement.ts); `settle` looks at flows with pairs of
   * their own when other pairs work than before (multipath.ts).
   */
  constructor(
    state: IhmpState,
    messages: Messages,
    announce: (host: Host, local: LocalAddress, now: number) => void,
    settle: (host: Host, now: number) => void,
  ) {
    this.#state = state
    this.#messages = messages
    this.#announce = announce
    this.#settle = settle
  }

  // --------------------------------------------------------------------------------------- accepted, confirmed

  /**
   * Packets on this pair are the host's, since it has sent an authenticated message there. Where flows of another row are
   * bound to the same pair that is so only when it has answered a challenge too (`confirm`). False: it may not be there, or
   * has too many addresses already.
   */
  accept(host: Host, pair: Pair, confirmed = false): boolean {
    const { components } = this.#state
    const key = pairKey(pair)
    if (host.row.accepted.has(key)) return true
    if (!this.#state.mayBeAt(pair.foreign, host.row.key) || this.owner(host, pair) !== undefined) return false
    if (!this.#state.know(host, pair.foreign)) return false
    if (!confirmed && components.tables.isBoundToOther(host.row.hid, key)) return true
    host.row.accepted.set(key, pair)
    // The same pair taken over from another host: its flows there cannot be told apart any more (P2).
    for (const other of this.#state.byAddress(pair.foreign))
      if (other !== host && other.row.accepted.delete(key)) this.#state.changed(other)
    this.#state.changed(host)
    return true
  }

  /** Another host that has answered on this pair: the pair is its own until it answers there no more. */
  owner(host: Host, pair: Pair): Host | undefined {
    const key = pairKey(pair)
    for (const other of this.#state.byAddress(pair.foreign))
      if (other !== host && other.confirmed.has(key)) return other
    return undefined
  }

  /** The foreign host has shown that it receives on this pair (DI-24, DI-27). */
  confirm(host: Host, pair: Pair, now: number): void {
    if (!this.accept(host, pair, true)) return
    // Each time, for its answer does not hold for ever: the directory asks only when it has to.
    if (pair.foreign !== host.bound.foreign) this.#state.components.keys.look?.(pair.foreign)
    host.row.active.add(pair.foreign)
    host.answered.add(pair.foreign)
    host.row.unreachable.delete(pair.foreign)
    host.row.local.add(pair.local)
    const worked = host.confirmed.has(pairKey(pair))
    host.confirmed.set(pairKey(pair), { pair, at: now })
    if (!worked) this.resumed(host, pair)
    this.#messages.cancel(host, (request) => request.deferred && samePair(request.pair, pair))
    this.choose(host, 'confirmed', now)
  }

  /** The host can be reached on this pair again, perhaps: what its flows have waited with need not wait for TCP's timers. */
  resumed(host: Host, pair: Pair): void {
    if (inUse(host, pair)) this.#state.emit({ kind: 'resumed', hid: host.row.hid, pair })
  }

  /** An own address is there again. */
  returned(host: Host, ip: Ip): void {
    for (const pair of Object.values(host.row.current)) if (pair.local === ip) this.resumed(host, pair)
  }

  failed(host: Host, pair: Pair, now: number): void {
    const key = pairKey(pair)
    const confirmed = host.confirmed.delete(key)
    if (!inUse(host, pair)) this.#expire(host, pair, now)
    host.silent.set(key, pair)
    if (host.silent.size > MOST_SILENT) host.silent.delete(host.silent.keys().next().value!)
    host.retry ??= { at: now + RETRY_MS, wait: RETRY_MS }
    if (!confirmed) return
    if (![...host.confirmed.values()].some((c) => c.pair.foreign === pair.foreign)) {
      host.row.active.delete(pair.foreign)
      this.#state.claims(host, pair.foreign)
    }
    this.choose(host, 'silent path', now)
    if (host.detachedAt !== undefined)
      for (const local of this.#state.own.values()) this.#announce(host, local, now)
  }

  /** One of the pair's addresses is lost: nothing is sent on it, and soon nothing accepted. */
  lose(host: Host, lost: (pair: Pair) => boolean, now: number): void {
    for (const [key, { pair }] of host.confirmed) if (lost(pair)) host.confirmed.delete(key)
    for (const pair of host.row.accepted.values()) if (lost(pair)) this.#expire(host, pair, now)
  }

  /** The address is another's, as a directory says. */
  disown(host: Host, ip: Ip, now: number): void {
    host.row.active.delete(ip)
    host.row.unreachable.delete(ip)
    host.answered.delete(ip)
    if (host.preferred === ip) host.preferred = undefined
    for (const [key, { foreign }] of host.row.accepted) if (foreign === ip) host.row.accepted.delete(key)
    for (const [key, { pair }] of host.confirmed) if (pair.foreign === ip) host.confirmed.delete(key)
    this.#messages.cancel(host, (request) => request.pair.foreign === ip)
    this.#state.changed(host)
    this.choose(host, 'directory', now)
  }

  #expire(host: Host, pair: Pair, now: number): void {
    this.#expiring.set(`${host.row.hid} ${pairKey(pair)}`, { at: now + GRACE_MS, host, pair })
  }

  // -------------------------------------------------------------------------------------------------- probing

  /** DI-26: over the matching network only; those that are surely reachable as well, or they would never be Active (D1). */
  probeCandidates(host: Host, now: number): void {
    for (const foreign of host.row.unreachable) this.probeAddress(host, foreign, now)
  }

  /** Whether an address that the host has claimed can be reached from here; asked once in a while, whatever it says. */
  probeAddress(host: Host, foreign: Ip, now: number): void {
    if (now - (host.probedAt.get(foreign) ?? Number.NEGATIVE_INFINITY) < RETRY_MS) return
    host.probedAt.set(foreign, now)
    for (const local of this.#state.own.values()) {
      const pair = { local: local.ip, foreign }
      if (classify(local, foreign) !== 'unreachable' && !this.#messages.asks(host, pair))
        this.probe(host, pair, now)
    }
  }

  probe(
    host: Host,
    pair: Pair,
    now: number,
    options = 0,
    body: Body = { control: Control.PATH_PROBE },
  ): void {
    this.#messages.request(host, pair, { ...body, options, challenge: this.#state.random(16) }, now, {
      tries: options === 0 ? PROBE_TRIES : TRIES,
      failed: (at) => this.failed(host, pair, at),
    })
  }

  /** Should our challenge or its response be lost: probe, unless the pair has been confirmed by then. */
  proveLater(host: Host, pair: Pair, now: number): void {
    if (this.#messages.asks(host, pair, Control.PATH_PROBE)) return
    const body = { control: Control.PATH_PROBE, challenge: this.#state.random(16) }
    this.#messages.request(host, pair, body, now, {
      deferred: true,
      failed: (at) => this.failed(host, pair, at),
    })
  }

  /** What the host must return before anything is sent on this pair; undefined: it has done so. */
  challenge(host: Host, pair: Pair, now: number): Uint8Array | undefined {
    if (host.confirmed.has(pairKey(pair))) return undefined
    const challenge = host.challenges.get(pair.foreign) ?? this.#state.random(16)
    host.challenges.set(pair.foreign, challenge)
    this.proveLater(host, pair, now)
    return challenge
  }

  /** TCP repeats itself, or something else says that a path is silent: ask on every pair (DI-16). */
  suspect(host: Host, now: number): void {
    if (host.state !== 'peer' || this.#messages.pending(host)) return
    for (const { pair } of host.confirmed.values()) {
      if (!this.#state.own.has(pair.local)) continue
      const body = { control: Control.PATH_PROBE, challenge: this.#state.random(16) }
      this.#messages.request(host, pair, body, now, {
        tries: PROBE_TRIES + 1,
        failed: (at) => this.failed(host, pair, at),
      })
    }
  }

  /** Probes the pairs that have not answered; while there are any, the next time comes later each time. */
  #retry(host: Host, waited: number, now: number): void {
    host.retry = undefined
    if (host.state !== 'peer') return
    const wait = Math.min(Math.max(RETRY_MS, 2 * waited), RETRY_MOST_MS)
    for (const [key, pair] of host.silent) {
      const { local, foreign } = pair
      const wanted = host.row.active.has(foreign) || host.row.unreachable.has(foreign)
      if (!wanted || !this.#state.own.has(local) || host.confirmed.has(key)) {
        host.silent.delete(key)
        continue
      }
      host.retry = { at: now + wait, wait }
      if (this.#messages.asks(host, pair)) continue
      // An address that it has never reached is told, not only tried: it may turn out to be behind a NAT (DI-43).
      if (host.row.local.has(local)) this.probe(host, pair, now)
      else this.probe(host, pair, now, 0, { control: Control.ADDR_UP, newAddress: bytesOf(local) })
    }
  }

  /** A way out has appeared. */
  hurry(now: number): void {
    for (const host of this.#state.hosts.values())
      if (host.retry !== undefined) host.retry = { at: now, wait: 0 }
  }

  // --------------------------------------------------------------------------------------------------- choice

  /** A pair that works, the one in use if it does. */
  any(host: Host): Pair | undefined {
    const current = [host.row.current[4], host.row.current[6]].find((p) => p && this.usable(host, p))
    return current ?? this.candidates(host)[0]?.pair
  }

  /** Pairs that could be sent on. */
  candidates(host: Host): Candidate[] {
    const out: Candidate[] = []
    for (const { pair, at } of host.confirmed.values()) {
      const own = this.#state.own.get(pair.local)
      if (own !== undefined && host.row.active.has(pair.foreign))
        out.push({ pair, confirmedAt: at, deprecated: own.deprecated })
    }
    return out
  }

  usable(host: Host, pair: Pair): boolean {
    return host.confirmed.has(pairKey(pair)) && this.#state.own.has(pair.local)
  }

  /** Settles which pair is sent on, and whether the host is detached (D2). */
  choose(host: Host, cause: string, now: number): void {
    const candidates = this.candidates(host)
    for (const family of [4, 6] as const) {
      const current = host.row.current[family]
      const choice = choosePair(this.#of(family, host, candidates, now), {
        pinned: host.pinned,
        foreign: host.preferred,
        local: (foreign) => this.#state.components.preferredLocal(foreign),
        current,
      })
      if (choice === undefined || samePair(choice.pair, current)) continue
      if (current !== undefined) left(host, current, now)
      host.row.current[family] = choice.pair
      this.#state.changed(host)
      this.#state.emit({
        kind: 'handover',
        hid: host.row.hid,
        family,
        from: current,
        to: choice.pair,
        cause,
        reason: choice.reason,
      })
      const own = familyOf(choice.pair.local) === family
      if (own && current !== undefined && choice.pair.local !== host.announced && cause !== 'address lost') {
        host.announced = choice.pair.local
        this.probe(host, choice.pair, now, Option.PF)
      }
    }
    this.#settle(host, now)
    const detached = candidates.length === 0
    if (detached && host.detachedAt === undefined && !host.dormant) {
      host.detachedAt = now
      host.detachedBy = cause === 'silent path' ? 'silence' : 'loss'
      this.#state.say(host, 'peer', 'detached: no way to it')
    } else if (!detached && host.detachedAt !== undefined) {
      host.detachedAt = undefined
      this.#messages.limit(host)
      this.#state.say(host, 'peer', 'attached again')
    }
  }

  /** Candidates for the flows of a family: its own pairs, or the other's once the peer has agreed to that (DI-6). */
  #of(family: 4 | 6, host: Host, candidates: readonly Candidate[], now: number): readonly Candidate[] {
    const own = candidates.filter((c) => familyOf(c.pair.local) === family)
    if (own.length > 0) {
      host.crossWaits.delete(family)
      const current = host.row.current[family]
      // Next time it is asked anew: the peer may have ended it by then.
      if (current !== undefined && familyOf(current.local) !== family) host.crossable.delete(family)
      if (host.row.crossed.has(family) && !host.uncrossAt.has(family))
        host.uncrossAt.set(family, now + UNCROSS_MS)
      return own
    }
    const others = this.#others(family, host, candidates, now)
    if (others[0] === undefined || host.crossable.has(family)) return others
    this.#askToCross(host, family, others[0].pair, now)
    return []
  }

  /**
   * Pairs of the other family that flows may go over now: at once those of another access than the one just lost, the
   * others when the family has had no pair of its own for a while.
   */
  #others(family: 4 | 6, host: Host, candidates: readonly Candidate[], now: number): readonly Candidate[] {
    const others = candidates.filter((c) => !host.row.nats.has(c.pair.foreign))
    if (!this.#state.options.crossing || others.length === 0 || !this.#hasFlows(host, family)) {
      host.crossWaits.delete(family)
      return []
    }
    const { devices } = this.#state
    let wait = host.crossWaits.get(family)
    if (wait === undefined) {
      const asked = now - host.crossAsked < CROSS_WAIT_MS
      // A host without any way is being found again: in its own family perhaps a moment later.
      const known = host.detachedAt === undefined ? host.row.current[family] : undefined
      wait = { until: asked ? undefined : now + CROSS_WAIT_MS, lost: known && devices.get(known.local) }
    }
    if (wait.until !== undefined && wait.until <= now) wait = { ...wait, until: undefined }
    host.crossWaits.set(family, wait)
    const { until, lost } = wait
    if (until === undefined) return others
    return others.filter((c) => lost !== undefined && devices.get(c.pair.local) !== lost)
  }

  #hasFlows(host: Host, family: 4 | 6): boolean {
    for (const flow of this.#state.components.tables.flows(host.row.hid))
      if (familyOf(flow.local) === family) return true
    return false
  }

  #askToCross(host: Host, family: 4 | 6, pair: Pair, now: number): void {
    for (const { message } of host.requests) if ((message.options & Option.CF) !== 0) return
    this.cross(host, family, now)
    const body = { control: Control.PATH_PROBE, options: Option.CF, challenge: this.#state.random(16) }
    this.#messages.request(host, pair, body, now, {
      acknowledged: (ack, at) => {
        if ((ack.options & Option.CF) === 0) return
        host.crossable.add(family)
        this.choose(host, 'other family', at)
      },
      failed: (at) => this.failed(host, pair, at),
    })
  }

  /** From now on packets of this family's flows are taken from pairs of the other. */
  cross(host: Host, family: 4 | 6, now: number): void {
    if (host.uncrossAt.has(family)) host.uncrossAt.set(family, now + UNCROSS_MS)
    if (host.row.crossed.has(family)) return
    host.row.crossed.add(family)
    this.#state.changed(host)
  }

  /** The pairs of a family have worked again for a while. */
  #uncross(host: Host, family: 4 | 6): void {
    host.uncrossAt.delete(family)
    if (!this.candidates(host).some((c) => familyOf(c.pair.local) === family)) return
    host.row.crossed.delete(family)
    host.crossable.delete(family)
    this.#state.changed(host)
  }

  /** Sends everything of a host from another own address; undefined: from that which it prefers. False: no confirmed pair has it. */
  move(host: Host, local: Ip | undefined, now: number): boolean {
    if (local !== undefined && !this.candidates(host).some((c) => c.pair.local === local)) return false
    host.pinned = local
    this.choose(host, 'command', now)
    return true
  }

  // --------------------------------------------------------------------------------------------------- timers

  nextTimeout(): number {
    let next = Number.POSITIVE_INFINITY
    for (const { at } of this.#expiring.values()) next = Math.min(next, at)
    for (const { retry, uncrossAt, crossWaits } of this.#state.hosts.values()) {
      if (retry !== undefined) next = Math.min(next, retry.at)
      for (const { until } of crossWaits.values()) if (until !== undefined) next = Math.min(next, until)
      for (const at of uncrossAt.values()) next = Math.min(next, at)
    }
    return next
  }

  handleTimeout(now: number): void {
    for (const [key, { at, host, pair }] of this.#expiring) {
      if (at > now) continue
      this.#expiring.delete(key)
      if (host.confirmed.has(pairKey(pair)) || inUse(host, pair)) continue
      if (host.row.accepted.delete(pairKey(pair))) this.#state.changed(host)
    }
    for (const host of this.#state.hosts.values()) {
      if (host.retry !== undefined && host.retry.at <= now) this.#retry(host, host.retry.wait, now)
      for (const [family, at] of host.uncrossAt) if (at <= now) this.#uncross(host, family)
      for (const { until } of host.crossWaits.values())
        if ((until ?? NEVER) <= now) this.choose(host, 'other family', now)
    }
  }
}

function inUse(host: Host, pair: Pair): boolean {
  return samePair(host.row.current[4], pair) || samePair(host.row.current[6], pair)
}

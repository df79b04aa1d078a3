/**
 * News about addresses (paper § III-C, III-D): what this host tells when its own come and go (DI-28, DI-31…37), and what it
 * makes of a peer's.
 */
import { equalConstantTime } from '../../core/bytes.ts'
import { classify, inScope, type LocalAddress, type Reachability } from '../policy.ts'
import { bytesOf, familyOf, type Ip, ipOf, type Pair, pairKey } from '../tables.ts'
import { Control, type IhmpMessage, Option } from '../wire.ts'
import type { Host } from './host.ts'
import { type Messages, PROBE_TRIES, TRIES } from './messages.ts'
import { isBehind } from './nat.ts'
import type { Paths } from './paths.ts'
import { type IhmpState, padded } from './state.ts'

/** A peer that has started anew is told everything again, at most this often. */
const FORGOT_MS = 60_000

export class Movement {
  readonly #state: IhmpState
  readonly #messages: Messages
  readonly #paths: Paths

  constructor(state: IhmpState, messages: Messages, paths: Paths) {
    this.#state = state
    this.#messages = messages
    this.#paths = paths
  }

  // ---------------------------------------------------------------------------------------------------- own

  /** Own addresses came and went; tells one peer. */
  moved(host: Host, lost: readonly Ip[], gained: readonly LocalAddress[], now: number): void {
    for (const ip of lost) {
      if (ip === host.pinned) host.pinned = undefined
      this.#paths.lose(host, (pair) => pair.local === ip, now)
      if (host.told.delete(ip) || this.#mayTell(host, ip)) host.lost.add(ip)
    }
    const again = this.#withdraw(host, gained)
    for (const { ip } of gained) {
      host.lost.delete(ip)
      this.#paths.returned(host, ip)
    }
    this.#paths.choose(host, lost.length > 0 ? 'address lost' : 'address gained', now)
    // Of what it may not know it hears only if that works; of the loss at once (DI-37).
    if (host.detachedAt === undefined && !gained.some(({ ip }) => this.#mayTell(host, ip)))
      this.#announceLoss(host, now)
    for (const local of [...gained, ...again]) this.announce(host, local, now)
    if (gained.length === 0 && host.detachedAt !== undefined)
      for (const local of this.#state.own.values()) this.announce(host, local, now)
  }

  /**
   * What still says that one of these is lost is no longer true, and must not stand in the way of saying so once more. Returns
   * the own addresses of which it was the announcement.
   */
  #withdraw(host: Host, gained: readonly LocalAddress[]): Set<LocalAddress> {
    const back = new Set(gained.map(({ ip }) => ip))
    const announced = new Set<LocalAddress>()
    this.#messages.cancel(host, ({ message }) => {
      if (message.lostAddresses?.some((bytes) => back.has(ipOf(bytes))) !== true) return false
      const own = message.newAddress && this.#state.own.get(ipOf(message.newAddress))
      if (own !== undefined && !back.has(own.ip)) announced.add(own)
      return true
    })
    return announced
  }

  /** ADDR_UP, or HANDOFF when addresses were lost, from the new address to where the peer is or may be. */
  announce(host: Host, local: LocalAddress, now: number): void {
    const detached = host.detachedAt !== undefined
    const targets = new Map<Ip, Reachability>()
    // While no pair works every address counts, Active or not: the peer may have moved as well (D3).
    for (const ip of detached ? [...host.row.active, ...host.row.unreachable] : host.row.active)
      targets.set(ip, classify(local, ip))
    const reachable = [...targets].filter(
      ([ip, r]) => r !== 'unreachable' || (detached && familyOf(ip) === familyOf(local.ip)),
    )
    if (reachable.length === 0) this.#announceUnreachable(host, local, now)
    for (const [foreign, reachability] of reachable)
      this.#announceOn(host, { local: local.ip, foreign }, reachability, now)
  }

  /**
   * Addresses at which a host without any way may be now, from elsewhere (D3): both may have moved at once. Whoever is
   * there has to show with its key that it is the host.
   */
  seek(host: Host, addresses: readonly Ip[], now: number): void {
    for (const foreign of addresses) {
      const other = this.#state.byActive(foreign)
      if (this.#state.own.has(foreign) || (other !== undefined && other !== host)) continue
      for (const local of this.#state.own.values()) {
        const pair = { local: local.ip, foreign }
        if (familyOf(foreign) !== familyOf(local.ip) || this.#messages.asks(host, pair)) continue
        this.#announceOn(host, pair, classify(local, foreign), now)
      }
    }
  }

  #announceOn(host: Host, pair: Pair, reachability: Reachability, now: number): void {
    const detached = host.detachedAt !== undefined
    const { local, foreign } = pair
    const preferred = detached || this.#state.components.preferredLocal(foreign) === local
    // In before out; but an address that the host has only named is its own when it has answered from there.
    if (host.answered.has(foreign)) this.#paths.accept(host, pair)
    if (preferred) host.announced = local
    const lost = [...host.lost]
    const body = {
      control: lost.length > 0 ? Control.HANDOFF : Control.ADDR_UP,
      options: (preferred ? Option.PF : 0) | oldUnreachable(host, lost),
      newAddress: bytesOf(local),
      lostAddresses: lost.map(bytesOf),
      challenge: this.#state.random(16),
    }
    this.#messages.request(host, pair, body, now, {
      tries: detached ? Number.POSITIVE_INFINITY : reachability === 'potential' ? PROBE_TRIES : TRIES,
      acknowledged: (ack) => {
        host.told.add(local)
        for (const ip of lost) host.lost.delete(ip)
        for (const ip of lost) host.row.local.delete(ip)
        if ((ack.options & Option.ND) !== 0)
          this.#state.say(host, 'peer', `${local} is behind a NAT that does not know IHMP`)
      },
      failed: (at) => {
        this.#paths.failed(host, pair, at)
        const own = this.#state.own.get(local)
        if (own !== undefined && ![...host.confirmed.values()].some((c) => c.pair.local === local))
          this.#announceUnreachable(host, own, at)
      },
    })
  }

  /** The peer cannot be reached from the new address; told through any pair that works (D4). */
  #announceUnreachable(host: Host, local: LocalAddress, now: number): void {
    const pair = this.#paths.any(host)
    if (pair === undefined) return
    if (!this.#mayTell(host, local.ip)) {
      this.#announceLoss(host, now) // what came is not for it to know, what went is (DI-37)
      return
    }
    const lost = [...host.lost]
    const body = {
      control: lost.length > 0 ? Control.HANDOFF_UNREACHABLE : Control.ADDR_UP_UNREACHABLE,
      options: oldUnreachable(host, lost),
      newAddress: bytesOf(local.ip),
      lostAddresses: lost.map(bytesOf),
    }
    this.#messages.request(host, pair, body, now, {
      acknowledged: () => {
        host.told.add(local.ip)
        for (const ip of lost) host.lost.delete(ip)
        for (const ip of lost) host.row.local.delete(ip)
      },
      failed: (at) => this.#paths.failed(host, pair, at),
    })
  }

  /** Whether the host may know of this address (`advertise`). */
  #mayTell(host: Host, ip: Ip): boolean {
    if (this.#state.own.get(ip)?.deprecated === true) return false
    return this.#state.options.advertise === 'all' || inScope(ip, [host.bound.foreign, ...host.row.active])
  }

  /** Tells what a peer has not acknowledged, once nothing else is being told: messages may have been lost (D14). */
  resync(host: Host, now: number): void {
    if (host.state !== 'peer' || host.detachedAt !== undefined || this.#messages.pending(host)) return
    if (host.lost.size > 0) this.#announceLoss(host, now)
    for (const local of this.#state.own.values())
      if (!host.told.has(local.ip) && this.#mayTell(host, local.ip)) this.announce(host, local, now)
  }

  /** DI-33: the peer could use the lost address, or could not. */
  #announceLoss(host: Host, now: number): void {
    const pair = this.#paths.any(host)
    if (pair === undefined) return
    const told = new Set([...host.requests].flatMap((r) => r.message.lostAddresses?.map(ipOf) ?? []))
    for (const ip of host.lost) {
      if (told.has(ip)) continue
      const body = {
        control: host.row.local.has(ip) ? Control.ADDR_DOWN : Control.ADDR_DOWN_UNREACHABLE,
        options: Option.PF,
        lostAddresses: [bytesOf(ip)],
      }
      this.#messages.request(host, pair, body, now, {
        acknowledged: () => {
          host.lost.delete(ip)
          host.row.local.delete(ip)
        },
        failed: (at) => this.#paths.failed(host, pair, at),
      })
      host.announced = pair.local
    }
  }

  // --------------------------------------------------------------------------------------------------- a peer's

  /** DI-30, DI-34, DI-36. */
  handleUpdate(host: Host, message: IhmpMessage, pair: Pair, port: number, now: number): void {
    this.#state.components.lookAtSockets()
    const { control } = message
    const told = message.newAddress
    let options = 0
    let usable = true
    let natPair: IhmpMessage['natPair']
    let forgot = false
    switch (control) {
      case Control.ADDR_UP:
      case Control.HANDOFF: {
        if (told === undefined) return
        if (ipOf(told) !== pair.foreign) {
          natPair = { nat: bytesOf(pair.foreign), host: padded(told, bytesOf(pair.foreign).length) }
          usable = (message.options & Option.NS) !== 0
          this.#behindNat(host, message, ipOf(told), pair.foreign, usable)
          if (!usable) options |= Option.ND
        }
        // It tells what it had told before: it has started anew, perhaps from an older state.
        if (host.confirmed.has(pairKey(pair))) this.#paths.resumed(host, pair)
        if (host.confirmed.has(pairKey(pair)) && now - host.forgotAt >= FORGOT_MS) {
          host.forgotAt = now
          host.told.clear()
          forgot = true
        }
        if (usable) this.#newer(host, pair.foreign, message)
        break
      }
      case Control.ADDR_UP_UNREACHABLE:
      case Control.HANDOFF_UNREACHABLE: {
        if (told === undefined) return
        const ip = ipOf(told)
        // Perhaps it can be reached from here after all.
        if (this.#newer(host, ip, message) && this.#state.claims(host, ip))
          this.#paths.probeAddress(host, ip, now)
        break
      }
    }
    for (const bytes of message.lostAddresses ?? []) {
      const ip = ipOf(bytes)
      if (this.#newer(host, ip, message)) this.#foreignLost(host, ip, now)
    }
    let challenge: Uint8Array | undefined
    if (usable && this.#paths.accept(host, pair)) {
      this.#state.claims(host, pair.foreign)
      challenge = this.#paths.challenge(host, pair, now)
      if ((message.options & Option.PF) !== 0) host.preferred = pair.foreign
    }
    if ((message.options & Option.CF) !== 0 && this.#state.options.crossing) {
      const family = familyOf(pair.local) === 4 ? 6 : 4
      options |= Option.CF
      host.crossable.add(family)
      host.crossWaits.delete(family)
      host.crossAsked = now
      this.#paths.cross(host, family, now)
    }
    this.#paths.choose(host, controlName(control), now)
    this.#messages.acknowledge(host, message, pair, port, {
      options,
      ...(message.challenge === undefined ? {} : { response: message.challenge }),
      ...(challenge === undefined ? {} : { challenge }),
      ...(natPair === undefined ? {} : { natPair }),
    })
    if (forgot || message.lostAddresses !== undefined) this.resync(host, now)
  }

  /** Whether no later message has said anything about this address of the host's. */
  #newer(host: Host, ip: Ip, message: IhmpMessage): boolean {
    if ((host.addressCounters.get(ip) ?? 0) > message.counter || !this.#state.know(host, ip)) return false
    host.addressCounters.set(ip, message.counter)
    return true
  }

  /** DI-41; DI-44: a flow cannot migrate into a NAT that does not know IHMP. */
  #behindNat(host: Host, message: IhmpMessage, inside: Ip, nat: Ip, aware: boolean): void {
    if (aware) isBehind(this.#state, host, nat, inside)
    else if (this.#newer(host, inside, message)) this.#state.claims(host, inside)
  }

  #foreignLost(host: Host, ip: Ip, now: number): void {
    host.row.active.delete(ip)
    host.row.unreachable.delete(ip)
    host.answered.delete(ip)
    if (host.preferred === ip) host.preferred = undefined
    this.#paths.lose(host, (pair) => pair.foreign === ip, now)
    this.#messages.cancel(host, (request) => request.pair.foreign === ip)
  }

  handleAck(host: Host, message: IhmpMessage, pair: Pair, now: number): void {
    const expected = host.challenges.get(pair.foreign)
    if (
      message.response !== undefined &&
      expected !== undefined &&
      equalConstantTime(message.response, expected)
    ) {
      host.challenges.delete(pair.foreign)
      this.#paths.confirm(host, pair, now)
    }
    const request = this.#messages.acknowledgedBy(host, message, pair)
    if (request !== undefined) {
      this.#messages.drop(request)
      this.#state.stats.exchanges++
      if (request.tries === 1) {
        const sample = now - request.sentAt
        host.rtt = host.rtt === undefined ? sample : (7 * host.rtt + sample) / 8
      }
      const proven =
        request.challenge !== undefined &&
        message.response !== undefined &&
        equalConstantTime(request.challenge, message.response) &&
        request.pair.foreign === pair.foreign
      request.acknowledged(message, now)
      if ((proven && (message.options & Option.ND) === 0) || host.confirmed.has(pairKey(pair)))
        this.#paths.confirm(host, pair, now)
    }
    if (message.challenge !== undefined && request?.message.control !== Control.KEY_CHANGE)
      this.#messages.acknowledge(host, message, pair, host.ports.get(pair.foreign) ?? 0, {
        response: message.challenge,
      })
    if (request !== undefined) this.resync(host, now)
  }
}

/** OU: none of the lost addresses had been usable by the peer (DI-37, D5). */
function oldUnreachable(host: Host, lost: readonly Ip[]): number {
  return lost.length > 0 && lost.every((ip) => !host.row.local.has(ip)) ? Option.OU : 0
}

function controlName(control: Control): string {
  const name = Object.entries(Control).find(([, value]) => value === control)?.[0] ?? ''
  return name.toLowerCase().replaceAll('_', ' ')
}

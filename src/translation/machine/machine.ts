/**
 * IHMP, the Internet Host Mobility Protocol (paper § III-B…D), without I/O: local address events, new flows, datagrams and
 * time go in; datagrams, changes of the tables and what happened come out of `poll`. docs/wire/ihmp.md has the exchanges.
 *
 * Its procedures: greeting.ts (HELLO), key-change.ts (KEY_CHANGE), paths.ts (which pairs of addresses work, and which is used), movement.ts
 * (news about addresses, either way), nat.ts (NAT_ENTRY). Whatever they send waits for its acknowledgement (messages.ts);
 * what stays unanswered says something about the path. What they share is in state.ts.
 */
import type { LocalAddress } from '../policy.ts'
import { type Ip, ipOf, type Pair, pairKey, type SocketRow } from '../tables.ts'
import { Control, type IhmpMessage, ihmp, MAX_MESSAGE } from '../wire.ts'
import { Checks } from './checks.ts'
import { Greeting } from './greeting.ts'
import type { Host } from './host.ts'
import { KeyChange } from './key-change.ts'
import { Messages } from './messages.ts'
import { Movement } from './movement.ts'
import { Multipath } from './multipath.ts'
import { handleNatEntry } from './nat.ts'
import { Paths } from './paths.ts'
import { Possession } from './possession.ts'
import { IhmpState, type SavedHost } from './state.ts'
import type { IhmpComponents, IhmpOptions, IhmpStats, Output } from './types.ts'

export class IhmpMachine {
  readonly #state: IhmpState
  readonly #messages: Messages
  readonly #paths: Paths
  readonly #movement: Movement
  readonly #greeting: Greeting
  readonly #keyChange: KeyChange
  readonly #possession: Possession
  readonly #multipath: Multipath
  readonly #checks = new Checks()

  constructor(components: IhmpComponents, options: Partial<IhmpOptions> = {}) {
    this.#state = new IhmpState(components, options)
    this.#messages = new Messages(this.#state)
    this.#paths = new Paths(
      this.#state,
      this.#messages,
      (host, local, now) => this.#movement.announce(host, local, now),
      (host, now) => this.#multipath.settle(host, now),
    )
    this.#multipath = new Multipath(this.#state, this.#messages, this.#paths)
    this.#movement = new Movement(this.#state, this.#messages, this.#paths)
    this.#possession = new Possession(this.#state, this.#messages, this.#paths)
    this.#greeting = new Greeting(this.#state, this.#messages, this.#paths, this.#movement, this.#possession)
    this.#keyChange = new KeyChange(this.#state, this.#messages, this.#paths, this.#greeting)
  }

  get stats(): IhmpStats {
    return this.#state.stats
  }

  /** The host with this HID; for display and tests. */
  host(hid: number): Host | undefined {
    return this.#state.hosts.get(hid)
  }

  hosts(): IterableIterator<Host> {
    return this.#state.hosts.values()
  }

  /** Brings back what an earlier run knew about a peer. Then come its flows (`handleFlow`), then `handleLocal`. */
  restore(saved: SavedHost): void {
    this.#state.restore(saved)
  }

  /** Everything that `restore` needs, of every peer. */
  save(): SavedHost[] {
    return this.#state.save()
  }

  // ---------------------------------------------------------------------------------------------------- inputs

  /**
   * The own addresses that can be used now, all of them. What is new and what is missing is found here: an address lost
   * and another gained in one call is a handoff (DI-35).
   */
  handleLocal(addresses: readonly LocalAddress[], now: number): void {
    const state = this.#state
    state.restored.clear()
    state.restoredFlows.clear()
    state.restoredDiversions.clear()
    state.restoredNumbers.clear()
    const next = new Map(addresses.map((a) => [a.ip, a]))
    const lost = [...state.own.keys()].filter((ip) => !next.has(ip))
    const gained = addresses.filter((a) => !state.own.has(a.ip))
    state.own = next
    for (const { ip, device } of addresses) {
      state.mine.add(ip)
      state.devices.set(ip, device)
    }
    if (lost.length === 0 && gained.length === 0) {
      this.handlePreferences(now)
      return
    }
    // What was asked from a lost address counts as not told when the loss is.
    for (const host of state.hosts.values())
      this.#messages.cancel(host, (request) => !state.own.has(request.pair.local))
    for (const host of state.hosts.values())
      if (host.state === 'peer') this.#movement.moved(host, lost, gained, now)
    for (const host of state.hosts.values()) {
      if (host.heard) continue
      const ungreeted = host.state === 'greeting' && !this.#messages.pending(host)
      if (ungreeted || (host.state === 'plain' && host.requests.size === 0)) this.#greeting.greet(host, now)
      this.#keyChange.announce(host, now)
      this.#possession.again(host, now)
    }
  }

  /** The routes of this host may prefer another own address now. */
  handlePreferences(now: number): void {
    for (const host of this.#state.hosts.values())
      if (host.state === 'peer') this.#paths.choose(host, 'route', now)
  }

  /** A way out has appeared: what waits for an answer is sent again at once. */
  handleRoutes(now: number): void {
    this.#messages.hurry(now)
    this.#paths.hurry(now)
    for (const host of this.#state.hosts.values())
      if (host.detachedAt !== undefined)
        for (const ip of this.#state.own.keys()) this.#paths.returned(host, ip)
    this.handlePreferences(now)
  }

  /**
   * A socket talks from `local` to `foreign`: the HID of the row, made when there is none (DI-9a, DI-15). `heard`: that is
   * known by datagrams alone, which may have come from elsewhere. Undefined: there are too many rows already.
   */
  handleFlow(pair: Pair, now: number, heard = false): number | undefined {
    const state = this.#state
    state.mine.add(pair.local)
    const known = state.hosts.get(state.restored.get(pairKey(pair)) ?? 0) ?? state.byActive(pair.foreign)
    if (known !== undefined) {
      known.idleSince = undefined
      if (known.heard && !heard) this.#greeting.greet(known, now)
      return known.row.hid
    }
    if (state.hosts.size >= state.options.mostHosts) return undefined
    if (heard && !this.#greeting.mayHear()) return undefined
    const host = state.newHost(pair)
    host.row.active.add(pair.foreign)
    if (heard) this.#greeting.solicit(host, now)
    else this.#greeting.greet(host, now)
    return host.row.hid
  }

  /** The row of a flow is in the socket table, or its connection has been answered: may its host have it? */
  handleSocket(flow: SocketRow, now: number): void {
    this.#possession.handleSocket(flow, now)
    this.#multipath.handleSocket(flow)
  }

  /** The last flow of a host has ended. */
  handleIdle(hid: number, now: number): void {
    const host = this.host(hid)
    if (host !== undefined) host.idleSince ??= now
  }

  /** Whether some host has no way that works. */
  get detached(): boolean {
    for (const host of this.#state.hosts.values()) if (host.detachedAt !== undefined) return true
    return false
  }

  /** Addresses that belong to names of hosts: those without any way are asked for there (D3). */
  handleNames(addresses: readonly Ip[], now: number): void {
    for (const host of this.#state.hosts.values())
      if (host.state === 'peer' && host.detachedAt !== undefined) this.#movement.seek(host, addresses, now)
  }

  /** TCP repeats itself, or something else says that a path is silent: ask on every pair (DI-16). */
  handleSuspicion(hid: number, now: number): void {
    const host = this.host(hid)
    if (host !== undefined) this.#paths.suspect(host, now)
  }

  /** TCP has repeated these connections' segments: they may be stuck where they have been before (renumbering.ts). */
  handleRepeated(flows: Iterable<SocketRow>, now: number): void {
    this.#multipath.suspect(flows, now)
  }

  /** Sends everything of a host from another own address. False: no confirmed pair has it. */
  move(hid: number, local: Ip, now: number): boolean {
    const host = this.host(hid)
    if (host?.state !== 'peer' || !this.#paths.move(host, local, now)) return false
    this.#multipath.release(host, now)
    return true
  }

  /** The same of some of its flows; returns those that were moved. The other end is told, and sends them there too. */
  moveFlows(hid: number, local: Ip, flows: readonly SocketRow[], now: number): readonly SocketRow[] {
    const host = this.host(hid)
    return host?.state === 'peer' ? this.#multipath.move(host, local, flows, now) : []
  }

  /** Gives back what was moved by hand: these flows, or everything of the host. */
  giveBack(hid: number, flows: readonly SocketRow[] | undefined, now: number): void {
    const host = this.host(hid)
    if (host === undefined) return
    if (flows === undefined && host.pinned !== undefined) this.#paths.move(host, undefined, now)
    this.#multipath.release(host, now, flows)
  }

  /** A directory of keys says something else about the address than before (DI-39). */
  handleDirectory(ip: Ip, now: number): void {
    this.#greeting.handleDirectory(ip, now)
  }

  /** A new private key for all hosts (`godwit dime key set`): told under the old one (DI-40). */
  rekey(now: number): void {
    for (const host of this.#state.hosts.values()) this.#keyChange.announce(host, now)
  }

  /**
   * A datagram that arrived at the own address `local` from `foreign`. Whatever is wrong with it only counts: no answer
   * tells a stranger anything.
   */
  handleMessage(bytes: Uint8Array, pair: Pair, port: number, now: number): void {
    const { stats, mine } = this.#state
    stats.received++
    const result = bytes.length > MAX_MESSAGE ? undefined : ihmp.decode(bytes)
    if (result?.ok !== true) {
      stats.malformed++
      return
    }
    const message = result.value
    if (message.receiver !== undefined && !mine.has(ipOf(message.receiver))) {
      stats.unauthenticated++
      return
    }
    const named = this.#state.candidates(ipOf(message.hostId))[0]
    const awaiting = message.control === Control.ACK ? this.#messages.awaiting(message, pair) : undefined
    if (awaiting === undefined && !this.#checks.admits(pair.foreign, named, now)) {
      stats.unauthenticated++
      return
    }
    const { checked, unauthenticated } = stats
    this.#handle(message, bytes, pair, port, awaiting?.host, now)
    if (awaiting !== undefined && stats.unauthenticated > unauthenticated) awaiting.forged++
    if (awaiting === undefined) this.#checks.spent(pair.foreign, named, stats.checked - checked, now)
  }

  #handle(
    message: IhmpMessage,
    bytes: Uint8Array,
    pair: Pair,
    port: number,
    asked: Host | undefined,
    now: number,
  ): void {
    switch (message.control) {
      case Control.HELLO:
        this.#greeting.handleHello(message, bytes, pair, port, now)
        return
      case Control.HELLO_ACK:
        this.#greeting.handleHelloAck(message, bytes, pair, port, now)
        return
      case Control.NAT_ENTRY:
        handleNatEntry(this.#state, this.#messages, message, bytes, pair, port)
        return
      case Control.SOLICIT:
        this.#greeting.handleSolicit(bytes.length, pair, port, now)
        return
      case Control.ROUTER_ACK:
        return
      default:
        this.#handlePeer(message, bytes, pair, port, asked, now)
    }
  }

  #handlePeer(
    message: IhmpMessage,
    bytes: Uint8Array,
    pair: Pair,
    port: number,
    asked: Host | undefined,
    now: number,
  ): void {
    const acknowledges = message.control === Control.ACK
    if (acknowledges && this.#greeting.complete(message, bytes, pair, now)) return
    const host = this.#messages.authenticate(message, bytes, asked)
    if (host === undefined) {
      this.#state.stats.unauthenticated++
      return
    }
    this.#state.earn(host, bytes.length)
    host.dormant = false
    const share = message.control === Control.FLOWS ? host.proofs : host.updates
    if (!acknowledges && !share.take(now)) {
      this.#state.stats.excessive++ // as if it had been lost
      return
    }
    if (!this.#mayComeFrom(host, pair, now)) return
    if (!this.#messages.fresh(host, message, pair, port)) return
    if (this.#state.index(host, pair.foreign)) host.ports.set(pair.foreign, port)
    if (acknowledges) {
      this.#movement.handleAck(host, message, pair, now)
      this.#keyChange.announce(host, now)
      if (message.response !== undefined) this.#possession.handleResponse(host, message.response)
      this.#possession.wake(host, now)
    } else if (message.control === Control.KEY_CHANGE) this.#keyChange.handle(host, message, pair, port, now)
    else if (message.control === Control.FLOWS) this.#possession.handle(host, message, pair, port)
    else if (message.control === Control.MOVE_FLOWS) this.#multipath.handle(host, message, pair, port, now)
    else this.#movement.handleUpdate(host, message, pair, port, now)
  }

  /** What comes from a place that is another's counts as not seen: it may be the host's when that one has left (P3). */
  #mayComeFrom(host: Host, pair: Pair, now: number): boolean {
    const owner = this.#paths.owner(host, pair)
    if (owner !== undefined) this.#paths.suspect(owner, now)
    if (owner === undefined && this.#state.mayBeAt(pair.foreign, host.row.key)) return true
    this.#state.stats.unauthenticated++
    return false
  }

  // ---------------------------------------------------------------------------------------------------- outputs

  /** What to do next, in order; undefined when all is done. */
  poll(): Output | undefined {
    return this.#state.poll()
  }

  /** When `handleTimeout` wants to be called; undefined: never. */
  nextTimeout(): number | undefined {
    const { holdMs, idleMs } = this.#state.options
    let next = Math.min(
      this.#messages.nextTimeout(),
      this.#greeting.nextTimeout(),
      this.#paths.nextTimeout(),
      this.#possession.nextTimeout(),
      this.#multipath.nextTimeout(),
    )
    for (const { detachedAt, idleSince } of this.#state.hosts.values()) {
      if (detachedAt !== undefined) next = Math.min(next, detachedAt + holdMs)
      if (idleSince !== undefined) next = Math.min(next, idleSince + idleMs)
    }
    return next === Number.POSITIVE_INFINITY ? undefined : next
  }

  handleTimeout(now: number): void {
    for (const host of this.#messages.handleTimeout(now)) this.#movement.resync(host, now)
    this.#greeting.handleTimeout(now)
    this.#paths.handleTimeout(now)
    this.#possession.handleTimeout(now)
    this.#multipath.handleTimeout(now)
    const { holdMs, idleMs } = this.#state.options
    for (const host of [...this.#state.hosts.values()]) {
      if (host.detachedAt !== undefined && host.detachedAt + holdMs <= now) this.#holdOver(host)
      else if (host.idleSince !== undefined && host.idleSince + idleMs <= now) this.#state.forget(host)
    }
  }

  /** An address was lost for good: the applications' sockets end. Of mere silence they hear; what it means the transport judges. */
  #holdOver(host: Host): void {
    if (host.detachedBy === 'loss') {
      this.#state.gone(host, 'no way to it within the hold time')
      return
    }
    host.detachedAt = undefined
    host.dormant = true
    this.#messages.cancel(host)
    this.#state.say(host, 'peer', 'silent for long: it may sleep')
    const flows = [...this.#state.components.tables.flows(host.row.hid)]
    this.#state.emit({ kind: 'silent', hid: host.row.hid, flows })
  }
}

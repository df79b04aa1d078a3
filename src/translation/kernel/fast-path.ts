/**
 * Which flows take the fast path (fast-path-devices.ts), and when: TCP over IPv4 whose packets the routes lead the same
 * way whether they bear the addresses of the socket or those of the wire, on devices that have the programs.
 */
import { Protocol } from '../../core/ip.ts'
import { KernelError } from '../../linux/libc.ts'
import type { HostNetwork } from '../network.ts'
import {
  type Compiled,
  familyOf,
  type Ip,
  type Pair,
  pairKey,
  type SocketRow,
  type Tables,
} from '../tables.ts'
import type { FastPathDevices } from './fast-path-devices.ts'

const { TCP } = Protocol
/** After the last change, for what may take a while. */
const COVER_MS = 300
/** Connections on the fast path: its elements cost 20 µs of CPU each, and are for those that carry much. Twice as many end it. */
const MOST_FLOWS = 1_000

export interface FastPathInit {
  readonly allowed: boolean
  /** Own addresses with their devices, now. */
  readonly accesses: () => ReadonlyMap<Ip, string>
  /** Whether anything is translated. */
  readonly translating: () => boolean
  /** Hosts have been touched: what they compile to has changed. */
  readonly changed: () => void
  readonly warn: (text: string) => void
}

/** What it needs of the devices and of the network's configuration. */
type Devices = Pick<
  FastPathDevices,
  'prepare' | 'attached' | 'add' | 'clear' | 'trim' | 'cover' | 'covers' | 'uncover'
>
type Network = Pick<HostNetwork, 'isTracked' | 'isLoose' | 'sameWay' | 'routesChanged'>

interface Way {
  readonly bound: Pair
  readonly wire: Pair
  readonly same: boolean
}

export class FastPath {
  readonly #devices: Devices
  readonly #network: Network
  readonly #tables: Tables
  readonly #init: FastPathInit
  #active = false
  /** Never again once the kernel has refused it. */
  #refused: boolean
  /** By HID: whether the routes led a bound pair and that on the wire the same way when it was compiled. */
  readonly #ways = new Map<number, Map<string, Way>>()
  #timer: NodeJS.Timeout | undefined

  constructor(devices: Devices, network: Network, tables: Tables, init: FastPathInit) {
    this.#devices = devices
    this.#network = network
    this.#tables = tables
    this.#init = init
    this.#refused = !init.allowed
  }

  /** Makes ready what the first move would otherwise wait for. */
  prepare(): void {
    if (this.#wanted()) this.#attempt(() => this.#devices.prepare())
  }

  /** Whether it has just come into use or out of it: then all hosts are compiled anew. */
  switches(): boolean {
    const active = this.#devices.attached && this.#wanted()
    const before = this.#active
    this.#active = active
    return active !== before
  }

  /** Forgets what `takes` has answered about a host, which is compiled anew. */
  begin(hid: number): void {
    this.#ways.delete(hid)
  }

  takes(hid: number, flow: SocketRow, wire: Pair): boolean {
    if (!this.#active || flow.protocol !== TCP || familyOf(wire.local) === 6) return false
    const ways = this.#ways.get(hid) ?? new Map<string, Way>()
    this.#ways.set(hid, ways)
    const key = `${pairKey(flow)} ${pairKey(wire)}`
    let way = ways.get(key)
    if (way === undefined) {
      const { local, foreign } = flow
      way = { bound: { local, foreign }, wire, same: this.#agree(flow, wire) }
      ways.set(key, way)
    }
    return way.same
  }

  /** Before nf_tables: takes over what `compiled` gives it. False when the kernel refuses: to be compiled again without. */
  add(compiled: readonly (readonly [hid: number, compiled: Compiled])[]): boolean {
    if (this.#active) return this.#attempt(() => this.#devices.add(compiled, this.#init.accesses()))
    this.#devices.clear()
    return true
  }

  /** After nf_tables. */
  trim(): void {
    this.#devices.trim()
    this.coverSoon()
  }

  /** After a change of routes: flows that take another way out of the stack now. */
  reroute(): void {
    this.#network.routesChanged()
    for (const [hid, ways] of this.#ways)
      for (const { bound, wire, same } of ways.values())
        if (same !== this.#agree(bound, wire)) this.#tables.touch(hid)
    if (this.#tables.changed) this.#init.changed()
  }

  /** Now and then: filters that have become strict, connections that are tracked now. */
  check(): void {
    if (this.#active && !this.#wanted()) this.coverSoon()
  }

  /** What it needs on devices, when nothing else is urgent: nf_tables translates meanwhile. */
  coverSoon(): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      const wanted = this.#wanted() && this.#init.translating()
      if (wanted) this.#attempt(() => this.#devices.cover(this.#init.accesses().values()))
      if (this.#active !== (wanted && this.#devices.attached))
        for (const hid of this.#tables.hosts.keys()) this.#tables.touch(hid)
      this.reroute()
      if (!wanted) this.#devices.uncover()
    }, COVER_MS).unref()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }

  #wanted(): boolean {
    if (this.#tables.sockets.size > MOST_FLOWS * (this.#active ? 2 : 1)) return false
    if (this.#refused || this.#network.isTracked()) return false
    return [...new Set(this.#init.accesses().values())].every((device) => this.#network.isLoose(device))
  }

  /** Whether packets of a bound pair come to the program that gives them the pair of the wire, and leave there as they should. */
  #agree(bound: Pair, wire: Pair): boolean {
    const device = this.#init.accesses().get(wire.local)
    return device !== undefined && this.#devices.covers(device) && this.#network.sameWay(bound, wire)
  }

  #attempt(action: () => void): boolean {
    try {
      action()
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      this.#init.warn(`TCP is translated by nf_tables alone: ${error.message}`)
      this.#refused = true
    }
    return !this.#refused
  }
}

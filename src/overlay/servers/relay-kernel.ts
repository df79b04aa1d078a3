/**
 * The relay's channels in the kernel (relay-program.ts): which of them can be there, their elements, and the devices with the
 * program. An element needs both addresses bound by their nodes, each at a known address of ours, in one family, and a
 * route over an Ethernet device to where it leads. All else stays with the relay's sockets.
 *
 * The program is held by descriptors of this process: it is gone with it, also after a kill.
 */
import { formatAddress } from '../../core/address.ts'
import { concat } from '../../core/bytes.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { Protocol } from '../../core/ip.ts'
import { MAIN_TABLE } from '../../linux/ledger.ts'
import { closeFd, KernelError } from '../../linux/libc.ts'
import type { Rtnl } from '../../linux/rtnetlink/types.ts'
import {
  type BpfMap,
  createHash,
  linkTcx,
  loadProgram,
  putElement,
  readElement,
  Tcx,
  takeElement,
} from '../../linux/tcx.ts'
import type { Side } from '../machine/relay.ts'
import { LAYOUT, relayProgram } from './relay-program.ts'

const PROGRAM = 'godwit_relay'
const MOST_ELEMENTS = 65_536
/** Sides whose route is asked for again in one turn after the routes changed: some milliseconds. */
const REFRESHED_AT_ONCE = 100

type Family = 4 | 6

interface Element {
  readonly family: Family
  readonly key: Uint8Array
  /** What it leads to: the four of the key, and the device. */
  readonly way: Uint8Array
  /** Of what the kernel counted, what has been added to the side and to the sums. */
  datagrams: number
  bytes: number
  refused: number
}

/** A place for elements, and the devices that use it: eBPF, or what a test has. */
export interface RelayTables {
  /** Throws KernelError for what is refused. */
  attach(device: number): void
  /** A device that is gone. */
  detach(device: number): void
  put(family: Family, key: Uint8Array, value: Uint8Array): void
  read(family: Family, key: Uint8Array): Uint8Array | undefined
  /** Removes it, and returns it as it was last. */
  take(family: Family, key: Uint8Array): Uint8Array | undefined
  close(): void
}

export interface RelayKernelParts {
  readonly tables: RelayTables
  readonly rtnl: Pick<Rtnl, 'lookup' | 'link' | 'routes'>
  readonly ports: readonly number[]
  /** Bytes a second of a side; 0: no limit. */
  readonly rate: number
  /** Called once, when the kernel refuses an element. */
  readonly warn: (message: string) => void
}

export class RelayKernel {
  readonly #parts: RelayKernelParts
  readonly #cost: number
  readonly #elements = new Map<Side, Element>()
  readonly #attached = new Set<number>()
  #stale: Side[] = []
  #warned = false
  /** Of all elements so far. */
  readonly counts = { forwarded: 0, bytes: 0, limited: 0 }

  constructor(parts: RelayKernelParts) {
    this.#parts = parts
    this.#cost = parts.rate === 0 ? 0 : Math.ceil((1024 * 1e9) / parts.rate)
  }

  /** Puts the program where most traffic will come, so that no node waits for it. Throws KernelError. */
  prepare(): void {
    const { rtnl } = this.#parts
    for (const { to, dev } of rtnl.routes({ table: MAIN_TABLE }))
      if ((to === 'default' || to === 'default6') && dev !== undefined) this.#device(dev)
  }

  /** A side or its other has been bound, bound elsewhere or unbound: the kernel has it so when this returns. */
  set(side: Side): void {
    const before = this.#elements.get(side)
    const wanted = this.#element(side)
    if (before !== undefined && wanted !== undefined && sameElement(before, wanted)) return
    if (before !== undefined) {
      this.#elements.delete(side)
      this.#count(side, before, this.#parts.tables.take(before.family, before.key))
    }
    if (wanted === undefined) return
    const at = LAYOUT[wanted.family]
    const value = new Uint8Array(at.value)
    value.set(wanted.way)
    new DataView(value.buffer).setBigUint64(at.cost, BigInt(this.#cost), true)
    if (this.#attempt(() => this.#parts.tables.put(wanted.family, wanted.key, value)))
      this.#elements.set(side, wanted)
  }

  /** Adds to the sides what the kernel has forwarded. */
  collect(): void {
    for (const [side, element] of this.#elements)
      this.#count(side, element, this.#parts.tables.read(element.family, element.key))
  }

  /** Routes, addresses or devices have changed; `refresh` looks at every side, some at a time. */
  reroute(sides: Iterable<Side>): void {
    for (const index of this.#attached)
      if (this.#parts.rtnl.link(index) === undefined) {
        this.#attached.delete(index)
        this.#parts.tables.detach(index)
      }
    this.#stale = [...sides]
  }

  get isStale(): boolean {
    return this.#stale.length > 0
  }

  refresh(): void {
    for (const side of this.#stale.splice(0, REFRESHED_AT_ONCE)) this.set(side)
  }

  close(): void {
    this.#parts.tables.close()
  }

  #count(side: Side, element: Element, value: Uint8Array | undefined): void {
    if (value === undefined) return
    const at = LAYOUT[element.family]
    const view = new DataView(value.buffer, value.byteOffset)
    const number = (offset: number) => Number(view.getBigUint64(offset, true))
    const datagrams = number(at.datagrams)
    const bytes = number(at.bytes)
    const refused = number(at.refused)
    side.packets += datagrams - element.datagrams
    side.bytes += bytes - element.bytes
    this.counts.forwarded += datagrams - element.datagrams
    this.counts.bytes += bytes - element.bytes
    this.counts.limited += refused - element.refused
    Object.assign(element, { datagrams, bytes, refused })
  }

  /** What the kernel should do with datagrams of this side's node; undefined: nothing. */
  #element({ bound: from, port, other }: Side): Element | undefined {
    const to = other?.bound
    if (other === undefined || from?.local === undefined || to?.local === undefined) return undefined
    const family = from.address.length === 4 ? 4 : 6
    if (to.address.length !== from.address.length || isScoped(from) || isScoped(to)) return undefined
    if (from.local.length !== from.address.length || to.local.length !== to.address.length) return undefined
    const index = this.#route(to, to.local)
    // Where the node is, its datagrams come from.
    if (index === undefined || this.#route(from, from.local) === undefined) return undefined
    const { ports } = this.#parts
    const key = concat(from.address, from.local, twoPorts(from.port, ports[port]!))
    const left = concat(to.local, to.address, twoPorts(ports[other.port]!, to.port))
    const device = new Uint8Array(4)
    new DataView(device.buffer).setUint32(0, index, true)
    return { family, key, way: concat(left, device), datagrams: 0, bytes: 0, refused: 0 }
  }

  /** The device by which datagrams go there. */
  #route({ address }: Endpoint, local: Uint8Array): number | undefined {
    const { rtnl } = this.#parts
    try {
      const query = { to: formatAddress(address), from: formatAddress(local), protocol: Protocol.UDP }
      const route = rtnl.lookup(query)
      return route?.type !== 'unicast' || route.dev === undefined ? undefined : this.#device(route.dev)
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      return undefined
    }
  }

  #device(name: string): number | undefined {
    const link = this.#parts.rtnl.link(name)
    if (link === undefined || link.loopback || link.mac === '') return undefined
    if (!this.#attached.has(link.index)) {
      this.#parts.tables.attach(link.index)
      this.#attached.add(link.index)
    }
    return link.index
  }

  #attempt(action: () => void): boolean {
    try {
      action()
      return true
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      if (!this.#warned) this.#parts.warn(`channels that the kernel does not take: ${error.message}`)
      this.#warned = true
      return false
    }
  }
}

function isScoped({ scope }: Endpoint): boolean {
  return scope !== undefined && scope !== 0
}

function sameElement(a: Element, b: Element): boolean {
  return a.key.every((byte, i) => byte === b.key[i]) && a.way.every((byte, i) => byte === b.way[i])
}

function twoPorts(source: number, destination: number): Uint8Array {
  return Uint8Array.of(source >> 8, source & 0xff, destination >> 8, destination & 0xff)
}

/** Maps and program in the kernel. Throws KernelError where it has none of it, or lets us have none. */
export function relayTables(): RelayTables {
  const maps: Partial<Record<Family, BpfMap>> = {}
  const open: number[] = []
  const links = new Map<number, number>()
  const close = () => {
    for (const fd of [...links.values(), ...open.splice(0)]) closeFd(fd)
    links.clear()
  }
  const make = (family: Family) => {
    const { key, value } = LAYOUT[family]
    const map = createHash(`${PROGRAM}${family}`, key, value, MOST_ELEMENTS)
    open.push(map.fd)
    maps[family] = map
    // A kernel that cannot remove and read at once (before 5.14) would lose counts.
    takeElement(map, new Uint8Array(key))
    return map
  }
  try {
    const program = loadProgram(PROGRAM, relayProgram({ 4: make(4).fd, 6: make(6).fd }), Tcx.INGRESS)
    open.push(program)
    return {
      attach: (device) => {
        links.set(device, linkTcx(device, Tcx.INGRESS, program))
      },
      detach: (device) => {
        const link = links.get(device)
        if (link !== undefined) closeFd(link)
        links.delete(device)
      },
      put: (family, key, value) => putElement(maps[family]!, key, value),
      read: (family, key) => readElement(maps[family]!, key),
      take: (family, key) => takeElement(maps[family]!, key),
      close,
    }
  } catch (error) {
    close()
    throw error
  }
}

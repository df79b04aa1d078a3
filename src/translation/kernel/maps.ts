/**
 * Keeps the kernel's maps equal to what the tables compile to. `apply` takes what has changed, host by host, finds the
 * differences to what it installed for these hosts last, or to what an earlier run left there, and sends them as one
 * transaction: all flows switch at the same packet (DI-12).
 */

import { concat, equal } from '../../core/bytes.ts'
import { ENOENT } from '../../core/errno.ts'
import { KernelError } from '../../linux/libc.ts'
import { encodeElement, NfBatch } from '../../linux/nf_tables.ts'
import type { NfSocket } from '../../linux/nf-socket.ts'
import { TableRemovals } from '../../linux/nf-watch.ts'
import {
  type Compiled,
  type CompiledFamily,
  type Ip,
  ipOf,
  type Pair,
  type Ports,
  type SocketRow,
} from '../tables.ts'
import { AddressBytes, hostOrder } from './elements.ts'
import { installTables, LAYOUT, MAPS, type MapName, mapShape } from './stacktrans.ts'

const FAMILIES = [4, 6] as const

/** What of nf_tables the maps need. */
export type MapsSocket = Pick<NfSocket, 'commit' | 'dump' | 'hasTable'>

/** A UDP exchange that the watch has seen. */
export interface Seen {
  readonly local: Ip
  readonly localPort: number
  readonly foreign: Ip
  readonly foreignPort: number
}

/** Changes of so many elements and more are not reported to this process. */
const MANY = 256

/** Elements of one map: text of the key → key and data as `encodeElement` writes them. */
type Elements = Map<string, Uint8Array>
type Maps = Record<MapName, Elements>

/** Several hosts may claim an element of these; the one with the highest number has it. Of the others each is one host's. */
const SHARED: readonly MapName[] = ['in_pair', 'in_wait']

/** What one transaction removes and adds. */
type Changes = Record<MapName, { readonly gone: Uint8Array[]; readonly come: Uint8Array[] }>

interface EncodedFlow {
  readonly hid: number
  /** The key of `out_flow`, `out_one` and `out_port`. */
  readonly tuple: Uint8Array
  readonly out: { readonly key: string; readonly bytes: Uint8Array }
  readonly in: { readonly key: string; readonly bytes: Uint8Array }
}

export interface KernelCounts {
  /** Elements in the maps now. */
  readonly elements: number
  /** Transactions so far, and elements added or removed by them. */
  readonly transactions: number
  readonly changes: number
}

export class StackTransKernel {
  readonly #socket: MapsSocket
  readonly #table: string
  readonly #watchUdp: boolean
  /** What each host contributes, by HID. */
  readonly #hosts: Record<4 | 6, Map<number, Maps>> = { 4: new Map(), 6: new Map() }
  /** Of `SHARED`: map and key → what each claiming host would have there, by HID. */
  readonly #claims: Record<4 | 6, Map<string, Map<number, Uint8Array>>> = { 4: new Map(), 6: new Map() }
  /** What an earlier run left: part of some host's share, or to be removed. Until the first `apply`. */
  readonly #found: Record<4 | 6, Maps> = { 4: emptyMaps(), 6: emptyMaps() }
  readonly #elements: Record<4 | 6, number> = { 4: 0, 6: 0 }
  readonly #translating: Record<4 | 6, boolean> = { 4: false, 6: false }
  /** Whether the chains for renumbered ports are there. */
  readonly #ports: Record<4 | 6, boolean> = { 4: false, 6: false }
  readonly #addresses = new AddressBytes()
  readonly #flows = new WeakMap<SocketRow, EncodedFlow>()
  #transactions = 0
  #changes = 0
  #removals: { readonly watch: TableRemovals; readonly removed: () => void } | undefined

  constructor(options: { readonly table: string; readonly watch: boolean }, socket: MapsSocket) {
    this.#socket = socket
    this.#table = options.table
    this.#watchUdp = options.watch
  }

  get counts(): KernelCounts {
    const elements = this.#elements[4] + this.#elements[6]
    return { elements, transactions: this.#transactions, changes: this.#changes }
  }

  /** Installs the watch, and takes over the maps that an earlier run left: they go on translating all the while. */
  start(): void {
    for (const family of FAMILIES) {
      const layout = LAYOUT[family]
      for (const name of MAPS) {
        const found = this.#socket.dump(layout.family, this.#table, name)
        if (found === undefined) continue
        this.#translating[family] = true
        for (const { key, data } of found)
          this.#found[family][name].set(textOf(key), encodeElement(key, data))
        this.#elements[family] += found.length
      }
      if (!this.#watchUdp || this.#translating[family]) continue
      const batch = new NfBatch()
      installTables(batch, layout, this.#table, { translate: false, watch: true })
      this.#socket.commit(batch, 'install the watch on UDP')
    }
  }

  /**
   * Makes the kernel translate these hosts as their tables say (`compile` of each alone). The first call must name all
   * hosts: what an earlier run left of others is removed. Tables appear when they are first needed, and go when they are
   * not.
   */
  apply(hosts: readonly (readonly [hid: number, compiled: Compiled])[]): void {
    for (const family of FAMILIES)
      this.#applyFamily(
        family,
        hosts.map(([hid, compiled]) => [hid, this.#encode(compiled[family])]),
      )
  }

  #applyFamily(family: 4 | 6, hosts: readonly (readonly [number, Maps])[]): void {
    const changes = this.#differences(family, hosts)
    let count = 0
    for (const name of MAPS) {
      const { gone, come } = changes[name]
      this.#elements[family] += come.length - gone.length
      count += come.length + gone.length
    }
    if (count === 0) return
    this.#changes += count
    if (this.#elements[family] === 0) {
      this.#remove(family)
      return
    }
    const layout = LAYOUT[family]
    const batch = new NfBatch(1, 1 << 16)
    const ports = changes.out_port.come.length + changes.in_port.come.length + changes.in_wait.come.length > 0
    if (!this.#translating[family] || (ports && !this.#ports[family]))
      installTables(batch, layout, this.#table, { translate: true, watch: this.#watchUdp, renumber: ports })
    // All removals first: a key may pass from one host to another.
    for (const part of ['gone', 'come'] as const)
      for (const name of MAPS) {
        const elements = changes[name][part]
        if (elements.length === 0) continue
        const { key } = mapShape(layout, name)
        batch.elements(layout.family, this.#table, name, elements, key, part === 'gone')
      }
    this.#transactions++
    try {
      this.#commit(family, batch, 'change the translation maps', count)
    } catch (error) {
      if (!isMissing(error)) throw error
      this.#install(family) // another program has just removed the table
      return
    }
    this.#translating[family] = true
    this.#ports[family] ||= ports
  }

  /** Restores the tables that another program removed (`nft flush ruleset` removes all) and names them. */
  restore(): string[] {
    const restored: string[] = []
    for (const family of FAMILIES) {
      const expected = this.#translating[family] || this.#watchUdp
      if (!expected || this.#socket.hasTable(LAYOUT[family].family, this.#table)) continue
      this.#install(family)
      restored.push(`table ${family === 4 ? 'ip' : 'ip6'} ${this.#table}`)
    }
    return restored
  }

  /** Makes the whole table from what was applied; what an earlier run left in it is gone with it. */
  #install(family: 4 | 6): void {
    const layout = LAYOUT[family]
    const wanted = this.#wanted(family)
    this.#elements[family] = MAPS.reduce((sum, name) => sum + wanted[name].length, 0)
    this.#translating[family] = this.#elements[family] > 0
    this.#ports[family] = wanted.out_port.length + wanted.in_port.length + wanted.in_wait.length > 0
    for (const name of MAPS) this.#found[family][name].clear()
    const batch = new NfBatch(1, 1 << 16)
    installTables(batch, layout, this.#table, {
      translate: this.#translating[family],
      watch: this.#watchUdp,
      renumber: this.#ports[family],
    })
    for (const name of MAPS) {
      const { key } = mapShape(layout, name)
      if (wanted[name].length > 0) batch.elements(layout.family, this.#table, name, wanted[name], key, false)
    }
    this.#commit(family, batch, 'restore the translation maps', this.#elements[family])
    this.#transactions++
  }

  #commit(family: 4 | 6, batch: NfBatch, op: string, elements: number): void {
    const change = () => this.#socket.commit(batch, op)
    if (this.#removals === undefined || elements < MANY) {
      change()
      return
    }
    const { watch, removed } = this.#removals
    watch.without(change)
    // A program that waited for the end of the change may have removed the table before events were read again.
    if (!this.#socket.hasTable(LAYOUT[family].family, this.#table)) removed()
  }

  /** Calls back when another program may have removed a table; the returned function ends it. */
  watch(removed: () => void): () => void {
    const watch = new TableRemovals(undefined, removed)
    this.#removals = { watch, removed }
    return () => {
      this.#removals = undefined
      watch.close()
    }
  }

  /** All elements that were applied. */
  #wanted(family: 4 | 6): Record<MapName, Uint8Array[]> {
    const out = Object.fromEntries(MAPS.map((name) => [name, []])) as unknown as Record<MapName, Uint8Array[]>
    for (const maps of this.#hosts[family].values())
      for (const name of MAPS) if (!SHARED.includes(name)) out[name].push(...maps[name].values())
    for (const claim of this.#claims[family].keys())
      out[claim.slice(0, claim.indexOf(' ')) as MapName].push(this.#claimed(family, claim)!)
    return out
  }

  /** What has to change for these hosts to have what is wanted for them; remembers it as done. */
  #differences(family: 4 | 6, hosts: readonly (readonly [number, Maps])[]): Changes {
    const changes = Object.fromEntries(
      MAPS.map((name) => [name, { gone: [], come: [] }]),
    ) as unknown as Changes
    const replace = (name: MapName, before: Uint8Array | undefined, after: Uint8Array | undefined): void => {
      if (before === after || (before !== undefined && after !== undefined && equal(before, after))) return
      if (before !== undefined) changes[name].gone.push(before)
      if (after !== undefined) changes[name].come.push(after)
    }
    const found = this.#found[family]
    const adopt = (name: MapName, key: string): Uint8Array | undefined => {
      const left = found[name].get(key)
      found[name].delete(key)
      return left
    }
    /** Shared keys that may change hands, and what stood there before. */
    const shared = new Map<string, readonly [name: MapName, before: Uint8Array | undefined]>()
    for (const [hid, wanted] of hosts) {
      const before = this.#hosts[family].get(hid) ?? NOTHING
      for (const name of MAPS) {
        if (SHARED.includes(name)) {
          for (const key of new Set([...before[name].keys(), ...wanted[name].keys()])) {
            const claim = `${name} ${key}`
            const stood = this.#claimed(family, claim) ?? adopt(name, key)
            if (!shared.has(claim)) shared.set(claim, [name, stood])
            this.#claim(family, claim, hid, wanted[name].get(key))
          }
          continue
        }
        for (const [key, old] of before[name]) if (!wanted[name].has(key)) replace(name, old, undefined)
        for (const [key, next] of wanted[name]) replace(name, before[name].get(key) ?? adopt(name, key), next)
      }
      if (MAPS.every((name) => wanted[name].size === 0)) this.#hosts[family].delete(hid)
      else this.#hosts[family].set(hid, wanted)
    }
    for (const [claim, [name, before]] of shared) replace(name, before, this.#claimed(family, claim))
    for (const name of MAPS) {
      for (const bytes of found[name].values()) replace(name, bytes, undefined)
      found[name].clear()
    }
    return changes
  }

  #claim(family: 4 | 6, claim: string, hid: number, bytes: Uint8Array | undefined): void {
    const claims = this.#claims[family].get(claim) ?? new Map<number, Uint8Array>()
    if (bytes === undefined) claims.delete(hid)
    else claims.set(hid, bytes)
    if (claims.size === 0) this.#claims[family].delete(claim)
    else this.#claims[family].set(claim, claims)
  }

  /** What stands under a shared key. */
  #claimed(family: 4 | 6, claim: string): Uint8Array | undefined {
    const claims = this.#claims[family].get(claim)
    return claims?.get(Math.max(...claims.keys()))
  }

  #remove(family: 4 | 6): void {
    if (!this.#translating[family]) return
    const { family: number } = LAYOUT[family]
    // Made first: another program may have removed it.
    const batch = new NfBatch().table(number, this.#table).deleteTable(number, this.#table)
    if (this.#watchUdp) installTables(batch, LAYOUT[family], this.#table, { translate: false, watch: true })
    this.#socket.commit(batch, 'remove the translation maps')
    this.#transactions++
    this.#forget(family)
  }

  #forget(family: 4 | 6): void {
    this.#translating[family] = false
    this.#ports[family] = false
    this.#hosts[family].clear()
    this.#claims[family].clear()
    for (const name of MAPS) this.#found[family][name].clear()
    this.#elements[family] = 0
  }

  /** UDP exchanges of the last minutes; nothing without the watch. */
  seen(): Seen[] {
    const out: Seen[] = []
    if (!this.#watchUdp) return out
    for (const family of FAMILIES) {
      const { family: number, width } = LAYOUT[family]
      for (const { key } of this.#socket.dump(number, this.#table, 'udp_seen') ?? []) {
        if (key.length !== 2 * width + 8) continue
        out.push({
          local: ipOf(key.slice(0, width)),
          foreign: ipOf(key.slice(width, 2 * width)),
          localPort: (key[2 * width]! << 8) | key[2 * width + 1]!,
          foreignPort: (key[2 * width + 4]! << 8) | key[2 * width + 5]!,
        })
      }
    }
    return out
  }

  /** Removes all of it. */
  cleanUp(): void {
    for (const family of FAMILIES) {
      try {
        const batch = new NfBatch().deleteTable(LAYOUT[family].family, this.#table)
        this.#socket.commit(batch, 'remove the translation tables')
      } catch (error) {
        if (!isMissing(error)) throw error
      }
      this.#forget(family)
    }
  }

  #encode(compiled: CompiledFamily): Maps {
    const out = emptyMaps()
    const put = (name: MapName, key: Uint8Array, data?: Uint8Array): void => {
      out[name].set(textOf(key), encodeElement(key, data))
    }
    const pair = ({ local, foreign }: Pair): Uint8Array =>
      concat(this.#addresses.of(local), this.#addresses.of(foreign))
    const reversed = ({ local, foreign }: Pair): Uint8Array =>
      concat(this.#addresses.of(foreign), this.#addresses.of(local))
    for (const flow of compiled.out_flow.values()) {
      const { out: element } = this.#flow(flow)
      out.out_flow.set(element.key, element.bytes)
    }
    for (const flow of compiled.in_flow.values()) {
      const { in: element } = this.#flow(flow)
      out.in_flow.set(element.key, element.bytes)
    }
    for (const { bound, wire } of compiled.out_pair.values()) put('out_pair', pair(bound), pair(wire))
    for (const { flow, wire } of compiled.out_one.values()) put('out_one', this.#flow(flow).tuple, pair(wire))
    for (const { flow, ports } of compiled.out_port.values())
      put('out_port', this.#flow(flow).tuple, portFields(ports.local, ports.foreign))
    for (const { pair: p, hid } of compiled.in_pair.values()) put('in_pair', reversed(p), hostOrder(hid))
    for (const p of compiled.in_wait.values()) put('in_wait', reversed(p))
    for (const { flow, ports } of compiled.in_port.values())
      put('in_port', hostKey(flow, ports), portFields(flow.foreignPort, flow.localPort))
    return out
  }

  /** Makes the elements of a flow ahead of the move that needs them. */
  prepare(flow: SocketRow): void {
    this.#flow(flow)
  }

  /** The elements of one flow, which never change: made once. */
  #flow(flow: SocketRow): EncodedFlow {
    const known = this.#flows.get(flow)
    if (known?.hid === flow.hid) return known
    const local = this.#addresses.of(flow.local)
    const foreign = this.#addresses.of(flow.foreign)
    const tuple = concat(local, foreign, fields(flow.protocol, flow.localPort, flow.foreignPort))
    const into = hostKey(flow, { local: flow.localPort, foreign: flow.foreignPort })
    const encoded: EncodedFlow = {
      hid: flow.hid,
      tuple,
      out: { key: textOf(tuple), bytes: encodeElement(tuple) },
      in: { key: textOf(into), bytes: encodeElement(into, concat(foreign, local)) },
    }
    this.#flows.set(flow, encoded)
    return encoded
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof KernelError && error.errno === ENOENT
}

function emptyMaps(): Maps {
  return Object.fromEntries(MAPS.map((name) => [name, new Map()])) as unknown as Maps
}

const NOTHING = emptyMaps()

/** A key as a map key of JavaScript. */
function textOf(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.length).toString('latin1')
}

/** The key of `in_flow` and `in_port`. */
function hostKey(flow: SocketRow, { local, foreign }: Ports): Uint8Array {
  return concat(hostOrder(flow.hid), fields(flow.protocol, foreign, local))
}

/** Protocol and two ports, each in a register of its own. */
function fields(protocol: number, first: number, second: number): Uint8Array {
  return concat(Uint8Array.of(protocol, 0, 0, 0), portFields(first, second))
}

function portFields(first: number, second: number): Uint8Array {
  return Uint8Array.of(first >> 8, first & 0xff, 0, 0, second >> 8, second & 0xff, 0, 0)
}

/**
 * The two tables of the paper (§ III-A, Fig. 3) and what they compile to.
 *
 * HID table: a row for each foreign host, with the addresses at which it is reachable from here (*Active*), those that it
 * owns but cannot be reached at (*Unreachable*), this host's own addresses that it can reach (*Local*) and its *Key*. A
 * HID is the number of a row; it never leaves this host (DI-11).
 * Socket table: a row for each socket and foreign address, with the addresses the socket is bound to and the HID (DI-9).
 *
 * `compile` turns both into the elements of the kernel's maps (stacktrans.ts): a pure function, so that kernel state is
 * always what the tables say. Addresses in tables are canonical text: they are compared and looked up, never computed with.
 */
import { formatAddress, parseAddress } from '../core/address.ts'

/** An address in the text form of `formatAddress`. */
export type Ip = string

export function ipOf(address: Uint8Array): Ip {
  return formatAddress(address)
}

/** The bytes of an `Ip`. */
export function bytesOf(ip: Ip): Uint8Array {
  const parsed = parseAddress(ip)
  if (!parsed.ok) throw new TypeError(parsed.reason)
  return parsed.value
}

export function familyOf(ip: Ip): 4 | 6 {
  return ip.includes(':') ? 6 : 4
}

/** An address that means something on one link only, so that a packet to it must be told its device: `fe80::…`. */
export function isLinkLocal6(ip: Ip): boolean {
  return ip.startsWith('fe8')
}

/** A way between the two hosts: an own address and one of the foreign host. */
export interface Pair {
  readonly local: Ip
  readonly foreign: Ip
}

export function pairKey(pair: Pair): string {
  return `${pair.local} ${pair.foreign}`
}

export function samePair(a: Pair | undefined, b: Pair | undefined): boolean {
  return a !== undefined && b !== undefined && a.local === b.local && a.foreign === b.foreign
}

/** What an IHMP-aware NAT did to one connection of the foreign host: `foreignPort` appears as `natPort`. */
export interface PortTranslation {
  readonly protocol: number
  readonly foreignPort: number
  readonly natPort: number
  readonly localPort: number
  /** Of the message that said so; the newest counts. */
  readonly counter?: number
}

/** Ports of a flow on the wire; undefined: those of the socket. */
export interface WirePorts {
  readonly own?: number | undefined
  readonly other?: number | undefined
  /** The peer knows the own one: packets are sent with it, not only taken in. */
  readonly known: boolean
  /** When one of them was last chosen, milliseconds. */
  readonly since: number
}

/** A row of the HID table, with what the kernel needs beside the paper's columns. */
export interface HidRow {
  readonly hid: number
  readonly active: Set<Ip>
  readonly unreachable: Set<Ip>
  readonly local: Set<Ip>
  key: Uint8Array | undefined
  /** Pairs on which packets of this host are taken for its own: it has authenticated both ends of each. */
  readonly accepted: Map<string, Pair>
  /** The pair to send on, per family of the flows: of that family, or of the other if none works. */
  readonly current: { 4?: Pair; 6?: Pair }
  /** Single flows that go another way (multipath: choose per flow), by flow id. */
  readonly overrides: Map<string, Pair>
  readonly ports: PortTranslation[]
  /** Flows whose packets carry other ports than their sockets have, by flow id (machine/renumbering.ts). */
  readonly numbers: Map<string, WirePorts>
  /** Its addresses that are those of NATs, which say what ports they gave. */
  readonly nats: Set<Ip>
  /** Families whose flows this host takes from pairs of the other one, as `current` may send them there (DI-6). */
  readonly crossed: Set<4 | 6>
}

/** A row of the socket table: a socket and one foreign address that it talks to. */
export interface SocketRow {
  /** `tcp-10.0.0.1-40000-10.0.0.2-80`: the 5-tuple as the socket knows it; unique here, and stays when the flow moves. */
  readonly id: string
  readonly protocol: number
  readonly local: Ip
  readonly localPort: number
  readonly foreign: Ip
  readonly foreignPort: number
  hid: number
  /** A TCP connection that has not been answered yet. */
  opening?: boolean
  /**
   * Whether the host has shown that it is the other end (machine/possession.ts): packets are taken in as the flow's, and
   * sent as such. Undefined: it has not, and the flow is left alone.
   */
  taken?: 'in' | 'both' | undefined
  /** Names the socket for ever: one that comes later may have the same id. Undefined for datagrams that were only seen. */
  readonly cookie?: bigint
  /** Inode of the socket, 0 when unknown (TIME-WAIT, unconnected UDP seen by its datagrams). */
  inode: number
}

export function flowId(
  protocol: number,
  local: Ip,
  localPort: number,
  foreign: Ip,
  foreignPort: number,
): string {
  return `${protocol === 6 ? 'tcp' : 'udp'}-${local}-${localPort}-${foreign}-${foreignPort}`.replaceAll(
    ':',
    '_',
  )
}

/** Below 2^33. */
function portsKey(protocol: number, local: number, foreign: number): number {
  return ((protocol === 6 ? 0 : 1) * 65_536 + local) * 65_536 + foreign
}

/** The flows of one host, and on how many each pair of addresses is bound. */
interface HostFlows {
  readonly rows: Set<SocketRow>
  readonly pairs: Map<string, { readonly pair: Pair; count: number }>
}

/** As many as `inFlowKey` can tell apart. */
const MOST_HIDS = 2 ** 20 - 1

export class Tables {
  readonly hosts = new Map<number, HidRow>()
  readonly sockets = new Map<string, SocketRow>()
  readonly #flowsOf = new Map<number, HostFlows>()
  /** Hosts that have flows bound to a pair: more than one only if the foreign address changed hands (P2). */
  readonly #boundTo = new Map<string, Set<number>>()
  readonly #byPorts = new Map<number, Set<SocketRow>>()
  /** Pairs on which packets of one host arrive and to which flows of others are bound, with the hosts of the packets. */
  readonly contested = new Map<string, Set<number>>()
  readonly #changed = new Set<number>()
  #next = 1

  /** A new row; a number is used again as late as can be, so that stale kernel state cannot meet a new host. */
  addHost(known?: number): HidRow {
    const hid = known ?? this.#freeHid()
    this.#next = known === undefined ? hid + 1 : Math.max(this.#next, hid + 1)
    const row: HidRow = {
      hid,
      active: new Set(),
      unreachable: new Set(),
      local: new Set(),
      key: undefined,
      accepted: new Map(),
      current: {},
      overrides: new Map(),
      ports: [],
      numbers: new Map(),
      nats: new Set(),
      crossed: new Set(),
    }
    this.hosts.set(hid, row)
    return row
  }

  #freeHid(): number {
    for (let hid = this.#next; ; hid++) {
      if (hid > MOST_HIDS) hid = 1
      if (!this.hosts.has(hid)) return hid
    }
  }

  removeHost(hid: number): void {
    for (const row of [...this.flows(hid)]) this.removeSocket(row.id)
    this.hosts.delete(hid)
    this.#flowsOf.delete(hid)
    for (const [key, hosts] of this.contested)
      if (hosts.delete(hid) && hosts.size === 0) this.contested.delete(key)
    this.touch(hid)
  }

  addSocket(row: SocketRow): void {
    this.removeSocket(row.id)
    this.sockets.set(row.id, row)
    let flows = this.#flowsOf.get(row.hid)
    if (flows === undefined) {
      flows = { rows: new Set(), pairs: new Map() }
      this.#flowsOf.set(row.hid, flows)
    }
    flows.rows.add(row)
    const ports = portsKey(row.protocol, row.localPort, row.foreignPort)
    this.#byPorts.set(ports, (this.#byPorts.get(ports) ?? new Set()).add(row))
    this.touch(row.hid)
    const key = pairKey(row)
    for (const hid of this.contested.get(key) ?? []) this.touch(hid)
    const bound = flows.pairs.get(key)
    if (bound !== undefined) {
      bound.count++
      return
    }
    flows.pairs.set(key, { pair: { local: row.local, foreign: row.foreign }, count: 1 })
    const hosts = this.#boundTo.get(key) ?? new Set()
    this.#boundTo.set(key, hosts.add(row.hid))
    for (const hid of hosts) this.touch(hid)
    for (const { hid, accepted } of this.hosts.values()) if (accepted.has(key)) this.touch(hid)
  }

  removeSocket(id: string): void {
    const row = this.sockets.get(id)
    if (row === undefined) return
    this.sockets.delete(id)
    this.hosts.get(row.hid)?.overrides.delete(id)
    this.hosts.get(row.hid)?.numbers.delete(id)
    this.touch(row.hid)
    const flows = this.#flowsOf.get(row.hid)
    flows?.rows.delete(row)
    const ports = portsKey(row.protocol, row.localPort, row.foreignPort)
    const alike = this.#byPorts.get(ports)
    alike?.delete(row)
    if (alike?.size === 0) this.#byPorts.delete(ports)
    const key = pairKey(row)
    for (const hid of this.contested.get(key) ?? []) this.touch(hid)
    const bound = flows?.pairs.get(key)
    if (bound === undefined || --bound.count > 0) return
    flows?.pairs.delete(key)
    const hosts = this.#boundTo.get(key)
    hosts?.delete(row.hid)
    for (const hid of hosts ?? []) this.touch(hid)
    if (hosts?.size === 0) this.#boundTo.delete(key)
  }

  /** The flows of a host. */
  flows(hid: number): ReadonlySet<SocketRow> {
    return this.#flowsOf.get(hid)?.rows ?? EMPTY
  }

  /** The flows with these ports, of any host. */
  withPorts(protocol: number, local: number, foreign: number): ReadonlySet<SocketRow> {
    return this.#byPorts.get(portsKey(protocol, local, foreign)) ?? EMPTY
  }

  /** The pairs that flows of a host are bound to, each once. */
  *bound(hid: number): Iterable<Pair> {
    for (const { pair } of this.#flowsOf.get(hid)?.pairs.values() ?? []) yield pair
  }

  /** Whether flows of this host may share one entry for the pair that they are bound to: no host of lower number has any. */
  owns(hid: number, key: string): boolean {
    for (const other of this.#boundTo.get(key) ?? []) if (other < hid) return false
    return true
  }

  /** Whether flows of another host are bound to this pair. */
  isBoundToOther(hid: number, key: string): boolean {
    for (const other of this.#boundTo.get(key) ?? []) if (other !== hid) return true
    return false
  }

  /** The flow is another host's, as it turns out. */
  assign(flow: SocketRow, hid: number): void {
    this.removeSocket(flow.id)
    flow.hid = hid
    this.addSocket(flow)
  }

  /** What `compile` makes of this host may have changed. */
  touch(hid: number): void {
    this.#changed.add(hid)
  }

  get changed(): boolean {
    return this.#changed.size > 0
  }

  /** The hosts touched since the last call. */
  takeChanged(): number[] {
    const changed = [...this.#changed]
    this.#changed.clear()
    return changed
  }

  /** Two rows turned out to be one host: everything of `from` becomes part of `into`. */
  merge(from: number, into: number): void {
    const old = this.hosts.get(from)
    const row = this.hosts.get(into)
    if (old === undefined || row === undefined || from === into) return
    const overrides = [...old.overrides]
    const numbers = [...old.numbers]
    for (const socket of [...this.flows(from)]) {
      this.removeSocket(socket.id)
      socket.hid = into
      this.addSocket(socket)
    }
    for (const ip of old.active) row.active.add(ip)
    for (const ip of old.unreachable) if (!row.active.has(ip)) row.unreachable.add(ip)
    for (const ip of old.local) row.local.add(ip)
    for (const [key, pair] of old.accepted) row.accepted.set(key, pair)
    for (const [id, pair] of overrides) row.overrides.set(id, pair)
    for (const [id, ports] of numbers) row.numbers.set(id, ports)
    for (const family of old.crossed) row.crossed.add(family)
    for (const nat of old.nats) row.nats.add(nat)
    row.ports.push(...old.ports)
    this.removeHost(from)
  }
}

const EMPTY: ReadonlySet<SocketRow> = new Set()

/** The elements of one family's maps; see stacktrans.ts for what each map does. Keys are such that equal ones collide. */
export interface CompiledFamily {
  readonly out_flow: Map<string, SocketRow>
  readonly out_pair: Map<string, { readonly bound: Pair; readonly wire: Pair }>
  /** The same for flows that are translated on the device by which they leave (fast-path.ts). */
  readonly fast_flow: Map<string, SocketRow>
  readonly fast_pair: Map<string, { readonly bound: Pair; readonly wire: Pair }>
  readonly out_one: Map<string, { readonly flow: SocketRow; readonly wire: Pair }>
  /** Ports on the wire: source and destination of what leaves. */
  readonly out_port: Map<string, { readonly flow: SocketRow; readonly ports: Ports }>
  readonly in_pair: Map<string, { readonly pair: Pair; readonly hid: number }>
  readonly in_flow: Map<number, SocketRow>
  /** Ports on the wire of what arrives. */
  readonly in_port: Map<number, { readonly flow: SocketRow; readonly ports: Ports }>
  /** Pairs with a NAT that has not named the ports of all flows yet. */
  readonly in_wait: Map<string, Pair>
  /** Flows that cannot be told from an earlier one on the wire: same host, same ports (P1). Inbound, that one wins. */
  readonly twins: Map<string, { readonly flow: SocketRow; readonly first: SocketRow }>
  /**
   * Flows of this family on a pair of the other, or of a link (crossing.ts): where their packets go, and as what those
   * of the other family arrive.
   */
  readonly cross_out: Map<string, Crossed>
  readonly cross_in: Map<string, Crossed>
}
/** This host's port and the other's. */
export interface Ports {
  readonly local: number
  readonly foreign: number
}
export interface Crossed {
  readonly flow: SocketRow
  readonly wire: Pair
}
export type Compiled = Readonly<Record<4 | 6, CompiledFamily>>

function emptyFamily(): CompiledFamily {
  return {
    out_flow: new Map(),
    out_pair: new Map(),
    fast_flow: new Map(),
    fast_pair: new Map(),
    out_one: new Map(),
    out_port: new Map(),
    in_pair: new Map(),
    in_flow: new Map(),
    in_port: new Map(),
    in_wait: new Map(),
    twins: new Map(),
    cross_out: new Map(),
    cross_in: new Map(),
  }
}

/** True when nothing has to be rewritten: no table is needed in the kernel. */
export function isIdle(compiled: Compiled): boolean {
  return [compiled[4], compiled[6]].every(
    (f) => f.out_flow.size + f.fast_flow.size + f.out_one.size + f.in_pair.size + f.cross_in.size === 0,
  )
}

/** Whether a flow may be translated where it leaves instead of before it is routed. */
export type FastPath = (flow: SocketRow, wire: Pair) => boolean

/**
 * What the kernel's maps hold for these hosts, by default all. What a host contributes depends on its rows alone, and on
 * which hosts share a bound pair (`owns`). Cost: a microsecond or two per flow of a host that has moved.
 */
export function compile(
  tables: Tables,
  hids: Iterable<number> = tables.hosts.keys(),
  fast: FastPath = () => false,
): Compiled {
  const compiled: Compiled = { 4: emptyFamily(), 6: emptyFamily() }
  for (const hid of hids) {
    const host = tables.hosts.get(hid)
    if (host === undefined || !hasMoved(host, tables)) continue
    for (const pair of host.accepted.values())
      compiled[familyOf(pair.local)].in_pair.set(pairKey(pair), { pair, hid: host.hid })
    const contested = contestedPairs(tables, host)
    const opening: SocketRow[] = []
    for (const flow of tables.flows(host.hid))
      if (flow.opening === true) opening.push(flow)
      else if (flow.taken === undefined) continue
      else if (contested.length > 0 && isAnothers(flow, contested, tables)) continue
      else compileFlow(compiled[familyOf(flow.local)], tables, host, flow, fast)
    for (const flow of opening) {
      const maps = compiled[familyOf(flow.local)]
      // Nobody has proven it yet, and its ports may be those of one that has moved.
      const key = inFlowKey(flow, portsOf(flow))
      const first = maps.in_flow.get(key) ?? maps.in_port.get(key)?.flow
      if (flow.taken !== undefined) compileFlow(maps, tables, host, flow, fast)
      else if (first !== undefined) maps.twins.set(flow.id, { flow, first })
    }
  }
  return compiled
}

/** Pairs of this host to which flows of others are bound. */
function contestedPairs(tables: Tables, host: HidRow): Pair[] {
  const out: Pair[] = []
  for (const [key, pair] of host.accepted) {
    if (!tables.isBoundToOther(host.hid, key)) continue
    out.push(pair)
    const hosts = tables.contested.get(key) ?? new Set()
    tables.contested.set(key, hosts.add(host.hid))
  }
  return out
}

/** Whether on one of these pairs the flow would look like one of another host: that one is left alone. */
function isAnothers(flow: SocketRow, pairs: readonly Pair[], tables: Tables): boolean {
  for (const { local, foreign } of pairs) {
    if (familyOf(local) !== familyOf(flow.local)) continue
    const other = tables.sockets.get(flowId(flow.protocol, local, flow.localPort, foreign, flow.foreignPort))
    if (other !== undefined && other.hid !== flow.hid) return true
  }
  return false
}

function compileFlow(
  maps: CompiledFamily,
  tables: Tables,
  host: HidRow,
  flow: SocketRow,
  fast: FastPath,
): void {
  const numbers = numbersOf(tables, host, flow)
  const taken = { local: numbers?.own ?? flow.localPort, foreign: numbers?.other ?? flow.foreignPort }
  const mapping =
    host.ports.length === 0
      ? undefined
      : host.ports.find(
          (m) =>
            m.protocol === flow.protocol && m.foreignPort === taken.foreign && m.localPort === taken.local,
        )
  const foreign = mapping?.natPort ?? taken.foreign
  const renumbered = foreign !== flow.foreignPort || taken.local !== flow.localPort
  const inKey = inFlowKey(flow, portsOf(flow))
  const first = maps.in_flow.get(inKey) ?? (renumbered ? undefined : maps.in_port.get(inKey)?.flow)
  if (first !== undefined) maps.twins.set(flow.id, { flow, first })
  // While it is opened and has not moved, it must not seem to be in the way of itself (stacktrans.ts).
  else if (flow.opening !== true || !samePair(flow, host.current[familyOf(flow.local)]))
    maps.in_flow.set(inKey, flow)
  // Wherever the host is sent to by now, and if nowhere: its segments may come through the NAT before the NAT's word does.
  if (mapping === undefined && host.nats.size > 0)
    for (const pair of host.accepted.values())
      if (host.nats.has(pair.foreign)) maps.in_wait.set(pairKey(pair), pair)
  if (renumbered)
    maps.in_port.set(inFlowKey(flow, { ...taken, foreign }), { flow, ports: { ...taken, foreign } })
  if (host.crossed.has(familyOf(flow.local))) compileCrossing(maps, host, flow)
  if (flow.taken !== 'both') return
  const override = host.overrides.get(flow.id)
  const wire = override ?? host.current[familyOf(flow.local)]
  if (wire === undefined || familyOf(wire.local) !== familyOf(flow.local)) return
  if (isLinkLocal6(wire.foreign)) {
    maps.cross_out.set(flow.id, { flow, wire })
    return
  }
  if (renumbered) {
    const local = numbers?.known === false ? flow.localPort : taken.local
    maps.out_port.set(flow.id, { flow, ports: { local, foreign } })
    maps.out_one.set(flow.id, { flow, wire })
    return
  }
  // Sent to the NAT at the host's own port it would be the NAT's to answer, with a reset; better not at all.
  if (samePair(flow, wire) || (mapping === undefined && host.nats.has(wire.foreign))) return
  const key = pairKey(flow)
  if (override !== undefined || !tables.owns(host.hid, key)) {
    maps.out_one.set(flow.id, { flow, wire })
    return
  }
  const [flows, pairs] = fast(flow, wire) ? [maps.fast_flow, maps.fast_pair] : [maps.out_flow, maps.out_pair]
  flows.set(flow.id, flow)
  if (!pairs.has(key)) pairs.set(key, { bound: { local: flow.local, foreign: flow.foreign }, wire })
}

function compileCrossing(maps: CompiledFamily, host: HidRow, flow: SocketRow): void {
  const family = familyOf(flow.local)
  const wire = host.current[family]
  if (flow.taken === 'both' && wire !== undefined && familyOf(wire.local) !== family)
    maps.cross_out.set(flow.id, { flow, wire })
  for (const pair of host.accepted.values()) {
    if (familyOf(pair.local) === family || host.nats.has(pair.foreign)) continue
    const key = `${pairKey(pair)} ${flow.protocol} ${flow.foreignPort} ${flow.localPort}`
    if (!maps.cross_in.has(key)) maps.cross_in.set(key, { flow, wire: pair })
  }
}

/** HID, protocol and ports as one number, below 2^53. */
function inFlowKey(flow: SocketRow, { local, foreign }: Ports): number {
  return flow.hid * 2 ** 33 + portsKey(flow.protocol, local, foreign)
}

/** Those of its socket. */
function portsOf({ localPort, foreignPort }: SocketRow): Ports {
  return { local: localPort, foreign: foreignPort }
}

/** Ports with which packets of the flow leave. */
export function wirePorts(tables: Tables, flow: SocketRow): Ports {
  const numbers = tables.hosts.get(flow.hid)?.numbers.get(flow.id)
  return {
    local: (numbers?.known === true ? numbers.own : undefined) ?? flow.localPort,
    foreign: numbers?.other ?? flow.foreignPort,
  }
}

/** Its ports on the wire, unless another socket here has the very addresses and ports that its packets would have. */
function numbersOf(tables: Tables, host: HidRow, flow: SocketRow): WirePorts | undefined {
  const numbers = host.numbers.get(flow.id)
  return numbers === undefined || isTaken(tables, host, flow, numbers) ? undefined : numbers
}

/** Whether with these ports packets of the flow would look like those of another socket. */
export function isTaken(
  tables: Tables,
  host: Pick<HidRow, 'accepted'>,
  flow: SocketRow,
  numbers: Pick<WirePorts, 'own' | 'other'>,
): boolean {
  const { own = flow.localPort, other = flow.foreignPort } = numbers
  for (const there of tables.withPorts(flow.protocol, own, other)) {
    const same = familyOf(there.local) === familyOf(flow.local)
    if (same && there !== flow && host.accepted.has(pairKey(there))) return true
  }
  return false
}

/** Whether packets of this host may travel on another pair than their sockets are bound to. */
function hasMoved(host: HidRow, tables: Tables): boolean {
  if (host.accepted.size === 0) return false
  if (host.crossed.size > 0 || host.numbers.size > 0) return true
  for (const bound of tables.bound(host.hid)) {
    const family = familyOf(bound.local)
    for (const pair of host.accepted.values())
      if (familyOf(pair.local) === family && !samePair(pair, bound)) return true
    const current = host.current[family]
    if (current !== undefined && !samePair(current, bound)) return true
  }
  return false
}

/**
 * Own addresses that flows with other DIME hosts are bound to: each is kept as an identifier on the loopback, beside the
 * interface that has it and when none has it any more (E-1), so that no socket ever finds its address gone.
 */
export function identifiers(tables: Tables): Set<Ip> {
  const out = new Set<Ip>()
  for (const { hid, accepted } of tables.hosts.values())
    if (accepted.size > 0) for (const { local } of tables.bound(hid)) out.add(local)
  return out
}

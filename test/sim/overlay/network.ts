/**
 * Nodes of the overlay on a virtual network with a virtual clock: every node machine is the real one, servers are those of
 * test/support, NATs map and filter as they are told. Delays are one way; nothing is random but the machines' own.
 */

import { parseAddress } from '../../../src/core/address.ts'
import type { Endpoint } from '../../../src/core/endpoint.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import type {
  Credentials,
  NodeMachineInit,
  NodeOutput,
  NodeSocket,
} from '../../../src/overlay/machine/api.ts'
import { NodeMachine } from '../../../src/overlay/machine/node.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { endpointKey } from '../../../src/overlay/tables.ts'
import { StubCoordinator } from '../../support/overlay-coordinator.ts'

export function at(text: string): Endpoint {
  const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(text)!
  const address = parseAddress(host!)
  if (!address.ok) throw new Error(text)
  return { address: address.value, port: Number(port) }
}

function hostOf(endpoint: string): string {
  return endpoint.slice(0, endpoint.lastIndexOf(':'))
}

/** How a NAT maps and filters (RFC 4787). `symmetric` draws its ports, `counting` counts them up. */
export type NatKind = 'port-restricted' | 'full-cone' | 'symmetric' | 'counting'

export class Nat {
  readonly kind: NatKind
  readonly outside: string
  #next = 40_000
  /** By inside endpoint (and destination, if symmetric): the outside port. */
  readonly #maps = new Map<string, { port: number; inside: string; sent: Set<string>; since: number }>()
  /** A mapping ends at this age, whatever uses it (ms). */
  lifetime = Number.POSITIVE_INFINITY
  /** From one port to the next, and how many others use it each millisecond, of a NAT that counts. */
  step = 1
  othersPerMs = 0
  #countedAt = Number.NaN
  #drawn = 7
  readonly #now: () => number

  constructor(kind: NatKind, outside: string, now: () => number = () => 0) {
    this.kind = kind
    this.outside = outside
    this.#now = now
  }

  out(inside: string, to: string): string {
    this.#expire()
    const key = this.kind === 'symmetric' || this.kind === 'counting' ? `${inside} ${to}` : inside
    const map = this.#maps.get(key) ?? {
      ...{ port: this.#port(), inside, sent: new Set<string>(), since: this.#now() },
    }
    this.#maps.set(key, map)
    map.sent.add(to)
    return `${this.outside}:${map.port}`
  }

  #port(): number {
    const used = new Set([...this.#maps.values()].map(({ port }) => port))
    if (this.kind === 'symmetric') {
      do this.#drawn = (Math.imul(this.#drawn, 1_103_515_245) + 12_345) >>> 0
      while (used.has(1024 + (this.#drawn % 64_000)))
      return 1024 + (this.#drawn % 64_000)
    }
    const now = this.#now()
    if (now > this.#countedAt)
      this.#next += Math.floor((now - this.#countedAt) * this.othersPerMs) * this.step
    this.#countedAt = now
    const port = this.#next
    this.#next += this.step
    if (this.#next > 65_000) this.#next = 1024
    return port
  }

  /** What was sent outside longer ago than the filter remembers; mappings stay. */
  forgetSent(): void {
    for (const { sent } of this.#maps.values()) sent.clear()
  }

  /** All mappings. */
  forget(): void {
    this.#maps.clear()
  }

  /** Of a symmetric NAT: those to there. */
  forgetTo(to: string): void {
    for (const [key, { sent }] of this.#maps) if (sent.has(to)) this.#maps.delete(key)
  }

  #expire(): void {
    if (this.lifetime === Number.POSITIVE_INFINITY) return
    for (const [key, { since }] of this.#maps)
      if (this.#now() - since >= this.lifetime) this.#maps.delete(key)
  }

  in(from: string, port: number): string | undefined {
    this.#expire()
    const map = [...this.#maps.values()].find((each) => each.port === port)
    if (map === undefined || (this.kind !== 'full-cone' && !map.sent.has(from))) return undefined
    return map.inside
  }
}

/** What stands at 192.0.2.1 (port index 0) and 192.0.2.2 (the others); of a second zone at .11 and .12. */
export interface SimServer {
  add(name: string, publicKey: Uint8Array): { readonly credentials: Credentials }
  receive(port: number, bytes: Uint8Array, from: Endpoint): void
  nextTimeout?(): number | undefined
  handleTimeout?(now: number): void
}

export interface SimServerParts {
  readonly send: (port: number, to: Endpoint, bytes: Uint8Array) => void
  readonly wall: () => number
  readonly now: () => number
  readonly fill: (out: Uint8Array) => Uint8Array
  readonly relayPorts: readonly Endpoint[]
}

/** What a NAT64 puts in front of IPv4 addresses. */
export const NAT64 = Uint8Array.of(0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0)

export interface SimSocket {
  readonly socket: number
  /** Its NAT is one from IPv6 to IPv4. */
  readonly translates?: boolean
  readonly address: string
  readonly nat?: Nat
  readonly port: number
  down: boolean
}

/** What is on the network beside servers and hosts. */
export interface SimParticipant {
  readonly sockets: readonly SimSocket[]
  receive(bytes: Uint8Array, from: Endpoint, socket: number): void
  nextTimeout(): number | undefined
  handleTimeout(): void
}

export class SimNode implements SimParticipant {
  readonly name: string
  /** How far its clock is ahead of the others' (ms). */
  ahead = 0
  readonly machine: NodeMachine
  readonly outputs: NodeOutput[] = []
  readonly sockets: SimSocket[] = []
  readonly publicKey: Uint8Array
  readonly #net: Network

  constructor(
    net: Network,
    name: string,
    seed: number,
    site = net.sites[0]!,
    notifications?: { readonly push?: string },
    kept: Pick<NodeMachineInit, 'lease' | 'kept' | 'prekey'> = {},
  ) {
    this.#net = net
    this.name = name
    this.publicKey = nodeCrypto.publicKey(new Uint8Array(32).fill(seed))
    const account = site.servers.add(name, this.publicKey)
    this.machine = new NodeMachine(
      {
        crypto: overlayCrypto,
        random: { fill: (out) => net.fill(out) },
        wall: () => net.wall + net.now + this.ahead,
      },
      {
        ...{ credentials: account.credentials, publicKey: this.publicKey },
        ...(notifications !== undefined && { notifications }),
        ...kept,
      },
    )
    net.nodes.push(this)
    this.machine.setCoordinator([at(`${site.host}:6741`)], net.now)
  }

  /** All sockets that it has from now on. */
  use(...sockets: readonly Omit<SimSocket, 'down'>[]): void {
    this.sockets.length = 0
    this.sockets.push(...sockets.map((socket) => ({ ...socket, down: false })))
    const all: NodeSocket[] = sockets.map(({ socket, address, port }, i) => ({
      socket,
      access: `acc${socket}`,
      addresses: [at(`${address}:1`).address],
      port,
      priority: i,
    }))
    this.machine.setSockets(all, this.#net.now)
    this.drain()
  }

  resolve(name: string): void {
    this.machine.resolve(name, this.#net.now)
    this.drain()
  }

  receive(bytes: Uint8Array, from: Endpoint, socket: number): void {
    this.machine.handleDatagram(bytes, from, socket, this.#net.now)
    this.drain()
  }

  nextTimeout(): number | undefined {
    return this.machine.nextTimeout()
  }

  handleTimeout(): void {
    this.machine.handleTimeout(this.#net.now)
    this.drain()
  }

  drain(): void {
    for (let output = this.machine.poll(); output !== undefined; output = this.machine.poll()) {
      this.outputs.push(output)
      if (output.type === 'send') this.#net.send(this, output.socket, output.to, output.bytes)
    }
  }

  of<T extends NodeOutput['type']>(type: T): Extract<NodeOutput, { type: T }>[] {
    return this.outputs.filter((output) => output.type === type) as Extract<NodeOutput, { type: T }>[]
  }

  /** Kinds of the ways that stand, in order. */
  ways(): string[] {
    return this.machine.rows().flatMap(({ ways }) => ways.map(({ kind }) => kind))
  }
}

/** A host with one address that is neither a node nor a zone's first servers. */
export interface SimHost {
  down: boolean
  receive(port: number, bytes: Uint8Array, from: Endpoint): void
  nextTimeout(): number | undefined
  handleTimeout(now: number): void
}

/** The servers of a zone. */
interface Site {
  readonly zone: string
  readonly host: string
  readonly relayHost: string
  readonly servers: SimServer
}

export class Network {
  readonly sites: Site[] = []
  now = 1000
  wall = Date.UTC(2026, 0, 1)
  delay = 10
  readonly nodes: SimParticipant[] = []
  /** The server of tests that need one as small as can be. */
  readonly server: StubCoordinator
  /** The one that nodes speak to. */
  readonly servers: SimServer
  readonly hosts = new Map<string, SimHost>()
  /** One-way delays of hosts beside `delay` (ms), by the host's address and the other end's; `*`: any other end. */
  readonly far = new Map<string, number>()
  serverDown = false
  relayDown = false
  /** Sees every datagram of nodes; false drops it. */
  filter: (from: string, to: string, bytes: Uint8Array) => boolean = () => true
  /** The same of servers. */
  serverFilter: (from: string, to: string, bytes: Uint8Array) => boolean = () => true
  sentBytes = new Map<string, number>()
  #seed: number
  /** Endpoints by their text. */
  readonly #parsed = new Map<string, Endpoint>()
  #queue: { at: number; run: () => void }[] = []

  constructor(seed = 1, build?: (parts: SimServerParts) => SimServer) {
    this.#seed = seed
    this.server = new StubCoordinator(this.#partsOf('192.0.2.1', '192.0.2.2'))
    this.servers = this.addSite('test.example', 1, build ?? (() => this.server))
  }

  /** Servers of a zone at 192.0.2.N and the next address. */
  addSite<T extends SimServer>(zone: string, n: number, build: (parts: SimServerParts) => T): T {
    const [host, relayHost] = [`192.0.2.${n}`, `192.0.2.${n + 1}`]
    const servers = build(this.#partsOf(host, relayHost))
    this.sites.push({ zone, host, relayHost, servers })
    return servers
  }

  #partsOf(host: string, relayHost: string): SimServerParts {
    return {
      now: () => this.now,
      wall: () => this.wall + this.now,
      fill: (out: Uint8Array) => this.fill(out),
      relayPorts: Array.from({ length: 9 }, (_, i) => at(`${relayHost}:${7000 + i}`)),
      send: (port: number, to: Endpoint, bytes: Uint8Array) => {
        if (port === 0 ? this.serverDown : this.relayDown) return
        const source = port === 0 ? `${host}:6741` : `${relayHost}:${7000 + port}`
        if (this.serverFilter(source, text(to), bytes)) this.deliver(source, to, bytes)
      },
    }
  }

  fill(out: Uint8Array): Uint8Array {
    for (let i = 0; i < out.length; i++) {
      this.#seed = (Math.imul(this.#seed, 1664525) + 1013904223) >>> 0
      out[i] = this.#seed >>> 24
    }
    return out
  }

  /** A node of the first zone, or of another. */
  node(name: string, site = this.sites[0]!, notifications?: { readonly push?: string }): SimNode {
    return new SimNode(this, `${name}.${site.zone}`, this.nodes.length + 1, site, notifications)
  }

  send(node: Pick<SimParticipant, 'sockets'>, socket: number, to: Endpoint, bytes: Uint8Array): void {
    const found = node.sockets.find((each) => each.socket === socket)
    if (found === undefined || found.down) return
    const inside = `${found.address}:${found.port}`
    const isMade = found.translates === true && NAT64.every((byte, i) => to.address[i] === byte)
    if (found.translates === true && !isMade) return
    const target = text(isMade ? { ...to, address: to.address.slice(NAT64.length) } : to)
    // In the same network nothing is translated.
    const local = this.nodes.some((each) =>
      each.sockets.some(
        (other) =>
          other.nat === found.nat && other.nat !== undefined && `${other.address}:${other.port}` === target,
      ),
    )
    const source = found.nat === undefined || local ? inside : found.nat.out(inside, target)
    if (!this.filter(source, target, bytes)) return
    this.sentBytes.set(target, (this.sentBytes.get(target) ?? 0) + bytes.length)
    this.deliver(source, isMade ? at(target) : to, bytes, local ? found.nat : undefined)
  }

  deliver(source: string, to: Endpoint, bytes: Uint8Array, within?: Nat): void {
    const target = text(to)
    const copy = bytes.slice()
    const delay = this.delay + this.#beyond(source, target)
    this.#queue.push({ at: this.now + delay, run: () => this.#arrive(source, target, copy, within) })
  }

  #beyond(source: string, target: string): number {
    if (this.far.size === 0) return 0
    const [a, b] = [hostOf(source), hostOf(target)]
    const { far } = this
    return far.get(`${a} ${b}`) ?? far.get(`${b} ${a}`) ?? far.get(`${a} *`) ?? far.get(`${b} *`) ?? 0
  }

  #parse(text: string): Endpoint {
    const found = this.#parsed.get(text) ?? at(text)
    this.#parsed.set(text, found)
    return found
  }

  /** Does it `ms` from now. */
  after(ms: number, run: () => void): void {
    this.#queue.push({ at: this.now + ms, run })
  }

  #arrive(source: string, target: string, bytes: Uint8Array, within: Nat | undefined): void {
    const from = this.#parse(source)
    const address = hostOf(target)
    const port = Number(target.slice(address.length + 1))
    const other = this.hosts.get(address)
    if (other !== undefined) {
      if (!other.down) other.receive(port, bytes, from)
      return
    }
    for (const site of this.sites) {
      if (address !== site.host && address !== site.relayHost) continue
      const isCoordinator = address === site.host
      if (isCoordinator ? this.serverDown : this.relayDown) return
      site.servers.receive(isCoordinator ? 0 : port - 7000, bytes, from)
      return
    }
    for (const node of this.nodes)
      for (const socket of node.sockets) {
        if (socket.nat !== within && (within !== undefined || socket.nat!.outside !== address)) continue
        const own = `${socket.address}:${socket.port}`
        const reached = socket.nat === within ? own === target : socket.nat!.in(source, port) === own
        if (!reached || socket.down) continue
        const made = { ...from, address: Uint8Array.of(...NAT64, ...from.address) }
        node.receive(bytes, socket.translates === true ? made : from, socket.socket)
        return
      }
  }

  run(ms: number): void {
    const end = this.now + ms
    for (let steps = 0; ; steps++) {
      if (steps > 500_000) throw new Error('the simulation does not come to rest')
      let next = Number.POSITIVE_INFINITY
      for (const { at: due } of this.#queue) next = Math.min(next, due)
      let node: SimParticipant | undefined
      for (const each of this.nodes) {
        const due = each.nextTimeout()
        if (due !== undefined && due < next) {
          next = due
          node = each
        }
      }
      let serves: { handleTimeout?(now: number): void } | undefined
      for (const host of this.hosts.values()) {
        const due = host.nextTimeout()
        if (due === undefined || due >= next) continue
        next = due
        serves = host
      }
      for (const { servers } of this.sites) {
        const due = servers.nextTimeout?.() ?? Number.POSITIVE_INFINITY
        if (due < next) {
          next = due
          serves = servers
        }
      }
      if (next > end) break
      this.now = Math.max(this.now, next)
      if (serves !== undefined) serves.handleTimeout?.(this.now)
      else if (node !== undefined) {
        node.handleTimeout()
      } else {
        const index = this.#queue.findIndex(({ at: due }) => due === next)
        const [item] = this.#queue.splice(index, 1)
        item!.run()
      }
    }
    this.now = end
  }

  until(condition: () => boolean, limit = 20_000): void {
    const end = this.now + limit
    while (!condition()) {
      if (this.now >= end) throw new Error('it does not come about')
      this.run(1)
    }
  }
}

export function text({ address, port }: Endpoint): string {
  return address.length === 4 ? `${address.join('.')}:${port}` : endpointKey({ address, port })
}

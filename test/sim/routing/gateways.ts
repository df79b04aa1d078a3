/** Two gateways with their tunnels in virtual time, and what each sends the other: one flow of UDP, of one class. */
import assert from 'node:assert/strict'
import { type Prefix, parsePrefix } from '../../../src/core/address.ts'
import { RoutingForwarder } from '../../../src/routing/forwarder.ts'
import { RouterMachine } from '../../../src/routing/machine.ts'
import type { RouterEvent } from '../../../src/routing/protocol.ts'
import type { TunnelEvent } from '../../../src/tunnel/protocol/machine.ts'
import { endpoint, type Link, Node, type World } from '../tunnel/harness.ts'

/** As the router's own: milliseconds between measurements of a path in use. */
const MEASURE_MS = 25
const HOME = endpoint(100)

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  assert.ok(parsed.ok)
  return parsed.value
}

const TERMINALS = prefix('10.1.0.0/24')
const SERVERS = prefix('10.2.0.0/24')

/** A UDP packet of 28 bytes. */
function packet(from: Prefix, to: Prefix): Uint8Array {
  const bytes = new Uint8Array(28)
  bytes.set([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17])
  bytes.set(from.address, 12)
  bytes.set(to.address, 16)
  return bytes
}

/** One gateway: its tunnel, which path each packet takes, and what it is told. */
export class Gateway {
  readonly node: Node
  readonly router: RouterMachine
  readonly #forwarder: RoutingForwarder
  readonly #packet: Uint8Array
  #heard = 0
  /** When each packet was sent, by its number. */
  readonly sentAt: number[] = []
  /** The newest packet that found no path. */
  #parked: number | undefined

  constructor(node: Node, own: Prefix, far: Prefix) {
    this.node = node
    this.#forwarder = new RoutingForwarder([own])
    this.#packet = packet(own, far)
    this.router = new RouterMachine({
      tunnel: { sendFrames: (...frames) => node.machine.sendFrames(...frames) },
      forwarder: this.#forwarder,
      redirect: () => {},
      setStandby: (slot, ms) => node.machine.setStandby(slot, ms),
      retryParked: () => {
        const parked = this.#parked
        this.#parked = undefined
        if (parked !== undefined) this.#transmit(parked, node.world.now)
      },
    })
    const all = { name: 'rest', match: [], mode: 'failover', cap: 0.05, unordered: false } as const
    this.router.setClasses([all], node.world.now)
  }

  addPeer(peer: number, far: Prefix, leads: boolean): void {
    this.#forwarder.addPeer(peer, [far])
    this.router.addPeer(peer, 'peer', leads)
  }

  get sent(): number {
    return this.sentAt.length
  }

  get carrier(): string {
    return this.router.classReports()[0]?.carriers[0] ?? ''
  }

  /** What the tunnel told since, and what is due; tells what came of it. */
  pump(now: number, hear: (event: TunnelEvent) => void = () => {}): RouterEvent[] {
    for (; this.#heard < this.node.events.length; this.#heard++) {
      const event = this.node.events[this.#heard]!
      this.router.handleTunnelEvent(event, now)
      hear(event)
    }
    if ((this.router.nextTimeout() ?? Number.POSITIVE_INFINITY) <= now) this.router.handleTimeout(now)
    const events: RouterEvent[] = []
    for (let event = this.router.poll(); event !== undefined; event = this.router.poll()) events.push(event)
    return events
  }

  send(now: number): void {
    this.sentAt.push(now)
    this.#transmit(this.sent - 1, now)
  }

  #transmit(sequence: number, now: number): void {
    const slot = this.#forwarder.outbound(
      this.#packet,
      new DataView(this.#packet.buffer),
      0,
      this.#packet.length,
      false,
      now,
    )
    if (slot >= 0) this.node.sendData(slot, sequence)
    else this.#parked = sequence
  }
}

/** A mobile router with an access over each link, and its gateway at home. */
export class Gateways {
  readonly world: World
  readonly mobile: Gateway
  readonly home: Gateway
  readonly homePeer: number
  #lastPathId = 0

  constructor(world: World, links: readonly Link[]) {
    this.world = world
    const init = { measureInterval: MEASURE_MS }
    const sockets = links.map((link, index) => ({ endpoint: endpoint(index + 1), link }))
    this.mobile = new Gateway(new Node(world, 'mobile', sockets, init), TERMINALS, SERVERS)
    this.home = new Gateway(new Node(world, 'home', [{ endpoint: HOME }], init), SERVERS, TERMINALS)
    this.homePeer = this.mobile.node.addPeer(this.home.node, { dialect: 'godwit' })
    this.mobile.addPeer(this.homePeer, SERVERS, true)
    this.home.addPeer(this.home.node.addPeer(this.mobile.node), TERMINALS, false)
    for (const index of links.keys()) this.mobile.router.setAccess(accessName(index), index + 1, world.now)
  }

  /** A path over the access of this link; returns its slot. */
  openPath(index: number): number {
    this.#lastPathId = (this.#lastPathId % 255) + 1
    const { node, router } = this.mobile
    const path = { pathId: this.#lastPathId, socket: index, remote: HOME, mtu: 1500 }
    const slot = node.addPath(this.homePeer, path)
    router.addPath(node.machine.path(slot)!, accessName(index), this.world.now)
    return slot
  }

  /** Both send a datagram every `ms` until then. */
  startFlows(ms: number, until = Number.POSITIVE_INFINITY): void {
    for (const gateway of [this.mobile, this.home])
      this.world.every(ms, until, () => gateway.send(this.world.now))
  }
}

export function accessName(index: number): string {
  return `acc${index + 1}`
}

/** Numbers of packets from `first` to `end` (not included) that one gateway sent and the other did not get. */
export function missing(from: Gateway, to: Gateway, first = 0, end = from.sent): number[] {
  const seen = new Set(to.node.received.map(({ sequence }) => sequence))
  const all = Array.from({ length: end - first }, (_, index) => first + index)
  return all.filter((sequence) => !seen.has(sequence))
}

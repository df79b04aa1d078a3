/**
 * A node's whole engine on the virtual network: signalling, tunnel, packets and sockets are the real ones; device, sockets,
 * clock and randomness are not. Numbered datagrams show what is lost.
 */
import type { Endpoint } from '../../../src/core/endpoint.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { FakeTun } from '../../../src/linux/fake-tun.ts'
import { FakeUdp, FakeUdpNetwork } from '../../../src/linux/fake-udp.ts'
import { POLLIN, type Poller } from '../../../src/linux/poller.ts'
import { VNET_HEADER } from '../../../src/linux/tun.ts'
import { NodeEngine } from '../../../src/overlay/node/engine.ts'
import type { NodeAccess, NodeCommand, NodeEvent, NodeSetup } from '../../../src/overlay/node/protocol.ts'
import { udpPacket } from '../../support/udp-packet.ts'
import { at, NAT64, type Nat, type Network, type SimParticipant, type SimSocket } from './network.ts'

const PORT = 9000
const IP_AND_UDP = 28

export interface SimAccess {
  readonly name: string
  readonly address: string
  readonly nat?: Nat
}

export class EngineNode implements SimParticipant {
  readonly name: string
  readonly engine: NodeEngine
  readonly events: NodeEvent[] = []
  readonly sockets: SimSocket[] = []
  /** Numbers of the datagrams that have arrived, each once, and how often one came again. */
  readonly received = new Set<number>()
  duplicates = 0
  address: Uint8Array | undefined
  /** Called with each packet that the host gets. */
  onPacket: ((packet: Uint8Array) => void) | undefined
  /** How far its clock is ahead of the others' (ms). */
  ahead = 0
  /** The daemon's main thread takes so long to set routes to a new peer (ms); before, the kernel answers nothing of it. */
  routesAfterMs = 0
  /** Since when it does not run. */
  #stoppedAt: number | undefined
  /** How far its monotonic clock is behind: it slept. */
  #behind = 0
  readonly #net: Network
  readonly #udp = new Map<number, FakeUdp>()
  readonly #accesses = new Map<string, SimAccess>()
  #tun!: FakeTun
  #nextPort: number
  #nextFd = 100

  /** `firstPort`: of its sockets; a kernel gives a program that starts again other ones. */
  constructor(net: Network, name: string, seed: number, firstPort = 50_000, more: Partial<NodeSetup> = {}) {
    this.#net = net
    this.#nextPort = firstPort
    const site = net.sites[0]!
    this.name = `${name}.${site.zone}`
    const privateKey = new Uint8Array(32).fill(seed)
    const account = site.servers.add(this.name, nodeCrypto.publicKey(privateKey))
    const setup: NodeSetup = {
      ...{ device: 'sim', mtu: 1400, privateKey, mark: 1, credentials: account.credentials },
      ...more,
    }
    this.engine = new NodeEngine({
      poller: this.#poller(),
      data: setup,
      post: (event) => this.#hear(event as NodeEvent),
      surroundings: {
        clock: { now: () => this.#now, wall: () => net.wall + net.now + this.ahead },
        random: { fill: (out) => net.fill(out) },
        openTun: (arena) => {
          this.#tun = new FakeTun(arena)
          return this.#tun
        },
        openUdp: (arena, { device }) => this.#open(arena, device ?? ''),
      },
    })
    net.nodes.push(this)
    this.do({ type: 'coordinator', endpoints: [at(`${site.host}:6741`)] })
  }

  /** What the daemon does at once. */
  #hear(event: NodeEvent): void {
    this.events.push(event)
    if (event.type === 'registered') this.address = event.v4
    if (event.type !== 'directed') return
    this.#net.after(this.routesAfterMs, () => {
      if (this.#net.nodes.includes(this)) this.do({ type: 'routed', name: event.peer.name })
    })
  }

  do(command: NodeCommand): void {
    this.engine.handleCommand(command, this.#now)
    this.#turn()
  }

  get #now(): number {
    return this.#net.now - this.#behind
  }

  /** The process is gone; `signal`: SIGTERM ends it in order. */
  end(signal: 'SIGTERM' | 'SIGKILL'): void {
    if (signal === 'SIGTERM') this.engine.tunnel.engine.end()
    this.#net.nodes.splice(this.#net.nodes.indexOf(this), 1)
  }

  /** SIGSTOP, or the machine is suspended. */
  stop(): void {
    this.#stoppedAt = this.#net.now
  }

  /** SIGCONT: what came meanwhile waits at its sockets. `slept`: it was suspended, and nothing came. */
  resume(slept: boolean): void {
    const ms = this.#net.now - this.#stoppedAt!
    this.#stoppedAt = undefined
    if (slept) {
      this.#behind += ms
      for (const { queue } of this.#udp.values()) queue.length = 0
      this.do({ type: 'wake' })
    } else this.#turn()
  }

  /** `generation`: it grows where another network is behind the same access. */
  use(access: SimAccess, priority = 0, generation = 1): void {
    this.#accesses.set(access.name, access)
    const own = at(`${access.address}:1`).address
    const setup: NodeAccess = {
      ...{ name: access.name, up: true, mtu: 1500, generation, priority, addresses: [own] },
      families: [own.length === 4 ? 4 : 6],
      ...(own.length > 4 && { nat64: NAT64 }),
    }
    this.do({ type: 'access', access: setup })
  }

  of<T extends NodeEvent['type']>(type: T): Extract<NodeEvent, { type: T }>[] {
    return this.events.filter((event) => event.type === type) as Extract<NodeEvent, { type: T }>[]
  }

  /** The way that packets to the only peer take. */
  get way(): string {
    return this.engine.status(this.#now).peers[0]?.kind ?? 'none'
  }

  /** Ports of the sockets that are open. */
  get ports(): number[] {
    return this.sockets.map(({ port }) => port)
  }

  /** Of the socket opened last: they are counted up. */
  get lastPort(): number {
    return this.#nextPort - 1
  }

  /** A program sends a numbered datagram. */
  send(to: EngineNode, number: number): void {
    const payload = new Uint8Array(4)
    new DataView(payload.buffer).setUint32(0, number)
    const end = (node: EngineNode): Endpoint => ({ address: node.address!, port: PORT })
    this.inject(udpPacket(end(this), end(to), payload))
  }

  /** The host sends it. */
  inject(packet: Uint8Array): void {
    const bytes = new Uint8Array(VNET_HEADER + packet.length)
    bytes.set(packet, VNET_HEADER)
    this.#tun.inject(bytes)
    this.#turn()
  }

  receive(bytes: Uint8Array, from: Endpoint, socket: number): void {
    this.#udp.get(socket)?.queue.push({ bytes, segment: bytes.length, from, trafficClass: 0 })
    this.#turn()
  }

  nextTimeout(): number | undefined {
    if (this.#stoppedAt !== undefined) return undefined
    const ms = this.engine.tunnel.engine.timeout(this.#now)
    return ms < 0 ? undefined : this.#net.now + ms
  }

  handleTimeout(): void {
    this.#turn()
  }

  #turn(): void {
    if (this.#stoppedAt !== undefined) return
    while (this.engine.tunnel.engine.turn(false));
    for (const packet of this.#tun.written.splice(0)) {
      this.onPacket?.(packet.subarray(VNET_HEADER))
      for (const number of numbersIn(packet)) {
        if (this.received.has(number)) this.duplicates++
        this.received.add(number)
      }
    }
  }

  #open(arena: ConstructorParameters<typeof FakeUdp>[1], device: string): FakeUdp {
    const access = this.#accesses.get(device)!
    const fd = this.#nextFd++
    const port = this.#nextPort++
    const { nat, address } = access
    const translates = address.includes(':')
    const open: SimSocket = {
      ...{ socket: fd, address, port, down: false, translates },
      ...(nat !== undefined && { nat }),
    }
    this.sockets.push(open)
    const network = new FakeUdpNetwork()
    network.deliver = (_from, to, datagrams) => {
      for (const bytes of datagrams) this.#net.send(this, fd, to, bytes)
    }
    network.remove = () => {
      this.sockets.splice(this.sockets.indexOf(open), 1)
      this.#udp.delete(fd)
    }
    const socket = new FakeUdp(network, arena, at(`${address}:${port}`), fd)
    this.#udp.set(fd, socket)
    return socket
  }

  #poller(): Poller {
    const readable = (fd: number) =>
      this.#udp.get(fd)?.readable === true || (this.#tun.fd === fd && this.#tun.readable)
    return {
      ...{ wakeFd: -1, add: () => {}, remove: () => {}, woken: () => false, close: () => {} },
      ready: (fd) => (readable(fd) ? POLLIN : 0),
      wait: () => [this.#tun.fd, ...this.#udp.keys()].filter(readable).length,
    }
  }
}

/** Of the datagrams in a packet: those that came together are merged, and the kernel would part them. */
export function numbersIn(packet: Uint8Array): number[] {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
  const size = view.getUint8(1) === 0 ? packet.length : view.getUint16(4, true)
  const numbers: number[] = []
  for (let at = VNET_HEADER + IP_AND_UDP; at < packet.length; at += size) numbers.push(view.getUint32(at))
  return numbers
}

/** Datagrams from each to the other, one every `every` ms, for `ms`. Numbers go on from call to call. */
export class Flow {
  readonly #net: Network
  readonly #ends: readonly [EngineNode, EngineNode]
  readonly #every: number
  sent = 0
  /** Up to this number all have been counted. */
  #counted = 0

  constructor(net: Network, ends: readonly [EngineNode, EngineNode], every: number) {
    this.#net = net
    this.#ends = ends
    this.#every = every
  }

  run(ms: number): void {
    const [a, b] = this.#ends
    for (const end = this.#net.now + ms; this.#net.now < end; ) {
      a.send(b, this.sent)
      b.send(a, this.sent)
      this.sent++
      this.#net.run(this.#every)
    }
  }

  /** Lost, towards the second and towards the first, of those sent since the last call; what is under way arrives first. */
  lost(settleMs = 3_000): readonly [number, number] {
    this.#net.run(settleMs)
    const [a, b] = this.#ends
    const missing = (end: EngineNode) => {
      let n = 0
      for (let number = this.#counted; number < this.sent; number++) if (!end.received.has(number)) n++
      end.received.clear()
      return n
    }
    const lost = [missing(b), missing(a)] as const
    this.#counted = this.sent
    return lost
  }
}

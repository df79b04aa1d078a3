/**
 * The whole engines of a mobile host and of its anchor on the virtual network of test/sim/overlay, with its NATs: tunnel, packets and
 * sockets are the real ones; device, sockets, clock and randomness are not. Numbered datagrams show what is lost.
 */

import { AnchorEngine } from '../../../src/anchoring/engines/anchor.ts'
import { HostEngine } from '../../../src/anchoring/engines/host.ts'
import type { AccessSetup, AnchorSetup, HostEvent, HostSetup } from '../../../src/anchoring/protocol.ts'
import type { Endpoint } from '../../../src/core/endpoint.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { FakeTun } from '../../../src/linux/fake-tun.ts'
import { FakeUdp, FakeUdpNetwork } from '../../../src/linux/fake-udp.ts'
import { POLLIN, type Poller } from '../../../src/linux/poller.ts'
import { VNET_HEADER } from '../../../src/linux/tun.ts'
import type { EngineHost } from '../../../src/tunnel/engine/thread.ts'
import { udpPacket } from '../../support/udp-packet.ts'
import { numbersIn } from '../overlay/engine-node.ts'
import { at, type Nat, type Network, type SimParticipant, type SimSocket } from '../overlay/network.ts'

const PORT = 9000
const ANCHOR = at('198.51.100.2:51820')
/** Beyond the anchor. */
const SERVER = at(`198.51.100.99:${PORT}`)
const FIX4 = Uint8Array.of(198, 19, 0, 1)
const FIX6 = Uint8Array.of(0xfd, 0x67, 0x6f, 0x64, 0x77, 0x69, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
const POOL4 = { address: Uint8Array.of(198, 18, 0, 0), length: 16 }
const POOL6 = { address: FIX6.map((byte, i) => (i === 7 ? 1 : i === 15 ? 0 : byte)), length: 64 }
const KEYS = [1, 2].map((seed) => new Uint8Array(32).fill(seed)) as [Uint8Array, Uint8Array]

const SETUP = { device: 'sim', mtu: 1420, mark: 1 }

/** An end's device and sockets. */
class End implements SimParticipant {
  readonly sockets: SimSocket[] = []
  /** Numbers of the datagrams that have arrived, each once, and how often one came again. */
  readonly received = new Set<number>()
  duplicates = 0
  /** Sender of the last one. */
  from: Endpoint | undefined
  address = ''
  nat: Nat | undefined
  engine!: HostEngine | AnchorEngine
  readonly events: HostEvent[] = []
  lastPort = 50_000
  /** Turns by its own timers. */
  turns = 0
  readonly #net: Network
  readonly #udp = new Map<number, FakeUdp>()
  #tun!: FakeTun
  #nextFd = 100

  constructor(net: Network) {
    this.#net = net
    net.nodes.push(this)
  }

  surroundings(data: HostSetup | AnchorSetup): EngineHost {
    const net = this.#net
    return {
      poller: this.#poller(),
      data,
      post: (event) => this.events.push(event as HostEvent),
      surroundings: {
        clock: { now: () => net.now, wall: () => net.wall + net.now },
        random: { fill: (out) => net.fill(out) },
        openTun: (arena) => {
          this.#tun = new FakeTun(arena)
          return this.#tun
        },
        openUdp: (arena, { port }) => this.#open(arena, port),
      },
    }
  }

  send(from: Endpoint, to: Endpoint, number: number): void {
    const payload = new Uint8Array(4)
    new DataView(payload.buffer).setUint32(0, number)
    const packet = udpPacket(from, to, payload)
    const bytes = new Uint8Array(VNET_HEADER + packet.length)
    bytes.set(packet, VNET_HEADER)
    this.#tun.inject(bytes)
    this.turn()
  }

  receive(bytes: Uint8Array, from: Endpoint, socket: number): void {
    this.#udp.get(socket)?.queue.push({ bytes, segment: bytes.length, from, trafficClass: 0 })
    this.turn()
  }

  nextTimeout(): number | undefined {
    const ms = this.engine.tunnel.engine.timeout(this.#net.now)
    return ms < 0 ? undefined : this.#net.now + ms
  }

  handleTimeout(): void {
    this.turns++
    this.turn()
  }

  turn(): void {
    while (this.engine.tunnel.engine.turn(false));
    for (const packet of this.#tun.written.splice(0)) {
      for (const number of numbersIn(packet)) {
        if (this.received.has(number)) this.duplicates++
        this.received.add(number)
      }
      this.from = { address: packet.slice(VNET_HEADER + 12, VNET_HEADER + 16), port: PORT }
    }
  }

  #open(arena: ConstructorParameters<typeof FakeUdp>[1], wanted: number | undefined): FakeUdp {
    const fd = this.#nextFd++
    const port = wanted ?? ++this.lastPort
    const { address, nat } = this
    const open: SimSocket = { socket: fd, address, port, down: false, ...(nat !== undefined && { nat }) }
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

/** A host behind a NAT, its anchor, and a flow of datagrams between the host and a server beyond the anchor. */
export class AnchoredFlow {
  readonly net: Network
  host!: End
  anchor!: End
  #engine!: HostEngine
  readonly #nat: Nat | undefined
  readonly #address: string
  sent = 0
  #counted = 0

  constructor(net: Network, nat: Nat | undefined, address = '10.1.0.2') {
    this.net = net
    this.#nat = nat
    this.#address = address
    this.begin('anchor')
    this.begin('host')
    net.run(1_000)
  }

  /** A process that has nothing in memory. */
  begin(which: 'anchor' | 'host'): void {
    if (which === 'anchor') this.#startAnchor()
    else this.#startHost()
  }

  /** The process is gone; `signal`: SIGTERM ends it in order. */
  end(which: 'anchor' | 'host', signal: 'SIGTERM' | 'SIGKILL'): void {
    const end = this[which]
    if (signal === 'SIGTERM') end.engine.tunnel.engine.end()
    this.net.nodes.splice(this.net.nodes.indexOf(end), 1)
  }

  /** One datagram from this end to the other, of the flow. Returns its number. */
  sendOne(from: 'anchor' | 'host'): number {
    if (from === 'host') this.host.send({ address: FIX4, port: PORT }, SERVER, this.sent)
    else this.anchor.send(SERVER, this.anchor.from!, this.sent)
    return this.sent++
  }

  #startAnchor(): void {
    const { net } = this
    this.anchor = new End(net)
    this.anchor.address = '198.51.100.2'
    const anchor = new AnchorEngine(
      this.anchor.surroundings({
        ...{ ...SETUP, role: 'anchor', privateKey: KEYS[1], listenPorts: [ANCHOR.port] },
        ...{ pool4: POOL4, pool6: POOL6 },
      } as AnchorSetup),
    )
    this.anchor.engine = anchor
    const host = {
      name: 'host',
      kind: 'godwit' as const,
      publicKey: nodeCrypto.publicKey(KEYS[0]),
      number: 1,
    }
    anchor.handleCommand({ type: 'add-peer', peer: host }, net.now)
  }

  #startHost(): void {
    this.host = new End(this.net)
    this.host.address = this.#address
    this.host.nat = this.#nat
    this.#engine = new HostEngine(
      this.host.surroundings({
        ...{ ...SETUP, role: 'host', privateKey: KEYS[0], fix4: FIX4, fix6: FIX6 },
      } as HostSetup),
    )
    this.host.engine = this.#engine
    const peer = { name: 'anchor', kind: 'godwit' as const, publicKey: nodeCrypto.publicKey(KEYS[1]) }
    this.#do({ type: 'add-peer', peer })
    this.#do({
      type: 'policies',
      policies: [{ name: 'default', prefer: ['acc1'], fallback: 'any', moveUp: true }],
    })
    this.#do({ type: 'remotes', name: 'anchor', remotes: [ANCHOR] })
    this.use()
  }

  #do(command: Parameters<HostEngine['handleCommand']>[0]): void {
    this.#engine.handleCommand(command, this.net.now)
    this.host.turn()
  }

  /** The access, behind the NAT that the host has now. */
  use(generation = 1): void {
    const access: AccessSetup = {
      ...{ name: 'acc1', up: true, families: [4], mtu: 1500, generation, health: 'up' },
      ...{ since: this.net.now, detail: '', use: 'normal', cost: 0 },
      addresses: [at(`${this.host.address}:1`).address],
    }
    this.#do({ type: 'access', access })
  }

  /** A datagram each way every `every` ms. */
  run(ms: number, every = 5): void {
    const { net, host, anchor } = this
    for (const end = net.now + ms; net.now < end; ) {
      host.send({ address: FIX4, port: PORT }, SERVER, this.sent)
      if (anchor.from !== undefined) anchor.send(SERVER, anchor.from, this.sent)
      this.sent++
      net.run(every)
    }
  }

  /** Lost, up and down, of those sent since the last call; what is under way arrives first. */
  lost(): readonly [number, number] {
    this.net.run(3_000)
    const missing = (end: End) => {
      let n = 0
      for (let number = this.#counted; number < this.sent; number++) if (!end.received.has(number)) n++
      end.received.clear()
      return n
    }
    const lost = [missing(this.anchor), missing(this.host)] as const
    this.#counted = this.sent
    return lost
  }
}

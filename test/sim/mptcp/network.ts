/**
 * Two hosts, each a TCP behind a proxy, and a network of several paths between them, in virtual time. With a kernel path (kernel-path.ts) a
 * host has queues as a real one: what waits in them is overtaken by what the kernel's programs take.
 */

import { seeded } from '../../../lab/seeded.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { MptcpMachine } from '../../../src/mptcp/machine/machine.ts'
import type { Keeper } from '../../../src/mptcp/machine/record.ts'
import { type RecordMemory, Records } from '../../../src/mptcp/machine/record.ts'
import { type OutSegment, payloadLength, Segment, type Tuple } from '../../../src/mptcp/machine/segment.ts'
import type { AccessInfo, MachineEvent, MptcpInit } from '../../../src/mptcp/machine/types.ts'
import { InOrder } from './in-order.ts'
import { KernelPath } from './kernel-path.ts'
import type { Nat } from './nat.ts'
import { packetOf } from './packets.ts'
import { type TcpInit, TcpModel } from './tcp-model.ts'
import type { Trace } from './trace.ts'

export interface PathConditions {
  delay: number
  jitter: number
  loss: number
  /** Share of packets that arrive twice. */
  twice: number
  /** What is sent while it is false is lost, without a word. */
  works: boolean
  /** Bytes per ms, each way, and how long (ms) a packet may wait for its turn. */
  rate: number
  queue: number
  /** Between the client and this path. */
  nat: Nat | undefined
}

export interface PairInit {
  readonly seed: number
  readonly bytes: readonly [client: number, server: number]
  readonly sack?: boolean
  readonly paths?: number
  readonly conditions?: Partial<PathConditions>
  readonly init?: Partial<MptcpInit>
  /** A TCP may get options that it does not know, as after a fallback. */
  readonly takesOptions?: boolean
  /** Both proxies keep what the next one needs. */
  readonly keep?: boolean
  /** Paths that carry data only while no other works. */
  readonly backups?: readonly number[]
  /** Hosts whose kernel takes connections (ADR 0230). */
  readonly kernel?: readonly ('client' | 'server')[]
  /** How long (ms) at most packets wait in a queue of such a host. */
  readonly queue?: number
  /** The server takes what comes on a subflow in order, as a native peer does. */
  readonly inOrder?: boolean
  readonly tcp?: Partial<Pick<TcpInit, 'burst' | 'flight' | 'buffer' | 'blocks'>>
  /** What becomes of a packet on the wire. */
  readonly middlebox?: (packet: Uint8Array, path: number, toServer: boolean) => readonly Uint8Array[]
}

const PORT = 80
const SERVER = Uint8Array.of(10, 9, 0, 2)
const MTU = 1500
/** Connections that a host keeps. */
export const SLOTS = 4
const PERFECT: PathConditions = {
  delay: 15,
  jitter: 0,
  loss: 0,
  twice: 0,
  works: true,
  rate: Number.POSITIVE_INFINITY,
  queue: Number.POSITIVE_INFINITY,
  nat: undefined,
}
const SERVER_ACCESSES: readonly AccessInfo[] = [
  { name: 'eth0', addresses: [SERVER], mtu: MTU, backup: false },
]

export class Host {
  machine: MptcpMachine
  readonly events: MachineEvent[] = []
  /** What outlives the proxy; only of a host that keeps it. */
  memory: RecordMemory | undefined
  /** Its proxy was killed, and what it should translate is lost. */
  dead = false
  /** Its packet rules were removed: what is to be translated passes as it is. */
  flushed = false
  tcp: TcpModel | undefined
  kernel: KernelPath | undefined
  inOrder: InOrder | undefined
  /** By direction: when the newest packet in its queue is read. */
  readonly #queued = { out: 0, in: 0 }
  /** Of the proxy: what waits in the queues of one that was killed is lost. */
  #life = 0
  readonly #segment = new Segment()
  readonly #name: 'client' | 'server'
  readonly #pair: Pair
  readonly #random: () => number
  readonly #init: Partial<MptcpInit>

  constructor(pair: Pair, name: 'client' | 'server', random: () => number, init: Partial<MptcpInit>) {
    this.#pair = pair
    this.#name = name
    this.#random = random
    this.#init = init
    this.machine = this.#newMachine()
  }

  #newMachine(keeper?: Keeper): MptcpMachine {
    const fill = (out: Uint8Array) => {
      for (let i = 0; i < out.length; i++) out[i] = Math.floor(this.#random() * 256)
      return out
    }
    const fast = this.kernel
    const components = { sha: nodeSha256, random: { fill }, ...(fast !== undefined && { fast }) }
    return new MptcpMachine({ ...components, ...(keeper !== undefined && { keeper }) }, this.#init)
  }

  /** From now on, before any connection, its proxy keeps what the next one needs. */
  keep(): void {
    const buffer = new ArrayBuffer(Records.byteLength(SLOTS))
    this.memory = { view: new DataView(buffer), bytes: new Uint8Array(buffer), room: () => true }
    this.machine = this.#newMachine(new Records(this.memory, SLOTS))
  }

  /** From now on, before any connection, the kernel takes connections of this host. */
  useKernel(): void {
    this.kernel = new KernelPath(
      () => this.#pair.now,
      () => (this.tcp?.state === 'established' ? this.tcp.tuple : undefined),
    )
    this.machine = this.#newMachine()
  }

  kill(): void {
    this.#pair.trace?.note(this.#pair.now, `${this.#name} killed`)
    this.dead = true
    this.#life++
  }

  /** Another proxy takes over. The answer is how many connections it refused. */
  restart(accesses: readonly AccessInfo[]): number {
    this.#pair.trace?.note(this.#pair.now, `${this.#name} takes over`)
    const records = new Records(this.memory!, SLOTS)
    const { kept, refused } = records.load()
    this.kernel?.restart()
    this.machine = this.#newMachine(records)
    this.machine.setAccesses(accesses, this.#pair.now)
    this.dead = false
    const more = this.machine.restore(kept, this.#pair.now)
    this.kernel?.attach()
    const begin = () => {
      this.dead = false
      this.machine.resume(this.#pair.now)
      this.machine.setAccesses(this.#pair.accessesOf(this.#name), this.#pair.now)
      this.flush()
    }
    // Until then nobody reads the queues, and nothing is sent.
    if (this.#pair.installing === 0) begin()
    else {
      this.dead = true
      this.#pair.at(this.#pair.now + this.#pair.installing, begin)
    }
    return refused + more
  }

  /** What the TCP sends; `sndNxt`: its next sequence number before that. */
  out(packet: Uint8Array, sndNxt = 0): void {
    const { kernel } = this
    if (kernel === undefined) {
      this.#handleOut(packet)
      return
    }
    const done = kernel.out(packet, sndNxt, this.tcp!.srtt)
    const { packet: sent } = done
    if (sent === undefined) return
    if (done.passes) this.#cut(sent)
    else this.#queue('out', () => this.#handleOut(sent))
  }

  /** The device makes segments of a super-packet, all with its options. */
  #cut(packet: Uint8Array): void {
    const segment = this.#read(packet, true)
    const { tuple, seq, ack, flags, window, payloadLength: length, payloadAt } = segment
    const tcp = payloadAt - ((packet[32]! >> 4) << 2)
    const options = packet.slice(tcp + 20, payloadAt)
    const payload = length === 0 ? undefined : packet.subarray(payloadAt)
    const most = this.tcp!.segmentSize
    for (let skip = 0; skip === 0 || skip < length; skip += most) {
      const common = { to: 'wire', tuple, seq, ack, flags, window, options, payload } as const
      const out = packetOf({ ...common, access: undefined, segmentSize: most }, packet, skip, most)
      this.#pair.wire(out, this.#name)
    }
  }

  /** What waits longer than that which came later is handled first all the same. */
  #queue(direction: 'out' | 'in', work: () => void): void {
    const { now, queueDelay } = this.#pair
    const at = Math.max(this.#queued[direction], now + this.#random() * queueDelay)
    this.#queued[direction] = at
    const life = this.#life
    this.#pair.at(at, () => {
      if (this.#life === life) work()
    })
  }

  #handleOut(packet: Uint8Array): void {
    if (this.flushed) this.#pair.wire(packet, this.#name)
    if (this.dead || this.flushed) return
    const ours = this.machine.handleOutgoing(this.#read(packet, true), this.#pair.now)
    this.#events()
    if (!ours) this.#pair.wire(packet, this.#name)
    this.flush(packet)
  }

  /** What the wire brings. */
  in(packet: Uint8Array): void {
    const { kernel } = this
    if (this.inOrder !== undefined) {
      const { now, answer } = this.inOrder.take(packet)
      if (answer !== undefined) this.#pair.wire(answer, this.#name)
      for (const each of now) this.#handleIn(each)
      return
    }
    if (kernel === undefined) {
      this.#handleIn(packet)
      return
    }
    const done = kernel.in(packet)
    if (done === undefined) return
    if (done.passes) this.#pair.toTcp(this.#name, done.packet)
    else this.#queue('in', () => this.#handleIn(done.packet))
  }

  #handleIn(packet: Uint8Array): void {
    if (this.flushed) this.#pair.toTcp(this.#name, packet)
    if (this.dead || this.flushed) return
    const segment = this.#read(packet, false)
    const access = this.#name === 'server' ? 'eth0' : `acc${packet[17]}`
    const ours = this.machine.handleIncoming(segment, access, this.#pair.now)
    this.#events()
    if (!ours) this.#pair.toTcp(this.#name, packet)
    this.flush(packet)
  }

  get timeout(): number {
    return (this.dead ? undefined : this.machine.nextTimeout()) ?? Number.POSITIVE_INFINITY
  }

  #read(packet: Uint8Array, outgoing: boolean): Segment {
    const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
    if (!this.#segment.read(view, packet, 0, packet.length, outgoing)) throw new Error('no TCP')
    return this.#segment
  }

  flush(source: Uint8Array = new Uint8Array(0)): void {
    this.#events()
    for (let out = this.machine.poll(); out !== undefined; out = this.machine.poll()) this.#send(out, source)
  }

  #events(): void {
    for (let event = this.machine.pollEvent(); event !== undefined; event = this.machine.pollEvent()) {
      if (event.type === 'watch' && event.side === 'local') this.kernel?.watch(event.tuple, event.on)
      this.events.push(event)
      if (event.type !== 'watch')
        this.#pair.trace?.note(this.#pair.now, `${this.#name}: ${JSON.stringify(event)}`)
    }
  }

  #send(out: OutSegment, source: Uint8Array): void {
    const length = payloadLength(out)
    for (let skip = 0; skip === 0 || skip < length; skip += out.segmentSize) {
      const packet = packetOf(out, source, skip, out.segmentSize)
      if (out.to === 'local') this.#pair.toTcp(this.#name, packet)
      else {
        this.inOrder?.sent(packet)
        this.#pair.wire(packet, this.#name)
      }
    }
  }
}

export class Pair {
  now = 0
  readonly random: () => number
  readonly client: Host
  readonly server: Host
  readonly paths: PathConditions[] = []
  readonly #init: PairInit
  /** By time; what has the same one in the order in which it came. */
  readonly #queue: { at: number; work: () => void }[] = []
  readonly tuple: Tuple
  /** What an observer on the paths objects to (MP-4). */
  readonly observer = new Observer()
  usable: Set<number>
  /** How long (ms) at most packets wait in a queue. */
  queueDelay: number
  /** A proxy left something that the next one could not make sense of. */
  refused = false
  /** How long (ms) a proxy that takes over needs to install its rules and programs. */
  installing = 0
  /** When the line of a path, one each way, is free again. */
  readonly #lines = new Map<PathConditions, [number, number]>()
  /** When a test does the last of what it does to hosts and network by itself. */
  calmAt = 0
  /** Nothing more is to happen by itself. */
  over = false
  /** Where what happens is written down (trace.ts). */
  trace: Trace | undefined

  constructor(init: PairInit) {
    this.#init = init
    this.random = seeded(init.seed)
    const count = init.paths ?? 2
    for (let i = 0; i < count; i++) this.paths.push({ ...PERFECT, ...init.conditions })
    this.client = new Host(this, 'client', this.random, { ...init.init })
    this.server = new Host(this, 'server', this.random, { ...init.init })
    this.tuple = { local: addressOf(0), localPort: 40_000, remote: SERVER, remotePort: PORT }
    this.usable = new Set(this.paths.keys())
    this.queueDelay = init.queue ?? 0
    for (const name of init.kernel ?? []) this[name].useKernel()
    if (init.inOrder) this.server.inOrder = new InOrder()
    this.observer.overtakes = init.kernel !== undefined
    if (init.keep) {
      this.client.keep()
      this.server.keep()
    }
    this.setAccesses(this.usable)
    this.server.machine.setAccesses(SERVER_ACCESSES, 0)
    const isn = () => Math.floor(this.random() * 4294967296)
    const sack = init.sack ?? true
    const [client, server] = init.bytes
    const takesOptions = init.kernel !== undefined || init.takesOptions === true
    const common = {
      sack,
      mss: 1460,
      takesOptions,
      ...(init.tcp !== undefined && { random: this.random, ...init.tcp }),
    }
    this.client.tcp = new TcpModel({
      ...common,
      tuple: this.tuple,
      isn: isn(),
      bytes: client,
      stream: 1,
      peerStream: 2,
      emit: (packet, sndNxt) => this.client.out(packet, sndNxt),
    })
    this.server.tcp = new TcpModel({
      ...common,
      tuple: { local: SERVER, localPort: PORT, remote: addressOf(0), remotePort: 40_000 },
      isn: isn(),
      bytes: server,
      stream: 2,
      peerStream: 1,
      emit: (packet, sndNxt) => this.server.out(packet, sndNxt),
    })
  }

  /** At `at` (ms) the first access goes, and the client knows it. Says where what it had sent then ends; before, infinity. */
  breaks(at: number): () => number {
    let sent = Number.POSITIVE_INFINITY
    this.at(at, () => {
      sent = this.client.machine.connections[0]!.sndMax
      this.paths[0]!.works = false
      this.setAccesses(new Set([1]))
    })
    return () => sent
  }

  /** The client's accesses that work, as its monitor says. */
  setAccesses(usable: ReadonlySet<number>): void {
    this.usable = new Set(usable)
    this.trace?.note(this.now, `accesses ${[...usable].sort().map((i) => i + 1)}`)
    if (this.client.dead) return
    this.client.machine.setAccesses(this.accessesOf('client'), this.now)
    this.client.flush()
  }

  accessesOf(name: 'client' | 'server'): readonly AccessInfo[] {
    if (name === 'server') return SERVER_ACCESSES
    return [...this.usable].sort().map((i) => ({
      name: `acc${i + 1}`,
      addresses: [addressOf(i)],
      mtu: MTU,
      backup: this.#init.backups?.includes(i) ?? false,
    }))
  }

  /** The proxy of a host is killed, and another one takes over so much later (ms). */
  killed(name: 'client' | 'server', after: number): void {
    const host = this[name]
    if (host.dead) return
    host.kill()
    this.at(this.now + after, () => {
      if (host.restart(this.accessesOf(name)) > 0) this.refused = true
    })
  }

  at(at: number, work: () => void): void {
    // What comes last is mostly last.
    let place = this.#queue.length
    while (place > 0 && this.#queue[place - 1]!.at > at) place--
    this.#queue.splice(place, 0, { at, work })
  }

  /** Whoever has a packet from here on only reads it: nobody makes a copy. */
  toTcp(name: 'client' | 'server', packet: Uint8Array): void {
    this.at(this.now, () => this[name].tcp!.handle(packet, this.now))
  }

  wire(packet: Uint8Array, from: 'client' | 'server'): void {
    const toServer = from === 'client'
    const address = toServer ? packet.subarray(12, 16) : packet.subarray(16, 20)
    const path = address[1]! - 1
    const conditions = this.paths[path]
    if (conditions === undefined) return
    const { nat } = conditions
    const seen = nat === undefined ? packet : toServer ? nat.out(packet) : nat.in(packet)
    if (seen === undefined) {
      this.trace?.packet(this.now, packet, toServer, ' NO MAPPING')
      return
    }
    if (nat !== undefined) {
      // The observer is outside; nobody else tampers with packets there.
      this.#carry(seen, conditions, toServer, toServer ? seen : packet)
      return
    }
    const passed = this.#init.middlebox?.(packet, path, toServer) ?? [packet]
    for (const each of passed) this.#carry(each, conditions, toServer)
  }

  #carry(packet: Uint8Array, conditions: PathConditions, toServer: boolean, outside = packet): void {
    this.observer.sent(outside, toServer)
    const { rate, queue } = conditions
    const line = this.#lines.get(conditions) ?? [0, 0]
    this.#lines.set(conditions, line)
    const turn = Math.max(this.now, line[toServer ? 0 : 1])
    const lost = !conditions.works || this.random() < conditions.loss || turn - this.now > queue
    this.trace?.packet(this.now, packet, toServer, lost ? ' LOST' : '')
    if (lost) return
    line[toServer ? 0 : 1] = turn + packet.length / rate
    const copies = conditions.twice > 0 && this.random() < conditions.twice ? 2 : 1
    for (let i = 0; i < copies; i++) {
      this.at(turn + conditions.delay + this.random() * conditions.jitter, () => {
        if (conditions.works) this[toServer ? 'server' : 'client'].in(packet)
      })
    }
  }

  /** Runs until `until` holds; false when the time is over first. */
  run(until: () => boolean, limit = 600_000): boolean {
    const end = this.now + limit
    while (!until()) {
      const { client, server } = this
      const next = Math.min(client.tcp!.timeout, server.tcp!.timeout, client.timeout, server.timeout)
      const [event] = this.#queue
      if (event !== undefined && event.at <= next) {
        this.#queue.shift()
        this.now = Math.max(this.now, event.at)
        if (this.now > end) return false
        event.work()
        continue
      }
      if (next === Number.POSITIVE_INFINITY || next > end) return false
      this.now = Math.max(this.now, next)
      for (const host of [this.client, this.server]) {
        host.tcp!.handleTimeout(this.now)
        if (host.timeout <= this.now) {
          host.machine.handleTimeout(this.now)
          host.flush()
        }
      }
    }
    return true
  }

  /** The longest round trip (ms) of a path that is given as lasting. */
  get longestRoundTrip(): number {
    return Math.max(
      ...this.paths.map(
        ({ delay, jitter, queue, rate }) =>
          2 * (delay + jitter + this.queueDelay + (rate === Number.POSITIVE_INFINITY ? 0 : queue)),
      ),
    )
  }

  get done(): boolean {
    return this.client.tcp!.done && this.server.tcp!.done
  }

  get problem(): string {
    return this.client.tcp!.problem || this.server.tcp!.problem || this.observer.problem
  }
}

export function addressOf(path: number): Uint8Array {
  return Uint8Array.of(10, path + 1, 0, 2)
}

interface Flow {
  readonly isn: number
  sent: number
}

/** What a firewall on the path would object to (MP-4): acknowledgements of what did not pass there. */
class Observer {
  problem = ''
  /** Acknowledgements overtake data that wait in a queue, and what waits in that of a killed proxy is lost. */
  overtakes = false
  /** What passes without a proxy has other numbers, and acknowledges FINs that were none on the wire. */
  looksAway = false
  /** By the tuple as the server sees it: what each end sent. */
  readonly #flows = { up: new Map<string, Flow>(), down: new Map<string, Flow>() }
  readonly #segment = new Segment()

  sent(packet: Uint8Array, toServer: boolean): void {
    if (this.looksAway) return
    const segment = this.#segment
    const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
    segment.read(view, packet, 0, packet.length, !toServer)
    const { key } = segment
    const flows = this.#flows[toServer ? 'up' : 'down']
    const flow = flows.get(key)
    if ((segment.flags & 2) !== 0) {
      if (flow === undefined || flow.isn !== segment.seq) flows.set(key, { isn: segment.seq, sent: 1 })
      return
    }
    if (flow === undefined) return
    const from = (segment.seq - flow.isn) >>> 0
    const end = from + segment.payloadLength + (segment.flags & 1)
    if (from > flow.sent && !this.overtakes) this.problem ||= `a gap on ${key}: ${from} after ${flow.sent}`
    if (end > from || !this.overtakes) flow.sent = Math.max(flow.sent, end)
    const back = this.#flows[toServer ? 'down' : 'up'].get(key)
    if (back !== undefined && (segment.flags & 16) !== 0 && (segment.flags & 4) === 0) {
      const ack = (segment.ack - back.isn) >>> 0
      if (ack > back.sent) this.problem ||= `acknowledges ${ack} on ${key}, where ${back.sent} passed`
    }
  }
}

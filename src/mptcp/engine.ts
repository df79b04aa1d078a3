/**
 * The data path: one thread that reads the packet queue, asks the machine, and gives verdicts. A packet that becomes one other
 * packet is replaced in its verdict, super-packets whole; everything beside goes through raw sockets.
 *
 * A super-packet costs one read and one write of the netlink socket; its payload is neither copied nor, on its way out,
 * looked at here.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import { equal } from '../core/bytes.ts'
import { checksum, pseudoSum } from '../core/checksum.ts'
import { ipLength, offsetIn, Protocol, transportOf } from '../core/ip.ts'
import { TCP } from '../core/tcp.ts'
import { Arena } from '../linux/arena.ts'
import { IcmpErrors } from '../linux/icmp-errors.ts'
import { KernelError } from '../linux/libc.ts'
import type { NfWatch } from '../linux/nf-watch.ts'
import { MAX_REPLACEMENT, NfHookNumber, NfQueue } from '../linux/nfqueue.ts'
import { POLLIN, type Poller } from '../linux/poller.ts'
import { RawSender } from '../linux/raw-packets.ts'
import type { Watched } from './filter.ts'
import type { MptcpMachine } from './machine/machine.ts'
import { type OutSegment, payloadLength, Segment, type Tuple, tupleKey } from './machine/segment.ts'
import type { MachineEvent } from './machine/types.ts'
import { packetOf, sealTcp, writeHeaders } from './packets.ts'
import { readTooBig } from './too-big.ts'

/** Packets that are read before timers get their turn. */
const READS = 64
/** Timers wait no longer than this (ms) for packets that have come. */
const MOST_LATE = 50
const ARENA = 1 << 20
/** The longest headers that are looked at, both of them. */
const HEADERS = 256
/** The longest packet. */
const LONGEST = 0xffff + 40
/** Payload of a packet to this host's TCP. */
const LONGEST_LOCAL = 60_000
const LONGEST_SLEEP = 60_000

export interface EngineOptions {
  readonly machine: MptcpMachine
  readonly poller: Poller
  readonly queues: { readonly whole: number; readonly headers: number; readonly bodies: number }
  readonly mark: number
  /** Monotonic milliseconds. */
  readonly now: () => number
  /** Tables of nf_tables that come and go; `onRemoved`: somebody removed one. */
  readonly tables: NfWatch
  readonly onRemoved: () => void
  /** Packets of a tuple are to be queued from now on, or no longer: done when it returns. */
  readonly watch: (event: Extract<MachineEvent, { type: 'watch' }>) => void
  /** What arrives for a tuple does not pass as it is any more. */
  readonly differs: (tuple: Tuple) => void
  readonly onEvent: (event: Exclude<MachineEvent, { type: 'watch' }>) => void
}

export class MptcpEngine {
  readonly machine: MptcpMachine
  readonly #poller: Poller
  readonly #arena = new Arena(ARENA)
  readonly #queue: NfQueue
  /** Headers of packets that mostly pass as they are, and those of them that do not. */
  readonly #headers: NfQueue
  readonly #bodies: NfQueue
  readonly #bodiesNumber: number
  /** Of routers that a packet was too big for. */
  readonly #errors = new IcmpErrors()
  readonly #mark: number
  readonly #now: () => number
  readonly #tables: NfWatch
  readonly #onRemoved: () => void
  readonly #watch: EngineOptions['watch']
  readonly #differs: EngineOptions['differs']
  readonly #onEvent: EngineOptions['onEvent']
  readonly #segment = new Segment()
  /** The queue that has the packet at hand, and how far its payload lies from where the segment was read. */
  #from: NfQueue
  #shift = 0
  readonly #raw: RawSender
  readonly #rawBy = new Map<string, RawSender>()
  /** Names of accesses by the index of their interface. */
  #accesses = new Map<number, string>()
  #port: MessagePort | undefined
  #onMessage: ((message: unknown) => void) | undefined
  #stopping = false
  readonly counts = { packets: 0, damaged: 0, unsent: 0 }

  constructor(options: EngineOptions) {
    this.machine = options.machine
    this.#poller = options.poller
    this.#mark = options.mark
    this.#now = options.now
    this.#tables = options.tables
    this.#onRemoved = options.onRemoved
    this.#watch = options.watch
    this.#onEvent = options.onEvent
    this.#raw = new RawSender(undefined, { mark: options.mark })
    const { whole, headers, bodies } = options.queues
    this.#queue = new NfQueue(this.#arena, whole)
    this.#headers = new NfQueue(this.#arena, headers, { copy: HEADERS })
    this.#bodies = new NfQueue(this.#arena, bodies)
    this.#bodiesNumber = bodies
    this.#from = this.#queue
    this.#differs = options.differs
    for (const { fd } of [this.#queue, this.#headers, this.#bodies, this.#tables])
      this.#poller.add(fd, POLLIN)
    for (const fd of this.#errors.fds) this.#poller.add(fd, POLLIN)
  }

  get queueCounts() {
    const queues = [this.#queue, this.#headers, this.#bodies]
    const sum = (key: 'overruns' | 'refused') => queues.reduce((total, each) => total + each[key], 0)
    return { overruns: sum('overruns'), refused: sum('refused') }
  }

  listen(port: MessagePort, onMessage: (message: unknown) => void): void {
    this.#port = port
    this.#onMessage = onMessage
  }

  /** Interfaces of the accesses: forged packets of a subflow leave by its own. */
  setInterfaces(accesses: readonly { readonly name: string; readonly index: number }[]): void {
    this.#accesses = new Map(accesses.map(({ name, index }) => [index, name]))
    // An interface that came back is another one to a socket that is bound to it.
    for (const sender of this.#rawBy.values()) sender.close()
    this.#rawBy.clear()
  }

  /**
   * What the machine has taken over is watched from the moment on that `install` is called, with all of it at once; what it wants
   * sent follows.
   */
  begin(install: (watched: readonly Watched[]) => void): void {
    const watched: Watched[] = []
    const later: MachineEvent[] = []
    for (let event = this.machine.pollEvent(); event !== undefined; event = this.machine.pollEvent())
      if (event.type === 'watch' && event.on) watched.push(event)
      else later.push(event)
    install(watched)
    for (const event of later) this.#event(event)
    this.machine.resume(this.#now())
    this.flush()
  }

  run(): void {
    while (!this.#stopping) this.turn()
  }

  stop(): void {
    this.#stopping = true
  }

  /** Waits, and handles what has come; false when there is more. */
  #read(wait: number): boolean {
    if (this.#poller.wait(wait) === 0) return true
    let isAll = true
    if (this.#poller.woken()) this.#drain()
    // Also when events were lost and none is left to read.
    if (this.#poller.ready(this.#tables.fd) !== 0 && this.#tables.read().removed) this.#onRemoved()
    for (const queue of [this.#queue, this.#headers]) {
      if ((this.#poller.ready(queue.fd) & POLLIN) === 0) continue
      let reads = 0
      while (reads < READS && queue.read()) {
        this.#handle(queue, this.#now())
        reads++
      }
      isAll &&= reads < READS
    }
    // Left here when its reader was interrupted.
    if ((this.#poller.ready(this.#bodies.fd) & POLLIN) !== 0) while (this.#bodies.read()) this.#bodies.drop()
    for (const fd of this.#errors.fds)
      if (this.#poller.ready(fd) !== 0)
        this.#errors.read(fd, (view, icmp, length) => this.#tooBig(view, icmp, length))
    return isAll
  }

  #tooBig(view: DataView, icmp: number, length: number): void {
    const error = readTooBig(view, icmp, length)
    if (error !== undefined) this.machine.tooBig(tupleKey(error.tuple), error.seq, error.mtu, this.#now())
  }

  turn(): void {
    const due = this.machine.nextTimeout()
    const wait = due === undefined ? LONGEST_SLEEP : Math.max(0, Math.min(LONGEST_SLEEP, due - this.#now()))
    this.#read(wait)
    // A thread that was held up looks once more: nobody was silent while something of theirs waited here.
    const now = this.#now()
    const late = now - (this.machine.nextTimeout() ?? Number.POSITIVE_INFINITY)
    if (late >= 0 && (this.#read(0) || late > MOST_LATE)) this.machine.handleTimeout(now)
    this.flush()
  }

  /** Sends what the machine wants sent beside an answer to a packet, and tells its events. */
  flush(): void {
    this.#events()
    for (let out = this.machine.poll(); out !== undefined; out = this.machine.poll()) this.#send(out)
  }

  #drain(): void {
    if (this.#port === undefined) return
    for (;;) {
      const next = receiveMessageOnPort(this.#port)
      if (next === undefined) return
      this.#onMessage?.(next.message)
    }
  }

  #events(): void {
    for (let event = this.machine.pollEvent(); event !== undefined; event = this.machine.pollEvent())
      this.#event(event)
  }

  #event(event: MachineEvent): void {
    if (event.type === 'watch') this.#watch(event)
    else this.#onEvent(event)
  }

  #handle(from: NfQueue, now: number): void {
    const { view, u8 } = this.#arena
    this.counts.packets++
    this.#from = from
    this.#shift = 0
    const { hook, unverified, inDevice, outDevice } = from.packet
    // One with a checksum that nobody has looked at is needed whole, and one with headers that do not fit.
    if (this.#isCut() && (unverified || !this.#fits()) && !this.#fetchBody()) return
    const { packet } = this.#from
    const length = this.#isCut() ? ipLength(view, packet.at, LONGEST) : packet.length
    const forwarded = hook === NfHookNumber.FORWARD
    const segment = this.#segment
    if (!segment.read(view, u8, packet.at, length, hook !== NfHookNumber.INPUT)) {
      this.#from.accept()
      return
    }
    if (hook !== NfHookNumber.OUTPUT && unverified && !this.#verify()) {
      this.counts.damaged++
      this.#from.drop()
      return
    }
    const access = this.#accesses.get(inDevice)
    const passage = forwarded ? { from: access, to: this.#accesses.get(outDevice) } : undefined
    const outgoing =
      passage === undefined ? hook === NfHookNumber.OUTPUT : this.machine.isFromLocal(segment, passage)
    if (forwarded && !outgoing) segment.turn()
    const ours = outgoing
      ? this.machine.handleOutgoing(segment, now, passage)
      : this.machine.handleIncoming(segment, access, now, passage)
    this.#events()
    let decided = false
    for (let out = this.machine.poll(); out !== undefined; out = this.machine.poll()) {
      if (ours && !decided && this.#canReplace(out, outgoing, forwarded)) {
        if (!outgoing && this.#isSame(out)) this.#from.accept()
        else if (this.#hasPayload(out)) this.#replace(out)
        decided = true
      } else if (this.#hasPayload(out)) this.#send(out)
    }
    if (decided) return
    if (ours) this.#from.drop()
    else this.#from.accept()
  }

  /** Only headers of the packet at hand are here. */
  #isCut(): boolean {
    const { at, length } = this.#from.packet
    return (
      this.#from === this.#headers &&
      length === HEADERS &&
      ipLength(this.#arena.view, at, LONGEST) !== HEADERS
    )
  }

  /** The payload of a segment is here, or there is none. False when the packet is lost. */
  #hasPayload({ payload }: OutSegment): boolean {
    if (payload === undefined || payload instanceof Uint8Array || !this.#isCut()) return true
    this.#differs(this.#segment.tuple)
    const { at } = this.#headers.packet
    if (!this.#fetchBody()) return false
    this.#shift = this.#bodies.packet.at - at
    return true
  }

  /** Gets the packet at hand whole. */
  #fetchBody(): boolean {
    this.#headers.pass(this.#bodiesNumber)
    this.#from = this.#bodies
    if (!this.#bodies.read()) {
      this.counts.unsent++
      return false
    }
    return true
  }

  /** Both headers are in the part that is here. */
  #fits(): boolean {
    const { view } = this.#arena
    const { at } = this.#from.packet
    const transport = transportOf(view, at, ipLength(view, at, LONGEST))
    return transport >= 0 && offsetIn(transport) + TCP.MAX_HEADER <= HEADERS
  }

  #verify(): boolean {
    const { at, length } = this.#from.packet
    const { view } = this.#arena
    const tcp = offsetIn(transportOf(view, at, length))
    return checksum(view, at + tcp, length - tcp, pseudoSum(view, at, Protocol.TCP, length - tcp)) === 0
  }

  /** A super-packet stays one only whole: of a part the kernel could not make segments. */
  #canReplace(out: OutSegment, outgoing: boolean, forwarded: boolean): boolean {
    if ((out.to === 'wire') !== outgoing || out.payload instanceof Uint8Array) return false
    if (forwarded ? !this.#keepsItsWay(out, outgoing) : out.behind === true) return false
    const length = payloadLength(out)
    if (length + 100 > MAX_REPLACEMENT || (out.narrow === true && length > out.segmentSize)) return false
    if (this.#from.packet.super) return length === this.#segment.payloadLength
    // The segment at hand may be a super-packet's equal in size without being one.
    return true
  }

  /**
   * What is forwarded has its route, and the tracking of connections has looked at it: another pair of addresses would need another
   * route, and numbers that it did not see would make it leave the packet's addresses as they are.
   */
  #keepsItsWay(out: OutSegment, outgoing: boolean): boolean {
    const { tuple, seq, ack } = this.#segment
    return (
      out.tuple.localPort === tuple.localPort &&
      out.tuple.remotePort === tuple.remotePort &&
      equal(out.tuple.local, tuple.local) &&
      equal(out.tuple.remote, tuple.remote) &&
      (!outgoing || (out.seq === seq && out.ack === ack))
    )
  }

  /**
   * On the first subflow, until data have gone another way, what arrives needs no change: both sides count alike, and a plain
   * TCP skips the option. The packet then keeps its pages; a replaced one takes twice the memory of the socket.
   */
  #isSame(out: OutSegment): boolean {
    const segment = this.#segment
    return (
      out.seq === segment.seq &&
      out.ack === segment.ack &&
      out.flags === segment.flags &&
      out.window === segment.window &&
      out.options.length === 0 &&
      segment.sack.length === 0 &&
      payloadLength(out) === segment.payloadLength &&
      out.tuple.localPort === segment.tuple.localPort &&
      equal(out.tuple.local, segment.tuple.local)
    )
  }

  #replace(out: OutSegment): void {
    const queue = this.#from
    const { packet } = queue
    const { view, u8 } = this.#arena
    const at = queue.headersAt
    const length = payloadLength(out)
    const headers = writeHeaders(view, u8, at, out, length, packet.at)
    const payloadAt =
      out.payload === undefined || out.payload instanceof Uint8Array
        ? packet.at
        : out.payload.at + this.#shift
    // Segments of what leaves this host get their checksums as they are cut.
    if (!(packet.super && packet.hook !== NfHookNumber.INPUT))
      sealTcp(view, at, headers, view, payloadAt, length)
    queue.replace(headers, payloadAt, length)
  }

  #send(out: OutSegment): void {
    const destination = out.to === 'wire' ? out.tuple.remote : out.tuple.local
    const length = payloadLength(out)
    const most = Math.min(out.segmentSize, LONGEST_LOCAL)
    const sender = this.#senderFor(out)
    for (let skip = 0; skip === 0 || skip < length; skip += most)
      if (!sender.send(packetOf(out, this.#arena.u8, skip, most, this.#shift), destination))
        this.counts.unsent++
  }

  #senderFor({ access }: OutSegment): RawSender {
    if (access === undefined) return this.#raw
    const known = this.#rawBy.get(access)
    if (known !== undefined) return known
    try {
      const sender = new RawSender(undefined, { mark: this.#mark, device: access })
      this.#rawBy.set(access, sender)
      return sender
    } catch (error) {
      // The interface is gone; what is sent by it is lost, and its subflows soon too.
      if (!(error instanceof KernelError)) throw error
      return this.#raw
    }
  }

  close(): void {
    for (const queue of [this.#queue, this.#headers, this.#bodies]) {
      this.#poller.remove(queue.fd)
      queue.close()
    }
    for (const fd of this.#errors.fds) this.#poller.remove(fd)
    this.#errors.close()
    this.#raw.close()
    for (const sender of this.#rawBy.values()) sender.close()
    this.#poller.close()
  }
}

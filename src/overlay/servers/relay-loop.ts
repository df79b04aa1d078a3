/**
 * The relay in its worker thread. Channels that the kernel can forward by itself are there (relay-kernel.ts); here are the
 * others, and signalling. A message of the kernel (up to 64 KB of datagrams of one source, UDP_GRO) costs one look-up
 * and one send (UDP_SEGMENT), whatever it holds; nothing is decrypted or copied. A socket that is not read in time loses
 * packets, as any router does.
 */
import { ECN_MASK } from '../../core/ecn.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { RealClock, realRandom } from '../../linux/clock.ts'
import { KernelError } from '../../linux/libc.ts'
import { Rtnetlink } from '../../linux/rtnetlink/index.ts'
import { NAME_SIZE, writeAddress16, writeName } from '../../linux/sockaddr.ts'
import type { ReceiveBatch } from '../../linux/udp.ts'
import type { EngineHost } from '../../tunnel/engine/thread.ts'
import { Relay, type Side, type Target } from '../machine/relay.ts'
import { overlayCrypto } from '../node/crypto.ts'
import { SIGN } from '../wire/datagram.ts'
import { MAX_MEASURED } from '../wire/message.ts'
import type { RelayCommand, RelayEvent, RelaySetup } from './protocol.ts'
import { RelayKernel, relayTables } from './relay-kernel.ts'
import { BURST_MS } from './relay-program.ts'
import { UdpLoop, type UdpLoopOwner } from './udp-loop.ts'

/** The name of where a side's node is, and our address that it sends to. */
const AREA = 64
const NAMES_BYTES = 4 << 20
/** Between two reports of the load (ms); what the kernel has counted is read each time up to so many channels, else every ten seconds. */
const LOAD_MS = 1000
const READ_AT_ONCE = 200
const READ_MS = 10_000
/** Faults that are logged; all are counted. */
const FAULTS_LOGGED = 20

/** Where datagrams of one source at one port go. */
interface Entry {
  readonly name: number
  readonly target: Target
  /** Others with the same key. */
  next: Entry | undefined
}

/** A side's bound address in packet memory. */
interface Area {
  readonly name: number
  isBound: boolean
  hasLocal: boolean
  tokens: number
  at: number
}

export class RelayLoop implements UdpLoopOwner {
  readonly engine: UdpLoop
  readonly #relay: Relay
  readonly #post: (event: RelayEvent) => void
  readonly #now: () => number
  readonly #rate: number
  /** By port index: entries by a hash of their source. */
  readonly #entries: Map<number, Entry>[]
  readonly #areas = new WeakMap<Side, Area>()
  /** Undefined: all is forwarded here. */
  readonly #kernel: RelayKernel | undefined
  readonly #rtnl = new Rtnetlink()
  readonly #capacity: number
  #loadAt: number
  /** When the bytes were last looked at, and how many there were; the rate since the time before (kbit/s). */
  #readAt: number
  #bytes = 0
  #rateNow = 0
  readonly #counts = { forwarded: 0, bytes: 0, unknown: 0, limited: 0, unsent: 0, faults: 0 }

  constructor(host: EngineHost) {
    const setup = host.data as RelaySetup
    const clock = new RealClock()
    this.#now = () => clock.now()
    this.#post = host.post
    this.#rate = setup.rate
    this.#capacity = setup.capacity
    this.#readAt = this.#now()
    this.#loadAt = this.#readAt
    this.#entries = setup.ports.map(() => new Map())
    this.#relay = new Relay(
      { crypto: overlayCrypto, random: realRandom, wall: () => clock.wall() },
      {
        ports: setup.ports,
        addresses: setup.addresses,
        ...(setup.maxChannels !== undefined && { maxChannels: setup.maxChannels }),
      },
    )
    this.#relay.onBinding = (port, source, target) => this.#onBinding(port, source, target)
    this.#relay.onEnd = (side) => {
      const area = this.#areas.get(side)
      if (area !== undefined) this.engine.arena.release(area.name, AREA)
      this.#areas.delete(side)
    }
    this.engine = new UdpLoop(host.poller, this.#now, NAMES_BYTES)
    this.engine.drive(this)
    for (const port of setup.ports) this.engine.open(port)
    this.#kernel = this.#openKernel(setup)
  }

  #openKernel({ ports, rate, kernel }: RelaySetup): RelayKernel | undefined {
    const say = (level: 'info' | 'warn', message: string) => this.#post({ type: 'log', level, message })
    try {
      if (!kernel) return undefined
      const warn = (message: string) => say('warn', `relay: ${message}`)
      const made = new RelayKernel({ tables: relayTables(), rtnl: this.#rtnl, ports, rate, warn })
      made.prepare()
      say('info', 'relay: channels are forwarded by the kernel (eBPF), between IPv4 and IPv6 by this program')
      return made
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      say('info', `relay: channels are forwarded by this program, as the kernel cannot: ${error.message}`)
      return undefined
    }
  }

  /** The program and its elements go with their descriptors. */
  close(): void {
    this.#kernel?.close()
    this.#rtnl.close()
  }

  readonly onCommand = (message: unknown): void => {
    const command = message as RelayCommand
    if (command.type === 'report') {
      this.#report()
      return
    }
    if (command.type === 'routes') {
      this.#kernel?.reroute(this.#relay.sides)
      return
    }
    const { id, pair, another, account, sides, binds } = command
    this.#post({
      type: 'relay-ack',
      id,
      sides: this.#relay.order({ pair, another, account, sides, binds }, this.#now()),
    })
  }

  #report(): void {
    this.#kernel?.collect()
    const kernel = this.#kernel?.counts ?? { forwarded: 0, bytes: 0, limited: 0 }
    this.#post({
      type: 'report',
      counts: {
        ...this.#counts,
        forwarded: this.#counts.forwarded + kernel.forwarded,
        bytes: this.#counts.bytes + kernel.bytes,
        limited: this.#counts.limited + kernel.limited,
        channels: [...this.#relay.channels].length,
        byKernel: kernel.forwarded,
      },
    })
  }

  #reportLoad(now: number): void {
    this.#loadAt = now + LOAD_MS
    const channels = this.#relay.channelCount
    const kernel = this.#kernel
    if (kernel === undefined || channels <= READ_AT_ONCE || now - this.#readAt >= READ_MS) {
      kernel?.collect()
      const bytes = this.#counts.bytes + (kernel?.counts.bytes ?? 0)
      if (now > this.#readAt) this.#rateNow = Math.round((8 * (bytes - this.#bytes)) / (now - this.#readAt))
      this.#bytes = bytes
      this.#readAt = now
    }
    const { maxChannels } = this.#relay
    this.#post({
      type: 'relay-load',
      load: { channels, maxChannels, rate: this.#rateNow, capacity: this.#capacity, rtt: 0 },
      measured: this.#relay.takeMeasured(MAX_MEASURED),
    })
  }

  onMessage(socket: number, batch: ReceiveBatch, i: number, now: number): void {
    const at = batch.at[i]!
    const length = batch.length[i]!
    const segment = batch.segment[i]!
    if (length > 0 && this.engine.arena.u8[at] === SIGN) {
      this.#bind(socket, batch, i, now)
      return
    }
    const entry = this.#find(socket, batch.name[i]!)
    if (entry === undefined) {
      this.#counts.unknown++
      return
    }
    const { from, to } = entry.target
    const datagrams = segment > 0 ? Math.ceil(length / segment) : 1
    from.packets += datagrams
    from.bytes += length
    const area = this.#areas.get(to)
    if (area === undefined || !area.isBound) return
    if (this.#rate > 0 && !this.#may(from, length, now)) {
      this.#counts.limited += datagrams
      return
    }
    const local = area.hasLocal ? area.name + NAME_SIZE : 0
    const out = this.engine.sockets[to.port]!
    // Marks of queues before the relay, and whether its own way may mark, are for the two ends.
    out.trafficClass = batch.trafficClass[i]! & ECN_MASK
    const sent = out.send(area.name, local, at, length, segment)
    if (sent < 0) this.#counts.unsent += datagrams
    else {
      this.#counts.forwarded += datagrams
      this.#counts.bytes += length
    }
  }

  finishTurn(): void {}

  nextTimeout(): number | undefined {
    if (this.#kernel?.isStale === true) return this.#now()
    return Math.min(this.#loadAt, this.#relay.nextTimeout() ?? this.#loadAt)
  }

  handleTimeout(now: number): void {
    this.#kernel?.refresh()
    if (this.#loadAt <= now) this.#reportLoad(now)
    const due = this.#relay.nextTimeout()
    if (due === undefined || due > now) return
    this.#kernel?.collect()
    this.#relay.handleTimeout(now)
  }

  onFault(error: unknown): void {
    this.#counts.faults++
    if (this.#counts.faults > FAULTS_LOGGED) return
    const what = (error as Error)?.stack ?? String(error)
    this.#post({ type: 'log', level: 'error', message: `error in the relay: ${what}` })
  }

  #bind(socket: number, batch: ReceiveBatch, i: number, now: number): void {
    const at = batch.at[i]!
    const bytes = this.engine.arena.u8.slice(at, at + Math.min(batch.length[i]!, batch.segment[i]!))
    const from = this.engine.sourceOf(batch, i)
    const answer = this.#relay.handleBind(bytes, socket, from, now)
    if (answer !== undefined) this.engine.send(socket, from, answer)
  }

  #may(side: Side, length: number, now: number): boolean {
    const area = this.#areaOf(side)
    const most = (this.#rate * BURST_MS) / 1000
    area.tokens = Math.min(most, area.tokens + ((now - area.at) * this.#rate) / 1000)
    area.at = now
    if (area.tokens <= 0) return false
    area.tokens -= length
    return true
  }

  // ---- who is where

  #areaOf(side: Side): Area {
    let area = this.#areas.get(side)
    if (area === undefined) {
      area = { name: this.engine.arena.reserve(AREA), isBound: false, hasLocal: false, tokens: 0, at: 0 }
      this.#areas.set(side, area)
    }
    return area
  }

  #onBinding(port: number, source: Endpoint, target: Target | undefined): void {
    const { u8, view } = this.engine.arena
    const name = this.engine.arena.reserve(NAME_SIZE)
    writeName(u8, view, name, source, 6)
    const entries = this.#entries[port]!
    const key = this.#hash(name)
    const found = this.#find(port, name)
    if (found !== undefined) {
      this.#remove(entries, key, found)
      const area = this.#areas.get(found.target.from)
      if (area !== undefined) area.isBound = false
      this.engine.arena.release(found.name, NAME_SIZE)
      this.#inKernel(found.target.from)
    }
    if (target === undefined) {
      this.engine.arena.release(name, NAME_SIZE)
      return
    }
    entries.set(key, { name, target, next: entries.get(key) })
    const area = this.#areaOf(target.from)
    writeName(u8, view, area.name, source, 6)
    area.hasLocal = source.local !== undefined
    if (source.local !== undefined) writeAddress16(u8, area.name + NAME_SIZE, source.local)
    area.isBound = true
    this.#inKernel(target.from)
  }

  /** Both directions depend on where a side is bound. */
  #inKernel(side: Side): void {
    this.#kernel?.set(side)
    if (side.other !== undefined) this.#kernel?.set(side.other)
  }

  #remove(entries: Map<number, Entry>, key: number, entry: Entry): void {
    let each = entries.get(key)
    if (each === entry) {
      if (entry.next === undefined) entries.delete(key)
      else entries.set(key, entry.next)
      return
    }
    for (; each !== undefined; each = each.next) if (each.next === entry) each.next = entry.next
  }

  #find(port: number, name: number): Entry | undefined {
    let entry = this.#entries[port]?.get(this.#hash(name))
    const { u32 } = this.engine.arena
    const a = name >>> 2
    for (; entry !== undefined; entry = entry.next) {
      const b = entry.name >>> 2
      // Family, port, address; flow labels and scopes are ignored.
      if (
        u32[a] === u32[b] &&
        u32[a + 2] === u32[b + 2] &&
        u32[a + 3] === u32[b + 3] &&
        u32[a + 4] === u32[b + 4] &&
        u32[a + 5] === u32[b + 5]
      )
        return entry
    }
    return undefined
  }

  #hash(name: number): number {
    const { u32 } = this.engine.arena
    const a = name >>> 2
    let hash = u32[a]!
    for (let i = 2; i < 6; i++) hash = Math.imul(hash ^ u32[a + i]!, 0x9e37_79b1)
    return hash
  }
}

/**
 * The link emulator: a worker thread that carries Ethernet frames between pairs of TAP devices in two namespaces, as the
 * shapers decide. One thread serves every emulated link of a lab. A clear link passes super-packets whole, a read and a
 * write per up to 64 KB; a link with a rate, losses or reordering has the kernel cut them into what a wire carries.
 *
 * Frames that must wait are copied once into a queue; the thread sleeps in poll until a frame comes or one is due.
 */
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { Arena } from '../../src/linux/arena.ts'
import { inNamespace } from '../../src/linux/netns.ts'
import { KernelPoller, POLLIN } from '../../src/linux/poller.ts'
import { openTun, type Tun, VNET_HEADER } from '../../src/linux/tun.ts'
import { monotonicMs } from '../programs/program.ts'
import type { LinkConditions } from '../types.ts'
import { isClear } from './conditions.ts'
import { FrameQueue } from './frame-queue.ts'
import { DROP, Shaper } from './shaper.ts'

/** One end of an emulated link: the device `iface` in the namespace at `netns` (a path). */
export interface EmulatedEnd {
  readonly netns: string
  readonly iface: string
}

export type EngineCommand =
  | {
      readonly type: 'open'
      readonly id: number
      readonly ends: readonly [EmulatedEnd, EmulatedEnd]
      readonly seed: number
    }
  | {
      readonly type: 'set'
      readonly id: number
      readonly towards: 0 | 1
      readonly conditions: LinkConditions
    }
  | { readonly type: 'counters'; readonly request: number }
  | { readonly type: 'close' }

/** What a direction has carried and dropped since the link was opened. */
export interface DirectionCounters {
  readonly packets: number
  readonly bytes: number
  readonly lost: number
  readonly overflowed: number
  readonly cut: number
}

/**
 * A time in which frames were due and this thread was not run: the machine was busy with something else. Whatever a
 * measurement shows there says nothing about networks. Monotonic milliseconds.
 */
export type Stall = readonly [from: number, to: number]

export type EngineEvent =
  | { readonly type: 'running'; readonly wakeFd: number }
  | { readonly type: 'opened'; readonly id: number }
  /** The carrier of both ends came or went. */
  | { readonly type: 'carrier'; readonly id: number }
  | { readonly type: 'failed'; readonly id: number; readonly error: unknown }
  /** Per link, by id: towards its first end, towards its second. */
  | {
      readonly type: 'counters'
      readonly request: number
      readonly links: readonly (readonly [DirectionCounters, DirectionCounters])[]
      readonly stalls: readonly Stall[]
    }
  | { readonly type: 'closed' }

const ETHERNET = 14
/** vnet header, Ethernet header with a VLAN tag, and the largest IP packet. */
const FRAME = VNET_HEADER + ETHERNET + 4 + 65_535
/** What may wait in a direction; a gigabit line with 60 ms fills it. */
const QUEUE = 8 << 20
const OVERTAKING_QUEUE = 1 << 20
const READS_PER_TURN = 64
/** A process that ends otherwise than by `close` waits for this thread, which cannot be interrupted while it waits. */
const LONGEST_WAIT_MS = 1000
const EBADFD = 77
/** Later than this is a stall. */
const STALL_MS = 10
const MOST_STALLS = 10_000

/** One way of a link: frames that arrive on `from` leave on `to`. */
class Direction {
  readonly shaper: Shaper
  readonly from: Tun
  readonly to: Tun
  readonly #buffer: number
  readonly #ordered: FrameQueue
  readonly #overtaking: FrameQueue

  constructor(arena: Arena, from: Tun, to: Tun, seed: number) {
    this.from = from
    this.to = to
    this.shaper = new Shaper(seed)
    this.#buffer = arena.reserve(FRAME)
    this.#ordered = new FrameQueue(arena, QUEUE)
    this.#overtaking = new FrameQueue(arena, OVERTAKING_QUEUE)
  }

  set(conditions: LinkConditions): void {
    if (conditions.state !== 'up') {
      this.#ordered.clear()
      this.#overtaking.clear()
    }
    this.shaper.set(conditions)
  }

  /** When the next waiting frame is due; Infinity when none waits. */
  due(): number {
    return Math.min(this.#ordered.headRelease(), this.#overtaking.headRelease())
  }

  /**
   * Sends what is due, reads what has arrived: a read, and a write or a copy, per frame. False when the device is gone.
   */
  turn(now: number, readable: boolean): boolean {
    this.#release(this.#overtaking, now)
    this.#release(this.#ordered, now)
    if (!readable) return true
    for (let i = 0; i < READS_PER_TURN; i++) {
      const n = this.from.read(this.#buffer, FRAME)
      if (n <= 0) return n !== -EBADFD
      const arrives = this.shaper.admit(n - VNET_HEADER, now)
      if (arrives === DROP) continue
      for (let copy = 0; copy < this.shaper.copies; copy++) {
        const queue = this.shaper.overtakes ? this.#overtaking : this.#ordered
        if (arrives <= now && queue.length === 0) this.to.write(this.#buffer, n)
        else if (!queue.push(this.#buffer, n, arrives)) this.shaper.overflowed++
      }
    }
    return true
  }

  counters(): DirectionCounters {
    const { packets, bytes, lost, overflowed, cut } = this.shaper
    return { packets, bytes, lost, overflowed, cut }
  }

  #release(queue: FrameQueue, now: number): void {
    while (queue.headRelease() <= now) {
      this.to.write(queue.headAt(), queue.headLength())
      queue.shift()
    }
  }
}

class Engine {
  readonly #port: MessagePort
  readonly #poller = new KernelPoller()
  /** Two per link: towards its first end, towards its second. */
  readonly #directions: Direction[] = []
  readonly #links: { id: number; taps: [Tun, Tun]; carrier: boolean; whole: boolean }[] = []
  readonly #stalls: Stall[] = []
  /** From this thread's clock to the machine's. */
  readonly #offset = monotonicMs() - performance.now()
  #closed = false

  constructor(port: MessagePort) {
    this.#port = port
  }

  run(): void {
    this.#post({ type: 'running', wakeFd: this.#poller.wakeFd })
    while (!this.#closed) {
      let due = Number.POSITIVE_INFINITY
      for (const direction of this.#directions) due = Math.min(due, direction.due())
      this.#poller.wait(Math.min(LONGEST_WAIT_MS, Math.max(0, due - performance.now())))
      if (this.#poller.woken()) this.#drain()
      const now = performance.now()
      if (now - due > STALL_MS && this.#stalls.length < MOST_STALLS)
        this.#stalls.push([due + this.#offset, now + this.#offset])
      for (const direction of this.#directions) {
        const present = direction.turn(now, this.#poller.ready(direction.from.fd) !== 0)
        // Someone deleted the device; its descriptor would end every wait from now on.
        if (!present) this.#poller.remove(direction.from.fd)
      }
    }
    for (const link of this.#links) for (const tap of link.taps) tap.close()
    this.#poller.close()
    this.#post({ type: 'closed' })
  }

  #drain(): void {
    for (;;) {
      const message = receiveMessageOnPort(this.#port)
      if (message === undefined) return
      this.#obey(message.message as EngineCommand)
    }
  }

  #obey(command: EngineCommand): void {
    switch (command.type) {
      case 'open':
        try {
          this.#open(command)
          this.#post({ type: 'opened', id: command.id })
        } catch (error) {
          this.#post({ type: 'failed', id: command.id, error })
        }
        break
      case 'set':
        this.#set(command)
        break
      case 'counters':
        this.#post({
          type: 'counters',
          request: command.request,
          links: this.#links.map((_, index) => [
            this.#directions[index * 2]!.counters(),
            this.#directions[index * 2 + 1]!.counters(),
          ]),
          stalls: this.#stalls,
        })
        break
      case 'close':
        this.#closed = true
    }
  }

  #open(command: EngineCommand & { type: 'open' }): void {
    const arena = new Arena(2 * (FRAME + QUEUE + OVERTAKING_QUEUE) + 4096)
    const taps = command.ends.map((end) =>
      inNamespace(end.netns, () => openTun(arena, { name: end.iface, kind: 'tap' })),
    ) as [Tun, Tun]
    const [first, second] = taps
    this.#directions.push(
      new Direction(arena, second, first, command.seed),
      new Direction(arena, first, second, command.seed + 1),
    )
    this.#links.push({ id: command.id, taps, carrier: false, whole: true })
    for (const tap of taps) {
      // A carrier that comes later is an event, and makes the device's operational state known.
      tap.setCarrier(false)
      this.#poller.add(tap.fd, POLLIN)
    }
  }

  #set(command: EngineCommand & { type: 'set' }): void {
    const index = this.#links.findIndex((link) => link.id === command.id)
    const link = this.#links[index]
    if (link === undefined) return
    this.#directions[index * 2 + command.towards]!.set(command.conditions)
    const both = [0, 1].map((side) => this.#directions[index * 2 + side]!.shaper.conditions)
    const whole = both.every(isClear)
    if (whole !== link.whole) for (const tap of link.taps) tap.setOffloads(whole ? 'segments' : 'checksums')
    link.whole = whole
    const carrier = both.every((conditions) => conditions.state !== 'down')
    if (carrier === link.carrier) return
    link.carrier = carrier
    for (const tap of link.taps) tap.setCarrier(carrier)
    this.#post({ type: 'carrier', id: link.id })
  }

  #post(event: EngineEvent): void {
    this.#port.postMessage(event)
  }
}

if (parentPort !== null && workerData?.linkEngine === true) new Engine(parentPort).run()

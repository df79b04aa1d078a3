/**
 * The engine: one thread's loop around one datapath. It sleeps in poll on the TUN, the sockets and an eventfd; awake, it
 * reads each ready descriptor up to a limit, flushes, and runs the machine's timers. Commands of other threads arrive by
 * MessagePort and the eventfd. No I/O error ends the loop; permanent failures are reported as fatal, with the reason.
 */

import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import { EAGAIN } from '../../core/errno.ts'
import { KernelError } from '../../linux/libc.ts'
import { POLLERR, POLLHUP, POLLIN, type Poller } from '../../linux/poller.ts'
import type { Tun } from '../../linux/tun.ts'
import type { UdpSocket } from '../../linux/udp.ts'
import type { Datapath } from '../datapath/datapath.ts'

/** Super-packets read from the TUN, and receives per socket, before the others get their turn. */
const TUN_READS = 32
const RECEIVES = 16
/** Parked packets ask again this often (ms), and at once when a path or session appeared. */
const PARKED_RETRY = 50
/** Max delay of timers (ms) while the sockets never become empty. */
const LATEST = 50
const POLL_FOREVER = -1
const LONGEST_SLEEP = 60_000

export interface EngineOptions {
  readonly datapath: Datapath
  readonly tun: Tun
  readonly poller: Poller
  /** Monotonic milliseconds. */
  readonly now: () => number
  /**
   * Called at the end of each turn, timers included, and after commands, before packets are read: the owner drains its
   * machine's events here, so that no packet is given to a path that a command has closed.
   */
  readonly onTurn?: (now: number) => void
  /** Called before `run` returns because of `stop`: the last that is sent. */
  readonly onEnd?: (now: number) => void
}

export interface Reader {
  readonly fd: number
  /** Called in each turn in which it is readable; reads until it is not. */
  readonly onReadable: () => void
  readonly close: () => void
}

export class Engine {
  readonly datapath: Datapath
  readonly #tun: Tun
  readonly #poller: Poller
  readonly #now: () => number
  readonly #onTurn: ((now: number) => void) | undefined
  readonly #onEnd: ((now: number) => void) | undefined
  readonly #readers: Reader[] = []
  #port: MessagePort | undefined
  #onMessage: ((message: unknown) => void) | undefined
  #stopping = false
  #parkedAt = 0
  /** The last turn read every socket until it was empty. */
  #drained = true
  /**
   * Iterations of the loop, and waits among them that had nothing ready; sockets opened without UDP_GRO; batches that
   * sockets closed since had to split.
   */
  counts = { turns: 0, idle: 0, receiveErrors: 0, withoutGro: 0, split: 0 }

  constructor(options: EngineOptions) {
    this.datapath = options.datapath
    this.#tun = options.tun
    this.#poller = options.poller
    this.#now = options.now
    this.#onTurn = options.onTurn
    this.#onEnd = options.onEnd
    this.#poller.add(options.tun.fd, POLLIN)
  }

  /** From now on messages on `port` are handled in the turn after the poller was woken. */
  listen(port: MessagePort, onMessage: (message: unknown) => void): void {
    this.#port = port
    this.#onMessage = onMessage
  }

  /** Adds a socket to the tables and the poll set; returns its index. */
  addSocket(socket: UdpSocket): number {
    const { sockets } = this.datapath
    let index = sockets.indexOf(undefined)
    if (index < 0) index = sockets.length
    sockets[index] = socket
    if (!socket.coalesces) this.counts.withoutGro++
    this.#poller.add(socket.fd, POLLIN)
    return index
  }

  /** Another descriptor that ends the wait; closed with the engine. */
  addReader(reader: Reader): void {
    this.#readers.push(reader)
    this.#poller.add(reader.fd, POLLIN)
  }

  /** Requests a new path for every parked packet, in this turn: the owner knows that a path is back. */
  retryParked(): void {
    this.datapath.retryWanted = true
  }

  /** Takes a socket out and closes it. Paths that use it fail with ENODEV until they are closed. */
  closeSocket(index: number): void {
    const socket = this.datapath.sockets[index]
    if (socket === undefined) return
    this.datapath.sender.flush()
    this.#poller.remove(socket.fd)
    this.datapath.sockets[index] = undefined
    this.counts.split += socket.split
    socket.close()
  }

  /** Runs until `stop`. Throws only for permanent failures: the device is gone, poll itself failed. */
  run(): void {
    while (!this.#stopping) this.turn(true)
    this.end()
  }

  /** What is to be sent before it closes. */
  end(): void {
    const now = this.#now()
    this.datapath.now = now
    this.#onEnd?.(now)
    this.datapath.finishBatch(now)
  }

  /** Ends `run` after the turn at hand; call it from a message handler, or the machine. */
  stop(): void {
    this.#stopping = true
  }

  /** One turn: waits (when `wait`) until something is ready or due, and handles it. Returns whether there was work. */
  turn(wait: boolean): boolean {
    const { datapath } = this
    const ready = this.#poller.wait(wait ? this.timeout(this.#now()) : 0)
    const now = this.#now()
    datapath.now = now
    this.counts.turns++
    let work = false
    this.#drained = true
    if (ready > 0) {
      if (this.#poller.woken() && this.#drain()) this.#onTurn?.(now)
      for (const each of this.#readers) if (this.#poller.ready(each.fd) !== 0) each.onReadable()
      work = this.#read(now)
    } else this.counts.idle++
    datapath.releaseHeld(now)
    datapath.sendDue(now)
    datapath.finishBatch(now)
    this.#timers(now)
    this.#onTurn?.(now)
    return work
  }

  #read(now: number): boolean {
    const { datapath } = this
    const poller = this.#poller
    let work = false
    const tun = poller.ready(this.#tun.fd)
    if ((tun & POLLIN) !== 0 && datapath.outbound.read(TUN_READS, now) > 0) {
      work = true
      datapath.sender.flush()
    } else if ((tun & (POLLERR | POLLHUP)) !== 0)
      throw new KernelError(`interface ${this.#tun.name} is gone`, 19, {
        hint: 'another program removed it; restart godwit to create it again',
      })
    const { sockets } = datapath
    for (let i = 0; i < sockets.length; i++) {
      const socket = sockets[i]
      if (socket === undefined || poller.ready(socket.fd) === 0) continue
      if (this.#receive(socket, i, now)) work = true
    }
    return work
  }

  #receive(socket: UdpSocket, index: number, now: number): boolean {
    for (let n = 0; n < RECEIVES; n++) {
      const got = this.datapath.inbound.receive(socket, index, now)
      if (got > 0) continue
      if (got !== -EAGAIN && got !== 0) this.counts.receiveErrors++
      return n > 0
    }
    this.#drained = false
    return true
  }

  /** Handles the messages that wait; returns whether there were any. */
  #drain(): boolean {
    if (this.#port === undefined) return false
    for (let any = false; ; any = true) {
      const next = receiveMessageOnPort(this.#port)
      if (next === undefined) return any
      this.#onMessage?.(next.message)
    }
  }

  #timers(now: number): void {
    const { machine, parking, outbound } = this.datapath
    const due = machine.nextTimeout()
    // Its verdicts on silent paths rest on everything that has arrived; but a flood must not stop the clock.
    if (due !== undefined && due <= now && (this.#drained || due + LATEST <= now)) machine.handleTimeout(now)
    if (parking.size === 0) return
    if (!this.datapath.retryWanted && now - this.#parkedAt < PARKED_RETRY) return
    this.datapath.retryWanted = false
    this.#parkedAt = now
    outbound.retryParked(now)
    this.datapath.finishBatch(now)
  }

  /** Milliseconds until it turns by itself; -1: never. */
  timeout(now: number): number {
    const due = this.datapath.machine.nextTimeout()
    let wait = due === undefined ? LONGEST_SLEEP : due - now
    if (this.datapath.parking.size > 0) wait = Math.min(wait, PARKED_RETRY)
    const { reorder, sender } = this.datapath
    wait = Math.min(wait, sender.pacer.deadline - now)
    if (reorder !== undefined && reorder.deadline - now < wait) return Math.max(0, reorder.deadline - now)
    if (wait >= LONGEST_SLEEP) return due === undefined ? POLL_FOREVER : LONGEST_SLEEP
    return Math.max(0, wait)
  }

  /** Closes sockets, the device and the poller. */
  close(): void {
    const { sockets } = this.datapath
    for (let i = 0; i < sockets.length; i++) this.closeSocket(i)
    for (const each of this.#readers) each.close()
    this.#tun.close()
    this.#poller.close()
  }
}

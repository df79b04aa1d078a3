/**
 * The loop of a server's worker thread: UDP sockets over packet memory, a poller, timers, and messages of the main
 * thread. A turn receives waiting datagrams, up to a limit per socket, then lets the owner process them together.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import type { Endpoint } from '../../core/endpoint.ts'
import { EAGAIN } from '../../core/errno.ts'
import { Arena } from '../../linux/arena.ts'
import { POLLIN, type Poller } from '../../linux/poller.ts'
import { NAME_SIZE, readAddress16, readName, writeAddress16, writeName } from '../../linux/sockaddr.ts'
import { openUdp, RECEIVE_BYTES, ReceiveBatch, type UdpSocket } from '../../linux/udp.ts'

/** Messages of one receive, and receives of a socket in one turn. */
const BATCH = 32
const RECEIVES = 4
const LONGEST_SLEEP = 60_000

export interface UdpLoopOwner {
  /** Before what a turn brings. */
  beginTurn?(): void
  /** Message `i` of the batch came to socket `socket`. */
  onMessage(socket: number, batch: ReceiveBatch, i: number, now: number): void
  onCommand(command: unknown, now: number): void
  /** After everything of a turn: what was answered goes out here. */
  finishTurn(now: number): void
  nextTimeout(): number | undefined
  handleTimeout(now: number): void
  /** A bug of this program triggered by one message, command or timer: that one is dropped, the others are processed. */
  onFault(error: unknown): void
  /** At the end, before the sockets. */
  close?(): void
}

export class UdpLoop {
  readonly arena: Arena
  readonly sockets: UdpSocket[] = []
  readonly #poller: Poller
  readonly #now: () => number
  readonly #batch: ReceiveBatch
  readonly #out: number
  readonly #name: number
  readonly #local: number
  #owner: UdpLoopOwner | undefined
  #port: MessagePort | undefined
  #stopping = false

  constructor(poller: Poller, now: () => number, moreBytes = 1 << 20) {
    this.arena = new Arena(BATCH * (RECEIVE_BYTES + 1024) + moreBytes)
    this.#poller = poller
    this.#now = now
    this.#batch = new ReceiveBatch(this.arena, BATCH)
    this.#out = this.arena.reserve(2048)
    this.#name = this.arena.reserve(NAME_SIZE)
    this.#local = this.arena.reserve(16)
  }

  /** Opens a socket on every address, IPv4 too; returns its index. Throws PORT_TAKEN. */
  open(port: number): number {
    const socket = openUdp(this.arena, { family: 6, port, multihomed: true })
    this.sockets.push(socket)
    this.#poller.add(socket.fd, POLLIN)
    return this.sockets.length - 1
  }

  drive(owner: UdpLoopOwner): void {
    this.#owner = owner
  }

  /** Where message `i` came from, with the address of ours that it reached. */
  sourceOf(batch: ReceiveBatch, i: number): Endpoint {
    const { u8, view } = this.arena
    const from = readName(u8, view, batch.name[i]!)
    const local = batch.local[i]!
    return local === 0 ? from : { ...from, local: readAddress16(u8, local) }
  }

  /** Sends a datagram; what the kernel refuses is lost, as on any network. */
  send(socket: number, to: Endpoint, bytes: Uint8Array): void {
    const { u8, view } = this.arena
    u8.set(bytes, this.#out)
    writeName(u8, view, this.#name, to, 6)
    if (to.local !== undefined) writeAddress16(u8, this.#local, to.local)
    const local = to.local === undefined ? 0 : this.#local
    const out = this.sockets[socket]
    if (out === undefined) return
    out.trafficClass = 0
    out.send(this.#name, local, this.#out, bytes.length, 0)
  }

  listen(port: MessagePort, onMessage: (message: unknown) => void): void {
    this.#port = port
    this.#onMessage = onMessage
  }

  #onMessage: (message: unknown) => void = () => {}

  run(): void {
    while (!this.#stopping) this.#turn()
  }

  stop(): void {
    this.#stopping = true
  }

  close(): void {
    this.#owner?.close?.()
    for (const socket of this.sockets) {
      this.#poller.remove(socket.fd)
      socket.close()
    }
    this.#poller.close()
  }

  #turn(): void {
    const owner = this.#owner!
    const due = owner.nextTimeout()
    const wait = due === undefined ? LONGEST_SLEEP : Math.min(LONGEST_SLEEP, Math.max(0, due - this.#now()))
    const ready = this.#poller.wait(wait)
    const now = this.#now()
    if (ready > 0) {
      owner.beginTurn?.()
      if (this.#poller.woken()) this.#drain()
      for (let i = 0; i < this.sockets.length; i++)
        if (this.#poller.ready(this.sockets[i]!.fd) !== 0) this.#receive(i, now)
    }
    const at = owner.nextTimeout()
    try {
      if (at !== undefined && at <= now) owner.handleTimeout(now)
    } catch (error) {
      owner.onFault(error)
    }
    owner.finishTurn(now)
  }

  #receive(index: number, now: number): void {
    const socket = this.sockets[index]!
    const batch = this.#batch
    for (let n = 0; n < RECEIVES; n++) {
      const got = socket.receive(batch)
      if (got === -EAGAIN || got <= 0) return
      for (let i = 0; i < got; i++)
        try {
          this.#owner!.onMessage(index, batch, i, now)
        } catch (error) {
          this.#owner!.onFault(error)
        }
      if (got < batch.capacity) return
    }
  }

  #drain(): void {
    if (this.#port === undefined) return
    for (;;) {
      const next = receiveMessageOnPort(this.#port)
      if (next === undefined) return
      try {
        this.#onMessage(next.message)
      } catch (error) {
        this.#owner?.onFault(error)
      }
    }
  }
}

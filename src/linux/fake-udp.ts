/**
 * An in-memory UDP network: sockets bound to endpoints, delivery at once or held back, with loss, errors, segmentation
 * and coalescing as Linux does them. One compliance suite with the real sockets.
 */

import type { Endpoint } from '../core/endpoint.ts'
import { EAGAIN, EBADF, EMSGSIZE } from '../core/errno.ts'
import type { Arena } from './arena.ts'
import { readName, writeName } from './sockaddr.ts'
import type { ReceiveBatch, UdpSocket } from './udp.ts'

/** Max payload of an IPv4 packet. */
const MOST = 65_507

interface Message {
  readonly bytes: Uint8Array
  readonly segment: number
  readonly from: Endpoint
  readonly trafficClass: number
}

export class FakeUdpNetwork {
  readonly #sockets = new Map<string, FakeUdp>()
  /** Return false to lose a datagram, or another endpoint as its source (a NAT). */
  filter: (from: Endpoint, to: Endpoint, datagram: Uint8Array) => boolean | Endpoint = () => true
  /** What a traffic class has become on the way. */
  mark: (trafficClass: number) => number = (trafficClass) => trafficClass
  #nextFd = 2000

  open(arena: Arena, at: Endpoint): FakeUdp {
    const socket = new FakeUdp(this, arena, at, this.#nextFd++)
    this.#sockets.set(key(at), socket)
    return socket
  }

  /** Delivers datagrams; those of one send that survive next to each other arrive coalesced. */
  deliver(from: Endpoint, to: Endpoint, datagrams: readonly Uint8Array[], trafficClass = 0): void {
    const target = this.#sockets.get(key(to))
    if (target === undefined) return
    let run: Uint8Array[] = []
    let source = from
    const flush = () => {
      if (run.length > 0)
        target.queue.push({
          bytes: new Uint8Array(Buffer.concat(run)),
          segment: run[0]!.length,
          from: source,
          trafficClass: this.mark(trafficClass),
        })
      run = []
    }
    for (const datagram of datagrams) {
      const verdict = this.filter(from, to, datagram)
      if (verdict === false) continue
      source = verdict === true ? from : verdict
      if (run.length > 0 && datagram.length > run[0]!.length) flush()
      run.push(datagram)
      if (datagram.length < run[0]!.length) flush()
    }
    flush()
  }

  remove(at: Endpoint): void {
    this.#sockets.delete(key(at))
  }
}

export class FakeUdp implements UdpSocket {
  readonly fd: number
  readonly family: 4 | 6
  readonly port: number
  coalesces = true
  split = 0
  splitError = 0
  readonly queue: Message[] = []
  /** errno that sends fail with; 0: none. */
  failWith = 0
  /** Largest datagram payload that the interface carries. */
  largest = MOST
  /** Sends so far, i.e. system calls. */
  sends = 0
  trafficClass = 0
  nat64: Uint8Array | undefined
  /** Sends that were allowed to fragment. */
  fragmented = 0
  readonly #network: FakeUdpNetwork
  readonly #arena: Arena
  readonly #at: Endpoint
  #closed = false

  constructor(network: FakeUdpNetwork, arena: Arena, at: Endpoint, fd: number) {
    this.#network = network
    this.#arena = arena
    this.#at = at
    this.fd = fd
    this.port = at.port
    this.family = at.address.length === 4 ? 4 : 6
  }

  get readable(): boolean {
    return this.queue.length > 0
  }

  receive(batch: ReceiveBatch): number {
    if (this.#closed) return -EBADF
    let n = 0
    for (; n < batch.capacity; n++) {
      const next = this.queue.shift()
      if (next === undefined) break
      this.#arena.u8.set(next.bytes, batch.at[n]!)
      batch.length[n] = next.bytes.length
      batch.segment[n] = next.segment
      batch.local[n] = 0
      batch.trafficClass[n] = next.trafficClass
      writeName(this.#arena.u8, this.#arena.view, batch.name[n]!, next.from, this.family)
    }
    batch.count = n
    return n === 0 ? -EAGAIN : n
  }

  send(nameAt: number, _localAt: number, at: number, length: number, segment: number): number {
    if (this.#closed) return -EBADF
    this.sends++
    if (this.failWith !== 0) return -this.failWith
    const size = segment === 0 ? length : segment
    if (Math.min(size, length) > this.largest) return -EMSGSIZE
    const datagrams: Uint8Array[] = []
    for (let done = 0; done < length; done += size)
      datagrams.push(this.#arena.u8.slice(at + done, at + Math.min(done + size, length)))
    const to = readName(this.#arena.u8, this.#arena.view, nameAt)
    this.#network.deliver(this.#at, to, datagrams, this.trafficClass)
    return 0
  }

  /** Fragments are put together again by the receiving kernel: what arrives is the datagram, however large. */
  sendFragmented(nameAt: number, localAt: number, at: number, length: number, segment: number): number {
    const { largest } = this
    this.largest = MOST
    this.fragmented++
    const result = this.send(nameAt, localAt, at, length, segment)
    this.largest = largest
    return result
  }

  close(): void {
    this.#closed = true
    this.#network.remove(this.#at)
  }
}

function key(endpoint: Endpoint): string {
  return `${endpoint.address.join('.')}:${endpoint.port}`
}

/**
 * Parking: while a flow's packets have no usable path, its newest ones are kept, and sent in order when a path is back: the
 * verdict may have been wrong by a moment, as when a radio stands still for a quarter of a second. Of TCP it is one, since by
 * then TCP has backed off its retransmission timer, and would otherwise stay silent for as long again as the outage lasted. What is older than
 * FRESH_MS is let go, but the newest of each flow.
 *
 * Fixed places in packet memory. When all are taken one of the peer with the most packets gives way: the oldest of those whose flow has
 * another, so that neither one peer nor few flows take the last packet of many. Which peer a packet is for is not known while it has no path:
 * there each destination counts as one. Of a TCP super-packet the first segments are kept, as many as
 * fit: the receiver needs those first.
 */
import {
  addressLength,
  ipHeaderLength,
  isFragment,
  offsetIn,
  Protocol,
  protocolIn,
  setIpLength,
  sourceAt,
  transportOf,
} from '../../core/ip.ts'
import { tcpHeaderLength } from '../../core/tcp.ts'
import { plainTransport } from '../../core/transport.ts'
import type { Arena } from '../../linux/arena.ts'
import { GSO_NONE, VNET_HEADER } from '../../linux/tun.ts'

const PLACE = 2048
const PLACES = 256
/** Packets of one flow that is not TCP. */
const MOST_OF_FLOW = 64
const FRESH_MS = 1000

export class Parking {
  readonly #view: DataView
  readonly #u8: Uint8Array
  readonly #start: number
  readonly #bytes: Int32Array
  readonly #flow: Uint32Array
  readonly #since: Float64Array
  /** Peer that the packet has been sent to, or has come from, or -1. */
  readonly #peer: Int32Array
  /** Places in use, the oldest packet first. */
  readonly #order: number[] = []
  readonly #free: number[] = []
  /** Whose share of the places each takes: the peer's, or below zero a destination's. */
  readonly #owner: Int32Array
  /** Packets of each flow, and of each owner. */
  readonly #counts = new Map<number, number>()
  readonly #ofOwner = new Map<number, number>()

  constructor(arena: Arena, places = PLACES) {
    this.#view = arena.view
    this.#u8 = arena.u8
    this.#start = arena.reserve(places * PLACE)
    this.#bytes = new Int32Array(places)
    this.#flow = new Uint32Array(places)
    this.#since = new Float64Array(places)
    this.#peer = new Int32Array(places)
    this.#owner = new Int32Array(places)
    for (let place = places - 1; place >= 0; place--) this.#free.push(place)
  }

  get size(): number {
    return this.#order.length
  }

  /** When the one came that is taken next (ms). */
  get nextSince(): number {
    return this.#since[this.#order[0]!]!
  }

  /** Keeps a copy of the packet behind the vnet header at `at`, which came at `since` (ms); of one that has left, its `peer`. */
  put(at: number, bytes: number, since: number, peer = -1): void {
    const kept = bytes <= PLACE ? bytes : this.#fitting(at, bytes)
    if (kept === 0) return
    const flow = this.#hash(at + VNET_HEADER, kept - VNET_HEADER)
    const place = this.#placeFor(flow, this.#isTcp(at + VNET_HEADER, kept - VNET_HEADER) ? 1 : MOST_OF_FLOW)
    this.#order.push(place)
    count(this.#counts, flow, 1)
    const owner = peer >= 0 ? peer : this.#destination(at + VNET_HEADER, kept - VNET_HEADER)
    count(this.#ofOwner, owner, 1)
    this.#owner[place] = owner
    this.#flow[place] = flow
    this.#since[place] = since
    this.#peer[place] = peer
    const to = this.#start + place * PLACE
    this.#u8.copyWithin(to, at, at + kept)
    if (kept < bytes) setIpLength(this.#view, to + VNET_HEADER, kept - VNET_HEADER)
    this.#bytes[place] = kept
  }

  /** Gives `other` what was sent to `peer` after `after` (ms), and forgets the rest of what was. */
  move(peer: number, after: number, other: Parking): void {
    for (let i = 0; i < this.#order.length; ) {
      const place = this.#order[i]!
      if (this.#peer[place] !== peer) i++
      else {
        this.#free.push(this.#remove(i))
        const since = this.#since[place]!
        if (since > after) other.put(this.#start + place * PLACE, this.#bytes[place]!, since)
      }
    }
  }

  /** Takes the oldest out, to `to`, or the oldest of `peer`; returns its length with the vnet header, 0 when there is none. */
  take(to: number, peer?: number): number {
    const i = peer === undefined ? 0 : this.#order.findIndex((place) => this.#peer[place] === peer)
    if (i < 0 || this.#order.length === 0) return 0
    const place = this.#remove(i)
    this.#free.push(place)
    const from = this.#start + place * PLACE
    const bytes = this.#bytes[place]!
    this.#u8.copyWithin(to, from, from + bytes)
    return bytes
  }

  /** Lets go what is too old to be of use and not the newest of its flow. */
  expire(now: number): void {
    for (let i = 0; i < this.#order.length; ) {
      const isOld = now - this.#since[this.#order[i]!]! > FRESH_MS
      if (isOld && this.#hasNewer(i)) this.#free.push(this.#remove(i))
      else i++
    }
  }

  /** A place for a packet of this flow, which may have `atMost`. */
  #placeFor(flow: number, atMost: number): number {
    if ((this.#counts.get(flow) ?? 0) >= atMost)
      return this.#remove(this.#order.findIndex((place) => this.#flow[place] === flow))
    const free = this.#free.pop()
    if (free !== undefined) return free
    const most = Math.max(...this.#ofOwner.values())
    const isOfMost = (place: number) => this.#ofOwner.get(this.#owner[place]!) === most
    const isShared = this.#counts.size < this.#order.length
    const shared = isShared ? this.#order.findIndex((place, i) => isOfMost(place) && this.#hasNewer(i)) : -1
    return this.#remove(shared >= 0 ? shared : this.#order.findIndex(isOfMost))
  }

  /** Whether the flow of this packet has a newer one: it has several, and the oldest is met first. */
  #hasNewer(i: number): boolean {
    return this.#counts.get(this.#flow[this.#order[i]!]!)! > 1
  }

  #remove(i: number): number {
    const place = this.#order.splice(i, 1)[0]!
    count(this.#counts, this.#flow[place]!, -1)
    count(this.#ofOwner, this.#owner[place]!, -1)
    return place
  }

  #isTcp(packet: number, length: number): boolean {
    const transport = transportOf(this.#view, packet, length)
    return transport >= 0 && protocolIn(transport) === Protocol.TCP
  }

  /** Bytes of a TCP super-packet with as many whole segments as fit a place; 0 when it cannot be cut. */
  #fitting(at: number, bytes: number): number {
    const view = this.#view
    const packet = at + VNET_HEADER
    const gso = view.getUint16(at + 4, true)
    if (view.getUint8(at + 1) === GSO_NONE || gso === 0) return 0
    if (plainTransport(view, packet, bytes - VNET_HEADER) !== Protocol.TCP) return 0
    const ip = ipHeaderLength(view, packet)
    const header = ip + tcpHeaderLength(view, packet + ip)
    const segments = Math.floor((PLACE - VNET_HEADER - header) / gso)
    if (segments === 0) return 0
    return VNET_HEADER + header + segments * gso
  }

  /** A number below zero for the address that the packet goes to. */
  #destination(packet: number, length: number): number {
    const view = this.#view
    if (transportOf(view, packet, length) < 0) return -1
    const width = addressLength(view, packet)
    const to = sourceAt(view, packet) + width
    let h = width
    for (let i = 0; i < width; i += 4) h = mix(h, view.getUint32(to + i))
    return -1 - (h >>> 1)
  }

  #hash(packet: number, length: number): number {
    const view = this.#view
    const transport = transportOf(view, packet, length)
    if (transport < 0) return 0
    const protocol = protocolIn(transport)
    const from = sourceAt(view, packet)
    let h: number = protocol
    for (let i = 0; i < 2 * addressLength(view, packet); i += 4) h = mix(h, view.getUint32(from + i))
    const offset = offsetIn(transport)
    const ports = protocol === Protocol.TCP || protocol === Protocol.UDP
    if (ports && !isFragment(transport) && offset + 4 <= length) h = mix(h, view.getUint32(packet + offset))
    return h >>> 0
  }
}

function count(counts: Map<number, number>, key: number, more: 1 | -1): void {
  const n = (counts.get(key) ?? 0) + more
  if (n === 0) counts.delete(key)
  else counts.set(key, n)
}

function mix(h: number, word: number): number {
  const m = Math.imul(h ^ word, 0x9e3779b1)
  return m ^ (m >>> 15)
}

/**
 * Parking: while a flow's packets have no usable path, the newest one is kept, and sent when a path is back. By then TCP
 * has backed off its retransmission timer, and would otherwise stay silent for as long again as the outage lasted.
 *
 * A circle of fixed slots in packet memory, one per flow; the oldest flow is displaced. Of a TCP super-packet the first
 * segments are kept, as many as fit: the receiver needs those first.
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

export class Parking {
  readonly #view: DataView
  readonly #u8: Uint8Array
  readonly #start: number
  readonly #places: number
  readonly #bytes: Int32Array
  readonly #flow: Uint32Array
  #oldest = 0
  #count = 0

  /** Max `places` flows. */
  constructor(arena: Arena, places = 256) {
    this.#view = arena.view
    this.#u8 = arena.u8
    this.#places = places
    this.#start = arena.reserve(places * PLACE)
    this.#bytes = new Int32Array(places)
    this.#flow = new Uint32Array(places)
  }

  get size(): number {
    return this.#count
  }

  /** Keeps the packet behind the vnet header at `at` in the place of the last one of its flow. */
  put(at: number, bytes: number): void {
    const kept = bytes <= PLACE ? bytes : this.#shorten(at, bytes)
    if (kept === 0) return
    const flow = this.#hash(at + VNET_HEADER, kept - VNET_HEADER)
    let place = -1
    for (let n = 0; n < this.#count && place < 0; n++) {
      const i = (this.#oldest + n) % this.#places
      if (this.#flow[i] === flow) place = i
    }
    if (place < 0) {
      if (this.#count === this.#places) {
        this.#oldest = (this.#oldest + 1) % this.#places
        this.#count--
      }
      place = (this.#oldest + this.#count++) % this.#places
      this.#flow[place] = flow
    }
    this.#u8.copyWithin(this.#start + place * PLACE, at, at + kept)
    this.#bytes[place] = kept
  }

  /** Takes the oldest out, to `to`; returns its length with the vnet header, 0 when there is none. */
  take(to: number): number {
    if (this.#count === 0) return 0
    const from = this.#start + this.#oldest * PLACE
    const bytes = this.#bytes[this.#oldest]!
    this.#u8.copyWithin(to, from, from + bytes)
    this.#oldest = (this.#oldest + 1) % this.#places
    this.#count--
    return bytes
  }

  /** Cuts a TCP super-packet in place down to whole segments that fit a place; 0 when it cannot be. */
  #shorten(at: number, bytes: number): number {
    const view = this.#view
    const packet = at + VNET_HEADER
    const gso = view.getUint16(at + 4, true)
    if (view.getUint8(at + 1) === GSO_NONE || gso === 0) return 0
    if (plainTransport(view, packet, bytes - VNET_HEADER) !== Protocol.TCP) return 0
    const ip = ipHeaderLength(view, packet)
    const header = ip + tcpHeaderLength(view, packet + ip)
    const segments = Math.floor((PLACE - VNET_HEADER - header) / gso)
    if (segments === 0) return 0
    const length = header + segments * gso
    setIpLength(view, packet, length)
    return VNET_HEADER + length
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

function mix(h: number, word: number): number {
  const m = Math.imul(h ^ word, 0x9e3779b1)
  return m ^ (m >>> 15)
}

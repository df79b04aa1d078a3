/** A NAT on a path: it keeps the client's ports as long as it can, and knows nothing of its connections after it was restarted. */
import { viewOf } from '../../../src/core/bytes.ts'
import { ipHeaderLength } from '../../../src/core/ip.ts'
import { TCP } from '../../../src/core/tcp.ts'
import { seal } from './kernel-path.ts'
import { take } from './packets.ts'

export class Nat {
  readonly #random: () => number
  /** By the port inside and the one outside. */
  readonly #out = new Map<number, number>()
  readonly #in = new Map<number, number>()
  #keeps = true

  constructor(random: () => number) {
    this.#random = random
  }

  restart(): void {
    this.#out.clear()
    this.#in.clear()
    this.#keeps = false
  }

  out(packet: Uint8Array): Uint8Array {
    const inside = portAt(packet, TCP.SRC_PORT)
    let outside = this.#out.get(inside)
    if (outside === undefined) {
      outside = this.#keeps ? inside : 1024 + Math.floor(this.#random() * 30_000)
      this.#out.set(inside, outside)
      this.#in.set(outside, inside)
    }
    return withPort(packet, TCP.SRC_PORT, outside)
  }

  /** Undefined for what nothing from inside began. */
  in(packet: Uint8Array): Uint8Array | undefined {
    const inside = this.#in.get(portAt(packet, TCP.DST_PORT))
    return inside === undefined ? undefined : withPort(packet, TCP.DST_PORT, inside)
  }
}

function portAt(packet: Uint8Array, field: number): number {
  const view = viewOf(packet)
  return view.getUint16(ipHeaderLength(view, 0) + field)
}

function withPort(packet: Uint8Array, field: number, port: number): Uint8Array {
  const out = take(packet.length)
  out.set(packet)
  const view = viewOf(out)
  const ip = ipHeaderLength(view, 0)
  view.setUint16(ip + field, port)
  seal(out, ip)
  return out
}

/** UDP sockets in any namespace for a test that plays the network: raw datagrams, and a relay that sees all of them. */
import type { Endpoint } from '../../src/core/endpoint.ts'
import { Arena } from '../../src/linux/arena.ts'
import { inNamespace } from '../../src/linux/netns.ts'
import { readName, writeName } from '../../src/linux/sockaddr.ts'
import { openUdp, ReceiveBatch, type UdpSocket } from '../../src/linux/udp.ts'

export interface Datagram {
  readonly bytes: Uint8Array
  readonly from: Endpoint
}

export class RawUdp {
  readonly #arena = new Arena(1 << 20)
  readonly #batch = new ReceiveBatch(this.#arena, 4)
  readonly #name = this.#arena.reserve(32)
  readonly #data = this.#arena.reserve(65_536)
  readonly #socket: UdpSocket

  constructor(netns: string, address: Uint8Array, port = 0) {
    this.#socket = inNamespace(netns, () => openUdp(this.#arena, { family: 4, address, port }))
  }

  get port(): number {
    return this.#socket.port
  }

  /** Returns 0 or -errno. */
  send(bytes: Uint8Array, to: Endpoint): number {
    const { u8, view } = this.#arena
    writeName(u8, view, this.#name, to, 4)
    u8.set(bytes, this.#data)
    return this.#socket.send(this.#name, 0, this.#data, bytes.length, 0)
  }

  /** What has arrived. */
  receive(): Datagram[] {
    const out: Datagram[] = []
    const batch = this.#batch
    const { u8, view } = this.#arena
    while (this.#socket.receive(batch) > 0)
      for (let i = 0; i < batch.count; i++) {
        const from = readName(u8, view, batch.name[i]!)
        const end = batch.at[i]! + batch.length[i]!
        for (let at = batch.at[i]!; at < end; at += batch.segment[i]!)
          out.push({ bytes: u8.slice(at, Math.min(at + batch.segment[i]!, end)), from })
      }
    return out
  }

  close(): void {
    this.#socket.close()
  }
}

/** Stands between an initiator and `target`: forwards both ways, keeps copies, may swallow. */
export class Relay {
  readonly front: RawUdp
  readonly back: RawUdp
  /** What came from the initiator and from the target, the newest thousand. */
  readonly up: Uint8Array[] = []
  readonly down: Uint8Array[] = []
  /** Return false to swallow a datagram from the initiator. */
  filter: (bytes: Uint8Array) => boolean = () => true
  readonly #target: Endpoint
  readonly #timer: NodeJS.Timeout
  #initiator: Endpoint | undefined

  constructor(netns: string, front: Endpoint, back: Uint8Array, target: Endpoint) {
    this.front = new RawUdp(netns, front.address, front.port)
    this.back = new RawUdp(netns, back)
    this.#target = target
    this.#timer = setInterval(() => this.#turn(), 1)
  }

  #turn(): void {
    for (const { bytes, from } of this.front.receive()) {
      this.#initiator = from
      keep(this.up, bytes)
      if (this.filter(bytes)) this.back.send(bytes, this.#target)
    }
    for (const { bytes } of this.back.receive()) {
      keep(this.down, bytes)
      if (this.#initiator !== undefined) this.front.send(bytes, this.#initiator)
    }
  }

  /** Where the initiator sends from. */
  get initiator(): Endpoint {
    return this.#initiator!
  }

  close(): void {
    clearInterval(this.#timer)
    this.front.close()
    this.back.close()
  }
}

function keep(list: Uint8Array[], bytes: Uint8Array): void {
  if (list.length === 1000) list.shift()
  list.push(bytes)
}

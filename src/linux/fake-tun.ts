/** An in-memory TUN device: `inject` what the kernel would send, look at `written`. One compliance suite with the real one. */
import { EAGAIN, EBADF, EINVAL } from '../core/errno.ts'
import type { Arena } from './arena.ts'
import { type Tun, VNET_HEADER } from './tun.ts'

export class FakeTun implements Tun {
  readonly name: string
  readonly fd: number
  readonly udpSegments = true
  /** Everything written: vnet header and packet, copied. */
  readonly written: Uint8Array[] = []
  offloads: 'segments' | 'checksums' = 'segments'
  carrier = true
  /** errno that the next write fails with; 0: none. */
  failNext = 0
  readonly #arena: Arena
  readonly #queue: Uint8Array[] = []
  #closed = false

  constructor(arena: Arena, name = 'fake0', fd = 1000) {
    this.#arena = arena
    this.name = name
    this.fd = fd
  }

  /** Queues a vnet header and packet to be read. */
  inject(bytes: Uint8Array): void {
    this.#queue.push(bytes.slice())
  }

  get readable(): boolean {
    return this.#queue.length > 0
  }

  read(at: number, length: number): number {
    if (this.#closed) return -EBADF
    const next = this.#queue.shift()
    if (next === undefined) return -EAGAIN
    const bytes = Math.min(next.length, length)
    this.#arena.u8.set(next.subarray(0, bytes), at)
    return bytes
  }

  write(at: number, length: number): number {
    return this.#take(this.#arena.u8.slice(at, at + length))
  }

  writev(iovecAt: number, count: number): number {
    const { view, u8, base } = this.#arena
    const parts: Uint8Array[] = []
    for (let i = 0; i < count; i++) {
      const at = Number(view.getBigUint64(iovecAt + 16 * i, true)) - base
      const length = Number(view.getBigUint64(iovecAt + 16 * i + 8, true))
      parts.push(u8.subarray(at, at + length))
    }
    return this.#take(new Uint8Array(Buffer.concat(parts)))
  }

  #take(bytes: Uint8Array): number {
    if (this.#closed) return -EBADF
    if (this.failNext !== 0) {
      const number = this.failNext
      this.failNext = 0
      return -number
    }
    const version = (bytes[VNET_HEADER] ?? 0) >> 4
    if (version !== 4 && version !== 6) return -EINVAL
    this.written.push(bytes)
    return bytes.length
  }

  setOffloads(offloads: 'segments' | 'checksums'): void {
    this.offloads = offloads
  }

  setCarrier(carrier: boolean): void {
    this.carrier = carrier
  }

  close(): void {
    this.#closed = true
  }
}

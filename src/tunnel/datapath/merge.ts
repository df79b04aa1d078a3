/**
 * From datagrams to super-packets: adjacent TCP segments of one flow become one packet for the TUN. Nothing is copied: the
 * first segment's header is rewritten where it lies, the vnet header goes directly in front of it, and the payloads are
 * gathered by writev from where they were decrypted. So packets stay in the receive buffer until `flush`.
 *
 * Segments merge when their headers are equal apart from length, identification, sequence number, PSH and checksum; only
 * plain data (ACK, PSH); all of one size, the last may be shorter; PSH ends the packet. UDP datagrams likewise, where the kernel
 * takes them so.
 */
import { fold, pseudoSum } from '../../core/checksum.ts'
import type { Arena } from '../../linux/arena.ts'
import { GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, type Tun, VNET_HEADER, VNET_NEEDS_CSUM } from '../../linux/tun.ts'
import {
  ACK,
  checksumHolds,
  ipHeaderLength,
  PSH,
  plainTransport,
  sealIpv4Header,
  TCP,
  TCP_ACK,
  TCP_CHECKSUM,
  TCP_DATA_OFFSET,
  TCP_FLAGS,
  TCP_SEQ,
  UDP,
  UDP_CHECKSUM,
  UDP_HEADER,
} from './headers.ts'

const SEGMENTS = 128
/** UDP_MAX_SEGMENTS of kernels before 6.9. */
const DATAGRAMS = 64
const MOST = 65_535
/** What a write to a device that is down gets (drivers/net/tun.c). */
const EIO = 5

export class Merger {
  readonly #arena: Arena
  readonly #view: DataView
  readonly #u8: Uint8Array
  readonly #tun: Tun
  readonly #iovecs: number
  /** The open super-packet; 0 when there is none. */
  #packet = 0
  #length = 0
  #header = 0
  #ip = 0
  #segment = 0
  #count = 0
  #protocol = TCP
  #nextSeq = 0
  #closed = false
  /** `down`: writes while the device was down, as before it is configured; `failed`: all other writes that failed. */
  counts = { packets: 0, writes: 0, down: 0, failed: 0 }
  /** errno of the last write that failed, 0 for none. */
  lastError = 0

  constructor(arena: Arena, tun: Tun) {
    this.#arena = arena
    this.#view = arena.view
    this.#u8 = arena.u8
    this.#tun = tun
    this.#iovecs = arena.reserve(16 * SEGMENTS)
  }

  /**
   * Takes the IP packet at `packet`. The 10 bytes in front of it are free, and what lies there stays untouched until
   * `flush`. `partial`: its TCP or UDP checksum is still to be computed.
   */
  add(packet: number, length: number, partial: boolean): void {
    const view = this.#view
    this.counts.packets++
    const protocol = plainTransport(view, packet, length)
    if (protocol === UDP && this.#tun.udpSegments) {
      this.#addDatagram(packet, length, partial)
      return
    }
    if (protocol !== TCP) {
      this.flush()
      this.#single(packet, length, partial, protocol)
      return
    }
    const ip = ipHeaderLength(view, packet)
    const header = ip + (view.getUint8(packet + ip + TCP_DATA_OFFSET) >> 4) * 4
    const payload = length - header
    const flags = view.getUint8(packet + ip + TCP_FLAGS)
    if (
      payload === 0 ||
      (flags & ~PSH) !== ACK ||
      (!partial && !checksumHolds(view, packet, length, packet + ip, TCP))
    ) {
      this.flush()
      this.#single(packet, length, partial, TCP)
      return
    }
    const seq = view.getUint32(packet + ip + TCP_SEQ)
    if (this.#packet !== 0 && seq === this.#nextSeq && this.#fits(TCP, packet, ip, header, payload)) {
      this.#append(packet + header, payload)
      if ((flags & PSH) !== 0) {
        this.#u8[this.#packet + ip + TCP_FLAGS] = flags
        this.#closed = true
      } else this.#closed = payload < this.#segment || this.#count === SEGMENTS
    } else {
      this.#begin(TCP, packet, length, ip, header)
      this.#closed = (flags & PSH) !== 0
    }
    this.#nextSeq = (seq + payload) >>> 0
  }

  /** UDP datagrams of one flow and size, the last may be shorter, become one packet of several datagrams. */
  #addDatagram(packet: number, length: number, partial: boolean): void {
    const view = this.#view
    const ip = ipHeaderLength(view, packet)
    const header = ip + UDP_HEADER
    const payload = length - header
    const whole = payload > 0 && view.getUint16(packet + ip + 4) === length - ip
    const checked =
      partial ||
      (view.getUint16(packet + ip + UDP_CHECKSUM) !== 0 &&
        checksumHolds(view, packet, length, packet + ip, UDP))
    if (!whole || !checked) {
      this.flush()
      this.#single(packet, length, partial, UDP)
      return
    }
    if (this.#packet !== 0 && this.#fits(UDP, packet, ip, header, payload)) {
      this.#append(packet + header, payload)
      this.#closed = payload < this.#segment || this.#count === DATAGRAMS
    } else this.#begin(UDP, packet, length, ip, header)
  }

  #begin(protocol: number, packet: number, length: number, ip: number, header: number): void {
    this.flush()
    this.#protocol = protocol
    this.#packet = packet
    this.#length = length
    this.#header = header
    this.#ip = ip
    this.#segment = length - header
    this.#count = 1
    this.#closed = false
  }

  #append(payloadAt: number, payload: number): void {
    const iovec = this.#iovecs + 16 * this.#count
    this.#arena.setUint64(iovec, this.#arena.base + payloadAt)
    this.#arena.setUint64(iovec + 8, payload)
    this.#length += payload
    this.#count++
  }

  #fits(protocol: number, packet: number, ip: number, header: number, payload: number): boolean {
    if (
      this.#closed ||
      protocol !== this.#protocol ||
      header !== this.#header ||
      ip !== this.#ip ||
      payload > this.#segment ||
      this.#length + payload > MOST
    )
      return false
    const view = this.#view
    const sameIp = view.getUint8(packet) >> 4 === 6 ? this.#sameIpv6(packet) : this.#sameIpv4(packet, ip)
    return sameIp && (protocol === TCP ? this.#sameTcp(packet, ip) : this.#samePorts(packet, ip))
  }

  /** Version, class and flow label; next header and hop limit; addresses. */
  #sameIpv6(packet: number): boolean {
    const view = this.#view
    const first = this.#packet
    if (view.getUint32(packet) !== view.getUint32(first)) return false
    if (view.getUint16(packet + 6) !== view.getUint16(first + 6)) return false
    for (let i = 8; i < 40; i += 4) if (view.getUint32(packet + i) !== view.getUint32(first + i)) return false
    return true
  }

  #samePorts(packet: number, ip: number): boolean {
    return this.#view.getUint32(packet + ip) === this.#view.getUint32(this.#packet + ip)
  }

  #sameIpv4(packet: number, ip: number): boolean {
    const view = this.#view
    const first = this.#packet
    if (view.getUint16(packet) !== view.getUint16(first)) return false
    if (view.getUint32(packet + 6) !== view.getUint32(first + 6)) return false
    for (let i = 12; i < ip; i += 4)
      if (view.getUint32(packet + i) !== view.getUint32(first + i)) return false
    return true
  }

  #sameTcp(packet: number, ip: number): boolean {
    const view = this.#view
    const a = packet + ip
    const b = this.#packet + ip
    if (view.getUint32(a) !== view.getUint32(b)) return false
    if (view.getUint32(a + TCP_ACK) !== view.getUint32(b + TCP_ACK)) return false
    // Data offset and window; flags were looked at.
    if (view.getUint8(a + TCP_DATA_OFFSET) !== view.getUint8(b + TCP_DATA_OFFSET)) return false
    if (view.getUint16(a + 14) !== view.getUint16(b + 14)) return false
    if (view.getUint16(a + 18) !== view.getUint16(b + 18)) return false
    for (let i = 20; i < this.#header - ip; i += 4)
      if (view.getUint32(a + i) !== view.getUint32(b + i)) return false
    return true
  }

  /** Writes the open super-packet. */
  flush(): void {
    const packet = this.#packet
    if (packet === 0) return
    this.#packet = 0
    const view = this.#view
    const ip = this.#ip
    const total = this.#length
    const at = packet - VNET_HEADER
    const v6 = view.getUint8(packet) >> 4 === 6
    const udp = this.#protocol === UDP
    if (this.#count > 1) {
      if (v6) view.setUint16(packet + 4, total - ip)
      else {
        view.setUint16(packet + 2, total)
        sealIpv4Header(view, packet, ip)
      }
      this.#u8[at] = VNET_NEEDS_CSUM
      if (udp) view.setUint16(packet + ip + 4, total - ip)
      this.#u8[at + 1] = udp ? GSO_UDP_L4 : v6 ? GSO_TCPV6 : GSO_TCPV4
      view.setUint16(at + 2, this.#header, true)
      view.setUint16(at + 4, this.#segment, true)
    } else {
      this.#u8[at] = VNET_NEEDS_CSUM
      this.#u8[at + 1] = 0
      view.setUint32(at + 2, 0)
    }
    view.setUint16(at + 6, ip, true)
    const field = udp ? UDP_CHECKSUM : TCP_CHECKSUM
    view.setUint16(at + 8, field, true)
    view.setUint16(packet + ip + field, fold(pseudoSum(view, packet, this.#protocol, total - ip)))
    const first = this.#header + this.#segment
    this.#arena.setUint64(this.#iovecs, this.#arena.base + at)
    this.#arena.setUint64(this.#iovecs + 8, VNET_HEADER + first)
    this.#wrote(
      this.#count > 1
        ? this.#tun.writev(this.#iovecs, this.#count)
        : this.#tun.write(at, VNET_HEADER + first),
    )
  }

  #single(packet: number, length: number, partial: boolean, protocol: number): void {
    const view = this.#view
    const at = packet - VNET_HEADER
    view.setUint32(at, 0)
    view.setUint32(at + 4, 0)
    view.setUint16(at + 8, 0)
    if (partial && protocol !== 0) {
      const ip = ipHeaderLength(view, packet)
      const field = protocol === TCP ? TCP_CHECKSUM : UDP_CHECKSUM
      this.#u8[at] = VNET_NEEDS_CSUM
      view.setUint16(at + 6, ip, true)
      view.setUint16(at + 8, field, true)
      view.setUint16(packet + ip + field, fold(pseudoSum(view, packet, protocol, length - ip)))
    }
    this.#wrote(this.#tun.write(at, VNET_HEADER + length))
  }

  #wrote(result: number): void {
    this.counts.writes++
    if (result >= 0) return
    if (result === -EIO) {
      this.counts.down++
      return
    }
    this.counts.failed++
    this.lastError = -result
  }
}

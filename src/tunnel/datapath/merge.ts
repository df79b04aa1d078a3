/**
 * From datagrams to super-packets: adjacent TCP segments of one flow become one packet for the TUN. Nothing is copied: the
 * first segment's header is rewritten where it lies, the vnet header goes directly in front of it, and the payloads are
 * gathered by writev from where they were decrypted. So packets stay in the receive buffer until `flush`.
 *
 * Segments merge when their headers are equal apart from length, identification, sequence number, PSH and checksum; only
 * plain data (ACK, PSH); all of one size, the last may be shorter; PSH ends the packet. UDP datagrams likewise, where the kernel
 * takes them so.
 */
import { EIO } from '../../core/errno.ts'
import { ipHeaderLength, ipVersion, Protocol, setIpLength } from '../../core/ip.ts'
import { IPV4, sealIpv4Header } from '../../core/ipv4.ts'
import { IPV6 } from '../../core/ipv6.ts'
import { TCP as TCP_AT, TcpFlag, tcpFlags, tcpHeaderLength, tcpSeq } from '../../core/tcp.ts'
import { checksumHolds, plainTransport, writePartialChecksum } from '../../core/transport.ts'
import { UDP as UDP_AT } from '../../core/udp.ts'
import type { Arena } from '../../linux/arena.ts'
import { GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, type Tun, VNET_HEADER, VNET_NEEDS_CSUM } from '../../linux/tun.ts'

const { TCP, UDP } = Protocol
const { ACK, PSH } = TcpFlag
const { FLAGS, DATA_OFFSET, WINDOW, URGENT, OPTIONS } = TCP_AT
const TCP_ACK = TCP_AT.ACK
const TCP_CHECKSUM = TCP_AT.CHECKSUM
const UDP_LENGTH = UDP_AT.LENGTH
const UDP_CHECKSUM = UDP_AT.CHECKSUM
const UDP_HEADER = UDP_AT.HEADER
/** Fragment bits, TTL and protocol. */
const FRAGMENT4 = IPV4.FRAGMENT
const ADDRESSES4 = IPV4.SRC
/** Next header and hop limit. */
const NEXT6 = IPV6.NEXT_HEADER
const ADDRESSES6 = IPV6.SRC
const HEADER6 = IPV6.HEADER
const SEGMENTS = 128
/** UDP_MAX_SEGMENTS of kernels before 6.9. */
const DATAGRAMS = 64
const MOST = 65_535
/** Error of a write to a device that is down (drivers/net/tun.c). */

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
  #protocol: number = TCP
  #nextSeq = 0
  #closed = false
  /**
   * `down`: writes that failed because the device was down, for example before it is configured; `failed`: all others.
   */
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
    const header = ip + tcpHeaderLength(view, packet + ip)
    const payload = length - header
    const flags = tcpFlags(view, packet + ip)
    if (
      payload === 0 ||
      (flags & ~PSH) !== ACK ||
      (!partial && !checksumHolds(view, packet, length, packet + ip, TCP))
    ) {
      this.flush()
      this.#single(packet, length, partial, TCP)
      return
    }
    const seq = tcpSeq(view, packet + ip)
    if (this.#packet !== 0 && seq === this.#nextSeq && this.#fits(TCP, packet, ip, header, payload)) {
      this.#append(packet + header, payload)
      if ((flags & PSH) !== 0) {
        this.#u8[this.#packet + ip + FLAGS] = flags
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
    const whole = payload > 0 && view.getUint16(packet + ip + UDP_LENGTH) === length - ip
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
    const sameIp = ipVersion(view, packet) === 6 ? this.#sameIpv6(packet) : this.#sameIpv4(packet, ip)
    return sameIp && (protocol === TCP ? this.#sameTcp(packet, ip) : this.#samePorts(packet, ip))
  }

  /** Version, class and flow label; next header and hop limit; addresses. */
  #sameIpv6(packet: number): boolean {
    const view = this.#view
    const first = this.#packet
    if (view.getUint32(packet) !== view.getUint32(first)) return false
    if (view.getUint16(packet + NEXT6) !== view.getUint16(first + NEXT6)) return false
    for (let i = ADDRESSES6; i < HEADER6; i += 4)
      if (view.getUint32(packet + i) !== view.getUint32(first + i)) return false
    return true
  }

  #samePorts(packet: number, ip: number): boolean {
    return this.#view.getUint32(packet + ip) === this.#view.getUint32(this.#packet + ip)
  }

  #sameIpv4(packet: number, ip: number): boolean {
    const view = this.#view
    const first = this.#packet
    if (view.getUint16(packet) !== view.getUint16(first)) return false
    if (view.getUint32(packet + FRAGMENT4) !== view.getUint32(first + FRAGMENT4)) return false
    for (let i = ADDRESSES4; i < ip; i += 4)
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
    if (view.getUint8(a + DATA_OFFSET) !== view.getUint8(b + DATA_OFFSET)) return false
    if (view.getUint16(a + WINDOW) !== view.getUint16(b + WINDOW)) return false
    if (view.getUint16(a + URGENT) !== view.getUint16(b + URGENT)) return false
    for (let i = OPTIONS; i < this.#header - ip; i += 4)
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
    const v6 = ipVersion(view, packet) === 6
    const udp = this.#protocol === UDP
    if (this.#count > 1) {
      setIpLength(view, packet, total)
      if (!v6) sealIpv4Header(view, packet, ip)
      this.#u8[at] = VNET_NEEDS_CSUM
      if (udp) view.setUint16(packet + ip + UDP_LENGTH, total - ip)
      this.#u8[at + 1] = udp ? GSO_UDP_L4 : v6 ? GSO_TCPV6 : GSO_TCPV4
      view.setUint16(at + 2, this.#header, true)
      view.setUint16(at + 4, this.#segment, true)
    } else {
      this.#u8[at] = VNET_NEEDS_CSUM
      this.#u8[at + 1] = 0
      view.setUint32(at + 2, 0)
    }
    view.setUint16(at + 6, ip, true)
    view.setUint16(at + 8, udp ? UDP_CHECKSUM : TCP_CHECKSUM, true)
    writePartialChecksum(view, packet, total, packet + ip, this.#protocol)
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
      this.#u8[at] = VNET_NEEDS_CSUM
      view.setUint16(at + 6, ip, true)
      view.setUint16(at + 8, protocol === TCP ? TCP_CHECKSUM : UDP_CHECKSUM, true)
      writePartialChecksum(view, packet, length, packet + ip, protocol)
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

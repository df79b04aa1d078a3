/**
 * From the TUN to the paths: a super-packet is cut into datagrams that its path carries, each sealed. The header of a
 * segment is written directly in front of its payload inside the read buffer, over the tail of the segment before it
 * (sealed already), so that one cipher call covers header and payload and nothing is copied.
 *
 * A godwit peer gets partial checksums as they are (flag 0x02); a stock peer gets whole ones, and padding.
 */
import { addSum, complete, finish } from '../../core/checksum.ts'
import { ecnOf } from '../../core/ecn.ts'
import { TOO_BIG_MAX, writeTooBig } from '../../core/icmp.ts'
import { ipHeaderLength, ipLength, ipVersion, Protocol, setIpLength } from '../../core/ip.ts'
import { IPV4, sealIpv4Header } from '../../core/ipv4.ts'
import { clampMss, TCP as TCP_AT, TcpFlag, tcpFlags, tcpHeaderLength, tcpSeq } from '../../core/tcp.ts'
import { checksumHolds, completeChecksum, plainTransport } from '../../core/transport.ts'
import { UDP as UDP_AT } from '../../core/udp.ts'
import type { Arena } from '../../linux/arena.ts'
import {
  GSO_NONE,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP_L4,
  TUN_BUFFER,
  type Tun,
  VNET_HEADER,
  VNET_NEEDS_CSUM,
} from '../../linux/tun.ts'
import { FLAG_ORDERED, FLAG_PARTIAL, INNER_HEADER } from '../protocol/wire.ts'
import { type Forwarder, type SlowPath, Spread, Verdict } from '../seam.ts'
import { writeFragments } from './fragment.ts'
import type { Parking } from './parking.ts'
import type { Sender } from './sender.ts'
import type { PathTable, PeerTable } from './tables.ts'

const { TCP, UDP } = Protocol
const { FIN, SYN, RST, PSH, ACK, URG, CWR } = TcpFlag
const { SEQ, FLAGS } = TCP_AT
const TCP_HEADER = TCP_AT.MIN_HEADER
const UDP_LENGTH = UDP_AT.LENGTH
const UDP_HEADER = UDP_AT.HEADER
const { TOTAL_LENGTH, IDENTIFICATION, FRAGMENT, DONT_FRAGMENT } = IPV4
const HEADER_CHECKSUM = IPV4.CHECKSUM

/** Room in front of the vnet header, so that what is written in front of a first header stays inside the buffer. */
const MARGIN = 64
const IPV6_LEAST_MTU = 1280
/** As much of a packet as an ICMP error quotes, kept from before the forwarder rewrote it. */
const ORIGINAL = 128
/** What is sent to a peer that was silent for so long (ms) is kept, in case that it has ended. */
const SILENT_MS = 20
/** The same of one packet in this time (ms), whatever was heard: a single one that meets the end of the peer's process on its way. */
const SINGLE_MS = 5

export class Outbound {
  readonly #view: DataView
  readonly #u8: Uint8Array
  readonly #tun: Tun
  readonly #forwarder: Forwarder
  readonly #spread: Spread
  readonly #machine: () => SlowPath
  readonly #peers: PeerTable
  readonly #paths: PathTable
  readonly #sender: Sender
  readonly #parking: Parking
  readonly #unread: Parking
  /** When the packet came that is handled now. */
  #since = 0
  /** The read buffer: vnet header, packet. */
  readonly #buffer: number
  readonly #original: number
  readonly #template: number
  readonly #scratch: number
  counts = { packets: 0, dropped: 0, tooBig: 0, parked: 0, recut: 0 }

  constructor(parts: {
    readonly arena: Arena
    readonly tun: Tun
    readonly forwarder: Forwarder
    readonly machine: () => SlowPath
    readonly peers: PeerTable
    readonly paths: PathTable
    readonly sender: Sender
    readonly parking: Parking
    readonly unread: Parking
  }) {
    this.#view = parts.arena.view
    this.#u8 = parts.arena.u8
    this.#tun = parts.tun
    this.#forwarder = parts.forwarder
    this.#spread = parts.forwarder.spread ?? new Spread()
    this.#machine = parts.machine
    this.#peers = parts.peers
    this.#paths = parts.paths
    this.#sender = parts.sender
    this.#parking = parts.parking
    this.#unread = parts.unread
    this.#buffer = parts.arena.reserve(MARGIN + TUN_BUFFER + MARGIN) + MARGIN
    this.#original = parts.arena.reserve(ORIGINAL)
    this.#template = parts.arena.reserve(128)
    this.#scratch = parts.arena.reserve(VNET_HEADER + TOO_BIG_MAX)
  }

  /** Reads and sends up to `most` super-packets; returns their number. The last batch stays open. */
  read(most: number, now: number): number {
    let n = 0
    for (; n < most; n++) {
      const bytes = this.#tun.read(this.#buffer, TUN_BUFFER)
      if (bytes <= VNET_HEADER) break
      this.handle(this.#buffer, bytes, now)
    }
    return n
  }

  /** Asks again for every parked packet: a path may be back. */
  retryParked(now: number): void {
    this.#parking.expire(now)
    for (let n = this.#parking.size; n > 0; n--) {
      const since = this.#parking.nextSince
      const bytes = this.#parking.take(this.#buffer)
      if (bytes > 0) this.handle(this.#buffer, bytes, now, since)
    }
    this.#sender.flush()
  }

  /** Sends the packet behind the vnet header at `at`, which came at `since` (ms). What lies there is overwritten. */
  handle(at: number, bytes: number, now: number, since = now): void {
    const view = this.#view
    const packet = at + VNET_HEADER
    const length = ipLength(view, packet, bytes - VNET_HEADER)
    this.counts.packets++
    if (length === 0) {
      this.counts.dropped++
      return
    }
    const partial = (view.getUint8(at) & VNET_NEEDS_CSUM) !== 0
    const kept = Math.min(length, ORIGINAL)
    this.#since = since
    this.#u8.copyWithin(this.#original, packet, packet + kept)
    const slot = this.#forwarder.outbound(this.#u8, view, packet, length, partial, now)
    if (slot < 0 || !this.#paths.isOpen(slot)) {
      this.#refuse(slot, at, bytes, packet, length)
      return
    }
    const peer = this.#paths.peer[slot]!
    if (this.#peers.sending[peer]! < 0) {
      this.#machine().wantSession(peer, now)
      this.#park(at, bytes, packet, kept)
      return
    }
    if (
      this.#peers.godwit[peer] === 1 &&
      (now - this.#peers.keptAt[peer]! >= SINGLE_MS || now - this.#peers.heardAt[peer]! > SILENT_MS)
    )
      this.#keep(at, bytes, packet, kept, peer, now)
    const spread = this.#spread
    if (spread.copies !== 0 || this.#sender.copies !== 0) this.#sender.setCopies(spread.copyTo, spread.copies)
    if (spread.departAt !== this.#sender.departure) this.#sender.setDeparture(spread.departAt)
    // RFC 6040 §4.1. The far end must fold marks back in, or they would be lost: to others the outer packet is not ECN-capable.
    const ecn = this.#peers.ecn[peer] === 1 ? ecnOf(view, packet) : 0
    const trafficClass = spread.trafficClass | ecn
    if (trafficClass !== this.#sender.trafficClass) this.#sender.setTrafficClass(trafficClass)
    this.#cut(slot, peer, at, packet, length, partial)
  }

  /** The largest inner packet that the chosen path carries, and those that get copies. */
  #innerMtu(slot: number): number {
    let least = this.#paths.innerMtu[slot]!
    for (let i = 0; i < this.#spread.copies; i++)
      least = Math.min(least, this.#paths.innerMtu[this.#spread.copyTo[i]!]!)
    return least
  }

  /** MTU that a flow may rely on: packets of a spread flow may take any path of their peer. */
  #flowMtu(peer: number, innerMtu: number): number {
    let least = innerMtu
    if (!this.#spread.ordered) return least
    for (let slot = this.#paths.firstOf(peer); slot >= 0; slot = this.#paths.next[slot]!)
      least = Math.min(least, this.#paths.innerMtu[slot]!)
    return least
  }

  #refuse(verdict: number, at: number, bytes: number, packet: number, length: number): void {
    // The path has closed and its forwarder has not been told yet: the packet is parked, not lost.
    const closed = verdict >= 0
    if (verdict === Verdict.PARK || closed) this.#park(at, bytes, packet, Math.min(length, ORIGINAL))
    else if (verdict === Verdict.TOO_BIG) this.#tooBig(packet, length, 1280)
    else this.counts.dropped++
  }

  /** Parks the packet as it was before the forwarder saw it: it will be asked again. */
  #park(at: number, bytes: number, packet: number, kept: number): void {
    this.#u8.copyWithin(packet, this.#original, this.#original + kept)
    this.#parking.put(at, bytes, this.#since)
    this.counts.parked++
  }

  /** Copies what leaves now, as it was before the forwarder saw it: it is asked again should the peer have ended. */
  #keep(at: number, bytes: number, packet: number, kept: number, peer: number, now: number): void {
    this.#peers.keptAt[peer] = now
    const u8 = this.#u8
    u8.copyWithin(this.#template, packet, packet + kept)
    u8.copyWithin(packet, this.#original, this.#original + kept)
    this.#unread.put(at, bytes, this.#since, peer)
    u8.copyWithin(packet, this.#template, this.#template + kept)
  }

  #tooBig(packet: number, length: number, most: number): void {
    this.counts.tooBig++
    const mtu = this.#mostInner(packet, most)
    this.#u8.copyWithin(packet, this.#original, this.#original + Math.min(length, ORIGINAL))
    this.#u8.fill(0, this.#scratch, this.#scratch + VNET_HEADER)
    const bytes = writeTooBig(this.#u8, packet, length, mtu, this.#u8, this.#scratch + VNET_HEADER)
    if (bytes > 0) this.#tun.write(this.#scratch, VNET_HEADER + bytes)
  }

  #cut(slot: number, peer: number, at: number, packet: number, length: number, partial: boolean): void {
    const view = this.#view
    const innerMtu = this.#innerMtu(slot)
    const type = view.getUint8(at + 1) & 0x7f
    const gso = view.getUint16(at + 4, true)
    const protocol = plainTransport(view, packet, length)
    const ip = ipHeaderLength(view, packet)
    if (type === GSO_NONE || gso === 0) {
      if (protocol === TCP && (tcpFlags(view, packet + ip) & SYN) !== 0)
        clampMss(view, packet + ip, length - ip, this.#flowMtu(peer, innerMtu) - ip - TCP_HEADER, partial)
      if (length <= innerMtu) {
        this.#whole(slot, peer, at, packet, length, protocol, partial)
        return
      }
      if (protocol === TCP && this.#mayCut(packet, length, ip, partial)) {
        this.counts.recut++
        this.#segments(slot, peer, packet, length, ip, innerMtu)
      } else this.#oversized(slot, peer, at, packet, length, partial, protocol, ip, innerMtu)
      return
    }
    if ((type === GSO_TCPV4 || type === GSO_TCPV6) && protocol === TCP) {
      const header = ip + tcpHeaderLength(view, packet + ip)
      this.#segments(slot, peer, packet, length, ip, Math.min(innerMtu, header + gso))
    } else if (type === GSO_UDP_L4 && protocol === UDP) {
      if (!this.#isTooBig(slot, packet, ip + UDP_HEADER + gso))
        this.#datagrams(slot, peer, packet, length, ip, gso)
      else this.#tooBig(packet, length, innerMtu)
    } else this.counts.dropped++
  }

  /** A TCP packet may be cut in two when it carries nothing that belongs to one segment, and its checksum is right. */
  #mayCut(packet: number, length: number, ip: number, partial: boolean): boolean {
    const flags = tcpFlags(this.#view, packet + ip)
    if ((flags & (SYN | RST | URG)) !== 0 || (flags & ACK) === 0) return false
    return partial || checksumHolds(this.#view, packet, length, packet + ip, TCP)
  }

  /** IPv6 requires links of at least 1,280 bytes (RFC 8200 §5): on a path with less, the outer datagram is fragmented. */
  #mostInner(packet: number, innerMtu: number): number {
    return ipVersion(this.#view, packet) === 6 ? Math.max(innerMtu, IPV6_LEAST_MTU) : innerMtu
  }

  /** Whether a path that it is to take is known not to carry it. */
  #isTooBig(slot: number, packet: number, length: number): boolean {
    const refuses = (one: number) =>
      this.#paths.mtuSearching[one] === 0 && length > this.#mostInner(packet, this.#paths.innerMtu[one]!)
    if (refuses(slot)) return true
    for (let i = 0; i < this.#spread.copies; i++) if (refuses(this.#spread.copyTo[i]!)) return true
    return false
  }

  #oversized(
    slot: number,
    peer: number,
    at: number,
    packet: number,
    length: number,
    partial: boolean,
    protocol: number,
    ip: number,
    innerMtu: number,
  ): void {
    const view = this.#view
    if (!this.#isTooBig(slot, packet, length)) {
      this.#whole(slot, peer, at, packet, length, protocol, partial)
      return
    }
    if (ipVersion(view, packet) !== 4 || (view.getUint16(packet + FRAGMENT) & DONT_FRAGMENT) !== 0) {
      this.#tooBig(packet, length, innerMtu)
      return
    }
    if (partial) this.#complete(at, packet, length, ip, protocol)
    writeFragments(this.#u8, view, this.#template, packet, length, innerMtu, (from, size) => {
      this.#datagram(slot, peer, from, size, false)
    })
  }

  /** Computes a partial checksum as the vnet header describes it. */
  #complete(at: number, packet: number, length: number, ip: number, protocol: number): void {
    const view = this.#view
    if (protocol !== 0) {
      completeChecksum(view, packet, length, packet + ip, protocol)
      return
    }
    const start = view.getUint16(at + 6, true)
    const field = start + view.getUint16(at + 8, true)
    if (start >= length || field + 2 > length) return
    complete(view, packet + start, length - start, packet + field)
  }

  #whole(
    slot: number,
    peer: number,
    at: number,
    packet: number,
    length: number,
    protocol: number,
    partial: boolean,
  ): void {
    let passOn = false
    if (partial) {
      passOn = protocol !== 0 && this.#peers.godwit[peer] === 1
      if (!passOn) this.#complete(at, packet, length, ipHeaderLength(this.#view, packet), protocol)
    }
    this.#datagram(slot, peer, packet, length, passOn)
  }

  /** One inner packet becomes one datagram. The two bytes in front of it are overwritten. */
  #datagram(slot: number, peer: number, packet: number, length: number, partial: boolean): void {
    if (this.#peers.godwit[peer] === 1) {
      const from = packet - INNER_HEADER
      const spread = this.#spread
      this.#u8[from] = (partial ? FLAG_PARTIAL : 0) | (spread.ordered ? FLAG_ORDERED : 0)
      this.#u8[from + 1] = spread.copies === 0 ? this.#paths.pathId[slot]! : 0
      this.#sender.seal(slot, from, length + INNER_HEADER, 0)
      return
    }
    const room = this.#paths.innerMtu[slot]! - length
    const padding = -length & 15
    this.#sender.seal(slot, packet, length, padding <= room ? padding : Math.max(room, 0))
  }

  /** Cuts TCP into datagrams with at most `most` bytes of inner packet. */
  #segments(slot: number, peer: number, packet: number, length: number, ip: number, most: number): void {
    const view = this.#view
    const u8 = this.#u8
    const godwit = this.#peers.godwit[peer] === 1
    const header = ip + tcpHeaderLength(view, packet + ip)
    const size = most - header
    if (size <= 0) {
      this.counts.dropped++
      return
    }
    const template = this.#template
    u8.copyWithin(template, packet, packet + header)
    const v4 = ipVersion(view, packet) === 4
    const seq = tcpSeq(view, template + ip)
    const flags = tcpFlags(view, template + ip)
    const id = v4 ? view.getUint16(template + IDENTIFICATION) : 0
    let ipSum = 0
    if (v4) {
      view.setUint16(template + TOTAL_LENGTH, 0)
      view.setUint16(template + IDENTIFICATION, 0)
      view.setUint16(template + HEADER_CHECKSUM, 0)
      ipSum = addSum(view, template, ip)
    }
    let offset = header
    for (let k = 0; offset < length; k++) {
      const payload = Math.min(size, length - offset)
      const at = packet + offset - header
      u8.copyWithin(at, template, template + header)
      const total = header + payload
      setIpLength(view, at, total)
      if (v4) {
        view.setUint16(at + IDENTIFICATION, (id + k) & 0xffff)
        view.setUint16(at + HEADER_CHECKSUM, finish(ipSum + total + ((id + k) & 0xffff)))
      }
      view.setUint32(at + ip + SEQ, (seq + offset - header) >>> 0)
      offset += payload
      let own = flags
      if (offset < length) own &= ~(FIN | PSH)
      if (k > 0) own &= ~CWR
      u8[at + ip + FLAGS] = own
      if (!godwit) completeChecksum(view, at, total, at + ip, TCP)
      this.#datagram(slot, peer, at, total, true)
    }
  }

  /** UDP super-packet: datagrams of `size` bytes of payload each. */
  #datagrams(slot: number, peer: number, packet: number, length: number, ip: number, size: number): void {
    const view = this.#view
    const u8 = this.#u8
    const godwit = this.#peers.godwit[peer] === 1
    const header = ip + UDP_HEADER
    const template = this.#template
    u8.copyWithin(template, packet, packet + header)
    const v4 = ipVersion(view, packet) === 4
    const id = v4 ? view.getUint16(template + IDENTIFICATION) : 0
    let offset = header
    for (let k = 0; offset < length; k++) {
      const payload = Math.min(size, length - offset)
      const at = packet + offset - header
      u8.copyWithin(at, template, template + header)
      const total = header + payload
      view.setUint16(at + ip + UDP_LENGTH, total - ip)
      setIpLength(view, at, total)
      if (v4) {
        view.setUint16(at + IDENTIFICATION, (id + k) & 0xffff)
        sealIpv4Header(view, at, ip)
      }
      offset += payload
      if (!godwit) completeChecksum(view, at, total, at + ip, UDP)
      this.#datagram(slot, peer, at, total, true)
    }
  }
}

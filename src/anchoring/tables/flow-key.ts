/**
 * The key of a PAFT row: protocol, addresses and ports of an inner packet (UP-23), read from its bytes without
 * allocation, and the keyed 64-bit fingerprint by which the table finds it.
 *
 * The key is oriented: *local* is the mobile host's side, *remote* the correspondent's. Each node reads what it sees
 * itself (digest D6): the mobile host with VIpA_fix, the anchor with the VIpA it has assigned. So a packet and its
 * answer have the same key; `read` is told which end of the packet is the local one.
 *
 * Where there are no ports, what takes their place: ICMP echo its identifier, ESP its SPI, fragments of a datagram
 * nothing (so all fragments, the first included, have one key).
 */

import { ICMP, isEcho } from '../../core/icmp.ts'
import {
  ipVersion,
  isFragment,
  isLaterFragment,
  offsetIn,
  Protocol,
  protocolIn,
  transportOf,
} from '../../core/ip.ts'
import { IPV4 } from '../../core/ipv4.ts'
import { IPV6 } from '../../core/ipv6.ts'

const SRC4 = IPV4.SRC
const DST4 = IPV4.DST
const SRC6 = IPV6.SRC
const DST6 = IPV6.DST
const { TCP, UDP, UDP_LITE, SCTP, DCCP, ICMP: ICMPV4, ICMPV6, ESP } = Protocol
/** The shortest transport header that is looked at: UDP's, and an echo's. */
const LEAST_HEADER = 8

/** A flow in words, for tables and display. Addresses are 4 or 16 bytes. */
export interface FlowTuple {
  readonly protocol: number
  readonly local: Uint8Array
  readonly remote: Uint8Array
  readonly localPort: number
  readonly remotePort: number
}

export class FlowKey {
  readonly #k0: number
  readonly #k1: number

  /** 4 or 6. */
  version = 0
  protocol = 0
  /** Local port in the upper half, remote port in the lower. */
  ports = 0
  /** Where the transport header starts, from the packet's first byte; 0 for a fragment that has none. */
  transport = 0
  /** A fragment of a larger packet, first or later. */
  fragment = false
  l0 = 0
  l1 = 0
  l2 = 0
  l3 = 0
  r0 = 0
  r1 = 0
  r2 = 0
  r3 = 0
  /** The fingerprint, two signed 32-bit words, set by `hash()`. */
  low = 0
  high = 0

  /** `secret`: 8 unpredictable bytes. Without them nobody can choose flows that collide. */
  constructor(secret: Uint8Array) {
    const view = new DataView(secret.buffer, secret.byteOffset, 8)
    this.#k0 = view.getInt32(0)
    this.#k1 = view.getInt32(4)
  }

  /**
   * Reads the IP packet of `length` bytes at `at`. `localIsSource`: the packet goes from the mobile host to the
   * correspondent. False when it is no IP packet or cut short. About 20 ns, without the hash.
   */
  read(view: DataView, at: number, length: number, localIsSource: boolean): boolean {
    const found = transportOf(view, at, length)
    if (found < 0) return false
    const protocol = protocolIn(found)
    const fragment = isFragment(found)
    const offset = offsetIn(found)
    this.protocol = protocol
    this.fragment = fragment
    this.transport = fragment && isLaterFragment(found) ? 0 : offset
    if (ipVersion(view, at) === 4) {
      this.version = 4
      const source = view.getInt32(at + SRC4)
      const destination = view.getInt32(at + DST4)
      this.l0 = localIsSource ? source : destination
      this.r0 = localIsSource ? destination : source
      this.l1 = 0
      this.l2 = 0
      this.l3 = 0
      this.r1 = 0
      this.r2 = 0
      this.r3 = 0
    } else {
      this.version = 6
      const l = at + (localIsSource ? SRC6 : DST6)
      const r = at + (localIsSource ? DST6 : SRC6)
      this.l0 = view.getInt32(l)
      this.l1 = view.getInt32(l + 4)
      this.l2 = view.getInt32(l + 8)
      this.l3 = view.getInt32(l + 12)
      this.r0 = view.getInt32(r)
      this.r1 = view.getInt32(r + 4)
      this.r2 = view.getInt32(r + 8)
      this.r3 = view.getInt32(r + 12)
    }
    this.ports = fragment ? 0 : readPorts(view, at + offset, length - offset, protocol, localIsSource)
    return true
  }

  /** Takes the key from a tuple, for rows that signalling names. */
  set(tuple: FlowTuple): void {
    const l = new DataView(tuple.local.buffer, tuple.local.byteOffset, tuple.local.length)
    const r = new DataView(tuple.remote.buffer, tuple.remote.byteOffset, tuple.remote.length)
    const six = tuple.local.length === 16
    this.version = six ? 6 : 4
    this.protocol = tuple.protocol
    this.fragment = false
    this.transport = 0
    this.ports = (tuple.localPort << 16) | tuple.remotePort
    this.l0 = l.getInt32(0)
    this.l1 = six ? l.getInt32(4) : 0
    this.l2 = six ? l.getInt32(8) : 0
    this.l3 = six ? l.getInt32(12) : 0
    this.r0 = r.getInt32(0)
    this.r1 = six ? r.getInt32(4) : 0
    this.r2 = six ? r.getInt32(8) : 0
    this.r3 = six ? r.getInt32(12) : 0
  }

  /** The key as a tuple; allocates, not for the hot path. */
  tuple(): FlowTuple {
    return tupleOf(this.version, this.protocol, this.ports, [
      this.l0,
      this.l1,
      this.l2,
      this.l3,
      this.r0,
      this.r1,
      this.r2,
      this.r3,
    ])
  }

  /** Computes the fingerprint: HalfSipHash-1-3 with 64 bits of output over the key's words. About 40 ns. */
  hash(): void {
    let v0 = this.#k0
    let v1 = this.#k1 ^ 0xee
    let v2 = 0x6c796765 ^ this.#k0
    let v3 = 0x74656462 ^ this.#k1
    const words = this.version === 4 ? 4 : 10
    for (let i = 0; i < words + 6; i++) {
      let m = 0
      if (i === 0) m = (this.version << 8) | this.protocol
      else if (i === 1) m = this.ports
      else if (i < words) {
        if (words === 4) m = i === 2 ? this.l0 : this.r0
        else m = this.#addressWord(i - 2)
      } else if (i === words) v2 ^= 0xee
      else if (i === words + 3) {
        this.low = v1 ^ v3
        v1 ^= 0xdd
      }
      v3 ^= m
      v0 = (v0 + v1) | 0
      v1 = (v1 << 5) | (v1 >>> 27)
      v1 ^= v0
      v0 = (v0 << 16) | (v0 >>> 16)
      v2 = (v2 + v3) | 0
      v3 = (v3 << 8) | (v3 >>> 24)
      v3 ^= v2
      v0 = (v0 + v3) | 0
      v3 = (v3 << 7) | (v3 >>> 25)
      v3 ^= v0
      v2 = (v2 + v1) | 0
      v1 = (v1 << 13) | (v1 >>> 19)
      v1 ^= v2
      v2 = (v2 << 16) | (v2 >>> 16)
      v0 ^= m
    }
    this.high = v1 ^ v3
  }

  #addressWord(i: number): number {
    switch (i) {
      case 0:
        return this.l0
      case 1:
        return this.l1
      case 2:
        return this.l2
      case 3:
        return this.l3
      case 4:
        return this.r0
      case 5:
        return this.r1
      case 6:
        return this.r2
      default:
        return this.r3
    }
  }
}

/** The value used as ports for the transport header at `at`, of which `length` bytes are present. */
function readPorts(
  view: DataView,
  at: number,
  length: number,
  protocol: number,
  localIsSource: boolean,
): number {
  if (length < LEAST_HEADER) return 0
  switch (protocol) {
    case TCP:
    case UDP:
    case UDP_LITE:
    case SCTP:
    case DCCP: {
      const ports = view.getInt32(at)
      return localIsSource ? ports : (ports << 16) | (ports >>> 16)
    }
    case ICMPV4:
    case ICMPV6:
      return isEcho(protocol, view.getUint8(at)) ? view.getUint16(at + ICMP.REST) << 16 : 0
    case ESP:
      return view.getInt32(at)
    default:
      return 0
  }
}

/** Builds a tuple from the words that tables keep: four of the local address, four of the remote. */
export function tupleOf(
  version: number,
  protocol: number,
  ports: number,
  words: ArrayLike<number>,
): FlowTuple {
  const bytes = version === 4 ? 4 : 16
  const local = new Uint8Array(bytes)
  const remote = new Uint8Array(bytes)
  const l = new DataView(local.buffer)
  const r = new DataView(remote.buffer)
  for (let i = 0; i < bytes >>> 2; i++) {
    l.setInt32(i << 2, words[i] as number)
    r.setInt32(i << 2, words[i + 4] as number)
  }
  return { protocol, local, remote, localPort: ports >>> 16, remotePort: ports & 0xffff }
}

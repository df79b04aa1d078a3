/**
 * Flows: the 5-tuple of UPMT's PAFT (§4), read from packets as they lie and hashed without allocation.
 *
 * The ports of an ICMP echo are its identifier on the side that asks and 0 on the side that answers, so the key of a
 * reply is the reverse of its request's, as with TCP and UDP. An ICMP error belongs to the flow it quotes: its key has
 * the direction in which the error travels, the reverse of the quoted packet. Later fragments carry no ports; they get
 * those of their first fragment when that one came before them.
 */
import { formatAddress } from './address.ts'
import { viewOf } from './bytes.ts'
import { KeyedHash } from './hash.ts'
import { Icmpv4Type, Icmpv6Type, isIcmpError } from './icmp.ts'
import { IpPacket, Protocol } from './ip.ts'

export interface FlowKey {
  readonly proto: number
  readonly src: Uint8Array
  readonly dst: Uint8Array
  /** 0 for protocols without ports. */
  readonly srcPort: number
  readonly dstPort: number
}

/** Words of the longest key: protocol and family, ports, two IPv6 addresses. */
const KEY_WORDS = 10
/** Fragmented packets remembered at a time; a power of two. */
const FRAGMENTS = 256

/**
 * Reads flow keys out of packets; one per table, kept and reused. `read` costs about 65 ns (IPv4) and allocates nothing;
 * its results are the fields, valid until the next `read`.
 */
export class FlowReader {
  /** 64 bits of a keyed hash of the flow, as two signed 32-bit numbers. */
  hashLow = 0
  hashHigh = 0
  proto = 0
  /** Where the flow's addresses lie: in an ICMP error, those of the quoted packet. */
  srcAt = 0
  dstAt = 0
  /** 4 or 16. */
  addressLength = 4
  srcPort = 0
  dstPort = 0
  /** The packet is an ICMP error about this flow: no proof that the flow lives, nothing to learn from. */
  isError = false
  /** A later fragment whose first was not seen: the key is (proto, src, dst, 0, 0). */
  portsUnknown = false
  /** The packet itself, not the quoted one. */
  readonly packet = new IpPacket()

  readonly #quoted = new IpPacket()
  readonly #hash: KeyedHash
  readonly #fragmentCheck = new Int32Array(FRAGMENTS)
  readonly #fragmentPorts = new Int32Array(FRAGMENTS)

  /** Two random seeds: who does not know them cannot make flows that collide. */
  constructor(seed0: number, seed1: number) {
    this.#hash = new KeyedHash(seed0, seed1, KEY_WORDS)
  }

  /**
   * Reads the packet at `at`, `length` bytes long; false when it is malformed. `reversed` gives the key of the opposite
   * direction: a table keyed by one direction is then found from packets of both.
   */
  read(view: DataView, at: number, length: number, reversed = false): boolean {
    const packet = this.packet
    if (!packet.parse(view, at, length)) return false
    this.isError = false
    this.portsUnknown = false
    if (packet.fragmentOffset !== 0) {
      this.portsUnknown = !this.#recallFragment(view, packet)
      this.#settle(view, packet, reversed)
      return true
    }
    if (
      packet.protocol === (packet.version === 4 ? Protocol.ICMP : Protocol.ICMPV6) &&
      packet.transportLength >= 8 &&
      isIcmpError(packet.protocol, view.getUint8(packet.transportAt))
    ) {
      const quoted = this.#quoted
      if (quoted.parse(view, packet.transportAt + 8, packet.transportLength - 8, true)) {
        this.isError = true
        if (quoted.fragmentOffset === 0) this.#readPorts(view, quoted)
        else this.#recallFragment(view, quoted)
        this.#settle(view, quoted, !reversed)
        return true
      }
    }
    if (!this.#readPorts(view, packet)) return false
    if (packet.isFragment) this.#rememberFragment(view, packet)
    this.#settle(view, packet, reversed)
    return true
  }

  /** The flow last read, as an object of its own. */
  key(view: DataView): FlowKey {
    const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
    return {
      proto: this.proto,
      src: bytes.slice(this.srcAt, this.srcAt + this.addressLength),
      dst: bytes.slice(this.dstAt, this.dstAt + this.addressLength),
      srcPort: this.srcPort,
      dstPort: this.dstPort,
    }
  }

  /** Sets `hashLow` and `hashHigh` to what `read` gives for packets of this flow. */
  hashKey(key: FlowKey): void {
    this.#hash.hash(putKey(this.#hash.words, key))
    this.hashLow = this.#hash.low
    this.hashHigh = this.#hash.high
  }

  /** Fills in and hashes the key from `from` and the ports just read from it. */
  #settle(view: DataView, from: IpPacket, swap: boolean): void {
    this.proto = from.protocol
    this.addressLength = from.addressLength
    this.srcAt = swap ? from.dstAt : from.srcAt
    this.dstAt = swap ? from.srcAt : from.dstAt
    if (swap) {
      const port = this.srcPort
      this.srcPort = this.dstPort
      this.dstPort = port
    }
    const hash = this.#hash
    const words = hash.words
    words[0] = from.protocol | (from.addressLength << 8)
    words[1] = (this.srcPort << 16) | this.dstPort
    let count = 2
    for (let i = 0; i < from.addressLength; i += 4) words[count++] = view.getInt32(this.srcAt + i)
    for (let i = 0; i < from.addressLength; i += 4) words[count++] = view.getInt32(this.dstAt + i)
    hash.hash(count)
    this.hashLow = hash.low
    this.hashHigh = hash.high
  }

  /** Sets the ports from the transport header, 0 where the protocol has none; false when the header is cut. */
  #readPorts(view: DataView, packet: IpPacket): boolean {
    const at = packet.transportAt
    this.srcPort = 0
    this.dstPort = 0
    switch (packet.protocol) {
      case Protocol.TCP:
      case Protocol.UDP:
      case Protocol.DCCP:
      case Protocol.SCTP:
      case Protocol.UDP_LITE:
        if (packet.transportLength < 4) return false
        this.srcPort = view.getUint16(at)
        this.dstPort = view.getUint16(at + 2)
        return true
      case Protocol.ICMP:
      case Protocol.ICMPV6: {
        if (packet.transportLength < 8) return false
        const type = view.getUint8(at)
        const types = packet.protocol === Protocol.ICMP ? Icmpv4Type : Icmpv6Type
        if (type === types.ECHO_REQUEST) this.srcPort = view.getUint16(at + 4)
        else if (type === types.ECHO_REPLY) this.dstPort = view.getUint16(at + 4)
        return true
      }
      default:
        return true
    }
  }

  /** Hash of what the fragments of one packet share. */
  #hashFragment(view: DataView, packet: IpPacket): void {
    const words = this.#hash.words
    words[0] = packet.protocol
    words[1] = packet.fragmentId
    let count = 2
    for (let i = 0; i < 2 * packet.addressLength; i += 4) words[count++] = view.getInt32(packet.srcAt + i)
    this.#hash.hash(count)
  }

  #rememberFragment(view: DataView, packet: IpPacket): void {
    this.#hashFragment(view, packet)
    const slot = this.#hash.low & (FRAGMENTS - 1)
    this.#fragmentCheck[slot] = this.#hash.high
    this.#fragmentPorts[slot] = (this.srcPort << 16) | this.dstPort
  }

  /** Sets the ports to those of the first fragment, or to 0 and gives false when that is not remembered. */
  #recallFragment(view: DataView, packet: IpPacket): boolean {
    this.#hashFragment(view, packet)
    const slot = this.#hash.low & (FRAGMENTS - 1)
    const known = this.#fragmentCheck[slot] === this.#hash.high
    const ports = known ? this.#fragmentPorts[slot]! : 0
    this.srcPort = ports >>> 16
    this.dstPort = ports & 0xffff
    return known
  }
}

function putKey(words: Int32Array, key: FlowKey): number {
  words[0] = key.proto | (key.src.length << 8)
  words[1] = (key.srcPort << 16) | key.dstPort
  let count = 2
  for (const address of [key.src, key.dst]) {
    const view = viewOf(address)
    for (let i = 0; i < address.length; i += 4) words[count++] = view.getInt32(i)
  }
  return count
}

/** The flow in the other direction. */
export function reverseFlow(key: FlowKey): FlowKey {
  return { proto: key.proto, src: key.dst, dst: key.src, srcPort: key.dstPort, dstPort: key.srcPort }
}

const NAMES: Readonly<Record<number, string>> = {
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  33: 'dccp',
  47: 'gre',
  50: 'esp',
  58: 'icmpv6',
  132: 'sctp',
  136: 'udplite',
}

/** `tcp`, `udp`, …; the number for protocols without a common name. */
export function protocolName(protocol: number): string {
  return NAMES[protocol] ?? String(protocol)
}

/** The number for a name of `protocolName` or for digits; undefined for anything else. */
export function protocolNumber(name: string): number | undefined {
  for (const [number, known] of Object.entries(NAMES)) if (known === name) return Number(number)
  return /^\d{1,3}$/.test(name) && Number(name) < 256 ? Number(name) : undefined
}

/** `10.0.0.1:80`, `[2001:db8::1]:80`. */
export function formatEndpoint(address: Uint8Array, port: number): string {
  const text = formatAddress(address)
  return address.length === 4 ? `${text}:${port}` : `[${text}]:${port}`
}

/** `tcp 10.0.0.1:1234 > 1.2.3.4:80`. */
export function formatFlow(key: FlowKey): string {
  return `${protocolName(key.proto)} ${formatEndpoint(key.src, key.srcPort)} > ${formatEndpoint(key.dst, key.dstPort)}`
}

const naming = new KeyedHash(0x676f6477, 0x69740001, KEY_WORDS)

/** Ten hexadecimal digits that name the flow to users: the same for the same 5-tuple, also after a restart. */
export function flowId(key: FlowKey): string {
  naming.hash(putKey(naming.words, key))
  const hex = (value: number) => (value >>> 0).toString(16).padStart(8, '0')
  return hex(naming.low) + hex(naming.high).slice(0, 2)
}

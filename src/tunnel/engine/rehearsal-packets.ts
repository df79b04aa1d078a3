/** Packets as a TUN hands them over, behind their vnet headers, for the rehearsal: of each protocol and family. */
import { addSum, finish, fold, pseudoSum } from '../../core/checksum.ts'
import { Icmpv4Type, Icmpv6Type } from '../../core/icmp.ts'
import { Protocol } from '../../core/ip.ts'
import { IPV4 } from '../../core/ipv4.ts'
import { IPV6 } from '../../core/ipv6.ts'
import { TCP, TcpFlag } from '../../core/tcp.ts'
import { UDP } from '../../core/udp.ts'
import { GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_HEADER, VNET_NEEDS_CSUM } from '../../linux/tun.ts'

export interface InnerAddresses {
  readonly from4: Uint8Array
  readonly to4: Uint8Array
  readonly from6: Uint8Array
  readonly to6: Uint8Array
}

const SMALL = 84
const SUPER = 20_000
const SEGMENT = 1300
const ICMP_HEADER = 8
const PORT = 9
const TTL = 64

/** `small`: one datagram each; `large`: super-packets. */
export function rehearsalPackets(addresses: InnerAddresses): {
  readonly small: readonly Uint8Array[]
  readonly large: readonly Uint8Array[]
} {
  const { ICMP, ICMPV6, TCP, UDP } = Protocol
  const each = (protocols: readonly number[], payload: number, segment: number) =>
    protocols.map((protocol) => {
      const six = protocol === ICMPV6
      return build(six ? 6 : 4, protocol, addresses, payload, segment)
    })
  const six = (protocol: number, payload: number, segment: number) =>
    build(6, protocol, addresses, payload, segment)
  return {
    small: [...each([ICMP, UDP, TCP, ICMPV6], SMALL, 0), six(UDP, SMALL, 0), six(TCP, SMALL, 0)],
    large: [...each([TCP, UDP], SUPER, SEGMENT), six(TCP, SUPER, SEGMENT), six(UDP, SUPER, SEGMENT)],
  }
}

/** Segment 0: one packet. Transport checksums are partial, as the kernel leaves them; those of ICMP are not read. */
function build(
  version: 4 | 6,
  protocol: number,
  { from4, to4, from6, to6 }: InnerAddresses,
  payload: number,
  segment: number,
): Uint8Array {
  const ip = version === 4 ? IPV4.MIN_HEADER : IPV6.HEADER
  const header =
    protocol === Protocol.TCP ? TCP.MIN_HEADER : protocol === Protocol.UDP ? UDP.HEADER : ICMP_HEADER
  const bytes = new Uint8Array(VNET_HEADER + ip + header + payload)
  const view = new DataView(bytes.buffer)
  const at = VNET_HEADER
  const transport = at + ip
  const length = header + payload
  if (version === 4) {
    view.setUint8(at, 0x45)
    view.setUint16(at + 2, ip + length)
    view.setUint8(at + 8, TTL)
    view.setUint8(at + 9, protocol)
    bytes.set(from4, at + IPV4.SRC)
    bytes.set(to4, at + IPV4.DST)
    view.setUint16(at + IPV4.CHECKSUM, finish(addSum(view, at, ip)))
  } else {
    view.setUint8(at, 0x60)
    view.setUint16(at + 4, length)
    view.setUint8(at + 6, protocol)
    view.setUint8(at + 7, TTL)
    bytes.set(from6, at + IPV6.SRC)
    bytes.set(to6, at + IPV6.DST)
  }
  const checked = protocol === Protocol.TCP || protocol === Protocol.UDP
  if (!checked) {
    view.setUint8(transport, version === 4 ? Icmpv4Type.ECHO_REQUEST : Icmpv6Type.ECHO_REQUEST)
    return bytes
  }
  const tcp = protocol === Protocol.TCP
  const field = tcp ? TCP.CHECKSUM : UDP.CHECKSUM
  view.setUint16(transport, PORT)
  view.setUint16(transport + 2, PORT)
  if (tcp) {
    view.setUint8(transport + TCP.DATA_OFFSET, (TCP.MIN_HEADER / 4) << 4)
    view.setUint8(transport + TCP.FLAGS, TcpFlag.ACK)
  } else view.setUint16(transport + UDP.LENGTH, length)
  view.setUint16(transport + field, fold(pseudoSum(view, at, protocol, length)))
  view.setUint8(0, VNET_NEEDS_CSUM)
  const gso = tcp ? (version === 4 ? GSO_TCPV4 : GSO_TCPV6) : GSO_UDP_L4
  view.setUint8(1, segment === 0 ? GSO_NONE : gso)
  view.setUint16(2, ip + header, true)
  view.setUint16(4, segment, true)
  view.setUint16(6, ip, true)
  view.setUint16(8, field, true)
  return bytes
}

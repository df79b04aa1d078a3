/**
 * The eBPF program that forwards the relay's channels on the devices where their datagrams arrive: one look-up of source,
 * destination and ports, both rewritten, out by the device of the route. No filter, tracking or `ip_forward` is on that way.
 * What has no element goes on to the relay's sockets, and so do signalling (its first byte is `N`), fragments, IPv4 options,
 * datagrams without a checksum or too large for the device, and a last hop's.
 *
 * An element is written by relay-kernel.ts only for two addresses that nodes have bound. Integers of this machine's order but for
 * addresses and ports, which are as in a packet:
 *
 *   key     source, destination, source port, destination port
 *   value   the same four as they leave · device u32 · datagrams u64 · bytes u64 · refused u64 · `at` u64 · cost u64
 *
 * `cost`: nanoseconds that 1,024 bytes of payload take at the side's rate; 0: no limit. `at`: when all it has sent would have gone at that rate.
 */
import { Protocol } from '../../core/ip.ts'
import { Ebpf, FRAME, Helper, type Register } from '../../linux/ebpf.ts'
import { TcxAction } from '../../linux/tcx.ts'
import { SIGN } from '../wire/datagram.ts'

/** Bursts above a side's rate (ms), as in relay-loop.ts. */
export const BURST_MS = 200

export interface ElementLayout {
  readonly key: number
  readonly value: number
  readonly device: number
  readonly datagrams: number
  readonly bytes: number
  readonly refused: number
  readonly at: number
  readonly cost: number
}

export const LAYOUT: Readonly<Record<4 | 6, ElementLayout>> = { 4: layout(4), 6: layout(16) }

function layout(address: number): ElementLayout {
  const key = 2 * address + 4
  const counts = key + 4
  return {
    ...{ key, value: counts + 40, device: key },
    ...{ datagrams: counts, bytes: counts + 8, refused: counts + 16, at: counts + 24, cost: counts + 32 },
  }
}

const ETHERNET = 14
const UDP_HEADER = 8
/** struct __sk_buff */
const SKB_LENGTH = 0
const SKB_TYPE = 4
const SKB_PROTOCOL = 16
const SKB_VLAN = 20
const SKB_SEGMENTS = 164
/** ETH_P_IP and ETH_P_IPV6 as they stand in memory, on a little-endian machine. */
const IPV4 = 0x0008
const IPV6 = 0xdd86
const PSEUDO_HDR = 0x10
/** A checksum of 0 would say that there is none. */
const MARK_MANGLED_0 = 0x20
/** Every segment of a large packet has to fit. */
const MTU_OF_SEGMENTS = 1

/** On the stack: the header, that of UDP and the first byte after them; a key lies in there. */
const SEEN = -64
const MTU = -8

interface Family {
  readonly family: 4 | 6
  readonly header: number
  /** Offset of the addresses in the header; up to the ports they are the key. */
  readonly addresses: number
  readonly hops: number
  readonly map: number
}

/** For devices with an Ethernet header; `maps` are descriptors. */
export function relayProgram(maps: Readonly<Record<4 | 6, number>>): Uint8Array {
  const code = new Ebpf()
  const skb: Register = 6
  const element: Register = 7
  const difference: Register = 8

  code.move(skb, 1)
  // For this machine, and not of a VLAN.
  code.load(4, 0, skb, SKB_TYPE).jumpIf('ne', 0, 0, 'next')
  code.load(4, 0, skb, SKB_VLAN).jumpIf('ne', 0, 0, 'next')
  code.load(4, 0, skb, SKB_PROTOCOL).jumpIf('eq', 0, IPV4, 'four').jumpIf('ne', 0, IPV6, 'next')

  const six: Family = { family: 6, header: 40, addresses: 8, hops: 7, map: maps[6] }
  loadHeaders(six)
  code.load(1, 0, FRAME, SEEN + 6).jumpIf('ne', 0, Protocol.UDP, 'next')
  forward(six)

  const four: Family = { family: 4, header: 20, addresses: 12, hops: 8, map: maps[4] }
  code.label('four')
  loadHeaders(four)
  code.load(1, 0, FRAME, SEEN).jumpIf('ne', 0, 0x45, 'next')
  code.load(1, 0, FRAME, SEEN + 9).jumpIf('ne', 0, Protocol.UDP, 'next')
  code
    .load(2, 0, FRAME, SEEN + 6)
    .swap(0, 16)
    .alu('and', 0, 0x3fff)
    .jumpIf('ne', 0, 0, 'next')
  forward(four)

  code.label('next').set(0, TcxAction.NEXT).exit()
  code.label('drop').set(0, TcxAction.DROP).exit()
  return code.finish()

  function loadHeaders({ header }: Family): void {
    code.move(1, skb).set(2, ETHERNET).address(3, FRAME, SEEN)
    code.set(4, header + UDP_HEADER + 1).call(Helper.skb_load_bytes)
    code.jumpIf('ne', 0, 0, 'next')
  }

  function forward({ family, header, addresses, hops, map }: Family): void {
    const at = LAYOUT[family]
    const key = SEEN + addresses
    const ports = SEEN + header
    const name = (label: string) => `${label} ${family}`
    code.load(1, 0, FRAME, SEEN + hops).jumpIf('le', 0, 1, 'next')
    code.load(1, 0, FRAME, ports + UDP_HEADER).jumpIf('eq', 0, SIGN, 'next')
    code.load(2, 0, FRAME, ports + 6).jumpIf('eq', 0, 0, 'next')
    code.map(1, map).address(2, FRAME, key).call(Helper.map_lookup_elem).jumpIf('eq', 0, 0, 'next')
    code.move(element, 0)

    code.storeValue(4, FRAME, MTU, 0).move(1, skb).load(4, 2, element, at.device)
    code.address(3, FRAME, MTU).set(4, 0).set(5, MTU_OF_SEGMENTS).call(Helper.check_mtu)
    code.jumpIf('ne', 0, 0, 'next')

    // Datagrams in r8, bytes of them in r9.
    const length: Register = 9
    code.load(4, 8, skb, SKB_SEGMENTS).jumpIf('ne', 8, 0, name('segments')).set(8, 1)
    code.label(name('segments'))
    code.load(4, length, skb, SKB_LENGTH).alu('sub', length, ETHERNET + header + UDP_HEADER)

    code.load(8, 1, element, at.cost).jumpIf('eq', 1, 0, name('count'))
    code.call(Helper.ktime_get_ns)
    code.load(8, 1, element, at.at).jumpIfRegister('gt', 1, 0, name('refused'))
    code
      .alu('sub', 0, BURST_MS * 1e6)
      .jumpIfRegister('gt', 1, 0, name('recent'))
      .move(1, 0)
    code.label(name('recent'))
    code.load(8, 2, element, at.cost).aluRegister('mul', 2, length).alu('shr', 2, 10)
    code.aluRegister('add', 1, 2).store(8, element, at.at, 1)

    code.label(name('count'))
    code.addAtomically(element, at.datagrams, 8).addAtomically(element, at.bytes, length)

    // The sums stay right by the differences; that of UDP covers the addresses too, and an IPv4 header has its own.
    const sum = ETHERNET + header + 6
    differ(key, 0, at.key - 4)
    adjust(sum, PSEUDO_HDR | MARK_MANGLED_0, Helper.l4_csum_replace)
    if (family === 4) adjust(ETHERNET + 10, 0, Helper.l3_csum_replace)
    differ(ports, at.key - 4, 4)
    adjust(sum, MARK_MANGLED_0, Helper.l4_csum_replace)
    if (family === 4) {
      code
        .load(2, 3, FRAME, SEEN + hops)
        .move(4, 3)
        .alu('sub', 4, 1)
      code
        .move(1, skb)
        .set(2, ETHERNET + 10)
        .set(5, 2)
        .call(Helper.l3_csum_replace)
      code.jumpIf('ne', 0, 0, 'drop')
    }
    code
      .load(1, 1, FRAME, SEEN + hops)
      .alu('sub', 1, 1)
      .store(1, FRAME, SEEN + hops, 1)
    code.address(3, FRAME, SEEN + hops)
    write(ETHERNET + hops, 1)
    code.move(3, element)
    write(ETHERNET + addresses, at.key)
    code.load(4, 1, element, at.device).set(2, 0).set(3, 0).set(4, 0)
    code.call(Helper.redirect_neigh).exit()

    code.label(name('refused')).addAtomically(element, at.refused, 8)
    code.set(0, TcxAction.DROP).exit()
  }

  /** From what lies on the stack to what lies in the element. */
  function differ(seen: number, value: number, length: number): void {
    code.address(1, FRAME, seen).set(2, length).address(3, element, value).set(4, length).set(5, 0)
    code.call(Helper.csum_diff).move(difference, 0)
  }

  function adjust(sum: number, flags: number, helper: number): void {
    code.move(1, skb).set(2, sum).set(3, 0).move(4, difference).set(5, flags)
    code.call(helper).jumpIf('ne', 0, 0, 'drop')
  }

  /** What r3 points to. */
  function write(at: number, length: number): void {
    code.move(1, skb).set(2, at).set(4, length).set(5, 0)
    code.call(Helper.skb_store_bytes).jumpIf('ne', 0, 0, 'drop')
  }
}

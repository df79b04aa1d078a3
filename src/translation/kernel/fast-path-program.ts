/**
 * The eBPF program that translates TCP over IPv4 on a device: what arrives before the stack sees it, what leaves after
 * the stack has routed it. Its look-ups are those of the rules in stacktrans.ts. All it does not find, and fragments and
 * headers with options, it leaves to them.
 *
 * Elements, in network order but for the HID and the device:
 *   fast_flow  source 4, destination 4, ports 4   →  zero 4
 *   fast_pair  source 4, destination 4            →  source 4, destination 4, device u32
 *   in_pair    source 4, destination 4            →  HID u32
 *   in_flow    HID u32, ports 4                   →  source 4, destination 4
 */
import { Protocol } from '../../core/ip.ts'
import { Ebpf, FRAME, Helper, type Register } from '../../linux/ebpf.ts'
import { TRANSLATED } from '../../linux/ledger.ts'
import { TcxAction } from '../../linux/tcx.ts'

export const FAST_MAPS = {
  fast_flow: { key: 12, value: 4 },
  fast_pair: { key: 8, value: 12 },
  in_pair: { key: 8, value: 4 },
  in_flow: { key: 8, value: 8 },
} as const
export type FastMap = keyof typeof FAST_MAPS

const ETHERNET = 14
/** struct __sk_buff */
const SKB_PROTOCOL = 16
const SKB_PRIORITY = 32
const SKB_DEVICE = 40
/** ETH_P_IP as it stands in memory, on a little-endian machine. */
const IPV4 = 0x0008
const { TCP } = Protocol
const HEADER = 20
const PSEUDO_HDR = 0x10

// On the stack: the header with the ports after it (its addresses aligned to 8), and the key of a look-up.
const SEEN = -68
const ADDRESSES = SEEN + 12
const PORTS = SEEN + HEADER
const KEY = -88

export function fastPathProgram(options: {
  readonly way: 'arriving' | 'leaving'
  /** Whether packets have an Ethernet header. */
  readonly ethernet: boolean
  /** Descriptors. */
  readonly maps: Readonly<Record<FastMap, number>>
}): Uint8Array {
  const { maps } = options
  const at = options.ethernet ? ETHERNET : 0
  const code = new Ebpf()
  const skb: Register = 6
  const addresses: Register = 7
  const difference: Register = 8

  code.move(skb, 1)
  code.load(4, 0, skb, SKB_PROTOCOL).jumpIf('ne', 0, IPV4, 'next')
  code
    .move(1, skb)
    .set(2, at)
    .address(3, FRAME, SEEN)
    .set(4, HEADER + 4)
    .call(Helper.skb_load_bytes)
  code.jumpIf('ne', 0, 0, 'next')
  code.load(1, 0, FRAME, SEEN).jumpIf('ne', 0, 0x45, 'next')
  code.load(1, 0, FRAME, SEEN + 9).jumpIf('ne', 0, TCP, 'next')
  code
    .load(2, 0, FRAME, SEEN + 6)
    .swap(0, 16)
    .alu('and', 0, 0x3fff)
    .jumpIf('ne', 0, 0, 'next')

  if (options.way === 'arriving') {
    find(maps.in_pair, ADDRESSES)
    code.load(4, 1, 0, 0).store(4, FRAME, KEY, 1)
    code.load(4, 1, FRAME, PORTS).store(4, FRAME, KEY + 4, 1)
    find(maps.in_flow, KEY)
    code.move(addresses, 0)
    code.set(1, TRANSLATED).store(4, skb, SKB_PRIORITY, 1)
  } else {
    find(maps.fast_flow, ADDRESSES)
    find(maps.fast_pair, ADDRESSES)
    code.move(addresses, 0)
  }
  // The sum of the header stays right by the difference; that of the segment covers the addresses too.
  code.address(1, FRAME, ADDRESSES).set(2, 8).move(3, addresses).set(4, 8).set(5, 0)
  code.call(Helper.csum_diff).move(difference, 0)
  code
    .move(1, skb)
    .set(2, at + HEADER + 16)
    .set(3, 0)
    .move(4, difference)
    .set(5, PSEUDO_HDR)
  code.call(Helper.l4_csum_replace).jumpIf('ne', 0, 0, 'drop')
  code
    .move(1, skb)
    .set(2, at + 10)
    .set(3, 0)
    .move(4, difference)
    .set(5, 0)
  code.call(Helper.l3_csum_replace).jumpIf('ne', 0, 0, 'drop')
  code
    .move(1, skb)
    .set(2, at + 12)
    .move(3, addresses)
    .set(4, 8)
    .set(5, 0)
  code.call(Helper.skb_store_bytes).jumpIf('ne', 0, 0, 'drop')
  if (options.way === 'leaving' && options.ethernet) {
    // Routed while the routes were changing: the device of the element is right, and this one wrong.
    code.load(4, 1, addresses, 8).load(4, 2, skb, SKB_DEVICE)
    code.aluRegister('sub', 2, 1).jumpIf('eq', 2, 0, 'next')
    code.set(2, 0).set(3, 0).set(4, 0).call(Helper.redirect_neigh).exit()
  }
  code.label('next').set(0, TcxAction.NEXT).exit()
  code.label('drop').set(0, TcxAction.DROP).exit()
  return code.finish()

  /** The element in r0. */
  function find(map: number, key: number): void {
    code.map(1, map).address(2, FRAME, key).call(Helper.map_lookup_elem).jumpIf('eq', 0, 0, 'next')
  }
}

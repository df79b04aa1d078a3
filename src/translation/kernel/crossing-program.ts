/**
 * The eBPF program that carries packets of one family over paths of the other (DI-6, Table III; header translation after
 * RFC 7915, of whole TCP and UDP packets without IPv4 options or IPv6 extension headers). The same program runs twice:
 *
 *   departing  on the device that the flow's packets are routed into: translated, then sent by the device in the element
 *   arriving   on an access, before the stack sees anything: translated, then received again from the first device, as the
 *              packet that its socket waits for
 *
 * Elements, all in network order but the device:
 *   from4   source 4, destination 4, ports 4, protocol 1 + zero 3   →  source 16, destination 16, device u32, zero 4
 *   from6   source 16, destination 16, ports 4, protocol 1 + zero 3 →  source 4, destination 4, device u32, zero 4
 *   same6   the same →  source 16, destination 16, device u32, zero 4: departing only, to addresses of a link (`fe80::…`),
 *           to which no route look-up would lead without the device
 */
import { Ebpf, FRAME, Helper, type Register } from '../../linux/ebpf.ts'
import { TcxAction } from '../../linux/tcx.ts'

export const FROM4 = { key: 16, value: 40 } as const
export const FROM6 = { key: 40, value: 16 } as const
export const SAME6 = { key: 40, value: 40 } as const

const ETHERNET = 14
/** struct __sk_buff */
const SKB_PROTOCOL = 16
/** ETH_P_IP and ETH_P_IPV6 as they stand in memory, on a little-endian machine. */
const IPV4 = 0x0008
const IPV6 = 0xdd86
const RECOMPUTE_CSUM = 1
const PSEUDO_HDR = 0x10
const MARK_MANGLED_0 = 0x20
const INTO_INGRESS = 1

// On the stack: the old header with the ports after it, and the new one.
const OLD = -64
const NEW = -112
const TYPE = -120

export function crossingProgram(options: {
  /** Whether packets have an Ethernet header where the program sees them. */
  readonly ethernet: boolean
  readonly from4: number
  readonly from6: number
  readonly same6: number
  /** Where arriving packets are received from; undefined for departing ones. */
  readonly into?: number
}): Uint8Array {
  const at = options.ethernet ? ETHERNET : 0
  const code = new Ebpf()
  const skb: Register = 6
  const element: Register = 7
  const difference: Register = 8
  const checksumAt: Register = 9

  code.move(skb, 1)
  code.load(4, 0, skb, SKB_PROTOCOL).jumpIf('eq', 0, IPV4, 'four').jumpIf('eq', 0, IPV6, 'six')
  code.label('next').set(0, TcxAction.NEXT).exit()

  // --- IPv4: version and length, no fragment, TCP or UDP; then its element
  code.label('four')
  read(24)
  code.load(1, 0, FRAME, OLD).jumpIf('ne', 0, 0x45, 'next')
  code
    .load(2, 0, FRAME, OLD + 6)
    .swap(0, 16)
    .alu('and', 0, 0x3fff)
    .jumpIf('ne', 0, 0, 'next')
  code.load(1, 0, FRAME, OLD + 9)
  transport('four', 40)
  code.store(4, FRAME, OLD + 24, 0)
  find(options.from4, OLD + 12, 'next')
  // Traffic class from the type of service, no flow label.
  code
    .load(1, 0, FRAME, OLD + 1)
    .alu('shl', 0, 20)
    .alu('or', 0, 0x60000000)
    .swap(0, 32)
    .store(4, FRAME, NEW, 0)
  code
    .load(2, 0, FRAME, OLD + 2)
    .swap(0, 16)
    .alu('add', 0, -20)
    .swap(0, 16)
    .store(2, FRAME, NEW + 4, 0)
  code.load(1, 0, FRAME, OLD + 9).store(1, FRAME, NEW + 6, 0)
  code.load(1, 0, FRAME, OLD + 8).store(1, FRAME, NEW + 7, 0)
  for (let i = 0; i < 32; i += 8) code.load(8, 0, element, i).store(8, FRAME, NEW + 8 + i, 0)
  differ(OLD + 12, 8, NEW + 8, 32)
  change(IPV6, 40)
  send(32, IPV6)

  // --- IPv6
  code.label('six')
  read(44)
  code.load(1, 0, FRAME, OLD + 6)
  transport('six', 20)
  code.store(4, FRAME, OLD + 44, 0)
  find(options.from6, OLD + 8, options.into === undefined ? 'same' : 'next')
  code.storeValue(1, FRAME, NEW, 0x45)
  code
    .load(4, 0, FRAME, OLD)
    .swap(0, 32)
    .alu('shr', 0, 20)
    .alu('and', 0, 0xff)
    .store(1, FRAME, NEW + 1, 0)
  code
    .load(2, 0, FRAME, OLD + 4)
    .swap(0, 16)
    .alu('add', 0, 20)
    .swap(0, 16)
    .store(2, FRAME, NEW + 2, 0)
  code.storeValue(2, FRAME, NEW + 4, 0).storeValue(2, FRAME, NEW + 6, 0x0040) // do not fragment
  code.load(1, 0, FRAME, OLD + 7).store(1, FRAME, NEW + 8, 0)
  code.load(1, 0, FRAME, OLD + 6).store(1, FRAME, NEW + 9, 0)
  code.storeValue(2, FRAME, NEW + 10, 0)
  for (let i = 0; i < 8; i += 4) code.load(4, 0, element, i).store(4, FRAME, NEW + 12 + i, 0)
  // The header's checksum: folded sum of its words, inverted.
  code.set(1, 0).set(2, 0).address(3, FRAME, NEW).set(4, 20).set(5, 0).call(Helper.csum_diff)
  for (let i = 0; i < 2; i++)
    code.move(1, 0).alu('and', 1, 0xffff).alu('shr', 0, 16).alu('and', 0, 0xffff).aluRegister('add', 0, 1)
  code.alu('xor', 0, 0xffff).store(2, FRAME, NEW + 10, 0)
  differ(OLD + 8, 32, NEW + 12, 8)
  change(IPV4, 20)
  send(8, IPV4)

  if (options.into === undefined) {
    // --- IPv6 that stays IPv6: only its addresses change. `transport` counted on a header of 20.
    code.label('same').alu('add', checksumAt, 20)
    find(options.same6, OLD + 8, 'next')
    for (let i = 0; i < 32; i += 8) code.load(8, 0, element, i).store(8, FRAME, NEW + i, 0)
    differ(OLD + 8, 32, NEW, 32)
    write(at + 8, 32)
    send(32, IPV6)
  }

  code.label('drop').set(0, TcxAction.DROP).exit()
  return code.finish()

  /** The network header and the ports; too short is not ours. */
  function read(length: number): void {
    code.move(1, skb).set(2, at).address(3, FRAME, OLD).set(4, length).call(Helper.skb_load_bytes)
    code.jumpIf('ne', 0, 0, 'next')
  }

  /** TCP or UDP, from r0, which stays; and where its checksum will be when the header has `header` bytes. */
  function transport(family: string, header: number): void {
    code.set(checksumAt, at + header + 16).jumpIf('eq', 0, 6, `${family}-known`)
    code.set(checksumAt, at + header + 6).jumpIf('ne', 0, 17, 'next')
    code.label(`${family}-known`)
  }

  function find(map: number, key: number, missing: string): void {
    code.map(1, map).address(2, FRAME, key).call(Helper.map_lookup_elem)
    code.jumpIf('eq', 0, 0, missing).move(element, 0)
  }

  function differ(from: number, fromLength: number, to: number, toLength: number): void {
    code.address(1, FRAME, from).set(2, fromLength).address(3, FRAME, to).set(4, toLength).set(5, 0)
    code.call(Helper.csum_diff).move(difference, 0)
  }

  /** Past this point the packet is ours: what fails is dropped. */
  function change(type: number, header: number): void {
    code.move(1, skb).set(2, type).set(3, 0).call(Helper.skb_change_proto).jumpIf('ne', 0, 0, 'drop')
    write(at, header)
  }

  /** What stands in NEW into the packet, and the difference into the checksum of its transport. */
  function write(offset: number, length: number): void {
    code.move(1, skb).set(2, offset).address(3, FRAME, NEW).set(4, length).set(5, RECOMPUTE_CSUM)
    code.call(Helper.skb_store_bytes).jumpIf('ne', 0, 0, 'drop')
    // A UDP checksum of zero stays zero.
    code.set(5, PSEUDO_HDR).alu('or', 5, MARK_MANGLED_0)
    code.move(1, skb).move(2, checksumAt).set(3, 0).move(4, difference).call(Helper.l4_csum_replace)
    code.jumpIf('ne', 0, 0, 'drop')
  }

  function send(deviceAt: number, type: number): void {
    if (options.into === undefined) {
      // The neighbour's address is found by the kernel, which wants to see an Ethernet header in front.
      code.move(1, skb).set(2, ETHERNET).set(3, 0).call(Helper.skb_change_head).jumpIf('ne', 0, 0, 'drop')
      code.load(4, 1, element, deviceAt).set(2, 0).set(3, 0).set(4, 0).call(Helper.redirect_neigh).exit()
      return
    }
    if (options.ethernet) {
      code.storeValue(2, FRAME, TYPE, type)
      code.move(1, skb).set(2, 12).address(3, FRAME, TYPE).set(4, 2).set(5, 0).call(Helper.skb_store_bytes)
    }
    code.set(1, options.into).set(2, INTO_INGRESS).call(Helper.redirect).exit()
  }
}

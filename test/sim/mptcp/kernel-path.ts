/**
 * The kernel's side of a host in virtual time: the programs of src/mptcp/kernel/programs.ts, the very instructions, with the maps and the
 * parts of Linux around them: options reserved and written for each packet of the TCP (tcp_output.c, bpf_skops_*), packets that arrive
 * on a device, and what nftables then passes (filter.ts). It outlives the proxy, as the programs do.
 */
import assert from 'node:assert/strict'
import { checksum, pseudoSum } from '../../../src/core/checksum.ts'
import { ipHeaderLength, Protocol } from '../../../src/core/ip.ts'
import { TCP, TcpFlag } from '../../../src/core/tcp.ts'
import { Helper } from '../../../src/linux/ebpf.ts'
import { NO_SLOT, SEEN, SLOT, SLOT_AT, SLOTS, USER } from '../../../src/mptcp/kernel/layout.ts'
import { inProgram, outProgram } from '../../../src/mptcp/kernel/programs.ts'
import { MAPPINGS, SlotTable, type TupleMap } from '../../../src/mptcp/kernel/slots.ts'
import type { Connection } from '../../../src/mptcp/machine/connection.ts'
import type { FastPath, FastSlot } from '../../../src/mptcp/machine/fast.ts'
import type { Tuple } from '../../../src/mptcp/machine/segment.ts'
import { MPTCP_KIND } from '../../../src/mptcp/wire.ts'
import { decodeEbpf, EbpfMachine } from '../../support/ebpf-machine.ts'

const { SYN, RST, FIN } = TcpFlag
const ETHERNET = 14
const OPTION_SPACE = 40
const COOKIE = 77n
const [TUPLES_FD, SLOTS_FD] = [3, 4]
const AF_INET = 2
/** struct bpf_sock_ops, struct __sk_buff: offsets of what the programs read. */
const OPS = {
  ...{ op: 0, argument: 4, family: 20, remote4: 24, local4: 28, remotePort: 64, localPort: 68, srtt: 80 },
  ...{ flags: 84, sndNxt: 104, data: 192, dataEnd: 200, length: 208, tcpFlags: 212 },
} as const
const Op = { PASSIVE: 5, LENGTH: 14, WRITE: 15 } as const
const SKB = { length: 0, type: 4, protocol: 16, vlan: 20, priority: 32 } as const
const [EEXIST, EINVAL, ENOSPC] = [-17, -22, -28]

/** The maps of one process; the programs of the one before run until the next attaches its own. */
class Maps {
  readonly machine = new EbpfMachine()
  readonly slots = new Uint8Array((SLOTS + 1) * SLOT)
  readonly view = new DataView(this.slots.buffer)
  readonly elements = new Map<string, { readonly address: bigint; readonly value: Uint8Array }>()
  readonly #slotsAt = this.machine.region(this.slots)
  readonly context = new Uint8Array(256)
  readonly #contextAt = this.machine.region(this.context)
  readonly #out = decodeEbpf(outProgram({ tuples: TUPLES_FD, slots: SLOTS_FD }, COOKIE))
  readonly #in = decodeEbpf(inProgram({ tuples: TUPLES_FD, slots: SLOTS_FD }))
  readonly #packetAt = this.machine.region(new Uint8Array(0))
  packet = new Uint8Array(0)
  /** Options that are reserved, or still to be written. */
  reserved = 0
  room = 0
  wroteAt = 0
  armed = false

  constructor(now: () => number) {
    const { machine } = this
    machine.helper(Helper.get_netns_cookie, () => COOKIE)
    machine.helper(Helper.ktime_get_ns, () => BigInt(Math.round(now() * 1e6)))
    machine.helper(Helper.map_lookup_elem, (map, key) => {
      if (map === BigInt(TUPLES_FD)) return this.elements.get(nameOf(machine.bytes(key, 36)))?.address ?? 0n
      const slot = new DataView(machine.bytes(key, 4).slice().buffer).getUint32(0, true)
      return slot <= SLOTS ? this.#slotsAt + BigInt(slot * SLOT) : 0n
    })
    machine.helper(Helper.sock_ops_cb_flags_set, () => {
      this.armed = true
      return 0
    })
    machine.helper(Helper.reserve_hdr_opt, (_, length) => {
      if (Number(length) > this.room - this.reserved) return ENOSPC
      this.reserved += Number(length)
      return 0
    })
    machine.helper(Helper.store_hdr_opt, (_, from, length) => this.#storeOption(from, Number(length)))
    machine.helper(Helper.skb_load_bytes, (_, offset, to, length) => {
      const [at, count] = [Number(offset), Number(length)]
      if (at + count > this.packet.length) return EINVAL
      machine.bytes(to, count).set(this.packet.subarray(at, at + count))
      return 0
    })
    machine.helper(Helper.skb_store_bytes, (_, offset, from, length) => {
      this.packet.set(machine.bytes(from, Number(length)), Number(offset))
      return 0
    })
    machine.helper(Helper.l4_csum_replace, (_, offset, from, to, flags) => {
      assert.equal(flags, 4n)
      const view = new DataView(this.packet.buffer, this.packet.byteOffset)
      const words = [Number(from & 0xffff_ffffn), Number(to & 0xffff_ffffn)] as const
      const bytes = new DataView(new ArrayBuffer(8))
      bytes.setUint32(0, words[0], true)
      bytes.setUint32(4, words[1], true)
      let sum = ~view.getUint16(Number(offset)) & 0xffff
      sum += (~bytes.getUint16(0) & 0xffff) + (~bytes.getUint16(2) & 0xffff)
      sum += bytes.getUint16(4) + bytes.getUint16(6)
      while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
      view.setUint16(Number(offset), ~sum & 0xffff)
      return 0
    })
  }

  #storeOption(from: bigint, length: number): number {
    const option = this.machine.bytes(from, length)
    if (length < 2 || option[1] !== length) return EINVAL
    if (length > this.room) return ENOSPC
    const tcp = this.packet
    for (let at = TCP.MIN_HEADER; at < this.wroteAt; )
      if (tcp[at] === 1) at++
      else if (tcp[at] === option[0]) return EEXIST
      else at += Math.max(1, tcp[at + 1]!)
    tcp.set(option, this.wroteAt)
    this.wroteAt += length
    this.room -= length
    return 0
  }

  runOut(): void {
    this.machine.replace(this.#packetAt, this.packet)
    const view = new DataView(this.context.buffer)
    view.setBigUint64(OPS.data, this.#packetAt, true)
    view.setBigUint64(OPS.dataEnd, this.#packetAt + BigInt(this.packet.length), true)
    this.machine.run(this.#out, this.#contextAt)
  }

  runIn(): number {
    return this.machine.run(this.#in, this.#contextAt)
  }

  get tuples(): TupleMap {
    return {
      get: (key) => this.elements.get(nameOf(key))?.value.slice(),
      put: (key, value) => {
        const known = this.elements.get(nameOf(key))
        if (known !== undefined) known.value.set(value)
        else {
          const copy = value.slice()
          this.elements.set(nameOf(key), { value: copy, address: this.machine.region(copy) })
        }
      },
      remove: (key) => void this.elements.delete(nameOf(key)),
    }
  }
}

function nameOf(key: Uint8Array): string {
  return key.join()
}

/** What becomes of a packet of the TCP: its bytes, and whether it needs no proxy. */
export interface Passed {
  readonly packet: Uint8Array
  readonly passes: boolean
}

export class KernelPath implements FastPath {
  readonly mappings = MAPPINGS
  readonly #now: () => number
  #maps: Maps
  #old: Maps | undefined
  #table: SlotTable
  /** Whether the sockets of tuples ask for options: that stays so for their lives. */
  readonly #asking = new Map<string, boolean>()
  /** Packets that needed no proxy. */
  readonly counts = { out: 0, in: 0 }

  constructor(now: () => number) {
    this.#now = now
    this.#maps = new Maps(now)
    this.#table = this.#newTable()
  }

  #newTable(): SlotTable {
    const { tuples, view } = this.#maps
    const settle = (done: () => boolean) => assert.ok(done(), 'a run of a program has not ended')
    return new SlotTable({ tuples, view, now: this.#now, clock: 0, settle })
  }

  /** The next process makes its maps; until it attaches, the programs of the last one run. */
  restart(): void {
    this.#old = this.#maps
    this.#maps = new Maps(this.#now)
    this.#table = this.#newTable()
  }

  attach(): void {
    this.#old = undefined
  }

  left(tuple: Tuple): ReturnType<FastSlot['end']> | undefined {
    return this.#old === undefined ? undefined : this.#table.left(this.#old, tuple)
  }

  watch(tuple: Tuple, on: boolean): void {
    this.#table.watch(tuple, on)
  }

  begin(connection: Connection): FastSlot | undefined {
    return this.#table.begin(connection)
  }

  /** Slots that the programs take packets of, and tuples that lead to one. */
  get used(): { readonly slots: number; readonly tuples: number } {
    const { view, elements } = this.#maps
    let slots = 0
    for (let slot = 0; slot < SLOTS; slot++) if (view.getUint32(slot * SLOT + USER.mode, true) !== 0) slots++
    const leads = ({ value }: { readonly value: Uint8Array }) =>
      new DataView(value.buffer).getUint32(SLOT_AT, true) !== NO_SLOT
    return { slots, tuples: [...elements.values()].filter(leads).length }
  }

  get tuples(): number {
    return this.#maps.elements.size
  }

  /** What the TCP sends; `sndNxt`: its next sequence number before that. The kernel asks which options it gets. */
  out(packet: Uint8Array, sndNxt: number, srtt = 0): Passed {
    const maps = this.#old ?? this.#maps
    const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
    const ip = ipHeaderLength(view, 0)
    const header = (view.getUint8(ip + TCP.DATA_OFFSET) >> 4) << 2
    const flags = view.getUint8(ip + TCP.FLAGS)
    const payload = packet.length - ip - header
    const context = maps.context
    const ops = new DataView(context.buffer)
    context.fill(0)
    ops.setUint32(OPS.family, AF_INET, true)
    context.set(packet.subarray(12, 16), OPS.local4)
    context.set(packet.subarray(16, 20), OPS.remote4)
    ops.setUint32(OPS.localPort, view.getUint16(ip + TCP.SRC_PORT), true)
    context.set(packet.subarray(ip + TCP.DST_PORT, ip + TCP.DST_PORT + 2), OPS.remotePort + 2)
    ops.setUint32(OPS.srtt, Math.round(srtt * 8000), true)
    ops.setUint32(OPS.sndNxt, sndNxt, true)
    ops.setUint32(OPS.tcpFlags, flags, true)
    if ((flags & SYN) !== 0) return { packet, passes: false }
    const socket = [...packet.subarray(12, 20), ...packet.subarray(ip, ip + TCP.SEQ)].join()
    if (!this.#asking.has(socket)) {
      // Its socket is established with the first packet that is no SYN.
      ops.setUint32(OPS.op, Op.PASSIVE, true)
      maps.armed = false
      maps.runOut()
      this.#asking.set(socket, maps.armed)
    }
    if (this.#asking.get(socket) !== true) return { packet, passes: false }
    maps.room = OPTION_SPACE - (header - TCP.MIN_HEADER)
    maps.reserved = 0
    maps.packet = new Uint8Array(0)
    ops.setUint32(OPS.op, Op.LENGTH, true)
    ops.setUint32(OPS.length, payload, true)
    maps.runOut()
    const reserved = (maps.reserved + 3) & ~3
    if (reserved === 0) return { packet, passes: false }
    const out = new Uint8Array(packet.length + reserved)
    out.set(packet.subarray(0, ip + header))
    out.fill(1, ip + header, ip + header + reserved)
    out.set(packet.subarray(ip + header), ip + header + reserved)
    const outView = new DataView(out.buffer)
    outView.setUint8(ip + TCP.DATA_OFFSET, ((header + reserved) >> 2) << 4)
    maps.packet = out.subarray(ip, ip + header + reserved)
    maps.wroteAt = header
    maps.room = reserved
    ops.setUint32(OPS.op, Op.WRITE, true)
    ops.setUint32(OPS.length, header + reserved + payload, true)
    maps.runOut()
    const passes = (flags & (SYN | RST | FIN)) === 0 && maps.wroteAt > header
    if (passes) {
      assert.equal(out[ip + header], MPTCP_KIND)
      this.counts.out++
    }
    outView.setUint16(2, out.length)
    seal(out, ip)
    return { packet: out, passes }
  }

  /** What comes by a device; undefined: the program drops it. */
  in(packet: Uint8Array): Passed | undefined {
    const maps = this.#old ?? this.#maps
    const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
    const ip = ipHeaderLength(view, 0)
    const skb = new DataView(maps.context.buffer)
    maps.context.fill(0)
    maps.packet = new Uint8Array(ETHERNET + packet.length)
    maps.packet.set(packet, ETHERNET)
    skb.setUint32(SKB.length, maps.packet.length, true)
    skb.setUint32(SKB.protocol, 0x0008, true)
    const result = maps.runIn()
    const passes = skb.getUint32(SKB.priority, true) === SEEN
    if (result !== -1) return undefined
    const out = maps.packet.subarray(ETHERNET)
    if (passes) {
      this.counts.in++
      const length = out.length - ip
      const outView = new DataView(out.buffer, out.byteOffset, out.length)
      const sum = checksum(outView, ip, length, pseudoSum(outView, 0, Protocol.TCP, length))
      assert.equal(sum, 0, 'the checksum is wrong')
    }
    return { packet: out, passes }
  }
}

function seal(packet: Uint8Array, ip: number): void {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
  view.setUint16(10, 0)
  view.setUint16(10, checksum(view, 0, ip))
  const length = packet.length - ip
  view.setUint16(ip + TCP.CHECKSUM, 0)
  view.setUint16(ip + TCP.CHECKSUM, checksum(view, ip, length, pseudoSum(view, 0, Protocol.TCP, length)))
}

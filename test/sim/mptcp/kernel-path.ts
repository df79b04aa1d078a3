/**
 * The kernel's side of a host in virtual time: the programs of src/mptcp/kernel/programs.ts, the very instructions, with the maps and the
 * parts of Linux around them: options reserved and written for each packet of the TCP (tcp_output.c, bpf_skops_*), packets that arrive
 * on a device, and what nftables then passes (filter.ts). It outlives the proxy, as the programs do.
 */
import assert from 'node:assert/strict'
import { viewOf } from '../../../src/core/bytes.ts'
import { checksum, pseudoSum } from '../../../src/core/checksum.ts'
import { ipHeaderLength, Protocol } from '../../../src/core/ip.ts'
import { TCP, TcpFlag } from '../../../src/core/tcp.ts'
import { Helper } from '../../../src/linux/ebpf.ts'
import { Ledger } from '../../../src/linux/ledger.ts'
import { Differs, NO_SLOT, SEEN, SLOT, SLOT_AT, SLOTS, USER } from '../../../src/mptcp/kernel/layout.ts'
import { awayProgram, inProgram, outProgram } from '../../../src/mptcp/kernel/programs.ts'
import { differsOf, MAPPINGS, SlotTable, type TupleMap } from '../../../src/mptcp/kernel/slots.ts'
import type { Connection, FastPath } from '../../../src/mptcp/machine/connection.ts'
import type { FastLeft, FastSlot, FastWay } from '../../../src/mptcp/machine/fast-slot.ts'
import { type Tuple, tupleKey } from '../../../src/mptcp/machine/segment.ts'
import { MPTCP_KIND } from '../../../src/mptcp/wire.ts'
import { decodeEbpf, EbpfMachine } from '../../support/ebpf-machine.ts'
import { take } from './packets.ts'

const { SYN, RST, FIN } = TcpFlag
const ETHERNET = 14
const OPTION_SPACE = 40
const COOKIE = 77
const [TUPLES_FD, SLOTS_FD] = [3, 4]
const AF_INET = 2
/** struct bpf_sock_ops, struct __sk_buff: offsets of what the programs read. */
const OPS = {
  ...{ op: 0, argument: 4, family: 20, remote4: 24, local4: 28, remotePort: 64, localPort: 68, srtt: 80 },
  ...{ flags: 84, sndNxt: 104, sk: 184, data: 192, dataEnd: 200, length: 208, tcpFlags: 212 },
} as const
const Op = { PASSIVE: 5, LENGTH: 14, WRITE: 15 } as const
const SKB = { length: 0, type: 4, mark: 8, protocol: 16, vlan: 20, priority: 32 } as const
const [EEXIST, EINVAL, ENOSPC] = [-17, -22, -28]
/** struct bpf_sock: its state, and the one of a connection. */
const [STATE, ESTABLISHED] = [72, 1]
const { marks: MARKS } = new Ledger().mptcp

const FDS = { tuples: TUPLES_FD, slots: SLOTS_FD }
const PROGRAMS = {
  out: decodeEbpf(outProgram(FDS, BigInt(COOKIE))),
  in: decodeEbpf(inProgram(FDS)),
  away: decodeEbpf(awayProgram(FDS, MARKS)),
} as const

/** The maps of one process; the programs of the one before run until the next attaches its own. */
class Maps {
  readonly machine = new EbpfMachine()
  readonly slots = new Uint8Array((SLOTS + 1) * SLOT)
  readonly view = new DataView(this.slots.buffer)
  readonly elements = new Map<string, { readonly address: number; readonly value: Uint8Array }>()
  readonly #slotsAt = this.machine.region(this.slots)
  /** struct bpf_sock_ops or struct __sk_buff. */
  readonly context = new Uint8Array(256)
  readonly fields = new DataView(this.context.buffer)
  readonly #contextAt = this.machine.region(this.context)
  readonly #packetAt = this.machine.region(new Uint8Array(0))
  readonly #socket = new Uint8Array(96)
  readonly socketAt = this.machine.region(this.#socket)
  /** The packet was given to the socket; references to it that are held. */
  assigned = false
  references = 0
  packet: Uint8Array = new Uint8Array(0)
  /** Options that are reserved, or still to be written. */
  reserved = 0
  room = 0
  wroteAt = 0
  armed = false

  constructor(now: () => number, socket: () => string | undefined) {
    const { machine } = this
    new DataView(this.#socket.buffer).setUint32(STATE, ESTABLISHED, true)
    machine.helper(Helper.get_netns_cookie, () => COOKIE)
    machine.helper(Helper.ktime_get_ns, () => Math.round(now() * 1e6))
    machine.helper(Helper.map_lookup_elem, (map, key) => {
      if (map === TUPLES_FD) return this.elements.get(nameOf(machine.bytes(key, 36)))?.address ?? 0
      const slot = machine.word(key)
      return slot <= SLOTS ? this.#slotsAt + slot * SLOT : 0
    })
    machine.helper(Helper.sock_ops_cb_flags_set, () => {
      this.armed = true
      return 0
    })
    machine.helper(Helper.reserve_hdr_opt, (_, length) => {
      if (length > this.room - this.reserved) return ENOSPC
      this.reserved += length
      return 0
    })
    machine.helper(Helper.store_hdr_opt, (_, from, length) => this.#storeOption(from, length))
    machine.helper(Helper.skb_load_bytes, (_, at, to, length) => {
      if (at + length > this.packet.length) return EINVAL
      machine.bytes(to, length).set(this.packet.subarray(at, at + length))
      return 0
    })
    machine.helper(Helper.skb_store_bytes, (_, offset, from, length) => {
      this.packet.set(machine.bytes(from, length), offset)
      return 0
    })
    machine.helper(Helper.l4_csum_replace, (_, offset, from, to, flags) => {
      if (flags !== 4) {
        assert.ok((flags === 0 || flags === 0x10) && from === 0)
        this.#changeSum(offset, to)
        return 0
      }
      const view = new DataView(this.packet.buffer, this.packet.byteOffset)
      let sum = ~view.getUint16(offset, true) & 0xffff
      sum += (~from & 0xffff) + (~(from / 0x1_0000) & 0xffff)
      sum += (to & 0xffff) + ((to / 0x1_0000) & 0xffff)
      while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
      view.setUint16(offset, ~sum & 0xffff, true)
      return 0
    })
    machine.helper(Helper.l3_csum_replace, (_, offset, from, to, flags) => {
      assert.ok(flags === 0 && from === 0)
      this.#changeSum(offset, to)
      return 0
    })
    machine.helper(Helper.csum_diff, (from, fromLength, to, toLength, seed) => {
      let sum = seed
      for (let i = 0; i < fromLength; i += 4) sum += ~machine.word(from + i) >>> 0
      for (let i = 0; i < toLength; i += 4) sum += machine.word(to + i)
      while (sum >= 2 ** 32) sum = (sum % 2 ** 32) + Math.floor(sum / 2 ** 32)
      return sum
    })
    machine.helper(Helper.sk_lookup_tcp, (_, at, length) => {
      const bytes = machine.bytes(at, length).slice()
      const size = (bytes.length - 4) / 2
      const view = new DataView(bytes.buffer)
      const [remotePort, localPort] = [view.getUint16(2 * size), view.getUint16(2 * size + 2)]
      const tuple = {
        remote: bytes.subarray(0, size),
        local: bytes.subarray(size, 2 * size),
        remotePort,
        localPort,
      }
      if (socket() !== tupleKey(tuple)) return 0
      this.references++
      return this.socketAt
    })
    machine.helper(Helper.sk_assign, (_, at) => {
      assert.equal(at, this.socketAt)
      this.assigned = true
      return 0
    })
    machine.helper(Helper.sk_release, (at) => {
      assert.equal(at, this.socketAt)
      this.references--
      return 0
    })
  }

  /** By the difference of what it is of, in the order of this machine. */
  #changeSum(offset: number, difference: number): void {
    const view = new DataView(this.packet.buffer, this.packet.byteOffset)
    let sum = (~view.getUint16(offset, true) & 0xffff) + (difference % 2 ** 32)
    while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x1_0000)
    view.setUint16(offset, ~sum & 0xffff, true)
  }

  #storeOption(from: number, length: number): number {
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
    const { fields } = this
    fields.setUint32(OPS.sk + 4, this.socketAt / 2 ** 32, true)
    fields.setUint32(OPS.data + 4, this.#packetAt / 2 ** 32, true)
    fields.setUint32(OPS.dataEnd, this.packet.length, true)
    fields.setUint32(OPS.dataEnd + 4, this.#packetAt / 2 ** 32, true)
    this.machine.run(PROGRAMS.out, this.#contextAt)
  }

  /** A frame comes by a device, or leaves by one with a mark. */
  runDevice(way: 'in' | 'away', packet: Uint8Array, mark: number): number {
    const skb = this.fields
    this.context.fill(0)
    this.packet = take(ETHERNET + packet.length)
    this.packet.set(packet, ETHERNET)
    this.assigned = false
    skb.setUint32(SKB.length, this.packet.length, true)
    skb.setUint32(SKB.protocol, 0x0008, true)
    skb.setUint32(SKB.mark, mark, true)
    const result = this.machine.run(PROGRAMS[way], this.#contextAt)
    assert.equal(this.references, 0)
    return result
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
  return Buffer.from(key.buffer, key.byteOffset, key.length).toString('latin1')
}

/** What becomes of a packet of the TCP: its bytes, and whether it needs no proxy. Without bytes it is dropped. */
export interface Passed {
  readonly packet: Uint8Array | undefined
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
  /** Packets that needed no proxy; of these such that were changed beyond DSS and acknowledgement. */
  readonly counts = { out: 0, in: 0, away: 0, given: 0 }
  /** Marks that nftables gives. */
  readonly #sent = new Set<string>()
  readonly #socket: () => Tuple | undefined

  /** `socket`: the connection of the TCP, while it is established. */
  constructor(now: () => number, socket: () => Tuple | undefined) {
    this.#now = now
    this.#socket = socket
    this.#maps = this.#newMaps()
    this.#table = this.#newTable()
  }

  #newMaps(): Maps {
    return new Maps(this.#now, () => {
      const tuple = this.#socket()
      return tuple && tupleKey(tuple)
    })
  }

  #newTable(): SlotTable {
    const { tuples, view } = this.#maps
    const settle = (done: () => boolean) => assert.ok(done(), 'a run of a program has not ended')
    return new SlotTable({ tuples, view, now: this.#now, clock: 0, settle })
  }

  /** The next process makes its maps; until it attaches, the programs of the last one run. */
  restart(): void {
    this.#old = this.#maps
    this.#maps = this.#newMaps()
    this.#table = this.#newTable()
  }

  attach(): void {
    this.#old = undefined
    this.#sent.clear()
  }

  left(tuple: Tuple): FastLeft | undefined {
    return this.#old === undefined ? undefined : this.#table.left(this.#old, tuple)
  }

  watch(tuple: Tuple, on: boolean): void {
    this.#table.watch(tuple, on)
    if (!on) this.#sent.delete(tupleKey(tuple))
  }

  begin(connection: Connection, way: FastWay): FastSlot | undefined {
    if (!this.#table.hasRoom(connection.tuple)) return undefined
    if (differsOf(connection, way) !== Differs.NOTHING) this.#sent.add(connection.key)
    return this.#table.begin(connection, way)
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
    const view = viewOf(packet)
    const ip = ipHeaderLength(view, 0)
    const header = (view.getUint8(ip + TCP.DATA_OFFSET) >> 4) << 2
    const flags = view.getUint8(ip + TCP.FLAGS)
    const payload = packet.length - ip - header
    const context = maps.context
    const ops = maps.fields
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
    const socket = nameOf(packet.subarray(12, 20)) + nameOf(packet.subarray(ip, ip + TCP.SEQ))
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
    const out = take(packet.length + reserved)
    out.set(packet.subarray(0, ip + header))
    out.fill(1, ip + header, ip + header + reserved)
    out.set(packet.subarray(ip + header), ip + header + reserved)
    const outView = viewOf(out)
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
    return passes ? this.#send(out, ip) : { packet: out, passes }
  }

  #send(packet: Uint8Array, ip: number): Passed {
    const view = viewOf(packet)
    const tuple = {
      ...{ local: packet.subarray(12, 16), localPort: view.getUint16(ip + TCP.SRC_PORT) },
      ...{ remote: packet.subarray(16, 20), remotePort: view.getUint16(ip + TCP.DST_PORT) },
    }
    return { packet: this.#sent.has(tupleKey(tuple)) ? this.away(packet) : packet, passes: true }
  }

  /** A packet with the mark leaves; undefined: it is dropped. */
  away(packet: Uint8Array): Uint8Array | undefined {
    const maps = this.#old ?? this.#maps
    if (maps.runDevice('away', packet, MARKS[0]) !== -1) return undefined
    this.counts.away++
    const out = maps.packet.subarray(ETHERNET)
    verify(out, 20)
    return out
  }

  /** What comes by a device; undefined: the program drops it. */
  in(packet: Uint8Array): { readonly packet: Uint8Array; readonly passes: boolean } | undefined {
    const maps = this.#old ?? this.#maps
    const view = viewOf(packet)
    const ip = ipHeaderLength(view, 0)
    const result = maps.runDevice('in', packet, 0)
    const passes = maps.fields.getUint32(SKB.priority, true) === SEEN
    if (result !== -1) return undefined
    const out = maps.packet.subarray(ETHERNET)
    if (passes) {
      this.counts.in++
      verify(out, ip)
    }
    if (maps.assigned) {
      assert.ok(passes)
      this.counts.given++
      // The socket does not look at them.
      const { local, localPort, remote, remotePort } = this.#socket()!
      out.set(remote, 12)
      out.set(local, 16)
      const outView = viewOf(out)
      outView.setUint16(ip + TCP.SRC_PORT, remotePort)
      outView.setUint16(ip + TCP.DST_PORT, localPort)
      seal(out, ip)
    }
    return { packet: out, passes }
  }
}

function verify(packet: Uint8Array, ip: number): void {
  const length = packet.length - ip
  const view = viewOf(packet)
  assert.equal(checksum(view, 0, ip), 0, 'the checksum of the IP header is wrong')
  const sum = checksum(view, ip, length, pseudoSum(view, 0, Protocol.TCP, length))
  assert.equal(sum, 0, 'the checksum is wrong')
}

export function seal(packet: Uint8Array, ip: number): void {
  const view = viewOf(packet)
  view.setUint16(10, 0)
  view.setUint16(10, checksum(view, 0, ip))
  const length = packet.length - ip
  view.setUint16(ip + TCP.CHECKSUM, 0)
  view.setUint16(ip + TCP.CHECKSUM, checksum(view, ip, length, pseudoSum(view, 0, Protocol.TCP, length)))
}

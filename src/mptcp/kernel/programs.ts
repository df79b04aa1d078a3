/**
 * The programs of the fast path. A connection whose data all go over one subflow counts alike in all its sequence spaces but for
 * constants. On the first subflow, as long as no data went elsewhere, they are 0: what the local TCP sends lacks nothing but a DSS, and in
 * what arrives nothing but the acknowledgement is changed, which must not exceed the DATA_ACK.
 *
 *   out   on a control group: the kernel asks it which options a segment gets. It writes the DSS, or nothing: what has none is
 *         queued to user space (filter.ts).
 *   in    on devices: it lowers the acknowledgement and marks the packet, or does nothing: what has no mark is queued.
 *   away  on devices: packets with a DSS that are to leave by another access or with other numbers have a mark from nftables (filter.ts),
 *         which routes them there. It writes the subflow's addresses, ports and numbers.
 *
 * In the other direction addresses stay, for connection tracking and firewalls: `in` writes the local TCP's numbers, and gives the packet
 * to its socket.
 *
 * A mapping is sent again as it was sent first (ADR 0093), so that `out` remembers each. It takes new data only from where user
 * space stopped, and so does `in`: neither overtakes what waits in a queue.
 */
import { Protocol } from '../../core/ip.ts'
import { TcpFlag } from '../../core/tcp.ts'
import { Ebpf, FRAME, Helper, type Register } from '../../linux/ebpf.ts'
import { TcxAction } from '../../linux/tcx.ts'
import { MPTCP_KIND } from '../wire.ts'
import { Differs, FLAGS_AT, Flag, IN, OUT, RING, RING_AT, SEEN, SLOT_AT, USER } from './layout.ts'

export interface FastMaps {
  readonly tuples: number
  readonly slots: number
}

const { FIN, SYN, RST, ACK } = TcpFlag
const URG = 0x20
const ETHERNET = 14
const TCP_HEADER = 20
/** In the TCP header. */
const CHECKSUM = 16
/** Kind of the option with selective acknowledgements. */
const SACK = 5

/** struct bpf_sock_ops */
const OPS = {
  ...{ op: 0, argument: 4, family: 20, remote4: 24, local4: 28, remote6: 32, local6: 48 },
  ...{ remotePort: 64, localPort: 68, srtt: 80, flags: 84, sndNxt: 104 },
  ...{ sk: 184, data: 192, dataEnd: 200, length: 208, tcpFlags: 212 },
} as const
const Op = { ACTIVE: 4, PASSIVE: 5, LENGTH: 14, WRITE: 15 } as const
/** The options are asked for to reckon with the MSS, whose announced value has room for ours already. */
const FOR_MSS = 1
const WRITES_OPTIONS = 1 << 6
const AF_INET = 2
const ALLOWED = 1

/** struct __sk_buff */
const SKB = { type: 4, mark: 8, protocol: 16, vlan: 20, priority: 32 } as const
/** struct bpf_sock */
const SOCK = { device: 0, state: 72 } as const
const ESTABLISHED = 1
const CURRENT_NETNS = -1
const IPV4 = 0x0008
const IPV6 = 0xdd86
/** A checksum that covers the pseudo-header changes with it. */
const PSEUDO_HEADER = 0x10

/** A DSS: subtype, and what it has. */
const DSS = 0x20
const Has = { ACK: 1, WIDE_ACK: 2, MAP: 4, WIDE_MAP: 8, FIN: 16 } as const
const WITH_MAP = 18
const WITH_ACK = 8
const BARE = 4
const LONGEST = 0xffff
/** Acknowledgements that are older than this (bytes) are no honest ones of this path. */
const OLD = 1 << 20

/** Helpers of both programs. `slot` is the register that gets the address of the slot. */
class Program extends Ebpf {
  /** Looks the tuple at `key` up; its value is in r0, or `missing`. */
  findTuple(tuples: number, key: number, missing: string): this {
    this.map(1, tuples).address(2, FRAME, key).call(Helper.map_lookup_elem)
    return this.jumpIf('eq', 0, 0, missing)
  }

  /** From the tuple's value in r0 to the slot, if the programs may take packets there. */
  findSlot(slots: number, slot: Register, scratch: number, missing: string): this {
    this.slotOf(slots, slot, scratch, missing)
    return this.load(4, 1, slot, USER.mode).jumpIf('ne', 1, 1, missing)
  }

  /** Also if they may not any more. */
  slotOf(slots: number, slot: Register, scratch: number, missing: string): this {
    this.load(4, 1, 0, SLOT_AT).store(4, FRAME, scratch, 1)
    this.map(1, slots).address(2, FRAME, scratch).call(Helper.map_lookup_elem)
    return this.jumpIf('eq', 0, 0, missing).move(slot, 0)
  }

  /** An IPv4 address as an IPv6 one on the stack, from register. */
  mapped(at: number, from: Register): this {
    this.storeValue(4, FRAME, at, 0).storeValue(4, FRAME, at + 4, 0)
    return this.storeValue(4, FRAME, at + 8, 0xffff_0000 | 0).store(4, FRAME, at + 12, from)
  }

  /** The low 32 bits. */
  low(register: Register): this {
    return this.alu('shl', register, 32).alu('shr', register, 32)
  }

  add(to: Register, offset: number, value: number): this {
    return this.set(1, value).addAtomically(to, offset, 1)
  }

  /** User space that turns the slot off waits for runs that have begun; these look again whether it has. */
  begin(slot: Register, busy: number, ended: string): this {
    this.set(1, 1).fetchAdd(slot, busy, 1)
    return this.load(4, 1, slot, USER.mode).jumpIf('ne', 1, 1, ended)
  }
}

/** On the control group at the top; sockets of the network namespace with this cookie. */
export function outProgram({ tuples, slots }: FastMaps, namespace: bigint): Uint8Array {
  const code = new Program()
  const ops: Register = 6
  const slot: Register = 7
  const length: Register = 9
  const [KEY, NUMBER, NOW, OFFSET, ACKED, MAPPED, MAPPED_LENGTH, WINDOW, NEW] = [
    -40, -44, -56, -60, -64, -68, -72, -76, -80,
  ]
  const OPTION = -104

  code.move(ops, 1)
  code.load(4, 2, ops, OPS.op)
  for (const [op, label] of [
    [Op.LENGTH, 'length'],
    [Op.WRITE, 'write'],
    [Op.ACTIVE, 'begun'],
    [Op.PASSIVE, 'begun'],
  ] as const)
    code.jumpIf('eq', 2, op, label)
  code.label('out').set(0, ALLOWED).exit()

  code.label('begun')
  find('begun')
  code.move(slot, 0).storeValue(4, slot, FLAGS_AT, Flag.ARMED)
  code.move(1, ops).load(4, 2, ops, OPS.flags).alu('or', 2, WRITES_OPTIONS)
  code.call(Helper.sock_ops_cb_flags_set).jump('out')

  // How many bytes of options.
  code.label('length')
  code.load(4, 1, ops, OPS.argument).jumpIf('eq', 1, FOR_MSS, 'out')
  code.load(4, 1, ops, OPS.tcpFlags).jumpIf('any', 1, FIN | SYN | RST | URG, 'out')
  find('length')
  code.findSlot(slots, slot, NUMBER, 'out')
  // A socket that is bound to a device cannot leave by another.
  code.load(4, 1, slot, USER.differs).jumpIf('eq', 1, Differs.NOTHING, 'unbound')
  code.load(8, 1, ops, OPS.sk).jumpIf('eq', 1, 0, 'out')
  code.load(4, 1, 1, SOCK.device).jumpIf('ne', 1, 0, 'out')
  code.label('unbound')
  code.load(4, 1, ops, OPS.length).jumpIf('eq', 1, 0, 'bare')
  reserve(WITH_MAP).jump('out')
  // Beside three blocks of SACK there is room for a DATA_ACK, beside four for a DSS that says nothing.
  code.label('bare')
  reserve(WITH_ACK).jumpIf('eq', 0, 0, 'out')
  reserve(BARE).jump('out')

  code.label('write')
  find('write')
  code.findSlot(slots, slot, NUMBER, 'out')
  code.begin(slot, OUT.busy, 'done')
  code.call(Helper.ktime_get_ns).store(8, FRAME, NOW, 0)
  code.load(8, 8, ops, OPS.data).load(8, 2, ops, OPS.dataEnd)
  code.address(3, 8, TCP_HEADER).jumpIfRegister('gt', 3, 2, 'done')
  code.load(1, 1, 8, 12).alu('shr', 1, 4).alu('shl', 1, 2)
  code.load(4, length, ops, OPS.length).aluRegister('sub', length, 1)
  code.load(2, 1, 8, 14).swap(1, 16).store(4, FRAME, WINDOW, 1)
  code.load(4, 1, 8, 8).swap(1, 32).load(4, 2, slot, USER.peerIsn)
  code.aluRegister('sub', 1, 2).store(4, FRAME, ACKED, 1)
  code.load(4, 1, 8, 4).swap(1, 32).load(4, 2, ops, OPS.sndNxt)
  // 1: it follows what was sent before.
  code.storeValue(4, FRAME, NEW, 0).jumpIfRegister('ne', 1, 2, 'sent before').storeValue(4, FRAME, NEW, 1)
  code.label('sent before')
  code.load(4, 2, slot, USER.tcpIsn).aluRegister('sub', 1, 2).store(4, FRAME, OFFSET, 1)

  // Its acknowledgement.
  code.load(4, 1, FRAME, ACKED).load(8, 3, slot, OUT.tan).distance(1, 3)
  code.load(4, 2, FRAME, WINDOW).load(4, 4, slot, OUT.window)
  code.jumpIf('less', 1, 0, 'acknowledged').jumpIf('eq', 1, 0, 'window')
  code.aluRegister('add', 3, 1).store(8, slot, OUT.tan, 3).jump('noted')
  code.label('window').jumpIfRegister('le', 2, 4, 'noted')
  code.load(8, 3, slot, OUT.expected).load(8, 4, slot, IN.heard).jumpIfRegister('gt', 3, 4, 'noted')
  code.load(8, 3, FRAME, NOW).store(8, slot, OUT.expected, 3)
  code.label('noted').store(4, slot, OUT.window, 2)
  code.label('acknowledged')
  code.load(4, 1, ops, OPS.srtt).store(4, slot, OUT.srtt, 1)

  code.load(8, 1, slot, OUT.tan).load(8, 2, slot, USER.remoteIdsn).aluRegister('add', 1, 2).low(1)
  code.swap(1, 32).store(4, FRAME, OPTION + 4, 1)
  code.jumpIf('ne', length, 0, 'data')
  option(WITH_ACK, Has.ACK)
  store(WITH_ACK).jumpIf('eq', 0, 0, 'sent')
  option(BARE, 0)
  store(BARE).jump('sent')

  code.label('data').jumpIf('gt', length, LONGEST, 'done')
  code.load(4, 1, slot, OUT.on).jumpIf('ne', 1, 0, 'taken over')
  // From where user space stopped.
  code.load(4, 1, FRAME, NEW).jumpIf('eq', 1, 0, 'done')
  code.load(8, 1, slot, USER.sndMax).move(3, 1).low(3).load(4, 2, FRAME, OFFSET)
  code.jumpIfRegister('ne', 3, 2, 'done')
  code.store(8, slot, OUT.sndMax, 1).load(4, 1, slot, USER.ringTail).store(4, slot, OUT.ringTail, 1)
  code.storeValue(4, slot, OUT.on, 1)
  code.label('taken over')
  code.load(4, 1, FRAME, OFFSET).load(8, 2, slot, OUT.sndMax).distance(1, 2)
  code.jumpIf('more', 1, 0, 'done').jumpIf('less', 1, 0, 'again')

  // New: there is a place for its mapping when the one that was there is acknowledged.
  code.storeValue(4, FRAME, NEW, 1)
  code.load(4, 8, slot, OUT.ringTail)
  entry(8)
  code.load(4, 1, 8, 0).load(4, 2, 8, 4).aluRegister('add', 1, 2).load(8, 2, slot, IN.dataUna)
  code.distance(1, 2).jumpIf('more', 1, 0, 'done')
  code.load(4, 1, FRAME, OFFSET).store(4, FRAME, MAPPED, 1).store(4, FRAME, MAPPED_LENGTH, length)
  code.jump('map')

  // Again: in r8 how many mappings before the newest the one is that it is of.
  code.label('again').storeValue(4, FRAME, NEW, 0).set(8, 0)
  beyond(0, 'found')
  for (let step = RING / 2; step > 0; step >>= 1) {
    const next = `${step}`
    beyond(step, next)
    code.alu('add', 8, step)
    code.label(next)
  }
  code.alu('add', 8, 1)
  code.label('found')
  place(0)
  code.load(4, 1, 3, 0).load(4, 2, 3, 4).store(4, FRAME, MAPPED, 1).store(4, FRAME, MAPPED_LENGTH, 2)
  // All of it has to be in there.
  code.load(4, 3, FRAME, OFFSET).distance(3, 1).jumpIf('less', 3, 0, 'done')
  code.aluRegister('add', 3, length).jumpIfRegister('gt', 3, 2, 'done')

  code.label('map')
  option(WITH_MAP, Has.ACK | Has.MAP)
  code
    .load(4, 1, FRAME, MAPPED)
    .load(4, 2, slot, USER.ssnOut)
    .aluRegister('add', 2, 1)
    .low(2)
    .swap(2, 32)
    .store(4, FRAME, OPTION + 12, 2)
  code.load(8, 2, slot, USER.localIdsn).aluRegister('add', 1, 2).low(1).swap(1, 32)
  code.store(4, FRAME, OPTION + 8, 1)
  code
    .load(4, 1, FRAME, MAPPED_LENGTH)
    .swap(1, 16)
    .store(2, FRAME, OPTION + 16, 1)
  store(WITH_MAP).jumpIf('ne', 0, 0, 'done')
  code.load(8, 1, slot, OUT.asked).load(8, 2, slot, IN.heard).jumpIfRegister('gt', 1, 2, 'asked')
  code.load(8, 1, FRAME, NOW).store(8, slot, OUT.asked, 1)
  code.label('asked')
  code.load(4, 1, FRAME, NEW).jumpIf('eq', 1, 0, 'sent')
  code.load(4, 8, slot, OUT.ringTail).move(4, 8).alu('add', 4, 1)
  entry(8)
  code.load(4, 1, FRAME, OFFSET).store(4, 8, 0, 1).store(4, 8, 4, length)
  code.store(4, slot, OUT.ringTail, 4)
  code.load(8, 1, slot, OUT.sndMax).aluRegister('add', 1, length).store(8, slot, OUT.sndMax, 1)
  code.label('sent').add(slot, OUT.packets, 1)
  code.label('done').add(slot, OUT.busy, -1)
  code.jump('out')
  return code.finish()

  function find(name: string): void {
    code.move(1, ops).call(Helper.get_netns_cookie).setWide(1, namespace)
    code.jumpIfRegister('ne', 0, 1, 'out')
    code.load(4, 1, ops, OPS.family).jumpIf('eq', 1, AF_INET, `${name} 4`)
    for (let word = 0; word < 4; word++)
      code.load(4, 1, ops, OPS.local6 + 4 * word).store(4, FRAME, KEY + 4 * word, 1)
    for (let word = 0; word < 4; word++)
      code.load(4, 1, ops, OPS.remote6 + 4 * word).store(4, FRAME, KEY + 16 + 4 * word, 1)
    code.jump(`${name} ports`).label(`${name} 4`)
    code.load(4, 1, ops, OPS.local4).mapped(KEY, 1)
    code.load(4, 1, ops, OPS.remote4).mapped(KEY + 16, 1)
    code.label(`${name} ports`)
    code
      .load(4, 1, ops, OPS.localPort)
      .swap(1, 16)
      .store(2, FRAME, KEY + 32, 1)
    code
      .load(4, 1, ops, OPS.remotePort)
      .alu('shr', 1, 16)
      .store(2, FRAME, KEY + 34, 1)
    code.findTuple(tuples, KEY, 'out')
  }

  function reserve(bytes: number): Program {
    code.move(1, ops).set(2, bytes).set(3, 0).call(Helper.reserve_hdr_opt)
    return code
  }

  function option(bytes: number, has: number): void {
    const words = [MPTCP_KIND, bytes, DSS, has]
    for (const [i, value] of words.entries()) code.storeValue(1, FRAME, OPTION + i, value)
  }

  function store(bytes: number): Program {
    code.move(1, ops).address(2, FRAME, OPTION).set(3, bytes).set(4, 0).call(Helper.store_hdr_opt)
    return code
  }

  /** The address of the mapping with the number in `register`. */
  function entry(register: Register): void {
    code.alu('and', register, RING - 1).alu('shl', register, 3)
    code.aluRegister('add', register, slot).alu('add', register, RING_AT)
  }

  /** In r3 the address of the mapping that is r8 + `step` before the newest. */
  function place(step: number): void {
    code
      .load(4, 3, slot, OUT.ringTail)
      .alu('sub', 3, 1 + step)
      .aluRegister('sub', 3, 8)
    entry(3)
  }

  /** Goes to `label` if that mapping does not begin beyond the data. */
  function beyond(step: number, label: string): void {
    place(step)
    code.load(4, 1, 3, 0).load(4, 2, FRAME, OFFSET).distance(1, 2).jumpIf('less', 1, 1, label)
  }
}

/** Headers of IP and TCP; options; a DSS alone. */
const [HEADERS, OPTIONS, FOUND] = [-64, -112, -144]
const [KEY, NUMBER, SPACE, TCP_AT, FIELD, SACK_AT] = [-184, -188, -192, -196, -200, -204]
/** Sequence and acknowledgement numbers as they came and as they leave; edges of SACK; addresses; ports with these numbers. */
const [NUMBERS, CHANGED, BLOCK, ADDRESSES, PORTS] = [-216, -224, -240, -248, -264]

/** Programs on devices with an Ethernet header. They have the packet in r6, the slot in r7. */
class DeviceProgram extends Program {
  /**
   * Reads the headers of both families, finds the slot of the tuple and goes to `found` with the length of the TCP segment in
   * r8; to `missing` for anything else. What leaves finds a slot also when the programs take no packets there any more.
   */
  readHeaders(
    { tuples, slots }: FastMaps,
    { outgoing, missing }: { readonly outgoing: boolean; readonly missing: string },
  ): this {
    const [local, remote] = outgoing ? [0, 1] : [1, 0]
    if (!outgoing) this.load(4, 0, 6, SKB.type).jumpIf('ne', 0, 0, missing)
    this.load(4, 0, 6, SKB.vlan).jumpIf('ne', 0, 0, missing)
    this.load(4, 0, 6, SKB.protocol).jumpIf('eq', 0, IPV4, 'four').jumpIf('ne', 0, IPV6, missing)

    this.#headers(40, missing)
    this.load(1, 0, FRAME, HEADERS + 6).jumpIf('ne', 0, Protocol.TCP, missing)
    for (let word = 0; word < 4; word++) {
      this.load(4, 1, FRAME, HEADERS + 8 + 16 * local + 4 * word).store(4, FRAME, KEY + 4 * word, 1)
      this.load(4, 1, FRAME, HEADERS + 8 + 16 * remote + 4 * word).store(4, FRAME, KEY + 16 + 4 * word, 1)
    }
    this.load(2, 8, FRAME, HEADERS + 4).swap(8, 16)
    this.#common(40, local, tuples, missing)

    this.label('four')
    this.#headers(20, missing)
    this.load(1, 0, FRAME, HEADERS).jumpIf('ne', 0, 0x45, missing)
    this.load(1, 0, FRAME, HEADERS + 9).jumpIf('ne', 0, Protocol.TCP, missing)
    this.load(2, 0, FRAME, HEADERS + 6)
      .swap(0, 16)
      .jumpIf('any', 0, 0x3fff, missing)
    this.load(4, 1, FRAME, HEADERS + 12 + 4 * local).mapped(KEY, 1)
    this.load(4, 1, FRAME, HEADERS + 12 + 4 * remote).mapped(KEY + 16, 1)
    this.load(2, 8, FRAME, HEADERS + 2)
      .swap(8, 16)
      .alu('sub', 8, 20)
    this.#common(20, local, tuples, missing)

    this.label('tuple')
    if (!outgoing) this.load(4, 1, 0, FLAGS_AT).jumpIf('any', 1, Flag.ELSEWHERE, missing)
    if (!outgoing) return this.findSlot(slots, 7, NUMBER, missing)
    return this.slotOf(slots, 7, NUMBER, missing)
  }

  #headers(ip: number, missing: string): void {
    this.move(1, 6)
      .set(2, ETHERNET)
      .address(3, FRAME, HEADERS)
      .set(4, ip + TCP_HEADER)
    this.call(Helper.skb_load_bytes).jumpIf('ne', 0, 0, missing)
  }

  /** Puts the TCP header where both families have it; r8: its length with the payload. */
  #common(ip: number, local: number, tuples: number, missing: string): void {
    const tcp = HEADERS + ip
    this.load(2, 1, FRAME, tcp + 2 * local).store(2, FRAME, KEY + 32, 1)
    this.load(2, 1, FRAME, tcp + 2 - 2 * local).store(2, FRAME, KEY + 34, 1)
    this.load(4, 1, FRAME, tcp + 4).store(4, FRAME, NUMBERS, 1)
    this.load(4, 1, FRAME, tcp + 8).store(4, FRAME, NUMBERS + 4, 1)
    // Data offset, flags, window.
    this.load(4, 1, FRAME, tcp + 12).store(4, FRAME, FIELD, 1)
    this.storeValue(4, FRAME, TCP_AT, ETHERNET + ip)
    // What is longer than a packet can be does not say so.
    this.load(4, 1, 6, 0)
      .alu('sub', 1, ETHERNET + ip)
      .jumpIfRegister('gt', 8, 1, missing)
    this.findTuple(tuples, KEY, missing).jump('tuple')
  }

  /**
   * Finds the DSS and the blocks of SACK: r9 says where in the options the DSS is, SACK_AT where they are, beginning with 1; 0: there are
   * none. `strict`: there may be no other options. Length of the options in r9 before.
   */
  readOptions({ strict, failed }: { readonly strict: boolean; readonly failed: string }): this {
    this.storeValue(4, FRAME, SACK_AT, 0)
    this.jumpIf('eq', 9, 0, 'options read')
    for (let at = OPTIONS; at < OPTIONS + 48; at += 8) this.storeValue(8, FRAME, at, 0)
    this.move(1, 6).load(4, 2, FRAME, TCP_AT).alu('add', 2, TCP_HEADER).address(3, FRAME, OPTIONS)
    this.move(4, 9).call(Helper.skb_load_bytes).jumpIf('ne', 0, 0, failed)
    this.store(4, FRAME, SPACE, 9)
    this.set(8, 0).set(9, 0)
    for (let i = 0; i < 8; i++) {
      const name = (label: string) => `${label} ${i}`
      this.load(4, 1, FRAME, SPACE).jumpIfRegister('le', 1, 8, 'options').jumpIf('gt', 8, 39, failed)
      this.move(2, FRAME).aluRegister('add', 2, 8).alu('add', 2, OPTIONS)
      this.load(1, 3, 2, 0).jumpIf('eq', 3, 0, 'options').jumpIf('ne', 3, 1, name('option'))
      this.alu('add', 8, 1).jump(name('next'))
      this.label(name('option')).load(1, 4, 2, 1).jumpIf('lt', 4, 2, failed).jumpIf('gt', 4, 38, failed)
      this.jumpIf('eq', 3, SACK, name('sack')).jumpIf('ne', 3, MPTCP_KIND, strict ? failed : name('skip'))
      this.jumpIf('ne', 9, 0, failed)
      this.move(9, 8).alu('add', 9, 1).jump(name('skip'))
      // At an even place: checksums are of pairs of bytes.
      this.label(name('sack'))
        .load(4, 1, FRAME, SACK_AT)
        .jumpIf('ne', 1, 0, failed)
        .jumpIf('any', 8, 1, failed)
      this.address(1, 8, 1).store(4, FRAME, SACK_AT, 1)
      this.label(name('skip')).aluRegister('add', 8, 4)
      this.label(name('next'))
    }
    this.load(4, 1, FRAME, SPACE).jumpIfRegister('gt', 1, 8, failed)
    this.label('options')
    this.load(4, 1, FRAME, SPACE).jumpIfRegister('gt', 8, 1, failed).jumpIf('gt', 9, 39, failed)
    return this.label('options read')
  }

  /** Changes bytes of the TCP header that are in no pseudo-header, from those at `from` to those at `to`; `at`: register with their place. */
  change(from: number, to: number, length: number, at: Register, failed: string): this {
    this.address(1, FRAME, from).set(2, length).address(3, FRAME, to).set(4, length).set(5, 0)
    this.call(Helper.csum_diff).move(4, 0)
    this.move(1, 6).load(4, 2, FRAME, TCP_AT).alu('add', 2, CHECKSUM).set(3, 0).set(5, 0)
    this.call(Helper.l4_csum_replace).jumpIf('ne', 0, 0, failed)
    this.move(1, 6).move(2, at).address(3, FRAME, to).set(4, length).set(5, 0)
    return this.call(Helper.skb_store_bytes).jumpIf('ne', 0, 0, failed)
  }

  /** Adds the number in r9 to both edges of each block of SACK; r8 is not kept. */
  shiftBlocks(failed: string): this {
    this.load(4, 8, FRAME, SACK_AT).jumpIf('eq', 8, 0, 'blocks').jumpIf('gt', 8, 39, failed)
    this.move(2, FRAME).aluRegister('add', 2, 8).alu('add', 2, OPTIONS)
    // In r8 where the option begins; in SPACE its length.
    this.load(1, 1, 2, 0).store(4, FRAME, SPACE, 1)
    this.load(4, 1, FRAME, TCP_AT)
      .aluRegister('add', 8, 1)
      .alu('add', 8, TCP_HEADER - 1)
    for (let i = 0; i < 4; i++) {
      this.load(4, 1, FRAME, SPACE).jumpIf('lt', 1, 2 + 8 * (i + 1), 'blocks')
      this.move(1, 6)
        .address(2, 8, 2 + 8 * i)
        .address(3, FRAME, BLOCK)
        .set(4, 8)
      this.call(Helper.skb_load_bytes).jumpIf('ne', 0, 0, failed)
      for (const edge of [0, 4]) {
        this.load(4, 1, FRAME, BLOCK + edge)
          .swap(1, 32)
          .aluRegister('add', 1, 9)
          .low(1)
        this.swap(1, 32).store(4, FRAME, BLOCK + 8 + edge, 1)
      }
      this.address(2, 8, 2 + 8 * i).store(4, FRAME, SACK_AT, 2)
      this.address(1, FRAME, BLOCK)
        .set(2, 8)
        .address(3, FRAME, BLOCK + 8)
        .set(4, 8)
        .set(5, 0)
      this.call(Helper.csum_diff).move(4, 0)
      this.move(1, 6).load(4, 2, FRAME, TCP_AT).alu('add', 2, CHECKSUM).set(3, 0).set(5, 0)
      this.call(Helper.l4_csum_replace).jumpIf('ne', 0, 0, failed)
      this.move(1, 6)
        .load(4, 2, FRAME, SACK_AT)
        .address(3, FRAME, BLOCK + 8)
        .set(4, 8)
        .set(5, 0)
      this.call(Helper.skb_store_bytes).jumpIf('ne', 0, 0, failed)
    }
    return this.label('blocks')
  }
}

/** On devices with an Ethernet header, where packets arrive. */
export function inProgram(maps: FastMaps): Uint8Array {
  const code = new DeviceProgram()
  const skb: Register = 6
  const slot: Register = 7
  const [PAYLOAD, ACKED, TARGET] = [-268, -272, -276]
  const [NOW, MAP, MAP_HIGH, SSN, MAP_LENGTH, ACK_NUMBER, ACK_HIGH] = [
    -288, -292, -296, -300, -304, -308, -312,
  ]
  const [LIMIT, END, RESULT, BASE] = [-320, -324, -328, -336]

  code.move(skb, 1)
  code.readHeaders(maps, { outgoing: false, missing: 'next' })
  code.begin(slot, IN.busy, 'done')

  // Flags: ACK, and of the others at most PSH, ECE and CWR.
  code.label('tcp')
  code
    .load(1, 1, FRAME, FIELD + 1)
    .alu('and', 1, FIN | SYN | RST | URG | ACK)
    .jumpIf('ne', 1, ACK, 'done')
  code.call(Helper.ktime_get_ns).store(8, FRAME, NOW, 0)
  // Length of the options in r9, of the payload in r8.
  code.load(1, 9, FRAME, FIELD).alu('shr', 9, 4).alu('shl', 9, 2)
  code.aluRegister('sub', 8, 9).jumpIf('less', 8, 0, 'done').store(4, FRAME, PAYLOAD, 8)
  code.jumpIf('lt', 9, TCP_HEADER, 'done').alu('sub', 9, TCP_HEADER).jumpIf('gt', 9, 40, 'done')
  for (const at of [MAP, MAP_HIGH, SSN, MAP_LENGTH, ACK_NUMBER, ACK_HIGH, END])
    code.storeValue(4, FRAME, at, 0)
  code.readOptions({ strict: true, failed: 'done' }).jumpIf('eq', 9, 0, 'no dss')
  for (let at = FOUND; at < FOUND + 32; at += 8) code.storeValue(8, FRAME, at, 0)
  code.move(2, FRAME).aluRegister('add', 2, 9).alu('add', 2, OPTIONS)
  code.load(1, 4, 2, 0).jumpIf('lt', 4, 4, 'done').jumpIf('gt', 4, 28, 'done')
  code
    .load(4, 2, FRAME, TCP_AT)
    .alu('add', 2, TCP_HEADER - 1)
    .aluRegister('add', 2, 9)
  code.move(1, skb).address(3, FRAME, FOUND).call(Helper.skb_load_bytes).jumpIf('ne', 0, 0, 'done')
  code
    .load(1, 1, FRAME, FOUND + 2)
    .alu('shr', 1, 4)
    .jumpIf('ne', 1, DSS >> 4, 'done')

  // What it has in r9, its fields one after the other.
  const field: Register = 8
  code.load(1, 9, FRAME, FOUND + 3).jumpIf('any', 9, Has.FIN, 'done')
  code.address(field, FRAME, FOUND + 4)
  number(Has.ACK, Has.WIDE_ACK, ACK_NUMBER, ACK_HIGH, 'ack')
  number(Has.MAP, Has.WIDE_MAP, MAP, MAP_HIGH, 'map')
  code.move(1, 9).alu('and', 1, Has.MAP).jumpIf('eq', 1, 0, 'no map')
  code.load(4, 1, field, 0).swap(1, 32).store(4, FRAME, SSN, 1)
  code.load(2, 1, field, 4).swap(1, 16).store(4, FRAME, MAP_LENGTH, 1).alu('add', field, 6)
  code.label('no map')
  code
    .load(1, 1, FRAME, FOUND + 1)
    .address(2, FRAME, FOUND)
    .aluRegister('add', 2, 1)
  code.jumpIfRegister('ne', 2, field, 'done')
  // An acknowledgement with many blocks may have none.
  code.label('no dss')

  // The acknowledgement: not of what was never sent, and not far behind.
  code.load(8, 3, slot, OUT.sndMax).load(4, 1, slot, OUT.on).jumpIf('ne', 1, 0, 'sent')
  code.load(8, 3, slot, USER.sndMax)
  code.label('sent')
  code
    .load(4, 1, FRAME, NUMBERS + 4)
    .swap(1, 32)
    .load(4, 2, slot, USER.wireIsn)
    .aluRegister('sub', 1, 2)
  code.store(4, FRAME, ACKED, 1).move(2, 1).distance(2, 3).jumpIf('more', 2, 0, 'done')
  code.load(8, 3, slot, IN.una).move(2, 1).distance(2, 3).jumpIf('less', 2, -OLD, 'done')
  // The DATA_ACK: at most that. Without, what is known.
  code.move(2, 9).alu('and', 2, Has.ACK).jumpIf('eq', 2, 0, 'no data ack')
  code.load(4, 2, FRAME, ACK_NUMBER).load(8, 3, slot, USER.localIdsn).aluRegister('sub', 2, 3).low(2)
  code.store(4, FRAME, TARGET, 2).move(3, 2).distance(3, 1).jumpIf('more', 3, 0, 'done')
  code.load(8, 3, slot, IN.dataUna).distance(2, 3).jumpIf('less', 2, -OLD, 'done')
  code.aluRegister('add', 3, 2).move(4, 9).alu('and', 4, Has.WIDE_ACK).jumpIf('eq', 4, 0, 'data ack')
  code.load(8, 4, slot, USER.localIdsn).aluRegister('add', 4, 3).alu('shr', 4, 32)
  code.load(4, 5, FRAME, ACK_HIGH).jumpIfRegister('ne', 4, 5, 'done').jump('data ack')
  code.label('no data ack')
  code.load(8, 2, slot, IN.dataUna).move(3, 2).low(3).store(4, FRAME, TARGET, 3)
  code.distance(2, 1).jumpIf('less', 2, 1, 'data ack').store(4, FRAME, TARGET, 1)
  code.label('data ack')

  // How far ahead the local TCP takes data.
  code.load(4, 1, slot, USER.scale).alu('and', 1, 15).load(4, 2, slot, OUT.window)
  code.aluRegister('shl', 2, 1).alu('add', 2, 0x1_0000).store(8, FRAME, LIMIT, 2)
  code.load(8, 3, slot, IN.rcvMax).load(4, 1, slot, IN.on).jumpIf('ne', 1, 0, 'received')
  code.load(8, 3, slot, USER.rcvMax)
  code.label('received').store(8, FRAME, BASE, 3)
  code.load(4, 1, FRAME, NUMBERS).swap(1, 32).load(4, 2, slot, USER.wirePeerIsn)
  code.aluRegister('sub', 1, 2).low(1)
  code.load(4, 5, FRAME, PAYLOAD)
  code.move(2, 1).distance(2, 3).load(8, 4, FRAME, LIMIT).jumpIfRegister('more', 2, 4, 'done')
  code.move(0, 2).aluRegister('add', 0, 4).jumpIf('less', 0, 0, 'done')
  code.jumpIf('ne', 5, 0, 'payload')
  // A mapping without data is none that this knows.
  code.move(0, 9).alu('and', 0, Has.MAP).jumpIf('ne', 0, 0, 'done').jump('socket')

  code.label('payload')
  code.move(0, 9).alu('and', 0, Has.MAP).jumpIf('eq', 0, 0, 'done')
  code.load(4, 0, slot, IN.on).jumpIf('ne', 0, 0, 'in order').jumpIf('ne', 2, 0, 'done')
  code.label('in order')
  code.aluRegister('add', 2, 5).store(4, FRAME, END, 2)
  code.load(4, 4, FRAME, SSN).load(4, 0, FRAME, MAP).load(8, 2, slot, USER.remoteIdsn)
  code.aluRegister('sub', 0, 2).low(0).load(4, 2, slot, USER.ssnIn).aluRegister('sub', 4, 2).low(4)
  code.jumpIfRegister('ne', 0, 4, 'done').load(8, 2, slot, USER.remoteIdsn)
  code.move(0, 1).distance(0, 4).jumpIf('less', 0, 0, 'done').aluRegister('add', 0, 5)
  code.load(4, 1, FRAME, MAP_LENGTH).jumpIfRegister('gt', 0, 1, 'done')
  code.move(0, 9).alu('and', 0, Has.WIDE_MAP).jumpIf('eq', 0, 0, 'mapped')
  code.distance(4, 3).aluRegister('add', 4, 3).aluRegister('add', 4, 2).alu('shr', 4, 32)
  code.load(4, 0, FRAME, MAP_HIGH).jumpIfRegister('ne', 4, 0, 'done')
  code.label('mapped').label('socket')
  // For whom it is: what arrives for other addresses is given to the local TCP's socket, while it is there.
  code.load(4, 1, slot, USER.differs).jumpIf('ne', 1, Differs.ADDRESSES, 'given')
  code.set(3, 36).load(4, 1, slot, USER.socketLength).jumpIf('ne', 1, 12, 'look').set(3, 12)
  code.label('look').move(1, skb).address(2, slot, USER.socket).set(4, CURRENT_NETNS).set(5, 0)
  code.call(Helper.sk_lookup_tcp).jumpIf('eq', 0, 0, 'done').move(9, 0).storeValue(4, FRAME, RESULT, 1)
  code.load(4, 1, 9, SOCK.state).jumpIf('ne', 1, ESTABLISHED, 'release')
  code.move(1, skb).move(2, 9).set(3, 0).call(Helper.sk_assign).store(4, FRAME, RESULT, 0)
  code.label('release').move(1, 9).call(Helper.sk_release)
  code.load(4, 1, FRAME, RESULT).jumpIf('ne', 1, 0, 'done')
  code.label('given').load(4, 1, FRAME, PAYLOAD).jumpIf('eq', 1, 0, 'good')
  code.load(8, 3, FRAME, BASE).load(4, 0, FRAME, END).alu('shl', 0, 32).alu('sar', 0, 32)
  code.jumpIf('less', 0, 1, 'known').aluRegister('add', 3, 0)
  code.label('known').store(8, slot, IN.rcvMax, 3).storeValue(4, slot, IN.on, 1)
  code.load(8, 1, FRAME, NOW).load(8, 2, slot, IN.dataAt).store(8, slot, IN.dataAt, 1)
  code.aluRegister('sub', 1, 2).load(4, 3, slot, IN.burst).alu('add', 3, 1)
  code.jumpIf('lt', 1, 1e9, 'burst').set(3, 1)
  code.label('burst').store(4, slot, IN.burst, 3)

  code.label('good')
  code.load(4, 1, FRAME, ACKED).load(8, 3, slot, IN.una).distance(1, 3).jumpIf('less', 1, 1, 'old ack')
  code.aluRegister('add', 3, 1).store(8, slot, IN.una, 3)
  code.label('old ack')
  code.load(4, 1, FRAME, TARGET).load(8, 3, slot, IN.dataUna).distance(1, 3).jumpIf('less', 1, 1, 'old data')
  code.aluRegister('add', 3, 1).store(8, slot, IN.dataUna, 3)
  code.label('old data')
  code.load(8, 1, FRAME, NOW).store(8, slot, IN.heard, 1)
  code
    .load(2, 1, FRAME, FIELD + 2)
    .swap(1, 16)
    .store(4, slot, IN.window, 1)

  // The local TCP's numbers.
  code.load(4, 4, FRAME, TARGET).load(4, 2, slot, USER.tcpIsn).aluRegister('add', 4, 2).low(4).swap(4, 32)
  code.store(4, FRAME, CHANGED + 4, 4)
  code.load(4, 4, FRAME, NUMBERS).swap(4, 32).load(4, 2, slot, USER.wirePeerIsn).aluRegister('sub', 4, 2)
  code.load(4, 2, slot, USER.peerIsn).aluRegister('add', 4, 2).low(4).swap(4, 32)
  code.store(4, FRAME, CHANGED, 4)
  code.load(8, 1, FRAME, NUMBERS).load(8, 2, FRAME, CHANGED).jumpIfRegister('eq', 1, 2, 'numbers')
  code.load(4, 8, FRAME, TCP_AT).alu('add', 8, 4).change(NUMBERS, CHANGED, 8, 8, 'drop')
  code.label('numbers').load(4, 9, slot, USER.tcpIsn).load(4, 1, slot, USER.wireIsn)
  code.aluRegister('sub', 9, 1).low(9).jumpIf('eq', 9, 0, 'mark').shiftBlocks('drop')
  code.label('mark')
  code.set(1, SEEN).store(4, skb, SKB.priority, 1).add(slot, IN.packets, 1)
  code.label('done').add(slot, IN.busy, -1)
  code.label('next').set(0, TcxAction.NEXT).exit()
  code.label('drop').add(slot, IN.busy, -1)
  code.set(0, TcxAction.DROP).exit()
  return code.finish()

  /** A number of the DSS of 4 or, where it says so, 8 bytes. */
  function number(has: number, wide: number, low: number, high: number, name: string): void {
    code.move(1, 9).alu('and', 1, has).jumpIf('eq', 1, 0, `${name} read`)
    code.move(1, 9).alu('and', 1, wide).jumpIf('eq', 1, 0, `${name} low`)
    code.load(4, 1, field, 0).swap(1, 32).store(4, FRAME, high, 1).alu('add', field, 4)
    code.label(`${name} low`).load(4, 1, field, 0).swap(1, 32).store(4, FRAME, low, 1)
    code.alu('add', field, 4).label(`${name} read`)
  }
}

/**
 * On devices with an Ethernet header, where packets leave: those with a mark of `accesses` (first and last, of MARK_MASK), which have a DSS.
 * One that it cannot translate is dropped: the peer must not see it.
 */
export function awayProgram(maps: FastMaps, accesses: readonly [number, number]): Uint8Array {
  const code = new DeviceProgram()
  const skb: Register = 6
  const slot: Register = 7
  const [first, last] = accesses
  code.move(skb, 1)
  code
    .load(4, 1, skb, SKB.mark)
    .move(2, 1)
    .alu('and', 2, 0xff)
    .jumpIf('ne', 2, first & 0xff, 'next')
  code
    .alu('shr', 1, 24)
    .jumpIf('lt', 1, first >>> 24, 'next')
    .jumpIf('gt', 1, last >>> 24, 'next')
  code.readHeaders(maps, { outgoing: true, missing: 'drop' })
  code.load(1, 9, FRAME, FIELD).alu('shr', 9, 4).alu('shl', 9, 2)
  code.jumpIf('lt', 9, TCP_HEADER, 'drop').alu('sub', 9, TCP_HEADER).jumpIf('gt', 9, 40, 'drop')
  code.readOptions({ strict: false, failed: 'drop' }).jumpIf('eq', 9, 0, 'drop')

  // A mapping of other constants than the slot's is from before.
  code.move(2, FRAME).aluRegister('add', 2, 9).alu('add', 2, OPTIONS)
  code.load(1, 4, 2, 0).jumpIf('ne', 4, WITH_MAP, 'numbers')
  code
    .load(4, 2, FRAME, TCP_AT)
    .alu('add', 2, TCP_HEADER - 1)
    .aluRegister('add', 2, 9)
  code.move(1, skb).address(3, FRAME, FOUND).set(4, WITH_MAP).call(Helper.skb_load_bytes)
  code.jumpIf('ne', 0, 0, 'drop')
  code
    .load(4, 1, FRAME, FOUND + 8)
    .swap(1, 32)
    .load(8, 2, slot, USER.localIdsn)
    .aluRegister('sub', 1, 2)
  code.load(4, 2, slot, USER.ssnOut).aluRegister('add', 1, 2).low(1)
  code
    .load(4, 3, FRAME, FOUND + 12)
    .swap(3, 32)
    .jumpIfRegister('ne', 1, 3, 'drop')

  code.label('numbers')
  code.load(4, 9, slot, USER.wirePeerIsn).load(4, 1, slot, USER.peerIsn).aluRegister('sub', 9, 1).low(9)
  code.load(4, 1, FRAME, NUMBERS).swap(1, 32).load(4, 2, slot, USER.tcpIsn).aluRegister('sub', 1, 2)
  code.load(4, 2, slot, USER.wireIsn).aluRegister('add', 1, 2).low(1).swap(1, 32)
  code.store(4, FRAME, CHANGED, 1)
  code
    .load(4, 1, FRAME, NUMBERS + 4)
    .swap(1, 32)
    .aluRegister('add', 1, 9)
    .low(1)
    .swap(1, 32)
    .store(4, FRAME, CHANGED + 4, 1)
  code.load(4, 8, FRAME, TCP_AT).alu('add', 8, 4).change(NUMBERS, CHANGED, 8, 8, 'drop')
  code.shiftBlocks('drop')

  code.load(4, 1, slot, USER.differs).jumpIf('ne', 1, Differs.ADDRESSES, 'sent')
  // Ports: those that it has are in the key.
  code.load(4, 1, slot, USER.wire + 32).store(4, FRAME, PORTS, 1)
  code.load(4, 8, FRAME, TCP_AT).change(KEY + 32, PORTS, 4, 8, 'drop')
  code.load(4, 1, FRAME, TCP_AT).jumpIf('ne', 1, ETHERNET + 20, 'six')
  code
    .load(4, 1, FRAME, KEY + 12)
    .store(4, FRAME, BLOCK, 1)
    .load(4, 1, FRAME, KEY + 28)
  code.store(4, FRAME, BLOCK + 4, 1)
  code
    .load(4, 1, slot, USER.wire + 12)
    .store(4, FRAME, ADDRESSES, 1)
    .load(4, 1, slot, USER.wire + 28)
  code.store(4, FRAME, ADDRESSES + 4, 1)
  code.address(1, FRAME, BLOCK).set(2, 8).address(3, FRAME, ADDRESSES).set(4, 8).set(5, 0)
  code.call(Helper.csum_diff).move(9, 0)
  code
    .move(1, skb)
    .set(2, ETHERNET + 10)
    .set(3, 0)
    .move(4, 9)
    .set(5, 0)
  code.call(Helper.l3_csum_replace).jumpIf('ne', 0, 0, 'drop')
  sum()
  code
    .move(1, skb)
    .set(2, ETHERNET + 12)
    .address(3, FRAME, ADDRESSES)
    .set(4, 8)
    .set(5, 0)
  code.call(Helper.skb_store_bytes).jumpIf('ne', 0, 0, 'drop').jump('sent')

  code.label('six')
  code.address(1, FRAME, KEY).set(2, 32).address(3, slot, USER.wire).set(4, 32).set(5, 0)
  code.call(Helper.csum_diff).move(9, 0)
  sum()
  code
    .move(1, skb)
    .set(2, ETHERNET + 8)
    .address(3, slot, USER.wire)
    .set(4, 32)
    .set(5, 0)
  code.call(Helper.skb_store_bytes).jumpIf('ne', 0, 0, 'drop')
  code.label('sent')
  code.label('next').set(0, TcxAction.NEXT).exit()
  code.label('drop').set(0, TcxAction.DROP).exit()
  return code.finish()

  /** The sum of the TCP segment follows the addresses; their difference is in r9. */
  function sum(): void {
    code.move(1, skb).load(4, 2, FRAME, TCP_AT).alu('add', 2, CHECKSUM).set(3, 0).move(4, 9)
    code.set(5, PSEUDO_HEADER).call(Helper.l4_csum_replace).jumpIf('ne', 0, 0, 'drop')
  }
}

/**
 * An assembler for eBPF: methods append instructions, labels are resolved at the end. Only what this project's programs
 * use; the kernel's verifier checks the rest. (Documentation/bpf/standardization/instruction-set.rst)
 *
 *   opcode u8 · registers u8 (source high, destination low) · offset s16 · immediate s32
 */

export type Register = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10
/** The frame pointer: stack is below it, 512 bytes. */
export const FRAME: Register = 10

const SIZES = { 1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18 } as const
export type Size = keyof typeof SIZES

const ALU = {
  ...{ add: 0x00, sub: 0x10, mul: 0x20, or: 0x40 },
  ...{ and: 0x50, shl: 0x60, shr: 0x70, xor: 0xa0, sar: 0xc0 },
} as const
/** Comparisons with a number, unsigned but for `more` and `less`; with a register the code is 8 more. */
const JUMPS = { eq: 0x15, gt: 0x25, ne: 0x55, lt: 0xa5, le: 0xb5, more: 0x65, less: 0xc5, any: 0x45 } as const

export class Ebpf {
  readonly #code: { opcode: number; registers: number; offset: number | string; immediate: number }[] = []
  readonly #labels = new Map<string, number>()

  #put(
    opcode: number,
    destination: number,
    source: number,
    offset: number | string,
    immediate: number,
  ): this {
    this.#code.push({ opcode, registers: (source << 4) | destination, offset, immediate })
    return this
  }

  label(name: string): this {
    this.#labels.set(name, this.#code.length)
    return this
  }

  /** 64 bits, sign-extended. */
  set(register: Register, value: number): this {
    return this.#put(0xb7, register, 0, 0, value)
  }

  /** All 64 bits. */
  setWide(register: Register, value: bigint): this {
    const low = Number(BigInt.asIntN(32, value))
    return this.#put(0x18, register, 0, 0, low).#put(0, 0, 0, 0, Number(BigInt.asIntN(32, value >> 32n)))
  }

  move(to: Register, from: Register): this {
    return this.#put(0xbf, to, from, 0, 0)
  }

  /** to = from + offset: addresses on the stack. */
  address(to: Register, from: Register, offset: number): this {
    return this.move(to, from).alu('add', to, offset)
  }

  /** On 64 bits, with a number. */
  alu(operation: keyof typeof ALU, register: Register, value: number): this {
    return this.#put(0x07 | ALU[operation], register, 0, 0, value)
  }

  /** On 64 bits, with another register. */
  aluRegister(operation: keyof typeof ALU, register: Register, other: Register): this {
    return this.#put(0x0f | ALU[operation], register, other, 0, 0)
  }

  /** Between network order and this machine's. */
  swap(register: Register, bits: 16 | 32): this {
    return this.#put(0xdc, register, 0, 0, bits)
  }

  load(size: Size, to: Register, from: Register, offset: number): this {
    return this.#put(0x61 | SIZES[size], to, from, offset, 0)
  }

  store(size: Size, to: Register, offset: number, from: Register): this {
    return this.#put(0x63 | SIZES[size], to, from, offset, 0)
  }

  storeValue(size: Size, to: Register, offset: number, value: number): this {
    return this.#put(0x62 | SIZES[size], to, 0, offset, value)
  }

  jump(label: string): this {
    return this.#put(0x05, 0, 0, label, 0)
  }

  jumpIf(condition: keyof typeof JUMPS, register: Register, value: number, label: string): this {
    return this.#put(JUMPS[condition], register, 0, label, value)
  }

  jumpIfRegister(condition: keyof typeof JUMPS, register: Register, other: Register, label: string): this {
    return this.#put(JUMPS[condition] + 8, register, other, label, 0)
  }

  /** Adds to 64 bits in memory, atomically. */
  addAtomically(to: Register, offset: number, from: Register): this {
    return this.#put(0xdb, to, from, offset, 0)
  }

  /** The same in order with all other accesses; `from` is what was there. */
  fetchAdd(to: Register, offset: number, from: Register): this {
    return this.#put(0xdb, to, from, offset, 1)
  }

  /** The difference of two 32-bit numbers that wrap, with its sign: `register` -= `other`. */
  distance(register: Register, other: Register): this {
    return this.aluRegister('sub', register, other).alu('shl', register, 32).alu('sar', register, 32)
  }

  /** The map with this descriptor, as an argument for a helper. */
  map(register: Register, descriptor: number): this {
    return this.#put(0x18, register, 1, 0, descriptor).#put(0, 0, 0, 0, 0)
  }

  /** Arguments in r1…r5, result in r0; r6…r9 stay. */
  call(helper: number): this {
    return this.#put(0x85, 0, 0, 0, helper)
  }

  exit(): this {
    return this.#put(0x95, 0, 0, 0, 0)
  }

  /** Throws for a label that is nowhere. */
  finish(): Uint8Array {
    const out = new Uint8Array(8 * this.#code.length)
    const view = new DataView(out.buffer)
    for (const [i, { opcode, registers, offset, immediate }] of this.#code.entries()) {
      const target = typeof offset === 'number' ? undefined : this.#labels.get(offset)
      if (typeof offset === 'string' && target === undefined) throw new Error(`no label ${offset}`)
      view.setUint8(8 * i, opcode)
      view.setUint8(8 * i + 1, registers)
      view.setInt16(8 * i + 2, target === undefined ? (offset as number) : target - i - 1, true)
      view.setInt32(8 * i + 4, immediate | 0, true)
    }
    return out
  }
}

/** Helpers of the kernel, by number (linux/bpf.h). */
export const Helper = {
  map_lookup_elem: 1,
  ktime_get_ns: 5,
  skb_store_bytes: 9,
  l3_csum_replace: 10,
  l4_csum_replace: 11,
  redirect: 23,
  skb_load_bytes: 26,
  csum_diff: 28,
  skb_change_proto: 31,
  skb_change_head: 43,
  sock_ops_cb_flags_set: 59,
  sk_lookup_tcp: 84,
  sk_release: 86,
  tcp_sock: 96,
  get_netns_cookie: 122,
  sk_assign: 124,
  store_hdr_opt: 143,
  reserve_hdr_opt: 144,
  redirect_neigh: 152,
  check_mtu: 163,
} as const

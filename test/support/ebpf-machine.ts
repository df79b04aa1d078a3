/**
 * Runs programs that src/linux/ebpf.ts assembles, without a kernel: what the assembler knows, no more. Memory is in regions; an address has
 * the number of its region in its upper half, so that each access is checked as the kernel's verifier would (it throws). A
 * run is never interrupted.
 */

const MASK = 0xffff_ffff_ffff_ffffn
const STACK = 512
/** More instructions than this are a loop. */
const LONGEST = 100_000

export type HelperCall = (a: bigint, b: bigint, c: bigint, d: bigint, e: bigint) => bigint | number

interface Instruction {
  readonly opcode: number
  readonly to: number
  readonly from: number
  readonly offset: number
  readonly immediate: bigint
}

export class EbpfMachine {
  readonly #regions: DataView[] = []
  readonly #stack: bigint
  #at = 0
  readonly #helpers = new Map<number, HelperCall>()

  constructor() {
    // Nothing lies at 0.
    this.region(new Uint8Array(0))
    this.#stack = this.region(new Uint8Array(STACK))
  }

  /** The address of memory that programs may use from now on. */
  region(bytes: Uint8Array): bigint {
    this.#regions.push(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    return BigInt(this.#regions.length - 1) << 32n
  }

  /** Other memory at the address of a region. */
  replace(address: bigint, bytes: Uint8Array): void {
    this.#regions[Number(address >> 32n)] = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  helper(number: number, call: HelperCall): void {
    this.#helpers.set(number, call)
  }

  /** Memory as it is now; throws where a program may not look. */
  bytes(address: bigint, length: number): Uint8Array {
    const view = this.#find(address, length)
    return new Uint8Array(view.buffer, view.byteOffset + this.#at, length)
  }

  /** Its place in that memory is `#at`: this runs for each access, and makes no objects. */
  #find(address: bigint, length: number): DataView {
    const view = this.#regions[Number(BigInt.asUintN(32, address >> 32n))]
    const at = Number(BigInt.asUintN(32, address))
    if (view === undefined || at + length > view.byteLength)
      throw new Error(`no ${length} bytes at ${address.toString(16)}`)
    this.#at = at
    return view
  }

  /** Runs a program with the address of its context; the answer is its result. */
  run(program: readonly Instruction[], context: bigint): number {
    const r = new Array<bigint>(11).fill(0n)
    r[1] = context
    r[10] = this.#stack + BigInt(STACK)
    let at = 0
    for (let count = 0; count < LONGEST; count++) {
      const { opcode, to, from, offset, immediate } = program[at++]!
      const kind = opcode & 7
      if (kind === 7) r[to] = this.#alu(opcode, r[to]!, (opcode & 8) === 0 ? immediate : r[from]!)
      else if (kind === 5) {
        if (opcode === 0x95) return Number(BigInt.asIntN(32, r[0]!))
        if (opcode === 0x85) r[0] = this.#call(Number(immediate), r)
        else if (takes(opcode, r[to]!, (opcode & 8) === 0 ? immediate : r[from]!)) at += offset
      } else if (opcode === 0x18) {
        r[to] = (immediate & 0xffff_ffffn) | (program[at++]!.immediate << 32n)
        r[to]! &= MASK
      } else if (opcode === 0xdc) r[to] = swapped(r[to]!, Number(immediate))
      else if (kind === 1) r[to] = this.#load(opcode, r[from]! + BigInt(offset))
      else if (opcode === 0xdb) {
        const address = BigInt.asUintN(64, r[to]! + BigInt(offset))
        const before = this.#load(0x18, address)
        this.#store(0x18, address, BigInt.asUintN(64, before + r[from]!))
        if (immediate === 1n) r[from] = before
      } else if (kind === 2 || kind === 3)
        this.#store(
          opcode,
          BigInt.asUintN(64, r[to]! + BigInt(offset)),
          kind === 2 ? BigInt.asUintN(64, immediate) : r[from]!,
        )
      else throw new Error(`no instruction ${opcode.toString(16)}`)
    }
    throw new Error('it does not end')
  }

  #call(helper: number, r: bigint[]): bigint {
    const call = this.#helpers.get(helper)
    if (call === undefined) throw new Error(`no helper ${helper}`)
    const result = BigInt(call(r[1]!, r[2]!, r[3]!, r[4]!, r[5]!)) & MASK
    // What the verifier takes for unknown is so here.
    for (let i = 1; i <= 5; i++) r[i] = 0xdead_0000_0000_0000n
    return result
  }

  #alu(opcode: number, left: bigint, right: bigint): bigint {
    switch (opcode & 0xf0) {
      case 0x00:
        return BigInt.asUintN(64, left + right)
      case 0x10:
        return BigInt.asUintN(64, left - right)
      case 0x20:
        return BigInt.asUintN(64, left * right)
      case 0x40:
        return BigInt.asUintN(64, left | right)
      case 0x50:
        return left & BigInt.asUintN(64, right)
      case 0x60:
        return BigInt.asUintN(64, left << (right & 63n))
      case 0x70:
        return left >> (right & 63n)
      case 0xa0:
        return BigInt.asUintN(64, left ^ right)
      case 0xb0:
        return BigInt.asUintN(64, right)
      case 0xc0:
        return BigInt.asUintN(64, BigInt.asIntN(64, left) >> (right & 63n))
    }
    throw new Error(`no operation ${opcode.toString(16)}`)
  }

  #load(opcode: number, where: bigint): bigint {
    const size = opcode & 0x18
    const address = BigInt.asUintN(64, where)
    if (size === 0x18) return this.#find(address, 8).getBigUint64(this.#at, true)
    if (size === 0) return BigInt(this.#find(address, 4).getUint32(this.#at, true))
    if (size === 0x08) return BigInt(this.#find(address, 2).getUint16(this.#at, true))
    return BigInt(this.#find(address, 1).getUint8(this.#at))
  }

  #store(opcode: number, address: bigint, value: bigint): void {
    const size = opcode & 0x18
    if (size === 0x18) this.#find(address, 8).setBigUint64(this.#at, value, true)
    else if (size === 0) this.#find(address, 4).setUint32(this.#at, Number(BigInt.asUintN(32, value)), true)
    else if (size === 0x08)
      this.#find(address, 2).setUint16(this.#at, Number(BigInt.asUintN(16, value)), true)
    else this.#find(address, 1).setUint8(this.#at, Number(BigInt.asUintN(8, value)))
  }
}

/** A program as the assembler finishes it. */
export function decodeEbpf(code: Uint8Array): Instruction[] {
  const view = new DataView(code.buffer, code.byteOffset, code.byteLength)
  const out: Instruction[] = []
  for (let at = 0; at < code.length; at += 8) {
    const registers = view.getUint8(at + 1)
    out.push({
      opcode: view.getUint8(at),
      to: registers & 15,
      from: registers >> 4,
      offset: view.getInt16(at + 2, true),
      immediate: BigInt(view.getInt32(at + 4, true)),
    })
  }
  return out
}

function takes(opcode: number, left: bigint, right: bigint): boolean {
  const value = BigInt.asUintN(64, right)
  switch (opcode & 0xf0) {
    case 0x00:
      return true
    case 0x10:
      return left === value
    case 0x20:
      return left > value
    case 0x40:
      return (left & value) !== 0n
    case 0x50:
      return left !== value
    case 0x60:
      return BigInt.asIntN(64, left) > BigInt.asIntN(64, value)
    case 0xa0:
      return left < value
    case 0xb0:
      return left <= value
    case 0xc0:
      return BigInt.asIntN(64, left) < BigInt.asIntN(64, value)
  }
  throw new Error(`no condition ${opcode.toString(16)}`)
}

function swapped(value: bigint, bits: number): bigint {
  const number = Number(BigInt.asUintN(32, value))
  const low = ((number & 0xff) << 8) | ((number >> 8) & 0xff)
  if (bits === 16) return BigInt(low)
  return BigInt(((low << 16) | ((number >>> 8) & 0xff00) | (number >>> 24)) >>> 0)
}

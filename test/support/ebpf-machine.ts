/**
 * Runs programs that src/linux/ebpf.ts assembles, without a kernel: the instructions that those of the kernel path use, no more. Memory
 * is in regions; an address has the number of its region in its upper half, so that each access is checked as the kernel's verifier
 * would (it throws). A run is never interrupted.
 */

const STACK = 512
/** More instructions than this are a loop. */
const LONGEST = 100_000
const REGISTERS = 11
const WORD = 0x1_0000_0000
/** What the verifier takes for unknown after a call. */
const UNKNOWN = 0xdead_0000 | 0

/** Arguments are registers without their sign: exact below 2^53, as addresses are. */
export type HelperCall = (a: number, b: number, c: number, d: number, e: number) => number

interface Instruction {
  readonly opcode: number
  readonly to: number
  readonly from: number
  readonly offset: number
  readonly immediate: number
}

/** Registers are in two halves of 32 bits: there is no `bigint` for each instruction. */
export class EbpfMachine {
  readonly #regions: DataView[] = []
  readonly #stack: number
  #at = 0
  readonly #low = new Int32Array(REGISTERS)
  readonly #high = new Int32Array(REGISTERS)
  readonly #helpers = new Map<number, HelperCall>()

  constructor() {
    // Nothing lies at 0.
    this.region(new Uint8Array(0))
    this.#stack = this.region(new Uint8Array(STACK))
  }

  /** The address of memory that programs may use from now on. */
  region(bytes: Uint8Array): number {
    this.#regions.push(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    return (this.#regions.length - 1) * WORD
  }

  /** Other memory at the address of a region. */
  replace(address: number, bytes: Uint8Array): void {
    this.#regions[Math.floor(address / WORD)] = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  helper(number: number, call: HelperCall): void {
    this.#helpers.set(number, call)
  }

  /** Memory as it is now; throws where a program may not look. */
  bytes(address: number, length: number): Uint8Array {
    const view = this.#find(Math.floor(address / WORD), address % WORD, length)
    return new Uint8Array(view.buffer, view.byteOffset + this.#at, length)
  }

  /** 32 bits of memory. */
  word(address: number): number {
    return this.#find(Math.floor(address / WORD), address % WORD, 4).getUint32(this.#at, true)
  }

  /** Its place in that memory is `#at`: this runs for each access, and makes no objects. */
  #find(region: number, at: number, length: number): DataView {
    const view = this.#regions[region]
    if (view === undefined || at < 0 || at + length > view.byteLength)
      throw new Error(`no ${length} bytes at ${at} of region ${region}`)
    this.#at = at
    return view
  }

  /** The memory that a register and an offset lead to. */
  #reach(register: number, offset: number, length: number): DataView {
    return this.#find(this.#high[register]! >>> 0, (this.#low[register]! >>> 0) + offset, length)
  }

  #set(register: number, value: number): void {
    this.#low[register] = value
    this.#high[register] = Math.floor(value / WORD)
  }

  #get(register: number): number {
    return (this.#high[register]! >>> 0) * WORD + (this.#low[register]! >>> 0)
  }

  /** Runs a program with the address of its context; the answer is its result. */
  run(program: readonly Instruction[], context: number): number {
    const low = this.#low.fill(0)
    const high = this.#high.fill(0)
    this.#set(1, context)
    this.#set(10, this.#stack + STACK)
    let at = 0
    for (let count = 0; count < LONGEST; count++) {
      const { opcode, to, from, offset, immediate } = program[at++]!
      const kind = opcode & 7
      const isNumber = (opcode & 8) === 0
      if (kind === 7)
        this.#alu(opcode, to, isNumber ? immediate : low[from]!, isNumber ? immediate >> 31 : high[from]!)
      else if (kind === 5) {
        if (opcode === 0x95) return low[0]!
        if (opcode === 0x85) this.#call(immediate)
        else if (
          opcode === 0x05 ||
          takes(
            opcode,
            low[to]!,
            high[to]!,
            isNumber ? immediate : low[from]!,
            isNumber ? immediate >> 31 : high[from]!,
          )
        )
          at += offset
      } else if (opcode === 0x18) {
        low[to] = immediate
        high[to] = program[at++]!.immediate
      } else if (opcode === 0xdc) {
        low[to] = swapped(low[to]!, immediate)
        high[to] = 0
      } else if (kind === 1) this.#load(opcode, to, from, offset)
      else if (opcode === 0xdb) {
        const view = this.#reach(to, offset, 8)
        const [beforeLow, beforeHigh] = [view.getInt32(this.#at, true), view.getInt32(this.#at + 4, true)]
        const sum = (beforeLow >>> 0) + (low[from]! >>> 0)
        view.setInt32(this.#at, sum, true)
        view.setInt32(this.#at + 4, beforeHigh + high[from]! + (sum >= WORD ? 1 : 0), true)
        if (immediate === 1) {
          low[from] = beforeLow
          high[from] = beforeHigh
        }
      } else if (kind === 2) this.#store(opcode, to, offset, immediate, immediate >> 31)
      else if (kind === 3) this.#store(opcode, to, offset, low[from]!, high[from]!)
      else throw new Error(`no instruction ${opcode.toString(16)}`)
    }
    throw new Error('it does not end')
  }

  #call(helper: number): void {
    const call = this.#helpers.get(helper)
    if (call === undefined) throw new Error(`no helper ${helper}`)
    this.#set(0, call(this.#get(1), this.#get(2), this.#get(3), this.#get(4), this.#get(5)))
    for (let i = 1; i <= 5; i++) {
      this.#low[i] = 0
      this.#high[i] = UNKNOWN
    }
  }

  #alu(opcode: number, to: number, low: number, high: number): void {
    const [lows, highs] = [this.#low, this.#high]
    const [left, leftHigh] = [lows[to]!, highs[to]!]
    switch (opcode & 0xf0) {
      case 0x00: {
        const sum = (left >>> 0) + (low >>> 0)
        lows[to] = sum
        highs[to] = leftHigh + high + (sum >= WORD ? 1 : 0)
        return
      }
      case 0x10:
        lows[to] = left - low
        highs[to] = leftHigh - high - (left >>> 0 < low >>> 0 ? 1 : 0)
        return
      case 0x40:
        lows[to] = left | low
        highs[to] = leftHigh | high
        return
      case 0x50:
        lows[to] = left & low
        highs[to] = leftHigh & high
        return
      case 0x60: {
        const by = low & 63
        lows[to] = by >= 32 ? 0 : left << by
        highs[to] = by >= 32 ? left << by : by === 0 ? leftHigh : (leftHigh << by) | (left >>> (32 - by))
        return
      }
      case 0x70:
      case 0xc0: {
        const by = low & 63
        const sign = (opcode & 0xf0) === 0x70 ? 0 : leftHigh >> 31
        const shifted = sign === 0 ? leftHigh >>> by : leftHigh >> by
        lows[to] = by >= 32 ? shifted : by === 0 ? left : (left >>> by) | (leftHigh << (32 - by))
        highs[to] = by >= 32 ? sign : shifted
        return
      }
      case 0xa0:
        lows[to] = left ^ low
        highs[to] = leftHigh ^ high
        return
      case 0xb0:
        lows[to] = low
        highs[to] = high
        return
    }
    throw new Error(`no operation ${opcode.toString(16)}`)
  }

  #load(opcode: number, to: number, from: number, offset: number): void {
    const size = opcode & 0x18
    let [low, high] = [0, 0]
    if (size === 0x18) {
      const view = this.#reach(from, offset, 8)
      low = view.getInt32(this.#at, true)
      high = view.getInt32(this.#at + 4, true)
    } else if (size === 0) low = this.#reach(from, offset, 4).getInt32(this.#at, true)
    else if (size === 0x08) low = this.#reach(from, offset, 2).getUint16(this.#at, true)
    else low = this.#reach(from, offset, 1).getUint8(this.#at)
    this.#low[to] = low
    this.#high[to] = high
  }

  #store(opcode: number, to: number, offset: number, low: number, high: number): void {
    const size = opcode & 0x18
    if (size === 0x18) {
      const view = this.#reach(to, offset, 8)
      view.setInt32(this.#at, low, true)
      view.setInt32(this.#at + 4, high, true)
    } else if (size === 0) this.#reach(to, offset, 4).setInt32(this.#at, low, true)
    else if (size === 0x08) this.#reach(to, offset, 2).setUint16(this.#at, low, true)
    else this.#reach(to, offset, 1).setUint8(this.#at, low)
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
      immediate: view.getInt32(at + 4, true),
    })
  }
  return out
}

function takes(opcode: number, low: number, high: number, otherLow: number, otherHigh: number): boolean {
  const isSame = low === otherLow && high === otherHigh
  const isBelow = high === otherHigh ? low >>> 0 < otherLow >>> 0 : high >>> 0 < otherHigh >>> 0
  switch (opcode & 0xf0) {
    case 0x10:
      return isSame
    case 0x20:
      return !isBelow && !isSame
    case 0x40:
      return ((low & otherLow) | (high & otherHigh)) !== 0
    case 0x50:
      return !isSame
    case 0x60:
      return !isLess(low, high, otherLow, otherHigh) && !isSame
    case 0xa0:
      return isBelow
    case 0xb0:
      return isBelow || isSame
    case 0xc0:
      return isLess(low, high, otherLow, otherHigh)
  }
  throw new Error(`no condition ${opcode.toString(16)}`)
}

/** With their signs. */
function isLess(low: number, high: number, otherLow: number, otherHigh: number): boolean {
  return high === otherHigh ? low >>> 0 < otherLow >>> 0 : high < otherHigh
}

function swapped(low: number, bits: number): number {
  const lowest = ((low & 0xff) << 8) | ((low >> 8) & 0xff)
  return bits === 16 ? lowest : (lowest << 16) | ((low >>> 8) & 0xff00) | (low >>> 24)
}

/**
 * An assembler for classic BPF, the filters of sockets: methods append instructions, labels are resolved at the end. Only
 * what this project's filters use. (Documentation/networking/filter.rst)
 *
 *   code u16 · jump if true u8 · jump if false u8 · k u32, in this machine's order
 */

const LOADS = { 1: 0x30, 2: 0x28, 4: 0x20 } as const
const JUMPS = { eq: 0x15, gt: 0x25 } as const

/** Offsets of a packet's metadata in the kernel (linux/filter.h, SKF_AD_…). */
export const Ancillary = { PACKET_TYPE: 0xfffff004, INTERFACE: 0xfffff008 } as const

interface Instruction {
  readonly code: number
  readonly then: string | undefined
  readonly otherwise: string | undefined
  readonly k: number
}

export class ClassicBpf {
  readonly #code: Instruction[] = []
  readonly #labels = new Map<string, number>()

  #put(code: number, k: number, then?: string, otherwise?: string): this {
    this.#code.push({ code, then, otherwise, k })
    return this
  }

  label(name: string): this {
    this.#labels.set(name, this.#code.length)
    return this
  }

  /** A = bytes of the packet at `offset`, big-endian. The packet is dropped when it is shorter. */
  load(size: keyof typeof LOADS, offset: number): this {
    return this.#put(LOADS[size], offset)
  }

  /** A = the packet's length. */
  loadLength(): this {
    return this.#put(0x80, 0)
  }

  and(value: number): this {
    return this.#put(0x54, value)
  }

  /** Without a label, continues with the next instruction. Forwards only, at most 255 instructions. */
  jumpIf(condition: keyof typeof JUMPS, value: number, then?: string, otherwise?: string): this {
    return this.#put(JUMPS[condition], value, then, otherwise)
  }

  jump(label: string): this {
    return this.#put(0x05, 0, label)
  }

  /** Ends: the socket gets this many bytes of the packet; 0: none. */
  return(bytes: number): this {
    return this.#put(0x06, bytes)
  }

  /** Throws for a label that is nowhere, or too far. */
  finish(): Uint8Array {
    const out = new Uint8Array(8 * this.#code.length)
    const view = new DataView(out.buffer)
    for (const [i, { code, then, otherwise, k }] of this.#code.entries()) {
      const always = code === 0x05
      view.setUint16(8 * i, code, true)
      if (!always) {
        view.setUint8(8 * i + 2, this.#distance(i, then, 255))
        view.setUint8(8 * i + 3, this.#distance(i, otherwise, 255))
      }
      view.setUint32(8 * i + 4, always ? this.#distance(i, then, 0xffff) : k >>> 0, true)
    }
    return out
  }

  #distance(from: number, label: string | undefined, most: number): number {
    if (label === undefined) return 0
    const target = this.#labels.get(label)
    if (target === undefined) throw new Error(`no label ${label}`)
    const distance = target - from - 1
    if (distance < 0 || distance > most) throw new Error(`label ${label} is ${distance} instructions away`)
    return distance
  }
}

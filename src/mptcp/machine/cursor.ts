/** A place in the memory of the records (record.ts) that moves on with what is written and read. */

/** Bytes of a name, its length included. */
const NAME = 16

export class Cursor {
  readonly view: DataView
  readonly #bytes: Uint8Array
  at = 0

  constructor(view: DataView, bytes: Uint8Array) {
    this.view = view
    this.#bytes = bytes
  }

  u8(value: number): void {
    this.view.setUint8(this.at, value)
    this.at += 1
  }

  u16(value: number): void {
    this.view.setUint16(this.at, value, true)
    this.at += 2
  }

  u32(value: number): void {
    this.view.setUint32(this.at, value, true)
    this.at += 4
  }

  number(value: number): void {
    this.view.setFloat64(this.at, value, true)
    this.at += 8
  }

  clear(at: number, length: number): void {
    this.#bytes.fill(0, at, at + length)
  }

  bytes(value: Uint8Array | undefined, room: number): void {
    if (value !== undefined) this.#bytes.set(value, this.at)
    this.at += room
  }

  /** Latin-1 of at most 15 characters; anything else is as none. */
  text(value: string | undefined): void {
    const fits = value !== undefined && value.length < NAME
    this.view.setUint8(this.at, fits ? value.length : 0)
    if (fits) for (let i = 0; i < value.length; i++) this.view.setUint8(this.at + 1 + i, value.charCodeAt(i))
    this.at += NAME
  }

  getU8(): number {
    return this.view.getUint8(this.at++)
  }

  getU16(): number {
    this.at += 2
    return this.view.getUint16(this.at - 2, true)
  }

  getU32(): number {
    this.at += 4
    return this.view.getUint32(this.at - 4, true)
  }

  getNumber(): number {
    this.at += 8
    return this.view.getFloat64(this.at - 8, true)
  }

  getBytes(room: number, length: number): Uint8Array {
    this.at += room
    return this.#bytes.slice(this.at - room, this.at - room + length)
  }

  /** Null when it is no name of an interface. */
  getText(): string | undefined | null {
    const at = this.at
    const length = this.view.getUint8(at)
    this.at += NAME
    if (length >= NAME) return null
    let text = ''
    for (let i = 1; i <= length; i++) {
      const code = this.view.getUint8(at + i)
      if (code <= 0x20 || code === 0x2f) return null
      text += String.fromCharCode(code)
    }
    return length === 0 ? undefined : text
  }
}

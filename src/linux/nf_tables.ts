/**
 * nf_tables by its own netlink encoding: tables, chains, maps and rules as one batch, which the kernel applies as one
 * transaction. `nft.ts` drives the `nft` program and is right for rule sets that people read and that change
 * rarely; this is for maps of 100,000 elements that change within a handover (docs/adr/0020-nf-tables-by-netlink.md): no
 * process is started, and a rule may keep a looked-up value in a register for the next look-up, which the language
 * of `nft` cannot say. Layout: linux/netfilter/nf_tables.h. Attribute integers are big-endian, map keys and data are in
 * the byte order that the packet has (`mark`: the host's).
 */
import { NetlinkMessage } from './netlink.ts'

export const NfFamily = { INET: 1, IPV4: 2, IPV6: 10 } as const
export type NfFamily = (typeof NfFamily)[keyof typeof NfFamily]

export const NfHook = { PREROUTING: 0, INPUT: 1, FORWARD: 2, OUTPUT: 3, POSTROUTING: 4 } as const

/** User-space type numbers, by which `nft list` prints keys and data; a concatenation has six bits for each. */
export const NfType = {
  ipv4_addr: 7,
  ipv6_addr: 8,
  inet_proto: 12,
  inet_service: 13,
  mark: 19,
} as const

/** Combines the types of a concatenated key, first field first. */
export function concatType(...types: readonly number[]): number {
  return types.reduce((sum, type) => (sum << 6) | type, 0)
}

/** 32-bit register n, 0–15. A wider value also uses the following registers. */
export function register32(n: number): number {
  return 8 + n
}

const SUBSYSTEM = 10
const BATCH_BEGIN = 0x10
const BATCH_END = 0x11
const Message = {
  NEWTABLE: 0,
  GETTABLE: 1,
  DELTABLE: 2,
  DESTROYTABLE: 26,
  NEWCHAIN: 3,
  DELCHAIN: 5,
  NEWRULE: 6,
  DELRULE: 8,
  NEWSET: 9,
  GETSETELEM: 13,
  NEWSETELEM: 12,
  DELSETELEM: 14,
} as const

const REQUEST = 0x01
const ACK = 0x04
const DUMP = 0x300
const CREATE = 0x400
const APPEND = 0x800
const NESTED = 0x8000

const SET_MAP = 0x08
const SET_TIMEOUT = 0x10
const SET_EVAL = 0x20

/** Where a payload expression counts from. */
export const PayloadBase = { NETWORK: 1, TRANSPORT: 2 } as const
/** Keys of the meta expression. */
export const MetaKey = { PRIORITY: 2, MARK: 3, IIFNAME: 6, OIFNAME: 7, L4PROTO: 16 } as const
/** Keys of the ct expression (connection tracking); the addresses with a direction, 0 the original one. */
export const CtKey = {
  STATE: 0,
  DIRECTION: 1,
  STATUS: 2,
  MARK: 3,
  SOURCE_V4: 19,
  DESTINATION_V4: 20,
  SOURCE_V6: 21,
  DESTINATION_V6: 22,
} as const
/**
 * Of a table that only the socket which made it may change, so that `nft flush ruleset` of others passes it by, and which stays as
 * anybody's when that socket is closed (Linux 6.9).
 */
export const OWNED_TABLE = 2 | 4
export const CompareOp = { EQ: 0, NEQ: 1, LT: 2, LTE: 3, GT: 4, GTE: 5 } as const

export interface MapDefinition {
  readonly name: string
  readonly keyType: number
  readonly keyLength: number
  /** Absent for a set. */
  readonly dataType?: number
  readonly dataLength?: number
  /** Elements vanish this many milliseconds after the last update by a rule; makes the set dynamic. */
  readonly timeoutMs?: number
  /** Most elements; required for a dynamic set. */
  readonly size?: number
}

export interface BaseChain {
  readonly type: 'filter' | 'route' | 'nat'
  readonly hook: number
  readonly priority: number
}

/** One batch, built message by message; `finish` returns the bytes for one `sendmsg`. */
export class NfBatch {
  #buffer: Uint8Array
  #view: DataView
  #length = 0
  #sequence: number
  #message = 0
  readonly #first: number

  constructor(sequence = 1, capacity = 4096) {
    this.#buffer = new Uint8Array(capacity)
    this.#view = new DataView(this.#buffer.buffer)
    this.#first = sequence
    this.#sequence = sequence
    this.#begin(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM)
    this.#end()
  }

  /** Sequence number of the first message after the batch's opening one. */
  get firstSequence(): number {
    return this.#first + 1
  }

  get byteLength(): number {
    return this.#length
  }

  table(family: NfFamily, name: string, flags = 0): this {
    this.#begin(SUBSYSTEM << 8, REQUEST | CREATE, family)
    this.#string(1, name)
    this.#u32(2, flags)
    return this.#end()
  }

  /** Deletes a table, if there is one (Linux 6.3). */
  destroyTable(family: NfFamily, name: string): this {
    this.#begin((SUBSYSTEM << 8) | Message.DESTROYTABLE, REQUEST, family)
    this.#string(1, name)
    return this.#end()
  }

  deleteTable(family: NfFamily, name: string): this {
    this.#begin((SUBSYSTEM << 8) | Message.DELTABLE, REQUEST, family)
    this.#string(1, name)
    return this.#end()
  }

  chain(family: NfFamily, table: string, name: string, base?: BaseChain): this {
    this.#begin((SUBSYSTEM << 8) | Message.NEWCHAIN, REQUEST | CREATE, family)
    this.#string(1, table)
    this.#string(3, name)
    if (base !== undefined) {
      const hook = this.#nest(4)
      this.#u32(1, base.hook)
      this.#u32(2, base.priority >>> 0)
      this.#unnest(hook)
      this.#u32(5, 1)
      this.#string(7, base.type)
    }
    return this.#end()
  }

  deleteChain(family: NfFamily, table: string, name: string): this {
    this.#begin((SUBSYSTEM << 8) | Message.DELCHAIN, REQUEST, family)
    this.#string(1, table)
    this.#string(3, name)
    return this.#end()
  }

  /** Deletes every rule of a chain. */
  flushChain(family: NfFamily, table: string, name: string): this {
    this.#begin((SUBSYSTEM << 8) | Message.DELRULE, REQUEST, family)
    this.#string(1, table)
    this.#string(2, name)
    return this.#end()
  }

  map(family: NfFamily, table: string, definition: MapDefinition): this {
    const dynamic = definition.timeoutMs !== undefined
    this.#begin((SUBSYSTEM << 8) | Message.NEWSET, REQUEST | CREATE, family)
    this.#string(1, table)
    this.#string(2, definition.name)
    this.#u32(3, (definition.dataLength === undefined ? 0 : SET_MAP) | (dynamic ? SET_TIMEOUT | SET_EVAL : 0))
    this.#u32(4, definition.keyType)
    this.#u32(5, definition.keyLength)
    if (definition.dataLength !== undefined) {
      this.#u32(6, definition.dataType ?? 0)
      this.#u32(7, definition.dataLength)
    }
    if (definition.size !== undefined) {
      const desc = this.#nest(9)
      this.#u32(1, definition.size)
      this.#unnest(desc)
    }
    this.#u32(10, this.#sequence)
    if (definition.timeoutMs !== undefined) this.#u64(11, definition.timeoutMs)
    return this.#end()
  }

  /**
   * Adds (or with `remove` deletes) elements (`encodeElement`), all of the same key and data lengths. To change the data of
   * a key, delete it first in the same batch.
   */
  elements(
    family: NfFamily,
    table: string,
    map: string,
    elements: readonly Uint8Array[],
    keyLength: number,
    remove = false,
  ): this {
    const perMessage = Math.max(1, Math.floor(60_000 / (elements[0]?.length ?? 1)))
    for (let start = 0; start < elements.length; start += perMessage) {
      this.#begin(
        (SUBSYSTEM << 8) | (remove ? Message.DELSETELEM : Message.NEWSETELEM),
        remove ? REQUEST : REQUEST | CREATE,
        family,
      )
      this.#string(1, table)
      this.#string(2, map)
      const list = this.#nest(3)
      const stop = Math.min(elements.length, start + perMessage)
      for (let i = start; i < stop; i++) this.#element(elements[i]!, keyLength, remove)
      this.#unnest(list)
      this.#end()
    }
    return this
  }

  /** Empties a map. */
  flushMap(family: NfFamily, table: string, map: string): this {
    this.#begin((SUBSYSTEM << 8) | Message.DELSETELEM, REQUEST, family)
    this.#string(1, table)
    this.#string(2, map)
    return this.#end()
  }

  /** Appends a rule; `build` adds its expressions in the order in which they are evaluated. */
  rule(family: NfFamily, table: string, chain: string, build: (expressions: NfExpressions) => void): this {
    this.#begin((SUBSYSTEM << 8) | Message.NEWRULE, REQUEST | CREATE | APPEND, family)
    this.#string(1, table)
    this.#string(2, chain)
    const list = this.#nest(4)
    build(this.#expressions)
    this.#unnest(list)
    return this.#end()
  }

  /** Closes the batch. The last message asks for an acknowledgement, to confirm success as well. */
  finish(): Uint8Array {
    this.#view.setUint16(this.#message + 6, this.#view.getUint16(this.#message + 6, true) | ACK, true)
    this.#begin(BATCH_END, REQUEST, 0, SUBSYSTEM)
    this.#end()
    return this.#buffer.subarray(0, this.#length)
  }

  readonly #expressions: NfExpressions = {
    loadPayload: (base, offset, length, register) =>
      this.#expression('payload', () => {
        this.#u32(1, register)
        this.#u32(2, base)
        this.#u32(3, offset)
        this.#u32(4, length)
      }),
    writePayload: (base, offset, length, register, checksum) =>
      this.#expression('payload', () => {
        this.#u32(2, base)
        this.#u32(3, offset)
        this.#u32(4, length)
        this.#u32(5, register)
        this.#u32(6, checksum.offset === undefined ? 0 : 1)
        this.#u32(7, checksum.offset ?? 0)
        this.#u32(8, checksum.pseudoHeader === true ? 1 : 0)
      }),
    meta: (key, register) =>
      this.#expression('meta', () => {
        this.#u32(1, register)
        this.#u32(2, key)
      }),
    setMeta: (key, register) =>
      this.#expression('meta', () => {
        this.#u32(2, key)
        this.#u32(3, register)
      }),
    ct: (key, register, direction) =>
      this.#expression('ct', () => {
        this.#u32(1, register)
        this.#u32(2, key)
        if (direction !== undefined) this.#u8(3, direction)
      }),
    setCt: (key, register) =>
      this.#expression('ct', () => {
        this.#u32(2, key)
        this.#u32(4, register)
      }),
    lookup: (map, source, destination) =>
      this.#expression('lookup', () => {
        this.#string(1, map)
        this.#u32(2, source)
        if (destination !== undefined) this.#u32(3, destination)
      }),
    compare: (register, op, value) =>
      this.#expression('cmp', () => {
        this.#u32(1, register)
        this.#u32(2, op)
        this.#data(3, value, 0, value.length)
      }),
    bitwise: (register, mask, xor) =>
      this.#expression('bitwise', () => {
        this.#u32(1, register)
        this.#u32(2, register)
        this.#u32(3, mask.length)
        this.#data(4, mask, 0, mask.length)
        this.#data(5, xor, 0, xor.length)
      }),
    update: (set, key) =>
      this.#expression('dynset', () => {
        this.#string(1, set)
        this.#u32(3, 1)
        this.#u32(4, key)
      }),
    accept: () => this.#verdict(1),
    drop: () => this.#verdict(0),
    resetTcp: () =>
      this.#expression('reject', () => {
        this.#u32(1, 1) // NFT_REJECT_TCP_RST
      }),
    counter: () => this.#expression('counter', () => {}),
    notrack: () => this.#expression('notrack', () => {}),
    tcpOption: (kind, register) =>
      this.#expression('exthdr', () => {
        this.#u32(1, register)
        this.#bytes(2, Uint8Array.of(kind))
        this.#u32(3, 0)
        this.#u32(4, 1)
        this.#u32(5, 1) // NFT_EXTHDR_F_PRESENT
        this.#u32(6, 1) // NFT_EXTHDR_OP_TCPOPT
      }),
    over: (rate, burst) =>
      this.#expression('limit', () => {
        this.#u64(1, rate)
        this.#u64(2, 1)
        this.#u32(3, burst)
        this.#u32(4, 0) // NFT_LIMIT_PKTS
        this.#u32(5, 1) // NFT_LIMIT_F_INV
      }),
    queue: (number, { bypass, target }) => {
      if (!target) {
        this.#expression('queue', () => {
          this.#bytes(1, be16(number))
          this.#bytes(2, be16(1))
          this.#bytes(3, be16(bypass ? 1 : 0))
        })
        return
      }
      this.#expression('target', () => {
        this.#string(1, 'NFQUEUE')
        this.#u32(2, 3)
        // struct xt_NFQ_info_v3, in the host's order
        this.#bytes(3, Uint8Array.of(number & 0xff, number >> 8, 1, 0, bypass ? 1 : 0, 0, 0, 0))
      })
    },
    masquerade: (ports) => {
      if (ports === undefined) {
        this.#expression('masq', () => {})
        return
      }
      this.#immediate(register32(0), be16(ports[0]))
      this.#immediate(register32(1), be16(ports[1]))
      this.#expression('masq', () => {
        this.#u32(1, 2) // ports are specified
        this.#u32(2, register32(0))
        this.#u32(3, register32(1))
      })
    },
  }

  #verdict(code: number): void {
    this.#expression('immediate', () => {
      this.#u32(1, 0)
      const data = this.#nest(2)
      const verdict = this.#nest(2)
      this.#u32(1, code)
      this.#unnest(verdict)
      this.#unnest(data)
    })
  }

  #immediate(register: number, value: Uint8Array): void {
    this.#expression('immediate', () => {
      this.#u32(1, register)
      this.#data(2, value, 0, value.length)
    })
  }

  #expression(name: string, body: () => void): void {
    const element = this.#nest(1)
    this.#string(1, name)
    const data = this.#nest(2)
    body()
    this.#unnest(data)
    this.#unnest(element)
  }

  #begin(type: number, flags: number, family: number, resource = 0): void {
    this.#reserve(20)
    const at = this.#length
    if (type !== BATCH_END) this.#message = at
    this.#view.setUint16(at + 4, type, true)
    this.#view.setUint16(at + 6, flags, true)
    this.#view.setUint32(at + 8, this.#sequence++, true)
    this.#view.setUint32(at + 12, 0, true)
    this.#buffer[at + 16] = family
    this.#buffer[at + 17] = 0
    this.#view.setUint16(at + 18, resource)
    this.#open = at
    this.#length = at + 20
  }

  #open = 0

  #end(): this {
    this.#view.setUint32(this.#open, this.#length - this.#open, true)
    return this
  }

  #attribute(type: number, length: number): number {
    this.#reserve(length + 8)
    const at = this.#length
    this.#view.setUint16(at, length + 4, true)
    this.#view.setUint16(at + 2, type, true)
    const padded = (length + 3) & ~3
    this.#buffer.fill(0, at + 4 + length, at + 4 + padded)
    this.#length = at + 4 + padded
    return at + 4
  }

  #u32(type: number, value: number): void {
    const at = this.#attribute(type, 4)
    this.#view.setUint32(at, value)
  }

  #u64(type: number, value: number): void {
    const at = this.#attribute(type, 8)
    this.#view.setUint32(at, Math.floor(value / 4294967296))
    this.#view.setUint32(at + 4, value >>> 0)
  }

  #u8(type: number, value: number): void {
    const at = this.#attribute(type, 1)
    this.#buffer[at] = value
  }

  #string(type: number, text: string): void {
    const at = this.#attribute(type, text.length + 1)
    for (let i = 0; i < text.length; i++) this.#buffer[at + i] = text.charCodeAt(i)
    this.#buffer[at + text.length] = 0
  }

  #bytes(type: number, bytes: Uint8Array): void {
    const at = this.#attribute(type, bytes.length)
    this.#buffer.set(bytes, at)
  }

  #data(type: number, bytes: Uint8Array, from: number, length: number): void {
    const nest = this.#nest(type)
    const at = this.#attribute(1, length)
    for (let i = 0; i < length; i++) this.#buffer[at + i] = bytes[from + i]!
    this.#unnest(nest)
  }

  /** To be removed an element is named by its key. */
  #element(element: Uint8Array, keyLength: number, keyOnly: boolean): void {
    const size = keyOnly ? ELEMENT_KEY + padded(keyLength) : element.length
    this.#reserve(size)
    const at = this.#length
    this.#buffer.set(keyOnly ? element.subarray(0, size) : element, at)
    if (keyOnly) this.#view.setUint16(at, size, true)
    this.#length = at + size
  }

  #nest(type: number): number {
    this.#reserve(8)
    const at = this.#length
    this.#view.setUint16(at + 2, type | NESTED, true)
    this.#length = at + 4
    return at
  }

  #unnest(at: number): void {
    this.#view.setUint16(at, this.#length - at, true)
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return
    const grown = new Uint8Array(Math.max(this.#buffer.length * 2, this.#length + bytes))
    grown.set(this.#buffer.subarray(0, this.#length))
    this.#buffer = grown
    this.#view = new DataView(grown.buffer)
  }
}

/** Where the key of an encoded element lies. */
const ELEMENT_KEY = 12

/**
 * One element of a map or set as a batch carries it: key and, if it has any, data, each a value in a nest. Worth keeping
 * where the same element may be sent again.
 */
export function encodeElement(key: Uint8Array, data: Uint8Array = NO_DATA): Uint8Array {
  const dataAt = ELEMENT_KEY + padded(key.length)
  const bytes = new Uint8Array(dataAt + (data.length > 0 ? 8 + padded(data.length) : 0))
  const view = new DataView(bytes.buffer)
  view.setUint16(0, bytes.length, true)
  view.setUint16(2, 1 | NESTED, true)
  view.setUint16(4, 8 + padded(key.length), true)
  view.setUint16(6, 1 | NESTED, true)
  view.setUint16(8, 4 + key.length, true)
  view.setUint16(10, 1, true)
  bytes.set(key, ELEMENT_KEY)
  if (data.length === 0) return bytes
  view.setUint16(dataAt, 8 + padded(data.length), true)
  view.setUint16(dataAt + 2, 2 | NESTED, true)
  view.setUint16(dataAt + 4, 4 + data.length, true)
  view.setUint16(dataAt + 6, 1, true)
  bytes.set(data, dataAt + 8)
  return bytes
}

const NO_DATA = new Uint8Array(0)

function padded(length: number): number {
  return (length + 3) & ~3
}

/** The expressions of a rule. Registers by `register32`; a failed look-up or comparison ends the rule. */
export interface NfExpressions {
  loadPayload(base: number, offset: number, length: number, register: number): void
  /** `offset` of the checksum that covers the bytes, from `base`; `pseudoHeader`: TCP and UDP's is adjusted as well. */
  writePayload(
    base: number,
    offset: number,
    length: number,
    register: number,
    checksum: { readonly offset?: number; readonly pseudoHeader?: boolean },
  ): void
  meta(key: number, register: number): void
  setMeta(key: number, register: number): void
  /** A property of the packet's connection in connection tracking (`CtKey`). */
  ct(key: number, register: number, direction?: 0 | 1): void
  setCt(key: number, register: number): void
  lookup(map: string, source: number, destination?: number): void
  compare(register: number, op: number, value: Uint8Array): void
  bitwise(register: number, mask: Uint8Array, xor: Uint8Array): void
  /** Adds the key to a dynamic set, or renews its timeout. */
  update(set: string, key: number): void
  counter(): void
  /** Connection tracking, and with it address translation, leaves the packet alone. */
  notrack(): void
  /** Ends the evaluation of this base chain. */
  accept(): void
  drop(): void
  /** Drops a TCP segment and answers it with a reset. */
  resetTcp(): void
  masquerade(ports?: readonly [number, number]): void
  /** 1 where the TCP header has an option of this kind, else 0; packets that are no TCP end the rule. */
  tcpOption(kind: number, register: number): void
  /** Goes on with packets beyond so many a second, after a burst of so many. */
  over(rate: number, burst: number): void
  /**
   * Passes the packet to a queue in user space. `bypass`: it is accepted when nobody reads the queue, instead of dropped.
   * `target`: uses the target of iptables, for kernels without the expression.
   */
  queue(number: number, options: { readonly bypass: boolean; readonly target: boolean }): void
}

/** The request for one table; the kernel answers ENOENT when there is none. */
export function getTable(family: NfFamily, table: string): NetlinkMessage {
  const message = new NetlinkMessage((SUBSYSTEM << 8) | Message.GETTABLE)
  return message.u8(family).u8(0).be16(0).attributeString(1, table)
}

/** The request that dumps a map; answers are read by `readElements`. */
export function dumpElements(family: NfFamily, table: string, map: string, sequence: number): Uint8Array {
  const body = [...attribute(1, cstring(table)), ...attribute(2, cstring(map))]
  const length = 20 + body.length
  const bytes = new Uint8Array(length)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, length, true)
  view.setUint16(4, (SUBSYSTEM << 8) | Message.GETSETELEM, true)
  view.setUint16(6, REQUEST | DUMP, true)
  view.setUint32(8, sequence, true)
  bytes[16] = family
  bytes.set(body, 20)
  return bytes
}

/**
 * Visits the elements in one NEWSETELEM message of a dump (`at` is the netlink header's offset). Malformed messages
 * yield nothing.
 */
export function readElements(
  bytes: Uint8Array,
  at: number,
  length: number,
  visit: (key: Uint8Array, data: Uint8Array | undefined) => void,
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const walk = (from: number, to: number, see: (type: number, from: number, to: number) => void): void => {
    for (let p = from; p + 4 <= to; ) {
      const size = view.getUint16(p, true)
      if (size < 4 || p + size > to) return
      see(view.getUint16(p + 2, true) & 0x3fff, p + 4, p + size)
      p += (size + 3) & ~3
    }
  }
  const value = (from: number, to: number): Uint8Array | undefined => {
    let found: Uint8Array | undefined
    walk(from, to, (type, f, t) => {
      if (type === 1) found = bytes.slice(f, t)
    })
    return found
  }
  walk(at + 20, at + length, (type, from, to) => {
    if (type !== 3) return
    walk(from, to, (_, f, t) => {
      let key: Uint8Array | undefined
      let data: Uint8Array | undefined
      walk(f, t, (kind, a, b) => {
        if (kind === 1) key = value(a, b)
        else if (kind === 2) data = value(a, b)
      })
      if (key !== undefined) visit(key, data)
    })
  })
}

function attribute(type: number, body: readonly number[]): number[] {
  const length = body.length + 4
  const padding = new Array<number>((4 - (length & 3)) & 3).fill(0)
  return [length & 0xff, length >> 8, type, 0, ...body, ...padding]
}

function cstring(text: string): number[] {
  return [...text].map((c) => c.charCodeAt(0)).concat(0)
}

function be16(value: number): Uint8Array {
  return Uint8Array.of(value >> 8, value & 0xff)
}

/**
 * IP addresses and prefixes as bytes (4 or 16), their text forms, and the longest-prefix table behind allowed IPs.
 */
import { equal } from './bytes.ts'
import { type Decoded, decoded, malformed } from './result.ts'

/** `length` leading bits of `address`; bits after them are zero. */
export interface Prefix {
  readonly address: Uint8Array
  readonly length: number
}

/** IPv4 dotted decimal (no leading zeros, RFC 6943 §3.1.1) or IPv6 (RFC 4291 §2.2, without a zone). */
export function parseAddress(text: string): Decoded<Uint8Array> {
  return text.includes(':') ? parseV6(text) : parseV4(text)
}

function parseV4(text: string): Decoded<Uint8Array> {
  const parts = text.split('.')
  if (parts.length !== 4) return malformed(`not an IP address: ${text}`)
  const out = new Uint8Array(4)
  for (const [i, part] of parts.entries()) {
    if (!/^(0|[1-9][0-9]{0,2})$/.test(part) || Number(part) > 255)
      return malformed(`not an IP address: ${text}`)
    out[i] = Number(part)
  }
  return decoded(out)
}

function parseV6(text: string): Decoded<Uint8Array> {
  const bad = malformed(`not an IPv6 address: ${text}`)
  const halves = text.split('::')
  if (halves.length > 2) return bad
  const head = groups(halves[0]!, halves.length === 1)
  const tail = halves.length === 2 ? groups(halves[1]!, true) : []
  if (head === undefined || tail === undefined) return bad
  const given = head.length + tail.length
  if (halves.length === 1 ? given !== 16 : given > 14) return bad
  const out = new Uint8Array(16)
  out.set(head, 0)
  out.set(tail, 16 - tail.length)
  return decoded(out)
}

/** The bytes of colon-separated groups; the last may be dotted IPv4 where `last` allows it. */
function groups(text: string, last: boolean): number[] | undefined {
  if (text === '') return []
  const out: number[] = []
  const parts = text.split(':')
  for (const [i, part] of parts.entries()) {
    if (part.includes('.')) {
      const v4 = last && i === parts.length - 1 ? parseV4(part) : undefined
      if (v4?.ok !== true) return undefined
      out.push(...v4.value)
    } else {
      if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return undefined
      const value = Number.parseInt(part, 16)
      out.push(value >> 8, value & 0xff)
    }
  }
  return out
}

/** Dotted decimal, or RFC 5952 (lower case, longest run of zeros shortened, IPv4-mapped with dots). */
export function formatAddress(address: Uint8Array): string {
  return address.length === 4 ? address.join('.') : formatV6(address)
}

function formatV6(address: Uint8Array): string {
  if (isV4Mapped(address)) return `::ffff:${address.subarray(12).join('.')}`
  const words: number[] = []
  for (let i = 0; i < 16; i += 2) words.push((address[i]! << 8) | address[i + 1]!)
  let start = -1
  let longest = 1
  for (let i = 0; i < 8; i++) {
    let run = 0
    while (i + run < 8 && words[i + run] === 0) run++
    if (run > longest) {
      start = i
      longest = run
    }
  }
  const text = (from: number, to: number) =>
    words
      .slice(from, to)
      .map((word) => word.toString(16))
      .join(':')
  return start < 0 ? text(0, 8) : `${text(0, start)}::${text(start + longest, 8)}`
}

/** ::ffff:0:0/96, how a dual-stack socket names an IPv4 peer. */
export function isV4Mapped(address: Uint8Array): boolean {
  if (address.length !== 16 || address[10] !== 0xff || address[11] !== 0xff) return false
  for (let i = 0; i < 10; i++) if (address[i] !== 0) return false
  return true
}

/** The IPv4 address inside a mapped one; any other address as it is. */
export function unmapped(address: Uint8Array): Uint8Array {
  return isV4Mapped(address) ? address.slice(12) : address
}

/** `10.0.0.0/8`, `fd00::/8`; an address alone is a prefix of full length. Bits after the prefix must be zero. */
export function parsePrefix(text: string): Decoded<Prefix> {
  const parsed = parseInterfaceAddress(text)
  if (!parsed.ok) return parsed
  const { address, length } = parsed.value
  const masked = maskAddress(address, length)
  if (!equal(masked, address))
    return malformed(`${text} has bits after its prefix; did you mean ${formatAddress(masked)}/${length}?`)
  return parsed
}

/** An address with the prefix length of its subnet, as interfaces have it: `192.168.1.7/24`. Host bits stay. */
export function parseInterfaceAddress(text: string): Decoded<Prefix> {
  const slash = text.indexOf('/')
  const address = parseAddress(slash < 0 ? text : text.slice(0, slash))
  if (!address.ok) return address
  const bits = address.value.length * 8
  if (slash < 0) return decoded({ address: address.value, length: bits })
  const length = text.slice(slash + 1)
  if (!/^(0|[1-9][0-9]{0,2})$/.test(length) || Number(length) > bits)
    return malformed(`not a prefix length: ${text}`)
  return decoded({ address: address.value, length: Number(length) })
}

export function formatPrefix(prefix: Prefix): string {
  return `${formatAddress(prefix.address)}/${prefix.length}`
}

/** A copy of the address with everything after `length` bits zero. */
export function maskAddress(address: Uint8Array, length: number): Uint8Array {
  const out = address.slice()
  for (let i = 0; i < out.length; i++) {
    const keep = Math.min(8, Math.max(0, length - 8 * i))
    out[i] = out[i]! & (0xff00 >> keep)
  }
  return out
}

/** Whether an address (of the same family) lies in the prefix. */
export function contains(prefix: Prefix, address: Uint8Array): boolean {
  return prefix.address.length === address.length && sharesBits(prefix.address, 0, address, 0, prefix.length)
}

/** Whether two prefixes share any address. */
export function overlaps(a: Prefix, b: Prefix): boolean {
  return a.length <= b.length ? contains(a, b.address) : contains(b, a.address)
}

/** Whether `length` bits from `a[aAt]` equal those from `b[bAt]`. */
function sharesBits(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number, length: number): boolean {
  let i = 0
  for (; length >= 8; length -= 8, i++) if (a[aAt + i] !== b[bAt + i]) return false
  return length === 0 || ((a[aAt + i]! ^ b[bAt + i]!) & (0xff00 >> length) & 0xff) === 0
}

/** What an address may be used for. The names are those of the RFCs that reserve the ranges. */
export type AddressKind =
  | 'unspecified'
  | 'loopback'
  | 'link-local'
  | 'private'
  | 'shared'
  | 'unique-local'
  | 'benchmarking'
  | 'documentation'
  | 'multicast'
  | 'broadcast'
  | 'reserved'
  | 'global'

const KINDS: readonly (readonly [string, AddressKind])[] = [
  ['0.0.0.0/32', 'unspecified'],
  ['0.0.0.0/8', 'reserved'], // RFC 1122 §3.2.1.3
  ['10.0.0.0/8', 'private'], // RFC 1918
  ['172.16.0.0/12', 'private'],
  ['192.168.0.0/16', 'private'],
  ['100.64.0.0/10', 'shared'], // RFC 6598, carrier-grade NAT
  ['127.0.0.0/8', 'loopback'],
  ['169.254.0.0/16', 'link-local'], // RFC 3927
  ['198.18.0.0/15', 'benchmarking'], // RFC 2544; godwit's virtual addresses live here
  ['192.0.2.0/24', 'documentation'], // RFC 5737
  ['198.51.100.0/24', 'documentation'],
  ['203.0.113.0/24', 'documentation'],
  ['224.0.0.0/4', 'multicast'],
  ['255.255.255.255/32', 'broadcast'],
  ['240.0.0.0/4', 'reserved'],
  ['::/128', 'unspecified'],
  ['::1/128', 'loopback'],
  ['fe80::/10', 'link-local'],
  ['fc00::/7', 'unique-local'], // RFC 4193
  ['2001:db8::/32', 'documentation'], // RFC 3849
  ['2001:2::/48', 'benchmarking'], // RFC 5180
  ['ff00::/8', 'multicast'],
  ['::/8', 'reserved'],
]

/** Classifies by the most specific special-purpose range; an IPv4-mapped address as its IPv4 address. */
export function kindOf(address: Uint8Array): AddressKind {
  const plain = unmapped(address)
  kinds ??= kindTable()
  return kinds.lookup(plain, 0, plain.length === 4 ? 4 : 6) ?? 'global'
}

let kinds: LpmTable<AddressKind> | undefined

function kindTable(): LpmTable<AddressKind> {
  const table = new LpmTable<AddressKind>()
  for (const [text, kind] of KINDS) {
    const prefix = parsePrefix(text)
    if (prefix.ok) table.insert(prefix.value, kind)
  }
  return table
}

/** A node of a path-compressed binary trie: a prefix, perhaps with a value, and what lies below its next bit. */
interface Node<T> {
  address: Uint8Array
  length: number
  value: T | undefined
  zero: Node<T> | undefined
  one: Node<T> | undefined
}

/**
 * Longest-prefix match for both families. `lookup` reads an address where it lies in a packet and allocates nothing; its
 * cost is one comparison per distinct prefix on the way (a handful for a tunnel's allowed IPs).
 */
export class LpmTable<T> {
  #v4: Node<T> | undefined
  #v6: Node<T> | undefined
  #size = 0

  get size(): number {
    return this.#size
  }

  /** Adds or replaces; the last owner of a prefix has it, as WireGuard's allowed IPs. */
  insert(prefix: Prefix, value: T): void {
    const address = maskAddress(prefix.address, prefix.length)
    if (address.length === 4) this.#v4 = this.#insert(this.#v4, address, prefix.length, value)
    else this.#v6 = this.#insert(this.#v6, address, prefix.length, value)
  }

  #insert(node: Node<T> | undefined, address: Uint8Array, length: number, value: T): Node<T> {
    if (node === undefined) {
      this.#size++
      return { address, length, value, zero: undefined, one: undefined }
    }
    const shared = commonBits(node.address, address, Math.min(node.length, length))
    if (shared === node.length && shared === length) {
      if (node.value === undefined) this.#size++
      node.value = value
      return node
    }
    if (shared === node.length) {
      if (bitAt(address, 0, shared) === 0) node.zero = this.#insert(node.zero, address, length, value)
      else node.one = this.#insert(node.one, address, length, value)
      return node
    }
    // The two part inside this node's prefix: a joint above both, which is the new prefix itself if it ends there.
    const joint: Node<T> = {
      address: maskAddress(address, shared),
      length: shared,
      value: undefined,
      zero: undefined,
      one: undefined,
    }
    if (bitAt(node.address, 0, shared) === 0) joint.zero = node
    else joint.one = node
    this.#size++
    if (shared === length) joint.value = value
    else {
      const leaf: Node<T> = { address, length, value, zero: undefined, one: undefined }
      if (bitAt(address, 0, shared) === 0) joint.zero = leaf
      else joint.one = leaf
    }
    return joint
  }

  /** The value of the longest prefix that holds the address at `bytes[at]`; `family` is 4 or 6. */
  lookup(bytes: Uint8Array, at: number, family: 4 | 6): T | undefined {
    let node = family === 4 ? this.#v4 : this.#v6
    const bits = family === 4 ? 32 : 128
    let best: T | undefined
    while (node !== undefined && sharesBits(node.address, 0, bytes, at, node.length)) {
      if (node.value !== undefined) best = node.value
      if (node.length === bits) break
      node = bitAt(bytes, at, node.length) === 0 ? node.zero : node.one
    }
    return best
  }

  /** The value of exactly this prefix. */
  get(prefix: Prefix): T | undefined {
    let node = prefix.address.length === 4 ? this.#v4 : this.#v6
    while (node !== undefined && node.length <= prefix.length) {
      if (!sharesBits(node.address, 0, prefix.address, 0, node.length)) return undefined
      if (node.length === prefix.length) return node.value
      node = bitAt(prefix.address, 0, node.length) === 0 ? node.zero : node.one
    }
    return undefined
  }

  /** True when the prefix was there. */
  remove(prefix: Prefix): boolean {
    if (this.get(prefix) === undefined) return false
    this.#prune((_, node) => node.length === prefix.length && equal(node.address, prefix.address))
    return true
  }

  /** Removes every prefix of one owner; returns how many there were. */
  removeValue(value: T): number {
    return this.#prune((owner) => owner === value)
  }

  #prune(drop: (value: T, node: Node<T>) => boolean): number {
    const before = this.#size
    const visit = (node: Node<T> | undefined): Node<T> | undefined => {
      if (node === undefined) return undefined
      node.zero = visit(node.zero)
      node.one = visit(node.one)
      if (node.value !== undefined && drop(node.value, node)) {
        node.value = undefined
        this.#size--
      }
      if (node.value !== undefined || (node.zero !== undefined && node.one !== undefined)) return node
      return node.zero ?? node.one
    }
    this.#v4 = visit(this.#v4)
    this.#v6 = visit(this.#v6)
    return before - this.#size
  }

  /** All entries, IPv4 first, each family in the order of its addresses. */
  *entries(): Generator<readonly [Prefix, T]> {
    const stack: (Node<T> | undefined)[] = [this.#v6, this.#v4]
    while (stack.length > 0) {
      const node = stack.pop()
      if (node === undefined) continue
      if (node.value !== undefined) yield [{ address: node.address, length: node.length }, node.value]
      stack.push(node.one, node.zero)
    }
  }
}

function bitAt(bytes: Uint8Array, at: number, bit: number): number {
  return (bytes[at + (bit >> 3)]! >> (7 - (bit & 7))) & 1
}

function commonBits(a: Uint8Array, b: Uint8Array, limit: number): number {
  for (let i = 0; 8 * i < limit; i++) {
    const difference = a[i]! ^ b[i]!
    if (difference !== 0) return Math.min(limit, 8 * i + Math.clz32(difference) - 24)
  }
  return limit
}

/**
 * The record that binds a key to an address in the DNS: IPSECKEY (RFC 4025) with the algorithm EdDSA (RFC 9373), under the address's
 * name in the reverse tree, as that RFC puts it. docs/adr/0162 says why this one.
 *
 * ```
 *  0                   1                   2                   3
 * +---------------+---------------+---------------+---------------+
 * |  precedence   | gateway type  |   algorithm   | gateway …     |
 * +---------------+---------------+---------------+---------------+
 * | public key: of Ed25519 32 bytes                               |
 * +---------------------------------------------------------------+
 * ```
 *
 * An answer counts only if the resolver says that it has validated it (AD, RFC 6840 §5.8).
 */
import { AUTHENTIC_DATA, decode, encode, type Packet, RECURSION_DESIRED } from 'dns-packet'
import { type Decoded, decoded, malformed } from '../../core/result.ts'
import { bytesOf, type Ip } from '../tables.ts'

/** Largest answer over UDP (RFC 9715). */
const UDP_BYTES = 1232
const HEADER = 12
const TYPE = 45
const EDDSA = 4
const ED25519_LENGTH = 32
/** Bytes of the gateway by its type; a name is not looked at, for there is no gateway to hosts here. */
const GATEWAY: Readonly<Record<number, number>> = { 0: 0, 1: 4, 2: 16 }
const TRUNCATED = 0x0200
const RCODE = { NONE: 0, NO_SUCH_NAME: 3 } as const
/** Records read of an answer, keys kept of one, CNAMEs followed (RFC 2317). */
const MOST_RECORDS = 32
const MOST_KEYS = 4
const MOST_ALIASES = 8
/** Seconds: of an answer that names no time. */
const EMPTY_TTL = 300

/** What the directory says about an address; `ttl` in seconds. */
export type Word =
  | { readonly kind: 'keys'; readonly keys: readonly Uint8Array[]; readonly ttl: number }
  /** Nothing, and that was validated or is of a zone that is not signed. */
  | { readonly kind: 'none'; readonly ttl: number }
  /** There are keys, of a zone that is not signed: they prove nothing, and bind nothing. */
  | { readonly kind: 'unsigned'; readonly ttl: number }
  /** The resolver cannot say, or found the answer bogus (SERVFAIL). */
  | { readonly kind: 'failed'; readonly reason: string }

/** `2.0.1.10.in-addr.arpa` (RFC 1035 §3.5, RFC 3596 §2.5). */
export function reverseName(ip: Ip): string {
  const bytes = bytesOf(ip)
  if (bytes.length === 4) return `${[...bytes].reverse().join('.')}.in-addr.arpa`
  const nibbles = [...bytes].flatMap((byte) => [byte >> 4, byte & 15])
  return `${nibbles
    .reverse()
    .map((n) => n.toString(16))
    .join('.')}.ip6.arpa`
}

/** Asks for the keys of `ip`, and to be told whether the answer is authentic (AD, RFC 6840 §5.7). */
export function encodeQuestion(id: number, ip: Ip): Uint8Array {
  return encode({
    type: 'query',
    id,
    flags: RECURSION_DESIRED | AUTHENTIC_DATA,
    questions: [{ type: 'IPSECKEY' as never, name: reverseName(ip) }],
    additionals: [
      {
        type: 'OPT',
        name: '.',
        udpPayloadSize: UDP_BYTES,
        extendedRcode: 0,
        ednsVersion: 0,
        flags: 0,
        flag_do: false,
        options: [],
      },
    ],
  })
}

/** What `bytes` say in answer to that question; malformed when they are no answer to it. Never throws. */
export function decodeAnswer(bytes: Uint8Array, id: number, ip: Ip): Decoded<Word> {
  const asked = encodeQuestion(id, ip)
  const name = reverseName(ip)
  const end = HEADER + name.length + 2 + 4
  if (bytes.length < end) return malformed('too short')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const flags = view.getUint16(2)
  if (view.getUint16(0) !== id || (flags & 0x8000) === 0 || view.getUint16(4) !== 1)
    return malformed('not the answer')
  for (let i = HEADER; i < end; i++)
    if (lower(bytes[i]!) !== lower(asked[i]!)) return malformed('answers another question')
  const rcode = flags & 15
  if (rcode !== RCODE.NONE && rcode !== RCODE.NO_SUCH_NAME)
    return decoded({
      kind: 'failed',
      reason: rcode === 2 ? 'bogus, or cannot be found out (SERVFAIL)' : `code ${rcode}`,
    })
  if ((flags & TRUNCATED) !== 0) return decoded({ kind: 'failed', reason: 'the answer is too long' })
  if (view.getUint16(6) + view.getUint16(8) > MOST_RECORDS)
    return decoded({ kind: 'failed', reason: 'too many records' })
  try {
    return decoded(wordIn(decode(Buffer.from(bytes)), name, (flags & AUTHENTIC_DATA) !== 0))
  } catch (error) {
    return malformed((error as Error).message)
  }
}

function lower(byte: number): number {
  return byte >= 65 && byte <= 90 ? byte + 32 : byte
}

function wordIn({ answers = [], authorities = [] }: Packet, name: string, authentic: boolean): Word {
  let owner = name
  for (let hops = 0; hops <= MOST_ALIASES; hops++) {
    const keys: Uint8Array[] = []
    let ttl = Number.POSITIVE_INFINITY
    let alias: string | undefined
    for (const record of answers as readonly RawRecord[]) {
      if (record.name.replace(/\.$/, '').toLowerCase() !== owner) continue
      if (record.type === 'CNAME') alias = String(record.data).replace(/\.$/, '').toLowerCase()
      if (record.type !== 'IPSECKEY' || record.class !== 'IN') continue
      const key = keyIn(record.data as Uint8Array)
      if (key === undefined || keys.length >= MOST_KEYS) continue
      keys.push(key)
      ttl = Math.min(ttl, record.ttl ?? 0)
    }
    if (keys.length > 0) return authentic ? { kind: 'keys', keys, ttl } : { kind: 'unsigned', ttl }
    if (alias === undefined) break
    owner = alias
  }
  let ttl = EMPTY_TTL
  for (const record of authorities as readonly RawRecord[])
    if (record.type === 'SOA')
      ttl = Math.min(record.ttl ?? 0, (record.data as { minimum?: number }).minimum ?? 0)
  return { kind: 'none', ttl }
}

interface RawRecord {
  readonly name: string
  readonly type: string
  readonly class?: string
  readonly ttl?: number
  readonly data: unknown
}

/** The key of an IPSECKEY record; undefined: of another algorithm, or malformed. */
export function keyIn(data: Uint8Array): Uint8Array | undefined {
  const gateway = GATEWAY[data[1] ?? -1]
  if (gateway === undefined || data[2] !== EDDSA || data.length !== 3 + gateway + ED25519_LENGTH)
    return undefined
  return Uint8Array.from(data.subarray(3 + gateway))
}

/** The line of a zone file that binds `key` to `ip`, in the notation that every server reads (RFC 3597). */
export function zoneLine(ip: Ip, key: Uint8Array): string {
  const data = Uint8Array.of(10, 0, EDDSA, ...key)
  return `${reverseName(ip)}. IN TYPE${TYPE} \\# ${data.length} ${Buffer.from(data).toString('hex')}`
}

/**
 * Questions to name servers and their answers (RFC 1035, RFC 6891), over `dns-packet`. An answer is an attacker's bytes
 * until it has our id and question: those are compared before anything else of it is read, and every number in it is
 * bounded. Nothing here throws.
 */
import { decode, encode, type Packet, RECURSION_DESIRED, TRUNCATED_RESPONSE } from 'dns-packet'
import { parseAddress } from '../../core/address.ts'
import { type Decoded, decoded, malformed } from '../../core/result.ts'

export interface Question {
  readonly id: number
  readonly name: string
  readonly type: 'A' | 'AAAA'
}

export type Answer =
  /** Those that the name has, none included, and for how long (seconds). */
  | { readonly kind: 'addresses'; readonly addresses: readonly Uint8Array[]; readonly ttl: number }
  /** There is no such name. */
  | { readonly kind: 'no name' }
  /** Cut: to be asked again over TCP. */
  | { readonly kind: 'truncated' }
  /** This server cannot answer; another may. */
  | { readonly kind: 'failed'; readonly reason: string }

/** Largest answer over UDP (RFC 9715). */
export const UDP_BYTES = 1232
const HEADER = 12
/** Records read of an answer, of all its sections, and addresses kept of one. */
const MOST_RECORDS = 64
const MOST_ADDRESSES = 8
/** CNAMEs followed. */
const MOST_ALIASES = 16
/** Seconds: no answer is asked for again sooner, or trusted for longer. */
const LEAST_TTL = 5
const MOST_TTL = 86_400
/** TTL (s) of an answer without records. */
const EMPTY_TTL = 30
const NO_SUCH_NAME = 3

/** Whether it can be a name of the DNS: labels of 1–63 characters, 253 in all. */
export function isName(name: string): boolean {
  const labels = name.replace(/\.$/, '').split('.')
  return name.length <= 254 && labels.every((label) => /^[\x21-\x2d\x2f-\x7e]{1,63}$/.test(label))
}

/** `question.name` is a name (`isName`). */
export function encodeQuestion({ id, name, type }: Question): Uint8Array {
  return encode({
    type: 'query',
    id,
    flags: RECURSION_DESIRED,
    questions: [{ type, name }],
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

/** The answer in `bytes` to `question`; malformed when it does not match the question. */
export function decodeAnswer(bytes: Uint8Array, question: Question): Decoded<Answer> {
  if (bytes.length < HEADER) return malformed('too short')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const flags = view.getUint16(2)
  if (view.getUint16(0) !== question.id || (flags & 0x8000) === 0) return malformed('not the answer')
  if (!repeats(bytes, question)) return malformed('answers another question')
  const rcode = flags & 15
  if (rcode === NO_SUCH_NAME) return decoded({ kind: 'no name' })
  if (rcode !== 0) return decoded({ kind: 'failed', reason: RCODES[rcode] ?? `answers with code ${rcode}` })
  if ((flags & TRUNCATED_RESPONSE) !== 0) return decoded({ kind: 'truncated' })
  if (view.getUint16(6) + view.getUint16(8) + view.getUint16(10) > MOST_RECORDS)
    return decoded({ kind: 'failed', reason: 'too many records' })
  try {
    return decoded(addressesIn(decode(Buffer.from(bytes)), question))
  } catch (error) {
    return malformed((error as Error).message)
  }
}

const RCODES: Readonly<Record<number, string>> = {
  1: 'does not understand the query (FORMERR)',
  2: 'cannot answer (SERVFAIL)',
  4: 'does not support this query (NOTIMP)',
  5: 'refuses to answer',
}

/** Whether the message repeats exactly the question asked, in either case, and no other. */
function repeats(bytes: Uint8Array, question: Question): boolean {
  const asked = encodeQuestion(question)
  const end = HEADER + question.name.replace(/\.$/, '').length + 2 + 4
  if (bytes.length < end || bytes[4] !== 0 || bytes[5] !== 1) return false
  for (let i = HEADER; i < end; i++) if (lower(bytes[i]!) !== lower(asked[i]!)) return false
  return true
}

function lower(byte: number): number {
  return byte >= 65 && byte <= 90 ? byte + 32 : byte
}

/** The addresses of the name, following CNAMEs in the same answer. */
function addressesIn({ answers = [] }: Packet, { name, type }: Question): Answer {
  const wanted = type === 'A' ? 4 : 16
  let owner = canonical(name)
  let ttl = MOST_TTL
  for (let hops = 0; hops <= MOST_ALIASES; hops++) {
    const addresses: Uint8Array[] = []
    let alias: string | undefined
    for (const record of answers) {
      if (!('name' in record) || canonical(record.name) !== owner) continue
      if (record.type === 'CNAME') alias = canonical(record.data)
      else if (record.type === type) {
        const parsed = parseAddress(record.data)
        if (!parsed.ok || parsed.value.length !== wanted || addresses.length >= MOST_ADDRESSES) continue
        addresses.push(parsed.value)
      } else continue
      ttl = Math.min(ttl, record.ttl ?? 0)
    }
    if (addresses.length > 0) return { kind: 'addresses', addresses, ttl: Math.max(LEAST_TTL, ttl) }
    if (alias === undefined) return { kind: 'addresses', addresses: [], ttl: EMPTY_TTL }
    owner = alias
  }
  return { kind: 'failed', reason: 'a loop of CNAME records' }
}

function canonical(name: string): string {
  return name.replace(/\.$/, '').toLowerCase()
}

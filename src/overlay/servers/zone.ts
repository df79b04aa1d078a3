/**
 * The authoritative answers of a coordinator's zone (NT-17; RFC 1034, 1035, 2308, 2782, 6891, 8482, 8906). Bytes in, bytes out. Where
 * nodes are is not in it: A and AAAA of a node are its virtual addresses.
 *
 * Over UDP an answer is never longer than three times its query: what is, is cut (TC), and the resolver asks again over
 * TCP, where its address is proven.
 */
import { type Answer, decode, encode, type Packet, type StringAnswer } from 'dns-packet'
import { formatAddress } from '../../core/address.ts'
import { encodeKey } from '../../crypto/keys.ts'

export interface ZoneData {
  /** Full name, lower case. */
  readonly zone: string
  /** The coordinator's own addresses, of `dc.ZONE`, which is the zone's name server too. */
  readonly addresses: readonly Uint8Array[]
  /** UDP port of the coordinator, for SRV. */
  readonly port: number
  readonly coordinatorKey: Uint8Array
  readonly zoneKey: Uint8Array
  readonly serial: number
  /** Virtual addresses of a node; undefined: there is none of this name. */
  readonly nodeOf: (name: string) => readonly Uint8Array[] | undefined
}

const QR = 0x8000
const AA = 0x0400
const TC = 0x0200
const RD = 0x0100
const CD = 0x0010
const OPCODE = 0x7800
const HEADER = 12
/** Max size of an answer without fragments (DNS flag day 2020). */
const UDP_SIZE = 1232
const FACTOR = 3
/** No query is longer: one question, and what EDNS pads it with. */
export const MAX_QUERY = 1232
/** Records behind the question: SOA of an IXFR; OPT and TSIG. What has more is not decoded. */
const MAX_AUTHORITIES = 1
const MAX_ADDITIONALS = 2
const MAX_LABEL = 63
const TYPE_AND_CLASS = 4
const OPT_TYPE = 41
/** Root, type, size, extended code, version, flags, length (RFC 6891 §6.1.2). */
const OPT = Uint8Array.of(0, 0, OPT_TYPE, UDP_SIZE >> 8, UDP_SIZE & 255, 0, 0, 0, 0, 0, 0)
const TTL = 300
const NODE_TTL = 60
const NEGATIVE_TTL = 30
const Rcode = { FORMERR: 1, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4, REFUSED: 5, BADVERS: 16 } as const

interface Found {
  readonly rcode: number
  readonly answers: readonly Answer[]
  readonly authorities: readonly Answer[]
  readonly additionals: readonly Answer[]
}

/** The answer to these bytes; undefined: none is due (they are an answer themselves, or no message). */
export function answerQuery(
  query: Uint8Array,
  data: ZoneData,
  transport: 'udp' | 'tcp',
): Uint8Array | undefined {
  if (query.length < HEADER) return undefined
  const head = new DataView(query.buffer, query.byteOffset, query.byteLength)
  const flags = head.getUint16(2)
  if ((flags & QR) !== 0) return undefined
  const bare = (rcode: number) => headerOnly(head.getUint16(0), (flags & (OPCODE | RD)) | QR, rcode)
  if ((flags & OPCODE) !== 0) return bare(Rcode.NOTIMP)
  const [questions, answers, authorities, additionals] = [4, 6, 8, 10].map((at) => head.getUint16(at))
  if (
    query.length > MAX_QUERY ||
    questions !== 1 ||
    answers !== 0 ||
    authorities! > MAX_AUTHORITIES ||
    additionals! > MAX_ADDITIONALS
  )
    return bare(Rcode.FORMERR)
  let packet: Packet
  try {
    packet = decode(Buffer.from(query.buffer, query.byteOffset, query.byteLength))
  } catch {
    return bare(Rcode.FORMERR)
  }
  const [question] = packet.questions ?? []
  if (question === undefined || packet.questions?.length !== 1) return bare(Rcode.FORMERR)
  const opts = (packet.additionals ?? []).filter(({ type }) => type === 'OPT') as unknown as Opt[]
  if (opts.length > 1) return bare(Rcode.FORMERR)
  const [opt] = opts
  const name = question.name.toLowerCase().replace(/\.$/, '')
  const type = String(question.type)
  const isInternet = String(question.class ?? 'IN') === 'IN'
  const found =
    opt !== undefined && opt.ednsVersion !== 0
      ? { ...NOTHING, rcode: Rcode.BADVERS }
      : isInternet
        ? lookUp(name, type, question.name, data)
        : { ...NOTHING, rcode: Rcode.REFUSED }
  const isOurs = found.rcode === 0 || found.rcode === Rcode.NXDOMAIN
  const build = ({ answers, authorities, additionals }: Omit<Found, 'rcode'>, cut: boolean): Uint8Array => {
    const extra = opt === undefined ? [] : [optOf(opt, found.rcode >> 4)]
    return encode({
      type: 'response',
      id: packet.id ?? 0,
      flags: (flags & (RD | CD)) | (isOurs ? AA : 0) | (cut ? TC : 0) | (found.rcode & 15),
      questions: packet.questions!,
      answers: [...answers],
      authorities: [...authorities],
      additionals: [...additionals, ...(extra as unknown as Answer[])],
    })
  }
  try {
    const whole = build(found, false)
    if (transport === 'tcp') return whole
    const room = opt === undefined ? 512 : Math.min(UDP_SIZE, Math.max(512, opt.udpPayloadSize))
    const most = Math.min(room, FACTOR * query.length)
    if (whole.length <= most) return whole
    const without = build({ ...found, additionals: [] }, false)
    return without.length <= most ? without : build(NOTHING, true)
  } catch {
    return bare(Rcode.SERVFAIL)
  }
}

/**
 * The answer to a query that there is no time for: ask over TCP, where an address is proven. Not longer than the query, and made
 * without a look at the zone; undefined where that would be no query of one question.
 */
export function cutAnswer(query: Uint8Array): Uint8Array | undefined {
  if (query.length < HEADER || query.length > MAX_QUERY) return undefined
  const head = new DataView(query.buffer, query.byteOffset, query.byteLength)
  const flags = head.getUint16(2)
  if ((flags & (QR | OPCODE)) !== 0 || head.getUint16(4) !== 1 || head.getUint16(6) !== 0) return undefined
  let at = HEADER
  for (let label = query[at]; label !== 0; label = query[at]) {
    if (label === undefined || label > MAX_LABEL) return undefined
    at += 1 + label
  }
  const end = at + 1 + TYPE_AND_CLASS
  if (end > query.length) return undefined
  const hasOpt = query.length >= end + OPT.length && query[end] === 0 && head.getUint16(end + 1) === OPT_TYPE
  const answer = new Uint8Array(hasOpt ? end + OPT.length : end)
  answer.set(query.subarray(0, end))
  if (hasOpt) answer.set(OPT, end)
  const view = new DataView(answer.buffer)
  view.setUint16(2, (flags & (RD | CD)) | QR | AA | TC)
  view.setUint16(8, 0)
  view.setUint16(10, hasOpt ? 1 : 0)
  return answer
}

interface Opt {
  readonly type: 'OPT'
  readonly udpPayloadSize: number
  readonly ednsVersion: number
  readonly flags: number
}

const NOTHING: Found = { rcode: 0, answers: [], authorities: [], additionals: [] }

/** Its DO bit is returned (RFC 3225), unknown flags and options are not (RFC 6891 §6.1). */
function optOf({ flags }: Opt, extendedRcode: number): object {
  return {
    ...{ type: 'OPT', name: '.', udpPayloadSize: UDP_SIZE, extendedRcode, ednsVersion: 0 },
    ...{ flags: flags & 0x8000, options: [] },
  }
}

function headerOnly(id: number, flags: number, rcode: number): Uint8Array {
  const bytes = new Uint8Array(HEADER)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, id)
  view.setUint16(2, flags | rcode)
  return bytes
}

function lookUp(name: string, type: string, asked: string, data: ZoneData): Found {
  const { zone } = data
  if (name !== zone && !name.endsWith(`.${zone}`)) return { ...NOTHING, rcode: Rcode.REFUSED }
  if (type === 'AXFR' || type === 'IXFR') return { ...NOTHING, rcode: Rcode.REFUSED }
  const sets = recordsOf(name, asked, data)
  const negative = [soaOf(data, NEGATIVE_TTL)]
  if (sets === undefined) return { ...NOTHING, rcode: Rcode.NXDOMAIN, authorities: negative }
  // RFC 8482 §4.1: one of the sets answers ANY.
  const answers = type === 'ANY' ? (sets.values().next().value ?? []) : (sets.get(type) ?? [])
  if (answers.length === 0) return { ...NOTHING, authorities: negative }
  const needsAddress = type === 'NS' || type === 'SRV'
  return {
    ...NOTHING,
    answers,
    additionals: needsAddress ? addressesOf(hostOf(zone), data.addresses, TTL) : [],
  }
}

/** All records of a name by type; undefined when there is no such name. */
function recordsOf(
  name: string,
  asked: string,
  data: ZoneData,
): ReadonlyMap<string, readonly Answer[]> | undefined {
  const { zone } = data
  switch (name) {
    case zone:
      return new Map<string, readonly Answer[]>([
        ['SOA', [{ ...soaOf(data, TTL), name: asked } as Answer]],
        ['NS', [{ type: 'NS', name: asked, ttl: TTL, data: hostOf(zone) }]],
      ])
    case hostOf(zone):
      return byType(addressesOf(asked, data.addresses, TTL))
    case `_ntm._udp.${zone}`:
      return new Map([
        [
          'SRV',
          [
            {
              ...{ type: 'SRV' as const, name: asked, ttl: TTL },
              data: { priority: 0, weight: 0, port: data.port, target: hostOf(zone) },
            },
          ],
        ],
      ])
    case `_udp.${zone}`:
      return new Map() // an empty non-terminal (RFC 8020)
    case `_ntm.${zone}`: {
      const { coordinatorKey, zoneKey } = data
      const text = `v=1 k=${encodeKey(coordinatorKey)} s=${encodeKey(zoneKey)}`
      return new Map([['TXT', [{ type: 'TXT' as const, name: asked, ttl: TTL, data: text }]]])
    }
    default: {
      const addresses = data.nodeOf(name)
      return addresses && byType(addressesOf(asked, addresses, NODE_TTL))
    }
  }
}

function hostOf(zone: string): string {
  return `dc.${zone}`
}

function soaOf({ zone, serial }: ZoneData, ttl: number): Answer {
  return {
    ...{ type: 'SOA', name: zone, ttl },
    data: {
      ...{ mname: hostOf(zone), rname: `hostmaster.${zone}`, serial },
      ...{ refresh: 3600, retry: 600, expire: 604_800, minimum: NEGATIVE_TTL },
    },
  } as Answer
}

function addressesOf(name: string, addresses: readonly Uint8Array[], ttl: number): StringAnswer[] {
  return addresses.map((address) => ({
    ...{ type: address.length === 4 ? ('A' as const) : ('AAAA' as const), name, ttl },
    data: formatAddress(address),
  }))
}

function byType(records: readonly StringAnswer[]): ReadonlyMap<string, readonly Answer[]> {
  const sets = new Map<string, Answer[]>()
  for (const record of records) sets.set(record.type, [...(sets.get(record.type) ?? []), record])
  return sets
}

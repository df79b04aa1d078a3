/**
 * The TCP option of Multipath TCP version 1 (RFC 8684 §3), kind 30. The upper four bits of its third byte say which of
 * nine it is; its length says which form.
 *
 *   MP_CAPABLE    0  version, flags A B C D–G H        4 in a SYN; + key 12; + key 20; + data length 22, + checksum 24
 *   MP_JOIN       1  B, address id, then               token, nonce 12; HMAC 8 bytes, nonce 16; HMAC 20 bytes 24
 *   DSS           2  flags F m M a A, then             data ACK 4 or 8; DSN 4 or 8, SSN 4, length 2, checksum 2
 *   ADD_ADDR      3  E, address id, address            + port 2; + HMAC 8 unless E
 *   REMOVE_ADDR   4  address ids
 *   MP_PRIO       5  B                                 3
 *   MP_FAIL       6  DSN 8                             12
 *   MP_FASTCLOSE  7  key 8                             12
 *   MP_TCPRST     8  U V W T, reason                   4
 *
 * Lengths are exact, as in the kernel: an option of another length is none. 64-bit sequence numbers are two words; a
 * number that was sent with 32 bits has no `high`.
 */
import type { Codec } from '../core/codec.ts'
import { type Decoded, decoded, malformed } from '../core/result.ts'

export const MPTCP_KIND = 30
export const MPTCP_VERSION = 1
export const KEY_LENGTH = 8
/** Bytes of the HMAC in a SYN/ACK and in the third ACK of a join, and in ADD_ADDR. */
export const JOIN_HMAC = 8
export const JOIN_FULL_HMAC = 20
export const ADD_ADDR_HMAC = 8

export const Subtype = {
  CAPABLE: 0,
  JOIN: 1,
  DSS: 2,
  ADD_ADDR: 3,
  REMOVE_ADDR: 4,
  PRIO: 5,
  FAIL: 6,
  FASTCLOSE: 7,
  RESET: 8,
} as const

/** Reasons of MP_TCPRST (RFC 8684 §3.6). */
export const ResetReason = {
  UNSPECIFIED: 0,
  MPTCP: 1,
  RESOURCES: 2,
  PROHIBITED: 3,
  TOO_MUCH_DATA: 4,
  PERFORMANCE: 5,
  MIDDLEBOX: 6,
} as const

/** A data sequence number; without `high` only its lower 32 bits were sent. */
export interface Dsn {
  readonly high?: number
  readonly low: number
}

export interface CapableOption {
  readonly type: 'capable'
  readonly version: number
  /** A: checksums are required. */
  readonly checksum: boolean
  /** B: an extension that no version has; the option is to be ignored. */
  readonly extension: boolean
  /** C: no joins to this address and port. */
  readonly noJoin: boolean
  /** H: HMAC-SHA256, the only algorithm there is. */
  readonly sha256: boolean
  /** Of the sender. */
  readonly key?: Uint8Array
  /** Of the receiver, as the third ACK repeats it. */
  readonly peerKey?: Uint8Array
  /** Of the first data, which start at the first byte of the stream. */
  readonly dataLength?: number
  readonly dataChecksum?: number
}

export interface DssOption {
  readonly type: 'dss'
  readonly dataFin: boolean
  readonly ack?: Dsn
  readonly map?: DssMap
}

export interface DssMap {
  readonly dsn: Dsn
  /** Relative to the subflow's initial sequence number; 0 of a DATA_FIN without data. */
  readonly ssn: number
  readonly length: number
  readonly checksum?: number
}

export interface AddAddrOption {
  readonly type: 'add-addr'
  readonly echo: boolean
  readonly id: number
  readonly address: Uint8Array
  readonly port?: number
  readonly hmac?: Uint8Array
}

export type MptcpOption =
  | CapableOption
  | {
      readonly type: 'join'
      readonly backup: boolean
      readonly id: number
      readonly token: number
      readonly nonce: number
    }
  | {
      readonly type: 'join-reply'
      readonly backup: boolean
      readonly id: number
      readonly hmac: Uint8Array
      readonly nonce: number
    }
  | { readonly type: 'join-ack'; readonly hmac: Uint8Array }
  | DssOption
  | AddAddrOption
  | { readonly type: 'remove-addr'; readonly ids: readonly number[] }
  | { readonly type: 'prio'; readonly backup: boolean }
  | { readonly type: 'fail'; readonly dsn: Dsn }
  | { readonly type: 'fastclose'; readonly key: Uint8Array }
  | { readonly type: 'reset'; readonly transient: boolean; readonly reason: number }

const FLAG_A = 0x80
const FLAG_B = 0x40
const FLAG_C = 0x20
const FLAG_H = 0x01
const DSS_FIN = 0x10
const DSS_DSN8 = 0x08
const DSS_MAP = 0x04
const DSS_ACK8 = 0x02
const DSS_ACK = 0x01

export const mptcpOption: Codec<MptcpOption> = { decode, encode, byteLength }

function decode(bytes: Uint8Array, at = 0, end = bytes.length): Decoded<MptcpOption> {
  if (end - at < 3) return malformed('cut short')
  if (bytes[at] !== MPTCP_KIND) return malformed('no MPTCP option')
  const length = bytes[at + 1]!
  if (length < 3 || length > end - at) return malformed('length beyond the header')
  const read = READERS[bytes[at + 2]! >> 4]
  if (read === undefined) return malformed('unknown subtype')
  const option = read(bytes, at, length)
  return option === undefined ? malformed('length does not fit the subtype') : decoded(option)
}

type Reader = (bytes: Uint8Array, at: number, length: number) => MptcpOption | undefined

const READERS: readonly Reader[] = [
  readCapable,
  readJoin,
  readDss,
  readAddAddr,
  (bytes, at, length) =>
    length < 4 ? undefined : { type: 'remove-addr', ids: [...bytes.subarray(at + 3, at + length)] },
  (bytes, at, length) => (length === 3 ? { type: 'prio', backup: (bytes[at + 2]! & 1) !== 0 } : undefined),
  (bytes, at, length) => (length === 12 ? { type: 'fail', dsn: dsn8(bytes, at + 4) } : undefined),
  (bytes, at, length) =>
    length === 12 ? { type: 'fastclose', key: bytes.slice(at + 4, at + 12) } : undefined,
  (bytes, at, length) =>
    length === 4
      ? { type: 'reset', transient: (bytes[at + 2]! & 1) !== 0, reason: bytes[at + 3]! }
      : undefined,
]

function readCapable(bytes: Uint8Array, at: number, length: number): CapableOption | undefined {
  if (length !== 4 && length !== 12 && length !== 20 && length !== 22 && length !== 24) return undefined
  const flags = bytes[at + 3]!
  return {
    type: 'capable',
    version: bytes[at + 2]! & 15,
    checksum: (flags & FLAG_A) !== 0,
    extension: (flags & FLAG_B) !== 0,
    noJoin: (flags & FLAG_C) !== 0,
    sha256: (flags & FLAG_H) !== 0,
    ...(length >= 12 && { key: bytes.slice(at + 4, at + 12) }),
    ...(length >= 20 && { peerKey: bytes.slice(at + 12, at + 20) }),
    ...(length >= 22 && { dataLength: u16(bytes, at + 20) }),
    ...(length === 24 && { dataChecksum: u16(bytes, at + 22) }),
  }
}

function readJoin(bytes: Uint8Array, at: number, length: number): MptcpOption | undefined {
  if (length === 24) return { type: 'join-ack', hmac: bytes.slice(at + 4, at + 24) }
  const backup = (bytes[at + 2]! & 1) !== 0
  const id = bytes[at + 3]!
  if (length === 12) return { type: 'join', backup, id, token: u32(bytes, at + 4), nonce: u32(bytes, at + 8) }
  if (length !== 16) return undefined
  return { type: 'join-reply', backup, id, hmac: bytes.slice(at + 4, at + 12), nonce: u32(bytes, at + 12) }
}

function readDss(bytes: Uint8Array, at: number, length: number): DssOption | undefined {
  if (length < 4) return undefined
  const flags = bytes[at + 3]!
  const hasMap = (flags & DSS_MAP) !== 0
  const ackBytes = (flags & DSS_ACK) === 0 ? 0 : (flags & DSS_ACK8) === 0 ? 4 : 8
  const dsnBytes = (flags & DSS_DSN8) === 0 ? 4 : 8
  const needed = 4 + ackBytes + (hasMap ? dsnBytes + 6 : 0)
  const checksum = hasMap && length === needed + 2
  if (length !== needed && !checksum) return undefined
  let next = at + 4
  const ack = ackBytes === 0 ? undefined : ackBytes === 8 ? dsn8(bytes, next) : { low: u32(bytes, next) }
  next += ackBytes
  let map: DssMap | undefined
  if (hasMap) {
    const dsn = dsnBytes === 8 ? dsn8(bytes, next) : { low: u32(bytes, next) }
    next += dsnBytes
    map = {
      dsn,
      ssn: u32(bytes, next),
      length: u16(bytes, next + 4),
      ...(checksum && { checksum: u16(bytes, next + 6) }),
    }
  }
  return {
    type: 'dss',
    dataFin: hasMap && (flags & DSS_FIN) !== 0,
    ...(ack !== undefined && { ack }),
    ...(map !== undefined && { map }),
  }
}

function readAddAddr(bytes: Uint8Array, at: number, length: number): AddAddrOption | undefined {
  const echo = (bytes[at + 2]! & 1) !== 0
  const rest = length - 4 - (echo ? 0 : ADD_ADDR_HMAC)
  if (rest !== 4 && rest !== 6 && rest !== 16 && rest !== 18) return undefined
  const size = rest >= 16 ? 16 : 4
  const hasPort = rest > size
  const hmacAt = at + 4 + rest
  return {
    type: 'add-addr',
    echo,
    id: bytes[at + 3]!,
    address: bytes.slice(at + 4, at + 4 + size),
    ...(hasPort && { port: u16(bytes, at + 4 + size) }),
    ...(!echo && { hmac: bytes.slice(hmacAt, hmacAt + ADD_ADDR_HMAC) }),
  }
}

function byteLength(option: MptcpOption): number {
  switch (option.type) {
    case 'capable':
      if (option.key === undefined) return 4
      if (option.peerKey === undefined) return 12
      return option.dataLength === undefined ? 20 : option.dataChecksum === undefined ? 22 : 24
    case 'join':
      return 12
    case 'join-reply':
      return 16
    case 'join-ack':
      return 24
    case 'dss':
      return dssLength(option)
    case 'add-addr':
      return (
        4 + option.address.length + (option.port === undefined ? 0 : 2) + (option.echo ? 0 : ADD_ADDR_HMAC)
      )
    case 'remove-addr':
      return 3 + option.ids.length
    case 'prio':
      return 3
    case 'fail':
    case 'fastclose':
      return 12
    case 'reset':
      return 4
  }
}

function dssLength({ ack, map }: DssOption): number {
  let length = 4
  if (ack !== undefined) length += ack.high === undefined ? 4 : 8
  if (map !== undefined)
    length += (map.dsn.high === undefined ? 4 : 8) + 6 + (map.checksum === undefined ? 0 : 2)
  return length
}

function encode(option: MptcpOption, out: Uint8Array, at = 0): number {
  const length = byteLength(option)
  if (at + length > out.length) throw new RangeError('no room for the option')
  out[at] = MPTCP_KIND
  out[at + 1] = length
  const head = (subtype: number, low: number) => {
    out[at + 2] = (subtype << 4) | low
  }
  switch (option.type) {
    case 'capable': {
      head(Subtype.CAPABLE, option.version)
      out[at + 3] =
        (option.checksum ? FLAG_A : 0) |
        (option.extension ? FLAG_B : 0) |
        (option.noJoin ? FLAG_C : 0) |
        (option.sha256 ? FLAG_H : 0)
      if (option.key !== undefined) out.set(option.key, at + 4)
      if (length >= 20) out.set(option.peerKey!, at + 12)
      if (length >= 22) put16(out, at + 20, option.dataLength!)
      if (length === 24) put16(out, at + 22, option.dataChecksum!)
      break
    }
    case 'join':
    case 'join-reply':
      head(Subtype.JOIN, option.backup ? 1 : 0)
      out[at + 3] = option.id
      if (option.type === 'join') put32(out, at + 4, option.token)
      else out.set(option.hmac, at + 4)
      put32(out, at + length - 4, option.nonce)
      break
    case 'join-ack':
      head(Subtype.JOIN, 0)
      out[at + 3] = 0
      out.set(option.hmac, at + 4)
      break
    case 'dss':
      head(Subtype.DSS, 0)
      encodeDss(option, out, at)
      break
    case 'add-addr': {
      head(Subtype.ADD_ADDR, option.echo ? 1 : 0)
      out[at + 3] = option.id
      out.set(option.address, at + 4)
      const next = at + 4 + option.address.length
      if (option.port !== undefined) put16(out, next, option.port)
      if (!option.echo) out.set(option.hmac!, at + length - ADD_ADDR_HMAC)
      break
    }
    case 'remove-addr':
      head(Subtype.REMOVE_ADDR, 0)
      out.set(option.ids, at + 3)
      break
    case 'prio':
      head(Subtype.PRIO, option.backup ? 1 : 0)
      break
    case 'fail':
      head(Subtype.FAIL, 0)
      out[at + 3] = 0
      putDsn8(out, at + 4, option.dsn)
      break
    case 'fastclose':
      head(Subtype.FASTCLOSE, 0)
      out[at + 3] = 0
      out.set(option.key, at + 4)
      break
    case 'reset':
      head(Subtype.RESET, option.transient ? 1 : 0)
      out[at + 3] = option.reason
      break
  }
  return at + length
}

function encodeDss({ dataFin, ack, map }: DssOption, out: Uint8Array, at: number): void {
  let flags = 0
  let next = at + 4
  if (ack !== undefined) {
    flags |= DSS_ACK | (ack.high === undefined ? 0 : DSS_ACK8)
    next = putDsn(out, next, ack)
  }
  if (map !== undefined) {
    flags |= DSS_MAP | (map.dsn.high === undefined ? 0 : DSS_DSN8) | (dataFin ? DSS_FIN : 0)
    next = putDsn(out, next, map.dsn)
    put32(out, next, map.ssn)
    put16(out, next + 4, map.length)
    if (map.checksum !== undefined) put16(out, next + 6, map.checksum)
  }
  out[at + 3] = flags
}

function putDsn(out: Uint8Array, at: number, dsn: Dsn): number {
  if (dsn.high === undefined) {
    put32(out, at, dsn.low)
    return at + 4
  }
  putDsn8(out, at, dsn)
  return at + 8
}

function putDsn8(out: Uint8Array, at: number, { high, low }: Dsn): void {
  put32(out, at, high ?? 0)
  put32(out, at + 4, low)
}

function dsn8(bytes: Uint8Array, at: number): Dsn {
  return { high: u32(bytes, at), low: u32(bytes, at + 4) }
}

function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!
}

function u32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
}

function put16(out: Uint8Array, at: number, value: number): void {
  out[at] = value >> 8
  out[at + 1] = value
}

function put32(out: Uint8Array, at: number, value: number): void {
  out[at] = value >>> 24
  out[at + 1] = value >>> 16
  out[at + 2] = value >>> 8
  out[at + 3] = value
}

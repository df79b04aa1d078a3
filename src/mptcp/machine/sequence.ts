/** Sequence numbers of 32 and 64 bits as offsets from the initial one: plain numbers that never wrap. */
import type { Dsn } from '../wire.ts'
import type { Key } from './keys.ts'

const WORD = 4294967296

/** The 32-bit sequence number at `offset` from `initial`. */
export function sequenceAt(initial: number, offset: number): number {
  return (initial + (offset % WORD)) % WORD
}

/** The offset of a 32-bit sequence number, the one nearest to `near`. May be negative. */
export function offsetOf(sequence: number, initial: number, near: number): number {
  const relative = (sequence - initial) >>> 0
  return near + ((relative - (near % WORD)) | 0)
}

/** The data sequence number at an offset: 1 is the first byte (RFC 8684 §3.1). */
export function dsnAt(key: Key, offset: number): { readonly high: number; readonly low: number } {
  const low = key.idsnLow + (offset % WORD)
  const high = (key.idsnHigh + Math.floor(offset / WORD) + (low >= WORD ? 1 : 0)) % WORD
  return { high, low: low % WORD }
}

/** The offset of a data sequence number near `near`; undefined when its upper half says something else. */
export function offsetOfDsn(key: Key, dsn: Dsn, near: number): number | undefined {
  const offset = offsetOf(dsn.low, key.idsnLow, near)
  if (offset < 0) return undefined
  return dsn.high === undefined || dsnAt(key, offset).high === dsn.high ? offset : undefined
}

/**
 * Connections whose packets the kernel takes by itself (the fast path, ADR 0230): those whose data are all on their first subflow, so that
 * offsets are the same in all sequence spaces. What the kernel does not take comes here as before; then this reads what it did
 * meanwhile, and takes the connection back where that is no plain continuation.
 */
import type { Run } from '../tables.ts'
import type { Connection } from './connection.ts'
import type { Segment, Tuple } from './segment.ts'
import type { Subflow } from './subflow.ts'

/** What the kernel knows of a connection. Offsets; windows as in packets; times of the machine's clock (ms), -Infinity: never. */
export interface FastNumbers {
  /** It takes new data of the local TCP, and data of the peer: from where the machine stopped. */
  readonly sends: boolean
  readonly receives: boolean
  readonly sndMax: number
  readonly rcvMax: number
  readonly tan: number
  readonly dataUna: number
  readonly una: number
  readonly window: number
  readonly remoteWindow: number
  /** Of the local TCP (ms); 0: none. */
  readonly srtt: number
  readonly heardAt: number
  readonly askedAt: number
  readonly expectedAt: number
  readonly dataAt: number
  readonly burst: number
}

export interface FastSlot {
  /** As it is now; the kernel goes on. */
  read(): FastNumbers
  /** What the machine did: the kernel takes over from there. */
  advance(sndMax: number, rcvMax: number, sent: readonly Run[]): void
  /** The kernel takes nothing any more. What it sent, mapping by mapping, as far as it is not acknowledged. */
  end(): { readonly numbers: FastNumbers; readonly sent: readonly Run[] }
}

export interface FastPath {
  /** Mappings under way that it takes over. */
  readonly mappings: number
  /** Undefined when it has no room, or cannot take this connection. */
  begin(connection: Connection): FastSlot | undefined
  /** What a killed process left to the kernel; nothing is taken any more. */
  left(tuple: Tuple): ReturnType<FastSlot['end']> | undefined
}

/** Bytes both ways that show that there will be more, and the most after connections that came back soon. */
const AFTER = 65_536
const AFTER_MOST = 64 << 20
/** Coming back sooner than this (ms) doubles what is waited for. */
const SOON = 1000
/** How often (ms) a connection that has somewhere else to go is looked at. */
export const FAST_POLL = 30
/** A connection in which nothing happens for so long (ms) makes room. */
const IDLE = 10_000

/** Hands the connection to the kernel when that can take it. */
export function enterFast(connection: Connection, now: number): void {
  const { fast } = connection.host
  const moved = connection.sndMax + connection.rcvMax - connection.fastFrom
  if (fast === undefined || moved < connection.fastAfter || !isLinear(connection, fast.mappings)) return
  connection.fastFrom += moved
  const slot = fast.begin(connection)
  if (slot === undefined) {
    connection.fastAfter = Math.min(AFTER_MOST, 2 * connection.fastAfter)
    return
  }
  connection.fast = slot
  connection.fastSince = now
  const { send } = connection.first!
  slot.advance(connection.sndMax, connection.rcvMax, send.runs)
  connection.fastRuns = send.appended
}

/** All data went and go over the first subflow, nothing is about to change that, and both ends can say what they have beyond a hole. */
function isLinear(connection: Connection, mappings: number): boolean {
  const { first, active, state, confirmed, answered, forwarded, sndMax, rcvMax, subflows } = connection
  if (first === undefined || active !== first || !first.usable || state !== 'established') return false
  if (!confirmed || !answered || forwarded || connection.finLocal >= 0 || connection.finRemote >= 0)
    return false
  if (!connection.sacks || !first.sackPermitted || connection.probing || first.probing) return false
  if (first.finReceived >= 0 || first.next !== sndMax || first.high !== rcvMax) return false
  if (first.send.runs.length > mappings || connection.repeat.length > 0) return false
  const same = ({ ssn, dsn }: Run) => ssn === dsn
  if (!first.send.runs.every(same) || !first.recv.runs.every(same)) return false
  return subflows.every(
    (each) =>
      each.leaveAt === Number.POSITIVE_INFINITY &&
      (each === first || (each.send.runs.length === 0 && each.high <= Math.max(1, each.acked))),
  )
}

/** Before anything that the machine does with the connection. */
export function readFast(connection: Connection): void {
  const { fast } = connection
  if (fast !== undefined) apply(connection, fast.read())
}

/** After it: from here the kernel goes on, if offsets are still the same everywhere. */
export function advanceFast(connection: Connection, now: number): void {
  const { fast, sndMax, rcvMax } = connection
  if (fast === undefined) return
  const { send, recv, next, high } = connection.first!
  if (next !== sndMax || high !== rcvMax || !recv.runs.every(({ ssn, dsn }) => ssn === dsn)) {
    leaveFast(connection, now)
    return
  }
  const sent = send.appended - connection.fastRuns
  fast.advance(connection.sndMax, connection.rcvMax, sent > 0 ? send.runs.slice(-sent) : [])
  connection.fastRuns = send.appended
}

/** Takes the connection back. */
export function leaveFast(connection: Connection, now: number): void {
  const { fast } = connection
  if (fast === undefined) return
  connection.fast = undefined
  const { numbers, sent } = fast.end()
  apply(connection, numbers)
  if (numbers.sends) connection.first!.send.know(sent)
  connection.fastFrom = connection.sndMax + connection.rcvMax
  connection.fastAfter =
    now - connection.fastSince < SOON ? Math.min(AFTER_MOST, 2 * connection.fastAfter) : AFTER
}

/** What a killed process left to the kernel. */
export function takeBack(connection: Connection, left: ReturnType<FastSlot['end']>): void {
  apply(connection, left.numbers)
  if (!left.numbers.sends) return
  connection.first!.send.know(left.sent)
  connection.first!.sendKnown = true
}

export const FAST_AFTER = AFTER

function apply(connection: Connection, numbers: FastNumbers): void {
  const first = connection.first!
  const { sndMax, rcvMax, tan, dataUna, heardAt, askedAt } = numbers
  if (numbers.sends && sndMax > connection.sndMax) {
    first.sentBytes += sndMax - connection.sndMax
    connection.sndMax = sndMax
    first.next = sndMax
    first.spoilSample()
  }
  if (numbers.receives && rcvMax > connection.rcvMax) {
    first.receivedBytes += rcvMax - connection.rcvMax
    connection.rcvMax = rcvMax
    first.high = rcvMax
  }
  if (numbers.receives) first.recv.replace([{ ssn: 1, dsn: 1, length: connection.rcvMax - 1 }])
  if (tan > connection.tan) {
    connection.tan = Math.min(tan, connection.rcvMax + 1)
    connection.window = numbers.window
    // Which of both was announced last is not known, but with the same acknowledgement a window only opens.
  } else if (tan === connection.tan) connection.window = Math.max(connection.window, numbers.window)
  first.acked = Math.max(first.acked, Math.min(connection.tan, first.high))
  if (dataUna > connection.dataUna) connection.dataUna = Math.min(dataUna, connection.sndMax)
  first.una = Math.max(first.una, Math.min(numbers.una, first.next))
  if (numbers.sends)
    first.send.replace([
      {
        ssn: connection.dataUna,
        dsn: connection.dataUna,
        length: connection.sndMax - connection.dataUna,
      },
    ])
  else first.send.acknowledge(connection.dataUna, first.una)
  if (numbers.srtt > 0) first.srtt = numbers.srtt
  if (heardAt > first.heardAt) {
    connection.remoteWindow = numbers.remoteWindow * 2 ** first.remoteScale
    if (first.askedAt < heardAt) first.askedAt = Number.POSITIVE_INFINITY
    first.heardAt = heardAt
    connection.usedAt = Math.max(connection.usedAt, heardAt)
  }
  if (askedAt > first.heardAt && askedAt < first.askedAt) first.askedAt = askedAt
  if (numbers.expectedAt > first.heardAt) first.expectedAt = Math.max(first.expectedAt, numbers.expectedAt)
  if (numbers.dataAt > first.dataAt) {
    first.dataAt = numbers.dataAt
    first.burst = numbers.burst
  }
}

/** Whether a queued segment, handled here, leaves the connection to the kernel. */
export function staysFastOutgoing(connection: Connection, { flags, payloadLength, seq }: Segment): boolean {
  // Not a FIN, data that the kernel could not map, or data again: those may get another place on the subflow.
  if ((flags & 0x07) !== 0) return false
  if (payloadLength === 0) return true
  return connection.fast?.read().sends === false && connection.offsetOfSeq(seq) === connection.sndMax
}

export function staysFastIncoming(connection: Connection, subflow: Subflow, segment: Segment): boolean {
  if ((segment.flags & 0x07) !== 0 || segment.mptcp.some((each) => each.type !== 'dss' || each.dataFin))
    return false
  if (subflow.id !== 0) return segment.payloadLength === 0
  return connection.fast?.read().receives === false
}

/** Nothing came or went for a while. */
export function isIdleFast({ fast }: Connection, now: number): boolean {
  if (fast === undefined) return false
  const { heardAt, askedAt } = fast.read()
  return now - Math.max(heardAt, askedAt) > IDLE
}

/**
 * Connections whose packets the kernel takes by itself (the fast path, ADR 0230, ADR 0290): those whose data all go over one subflow, so that
 * numbers of the local TCP, of the connection and of the subflow differ by constants. What the kernel does not take comes here as before;
 * then this reads what it did meanwhile, and takes the connection back where that is no plain continuation.
 */
import type { Run } from '../tables.ts'
import type { Connection } from './connection.ts'
import { FAST_AFTER, type FastLeft, type FastNumbers, type FastWay } from './fast-slot.ts'
import type { Segment } from './segment.ts'
import { offsetOfDsn } from './sequence.ts'
import type { Subflow } from './subflow.ts'

/** The most bytes that are waited for after connections that came back soon. */
const AFTER_MOST = 64 << 20
/** Coming back sooner than this (ms) doubles what is waited for. */
const SOON = 1000
/** One that was there for so long (ms) returns at once after a window probe, before only after some data: many keep no thread busy. */
const PROBE_AFTER = 10
/** How often (ms) a connection that has somewhere else to go is looked at. */
export const FAST_POLL = 30
/** A connection in which nothing happens for so long (ms) makes room. */
const IDLE = 10_000

/** Hands the connection to the kernel when that can take it. */
export function enterFast(connection: Connection, now: number): void {
  const { fast } = connection.host
  const moved = connection.sndMax + connection.rcvMax - connection.fastFrom
  if (fast === undefined || moved < connection.fastAfter) return
  const way = wayOf(connection, fast.mappings)
  if (way === undefined) return
  connection.fastFrom += moved
  const slot = fast.begin(connection, way)
  if (slot === undefined) {
    connection.fastAfter = Math.min(AFTER_MOST, 2 * connection.fastAfter)
    return
  }
  connection.fast = slot
  connection.fastWay = way
  connection.fastSince = now
  const { send } = way.subflow
  slot.advance(connection.sndMax, connection.rcvMax, send.runs)
  connection.fastRuns = send.appended
}

/**
 * Where all data go and came, as far as they are not acknowledged; undefined while they are on several subflows, something is about to change
 * that, or an end cannot say what it has beyond a hole.
 */
function wayOf(connection: Connection, mappings: number): FastWay | undefined {
  const { active, state, confirmed, answered, forwarded, sndMax, dataUna, tan } = connection
  if (active === undefined || !active.usable || state !== 'established') return undefined
  if (!confirmed || !answered || forwarded || connection.finLocal >= 0 || connection.finRemote >= 0)
    return undefined
  if (
    !connection.sacks ||
    !active.sackPermitted ||
    connection.probing ||
    active.probing ||
    connection.skipped
  )
    return undefined
  if (active.finReceived >= 0 || connection.repeat.length > 0) return undefined
  // The kernel cuts segments as the local TCP does.
  if (active.segmentSize < connection.segmentSize) return undefined
  // The kernel leaves windows as they are.
  if (active.remoteScale !== Math.max(0, connection.remoteSyn.scale)) return undefined
  const { send, una, acked } = active
  const way = newWay(connection, active)
  if (send.runs.length > mappings || !send.runs.every(({ ssn, dsn }) => ssn - dsn === way.out))
    return undefined
  if (!isLinearIn(connection, way)) return undefined
  const since = send.runs[0]?.dsn ?? sndMax
  if (!isFirstAlone(way)) {
    if (since > dataUna || una - way.out < since) return undefined
    // What is missing before it has the same constants.
    if (way.from > tan ? acked - way.in !== tan : acked - way.in < way.from) return undefined
  }
  for (const each of connection.subflows) {
    if (each.leaveAt !== Number.POSITIVE_INFINITY) return undefined
    if (each === active) continue
    if (each.state === 'dead') {
      // What was under way there has come another way.
      if (each.send.runs.some(({ dsn, length }) => dsn + length > dataUna)) return undefined
      if (each.recv.runs.some(({ dsn, length }) => dsn + length > tan)) return undefined
    } else if (each.send.runs.length > 0 || each.high > Math.max(1, each.acked)) return undefined
  }
  return way
}

/** With the constants of what was sent and received last. */
function newWay(connection: Connection, subflow: Subflow): FastWay {
  const { sndMax, rcvMax } = connection
  const { next, high, recv } = subflow
  const [out, into] = [next - sndMax, high - rcvMax]
  const first = recv.runs.find((run) => !isDone(connection, subflow, run))?.dsn ?? rcvMax
  const way = { subflow, out, in: into, from: first }
  return isFirstAlone(way) ? { ...way, from: 1 } : way
}

/** As long as there was no other subflow, there are no other constants. */
function isFirstAlone({ subflow, out, in: into }: FastWay): boolean {
  return subflow.id === 0 && out === 0 && into === 0
}

/** The local TCP has acknowledged it, and the peer heard so. */
function isDone({ tan }: Connection, { acked }: Subflow, { ssn, dsn, length }: Run): boolean {
  return dsn + length <= tan && ssn + length <= acked
}

function isLinearIn(connection: Connection, way: FastWay): boolean {
  const { subflow } = way
  return subflow.recv.runs.every((run) => run.ssn - run.dsn === way.in || isDone(connection, subflow, run))
}

/** Before anything that the machine does with the connection. */
export function readFast(connection: Connection): void {
  const { fast } = connection
  if (fast !== undefined) apply(connection, connection.fastWay!, fast.read())
}

/** After it: from here the kernel goes on, if the constants are the same everywhere. */
export function advanceFast(connection: Connection, now: number): void {
  const { fast, fastWay: way, sndMax, rcvMax } = connection
  if (fast === undefined || way === undefined) return
  const { send, next, high } = way.subflow
  if (next - sndMax !== way.out || high - rcvMax !== way.in || !isLinearIn(connection, way)) {
    leaveFast(connection, now)
    return
  }
  const sent = send.appended - connection.fastRuns
  fast.advance(connection.sndMax, connection.rcvMax, sent > 0 ? send.runs.slice(-sent) : [])
  connection.fastRuns = send.appended
}

/**
 * Takes the connection back for a segment of the peer. A window probe of Linux (`mptcp_sendmsg_frag`) is the newest byte that has been
 * acknowledged, with a number of its own on the subflow: the constants are others afterwards, and nothing else.
 */
export function leaveFastFor(connection: Connection, subflow: Subflow, segment: Segment, now: number): void {
  const isProbe = isWindowProbe(connection, subflow, segment)
  const { fastAfter, fastSince } = connection
  leaveFast(connection, now)
  if (!isProbe) return
  connection.fastAfter = fastAfter
  connection.fastFrom -= now - fastSince < PROBE_AFTER ? fastAfter - FAST_AFTER : fastAfter
}

function isWindowProbe({ remoteKey, rcvMax, tan }: Connection, subflow: Subflow, segment: Segment): boolean {
  const map = segment.option('dss')?.map
  if (map === undefined || segment.payloadLength !== 1 || map.length !== 1) return false
  if (subflow.offsetOfSeq(segment.seq) !== subflow.high) return false
  const dsn = offsetOfDsn(remoteKey!, map.dsn, rcvMax)
  return dsn !== undefined && dsn < tan
}

/** Takes the connection back. */
export function leaveFast(connection: Connection, now: number): void {
  const { fast, fastWay: way } = connection
  if (fast === undefined || way === undefined) return
  connection.fast = undefined
  const left = fast.end()
  apply(connection, way, left.numbers)
  if (left.numbers.sends) know(way, left)
  connection.offeredWhole()
  connection.fastWay = undefined
  connection.fastFrom = connection.sndMax + connection.rcvMax
  connection.fastAfter =
    now - connection.fastSince < SOON ? Math.min(AFTER_MOST, 2 * connection.fastAfter) : FAST_AFTER
}

function know({ subflow, out }: FastWay, { sent }: FastLeft): void {
  subflow.send.know(sent.map(({ dsn, length }) => ({ ssn: dsn + out, dsn, length })))
}

/** What a killed process left to the kernel. */
export function takeBack(connection: Connection, left: FastLeft): void {
  const { first, active: subflow = first! } = connection
  const { tuple } = subflow
  const way = newWay(connection, subflow)
  apply(connection, way, left.numbers)
  const same =
    tuple.localPort === left.way.localPort && way.out >>> 0 === left.way.out && way.in >>> 0 === left.way.in
  if (left.numbers.sends) {
    know(way, left)
    subflow.sendKnown = true
  }
  // Then nobody knows what its peer has.
  if (!same) subflow.sendKnown = false
}

function apply(connection: Connection, way: FastWay, numbers: FastNumbers): void {
  const { subflow } = way
  const { sndMax, rcvMax, tan, dataUna, heardAt, askedAt } = numbers
  if (numbers.sends && sndMax > connection.sndMax) {
    subflow.sentBytes += sndMax - connection.sndMax
    connection.sndMax = sndMax
    subflow.next = sndMax + way.out
    subflow.spoilSample()
  }
  if (numbers.receives && rcvMax > connection.rcvMax) {
    subflow.receivedBytes += rcvMax - connection.rcvMax
    connection.rcvMax = rcvMax
    subflow.high = rcvMax + way.in
  }
  if (numbers.receives) {
    const { from } = way
    subflow.recv.replace([{ ssn: from + way.in, dsn: from, length: connection.rcvMax - from }])
  }
  if (tan > connection.tan) {
    connection.tan = Math.min(tan, connection.rcvMax + 1)
    connection.window = numbers.window
    // Which of both was announced last is not known, but with the same acknowledgement a window only opens.
  } else if (tan === connection.tan) connection.window = Math.max(connection.window, numbers.window)
  subflow.acked = Math.max(subflow.acked, Math.min(connection.tan + way.in, subflow.high))
  if (dataUna > connection.dataUna) {
    connection.dataUna = Math.min(dataUna, connection.sndMax)
    connection.release()
  }
  subflow.una = Math.max(subflow.una, Math.min(numbers.una + way.out, subflow.next))
  if (numbers.sends)
    subflow.send.replace([
      {
        ssn: connection.dataUna + way.out,
        dsn: connection.dataUna,
        length: connection.sndMax - connection.dataUna,
      },
    ])
  else subflow.send.acknowledge(connection.dataUna, subflow.una)
  if (numbers.srtt > 0) subflow.srtt = numbers.srtt
  if (heardAt > subflow.heardAt) {
    connection.remoteWindow = numbers.remoteWindow * 2 ** subflow.remoteScale
    if (subflow.askedAt < heardAt) subflow.askedAt = Number.POSITIVE_INFINITY
    subflow.heardAt = heardAt
    connection.usedAt = Math.max(connection.usedAt, heardAt)
  }
  if (askedAt > subflow.heardAt && askedAt < subflow.askedAt) subflow.askedAt = askedAt
  if (numbers.expectedAt > subflow.heardAt)
    subflow.expectedAt = Math.max(subflow.expectedAt, numbers.expectedAt)
  if (numbers.dataAt > subflow.dataAt) {
    subflow.dataAt = numbers.dataAt
    subflow.burst = numbers.burst
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
  if (subflow !== connection.fastWay?.subflow) return segment.payloadLength === 0
  return connection.fast?.read().receives === false
}

/** Nothing came or went for a while. */
export function isIdleFast({ fast }: Connection, now: number): boolean {
  if (fast === undefined) return false
  const { heardAt, askedAt } = fast.read()
  return now - Math.max(heardAt, askedAt) > IDLE
}

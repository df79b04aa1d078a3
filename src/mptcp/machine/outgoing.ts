/** From the local TCP to the peer (paper §3.3 and §3.4): payload through the SEND table, acknowledgements to those subflows that they are of. */
import { TcpFlag } from '../../core/tcp.ts'
import { acknowledged, type Block, project, type Run } from '../tables.ts'
import type { MptcpOption } from '../wire.ts'
import { Connection } from './connection.ts'
import type { Segment } from './segment.ts'
import { dsnAt, offsetOf } from './sequence.ts'
import type { Subflow } from './subflow.ts'

const { ACK, FIN } = TcpFlag
const NO_BLOCKS: readonly Block[] = []
/** A mapping's length has 16 bits. */
const MAX_MAPPING = 0xffff
/** The largest window that TCP has (RFC 7323 §2.3). */
const MAX_GAP = 1 << 30

/** A segment of an established connection's local TCP, no SYN and no RST. Returns a subflow that is stuck. */
export function forwardOutgoing(connection: Connection, segment: Segment, now: number): Subflow | undefined {
  const dsn = connection.offsetOfSeq(segment.seq)
  const end = dsn + segment.payloadLength
  const owed = acknowledge(connection, segment)
  const fin = (segment.flags & FIN) === 0 ? 0 : 1
  // It is sent again though the peer has it: the acknowledgement did not reach the local TCP.
  if (end + fin > dsn && end + fin <= connection.dataUna) connection.acknowledgeLocal()
  const sent = new Set<Subflow>()
  const stuck = segment.payloadLength > 0 ? sendPayload(connection, segment, dsn, end, now, sent) : undefined
  if ((segment.flags & FIN) !== 0) connection.finAhead = end
  if (takesFin(connection)) {
    connection.sendDataFin()
    // The peer answers as it answers data.
    if (connection.dataUna <= connection.finLocal) connection.active?.ask(now)
    if (connection.active !== undefined) sent.add(connection.active)
  }
  sendAcks(connection, segment, owed, sent, now)
  return stuck
}

/**
 * Whether the stream of the local TCP ends with what has been seen of it. Like Linux, which queues one that is ahead, a FIN counts when the
 * bytes before it have come. One with bytes behind it is none: a neighbour of a host behind this router may have forged it.
 */
function takesFin(connection: Connection): boolean {
  const { finAhead, sndMax } = connection
  if (finAhead < 0 || finAhead > sndMax) return false
  connection.finAhead = -1
  if (finAhead < sndMax) return false
  connection.finLocal = finAhead
  return true
}

/** What the peer is told where nothing goes out anyway. */
function sendAcks(
  connection: Connection,
  segment: Segment,
  owed: ReturnType<typeof acknowledge>,
  sent: Set<Subflow>,
  now: number,
): void {
  const dss = connection.dataAck()
  if (dss === undefined) return
  const options = ackOptions(connection, dss)
  for (const subflow of owed.subflows)
    if (!sent.has(subflow)) {
      connection.toWire(subflow, { options, sack: subflow.above })
      sent.add(subflow)
    }
  if (sent.size > 0 || segment.payloadLength > 0) {
    if (owed.windowOpened) announceWindow(connection, options, sent, now)
    return
  }
  const { active } = connection
  if (active === undefined) return
  if (connection.offsetOfSeq(segment.seq) < connection.sndMax) {
    // A keep-alive or window probe: one byte before what is new, there as here.
    connection.probing = true
    connection.toWire(active, { at: active.next - 1, options })
  } else if (owed.windowOpened) announceWindow(connection, options, sent, now)
  else connection.toWire(active, { options })
}

/** The third ACK carries both keys, and all that follow until the peer has shown that it has them. */
function ackOptions(connection: Connection, dss: MptcpOption): readonly MptcpOption[] {
  const { confirmed, localKey, remoteKey, role } = connection
  if (confirmed || role === 'server' || remoteKey === undefined || connection.sndMax > 1) return [dss]
  return [capable(localKey.bytes, remoteKey.bytes)]
}

export function capable(key: Uint8Array, peerKey: Uint8Array, dataLength?: number): MptcpOption {
  return {
    type: 'capable',
    version: 1,
    checksum: false,
    extension: false,
    noJoin: false,
    sha256: true,
    key,
    peerKey,
    ...(dataLength !== undefined && { dataLength }),
  }
}

/** Each subflow enforces the last window it saw: all that the peer may use hear of it. */
function announceWindow(
  connection: Connection,
  options: readonly MptcpOption[],
  sent: Set<Subflow>,
  now: number,
): void {
  connection.active?.expect(now)
  for (const subflow of connection.subflows)
    if (subflow.alive && !sent.has(subflow)) connection.toWire(subflow, { options })
}

/**
 * Takes the acknowledgement of the local TCP and finds the subflows that are owed one: those whose payload it covers
 * (MP-38, MP-39), and on a duplicate those with payload that is not acknowledged yet (MP-41).
 */
function acknowledge(
  connection: Connection,
  segment: Segment,
): { readonly subflows: readonly Subflow[]; readonly windowOpened: boolean } {
  const subflows: Subflow[] = []
  if ((segment.flags & ACK) === 0) return { subflows, windowOpened: false }
  const ack = connection.offsetOfAck(segment.ack)
  // An older one says nothing new, but its payload is forwarded.
  if (ack < connection.tan || ack > connection.rcvMax + 1) return { subflows, windowOpened: false }
  const windowOpened = segment.window > connection.window && ack === connection.tan
  const duplicate = ack === connection.tan && segment.payloadLength === 0 && !windowOpened
  connection.window = segment.window
  connection.tan = ack
  const blocks: Block[] = [{ left: 0, right: ack }]
  for (let i = 0; i + 1 < segment.sack.length; i += 2) {
    const left = offsetOf(segment.sack[i]!, connection.peerIsn, ack)
    const right = offsetOf(segment.sack[i + 1]!, connection.peerIsn, ack)
    if (left < right && right <= connection.rcvMax + 1) blocks.push({ left, right })
  }
  for (const subflow of connection.subflows) {
    if (!subflow.alive || subflow.high <= subflow.acked) continue
    const before = subflow.acked
    const found = acknowledged(project(subflow.recv.runs, blocks, 'ssn'), before)
    subflow.acked = Math.min(found.ack, subflow.high)
    if (!connection.sacks) takeGiven(connection, subflow)
    subflow.above = found.above.length === 0 ? NO_BLOCKS : found.above
    finishReceiving(subflow)
    if (subflow.acked > before) pruneReceived(connection, subflow)
    if (subflow.acked > before || duplicate) subflows.push(subflow)
  }
  return { subflows, windowOpened }
}

/**
 * A local TCP without SACK cannot say that it has what lies beyond a hole. A peer that puts new data before what it sends again
 * would wait for that forever: what the TCP was given there is acknowledged on the subflow. The peer keeps it until the DATA_ACK.
 */
function takeGiven(connection: Connection, subflow: Subflow): void {
  const next = subflow.recv.atSsn(subflow.acked)
  if (next !== undefined && next.dsn + (subflow.acked - next.ssn) > connection.tan)
    subflow.acked = acknowledged(subflow.given, subflow.acked).ack
  subflow.given = subflow.given.filter(({ right }) => right > subflow.acked)
}

/** The FIN of a subflow is acknowledged with the last byte before it. */
export function finishReceiving(subflow: Subflow): void {
  if (subflow.finReceived >= 0 && subflow.acked === subflow.finReceived) subflow.acked++
}

function pruneReceived(connection: Connection, subflow: Subflow): void {
  const { runs } = subflow.recv
  // The newest stays: what comes next mostly continues it.
  subflow.recv.prune(
    (run) =>
      run !== runs[runs.length - 1] &&
      run.ssn + run.length <= subflow.acked &&
      run.dsn + run.length <= connection.tan,
  )
}

function sendPayload(
  connection: Connection,
  segment: Segment,
  start: number,
  end: number,
  now: number,
  sent: Set<Subflow>,
): Subflow | undefined {
  let at = Math.max(start, connection.dataUna)
  if (start <= Math.max(connection.dataUna, connection.againTo)) takeRepair(connection, end)
  if (mustWait(connection, start, end)) return undefined
  // What cannot be sent is not the newest that was: first on the next subflow it would leave a gap there.
  if (end >= connection.sndMax && connection.active !== undefined)
    connection.hold(segment, start, end - start)
  let stuck: Subflow | undefined
  while (at < end) {
    const place = placeOf(connection, at, end, now)
    if (place === undefined) break // no subflow: the local TCP sends it again
    const { subflow, run, length } = place
    const payload = { at: segment.payloadAt + (at - start), length }
    sendMapped(connection, subflow, run, at, payload, Connection.passedFlags(segment.flags))
    sent.add(subflow)
    if (subflow.passes(run.ssn + (at - run.dsn), length, at === connection.dataUna, now)) stuck = subflow
    at += length
  }
  return stuck
}

/** The local TCP sends again what a break lost; one without SACK begins with everything. */
function takeRepair(connection: Connection, end: number): void {
  const { againFrom, againTo, dataUna, lostBefore, sacks } = connection
  connection.againFrom = Math.min(againFrom, dataUna)
  connection.againTo = Math.max(againTo, sacks ? end : lostBefore)
}

/**
 * Until what a break lost is sent again, new data are dropped as if lost, too. On the subflow they would lie before what is older, and if
 * they were lost there the peer could acknowledge nothing of that. A TCP without SACK sends new data to learn whether its timeout was
 * spurious (RFC 5682), and would wait for another one; where its new data are lost, the subflow is left (ADR 0455).
 */
function mustWait(connection: Connection, start: number, end: number): boolean {
  const { sndMax, skipped, isBroken, sacks } = connection
  if (!sacks || end <= sndMax) return false
  connection.skipped = start > sndMax ? skipped || isBroken : start === sndMax && isBroken
  return connection.skipped
}

/** Sends bytes of a mapping. */
export function sendMapped(
  connection: Connection,
  subflow: Subflow,
  run: Run,
  dsn: number,
  payload: Uint8Array | { readonly at: number; readonly length: number },
  flags: number,
): void {
  const { localKey, remoteKey, confirmed, role } = connection
  // Sent a second time, behind what the peer has of the subflow, they have a mapping as any others.
  const first = !confirmed && role === 'client' && run.dsn === 1 && run.ssn === 1 && subflow.id === 0
  const dss = connection.dataAck()
  const option: MptcpOption =
    first && remoteKey !== undefined
      ? capable(localKey.bytes, remoteKey.bytes, run.length)
      : {
          type: 'dss',
          dataFin: false,
          ...(dss?.ack !== undefined && { ack: dss.ack }),
          map: { dsn: dsnAt(localKey, run.dsn), ssn: run.ssn, length: run.length },
        }
  connection.toWire(subflow, {
    at: run.ssn + (dsn - run.dsn),
    flags,
    options: [option],
    payload,
    sack: subflow.above,
  })
}

/**
 * Where the bytes from `at` go (MP-27, MP-28): what was sent before to the subflow and mapping it had, as long as that
 * lives; everything else to the active one, which gets a new mapping.
 */
export function placeOf(
  connection: Connection,
  at: number,
  end: number,
  now: number,
): { readonly subflow: Subflow; readonly run: Run; readonly length: number } | undefined {
  const { active } = connection
  let stop = Math.min(end, at + MAX_MAPPING)
  if (at < connection.sndMax) {
    for (const subflow of connection.subflows) {
      // One that answers nothing is as good as gone, unless there is no other.
      if (!subflow.usable || (subflow !== active && subflow.isSilent(now))) continue
      const run = subflow.send.atDsn(at)
      // What the subflow has acknowledged, and the peer lost after that, needs a place of its own.
      if (run !== undefined && run.ssn + (at - run.dsn) >= subflow.una) {
        subflow.spoilSample()
        subflow.ask(now)
        return { subflow, run, length: Math.min(end, run.dsn + run.length) - at }
      }
      stop = Math.min(stop, subflow.send.nextDsn(at))
    }
  } else if (at - connection.sndMax > MAX_GAP) return undefined
  if (active === undefined) return undefined
  // Bytes that are late get their place now, so that the mapping stays monotonous (MP-31).
  for (let gap = connection.sndMax; gap < at; gap += MAX_MAPPING)
    active.allocate(gap, Math.min(MAX_MAPPING, at - gap), now)
  connection.sndMax = Math.max(connection.sndMax, stop)
  active.ask(now)
  return { subflow: active, run: active.allocate(at, stop - at, now), length: stop - at }
}

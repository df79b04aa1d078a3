/** From the peer to the local TCP (paper §3.3 and §3.4): payload through the RECV table, acknowledgements from the DATA_ACK. */
import { equalConstantTime } from '../../core/bytes.ts'
import { TcpFlag } from '../../core/tcp.ts'
import { acknowledged, type Block, project } from '../tables.ts'
import type { DssOption } from '../wire.ts'
import { ResetReason } from '../wire.ts'
import { Connection } from './connection.ts'
import { addAddrHmac } from './keys.ts'
import { finishReceiving, sendMapped } from './outgoing.ts'
import type { Segment } from './segment.ts'
import { offsetOf, offsetOfDsn } from './sequence.ts'
import type { Subflow } from './subflow.ts'

const { FIN } = TcpFlag
/** The largest window that TCP has (RFC 7323 §2.3): what lies farther ahead is no honest mapping. */
const MAX_WINDOW = 1 << 30
const WORD = 4294967296

/** What a segment of the peer asks of the connection beside being forwarded. */
export type Request =
  | { readonly type: 'fastclose' }
  | { readonly type: 'remove'; readonly ids: readonly number[] }
  | { readonly type: 'priority' }
  | { readonly type: 'distrust'; readonly reason: number }
  | { readonly type: 'fin' }
  | { readonly type: 'stuck' }

/** A segment of a subflow that is active or closing, no SYN and no RST. Returns what else is to be done. */
export function forwardIncoming(
  connection: Connection,
  subflow: Subflow,
  segment: Segment,
  now: number,
): readonly Request[] {
  const requests: Request[] = []
  const acked = subflow.offsetOfAck(segment.ack)
  const advanced = acked > subflow.una
  if (!subflow.acknowledge(acked, now)) {
    connection.host.counts.lies++
    return requests
  }
  subflow.hear(now)
  if (advanced) subflow.send.acknowledge(connection.dataUna, subflow.una)
  const before = { una: connection.dataUna, window: connection.remoteWindow }
  const dss = segment.option('dss')
  let finNow = false
  if (dss !== undefined) {
    if (!takeDataAck(connection, subflow, dss, now)) connection.host.counts.lies++
    const taken = takeMap(connection, subflow, dss)
    if (taken === 'lie') {
      connection.host.counts.lies++
      return [{ type: 'distrust', reason: ResetReason.MPTCP }]
    }
    finNow = taken === 'fin'
  }
  const capable = segment.option('capable')
  if (capable?.dataLength !== undefined && subflow.id === 0) subflow.recv.add(1, 1, capable.dataLength)
  const signalled = takeSignals(connection, subflow, segment, requests)
  takeWindow(connection, subflow, segment, dss !== undefined || segment.payloadLength > 0)

  const sack = sackBlocks(connection, subflow, segment, acked)
  if (hasHole(subflow, segment, advanced)) subflow.showHole()
  if (segment.sack.length > 0 && !fillHole(connection, subflow, segment, now))
    requests.push({ type: 'stuck' })
  const start = subflow.offsetOfSeq(segment.seq)
  const end = start + segment.payloadLength
  let forwarded = false
  if (connection.isTold && (segment.payloadLength > 0 || (segment.flags & FIN) !== 0)) {
    // What a subflow still brings, or has lost, is old.
    subflow.high = Math.max(subflow.high, end)
    if (subflow.finReceived < 0) subflow.acked = subflow.high
  }
  if (segment.payloadLength > 0) {
    if (end <= subflow.acked) connection.ackOn(subflow)
    else forwarded = forwardPayload(connection, subflow, segment, start, end, sack, now)
  }
  if (finNow) {
    if (connection.isTold) connection.ackOn(subflow)
    else {
      connection.finToLocal()
      forwarded = true
    }
  }
  if ((segment.flags & FIN) !== 0 && end <= subflow.high && subflow.finReceived < 0) {
    subflow.finReceived = end
    finishReceiving(subflow)
    if (subflow.acked > end) connection.ackOn(subflow)
    requests.push({ type: 'fin' })
  } else if ((segment.flags & FIN) !== 0 && subflow.finReceived >= 0) connection.ackOn(subflow)
  if (forwarded) return requests
  const bare = segment.payloadLength === 0 && (segment.flags & FIN) === 0
  // A keep-alive, a window probe, or a probe of another proxy: the byte before what is next. That one is for this subflow.
  if (bare && start === subflow.high - 1) {
    connection.ackOn(subflow)
    connection.askWindow()
  }
  const news = connection.dataUna > before.una || connection.remoteWindow !== before.window || sack.length > 0
  // A duplicate that signals nothing is one that the local TCP counts, unless it is the subflow's alone.
  // Without SACK what lies beyond a hole is acknowledged on the subflow, and that is all that the peer says of it.
  const progress = advanced && (connection.sacks || connection.dataUna > before.una)
  const duplicate = bare && !progress && !signalled && start >= subflow.high && !subflow.probing
  if (bare && !advanced) subflow.probing = false
  // Without SACK three of them would make it repair one segment a round trip (RFC 6582 §3.2); its timer makes it send everything again.
  const counted = connection.outstanding && (connection.sacks || !connection.isBroken)
  if (news || (duplicate && (connection.probing || counted))) {
    connection.probing = false
    connection.acknowledgeLocal(sack)
  }
  return requests
}

/** False when it acknowledges what was never sent. */
function takeDataAck(connection: Connection, subflow: Subflow, { ack }: DssOption, now: number): boolean {
  if (ack === undefined) return true
  const offset = offsetOfDsn(connection.localKey, ack, connection.dataUna)
  const most = connection.finLocal >= 0 ? connection.finLocal + 1 : connection.sndMax
  if (offset === undefined || offset > most) return false
  connection.confirmed = true
  connection.answered = true
  if (offset > connection.dataUna) {
    connection.dataUna = offset
    connection.room?.acknowledge(offset, subflow.leastRtt, now)
    connection.release()
    for (const { send, una } of connection.subflows) send.acknowledge(offset, una)
  }
  return true
}

function takeMap(
  connection: Connection,
  subflow: Subflow,
  { map, dataFin }: DssOption,
): 'none' | 'fin' | 'lie' {
  if (map === undefined || connection.remoteKey === undefined) return 'none'
  const dsn = offsetOfDsn(connection.remoteKey, map.dsn, connection.rcvMax)
  const length = map.length - (dataFin ? 1 : 0)
  // Linux asks for a window with the byte before the first that is not acknowledged: 0 is the one before the stream.
  const least = dataFin ? 1 : 0
  if (dsn === undefined || dsn < least || length < 0 || dsn + length > connection.tan + MAX_WINDOW)
    return 'lie'
  if (length > 0) {
    const ssn = subflow.high + ((map.ssn - (subflow.high % WORD)) | 0)
    if (ssn < 1 || ssn > subflow.high + MAX_WINDOW) return 'lie'
    if (ssn + length > subflow.acked && !subflow.recv.add(ssn, dsn, length)) return 'lie'
  }
  if (!dataFin) return 'none'
  if (connection.finRemote >= 0 && connection.finRemote !== dsn + length) return 'lie'
  connection.finRemote = dsn + length
  return 'fin'
}

/** Windows are relative to the DATA_ACK and shared by all subflows. */
function takeWindow(connection: Connection, subflow: Subflow, segment: Segment, current: boolean): void {
  if (current) connection.remoteWindow = segment.window * 2 ** subflow.remoteScale
}

function takeSignals(
  connection: Connection,
  subflow: Subflow,
  segment: Segment,
  requests: Request[],
): boolean {
  let any = false
  for (const option of segment.mptcp) {
    if (option.type === 'dss') continue
    any = true
    if (option.type === 'prio') {
      subflow.remoteBackup = option.backup
      requests.push({ type: 'priority' })
    } else if (option.type === 'remove-addr') requests.push({ type: 'remove', ids: option.ids })
    else if (option.type === 'fastclose') {
      if (equalConstantTime(option.key, connection.localKey.bytes)) requests.push({ type: 'fastclose' })
      else connection.host.counts.lies++
    } else if (option.type === 'add-addr' && !option.echo && connection.remoteKey !== undefined) {
      const port = option.port ?? 0
      const { remoteKey, localKey, host } = connection
      const want = addAddrHmac(host.sha, remoteKey.bytes, localKey.bytes, option.id, option.address, port)
      if (option.hmac === undefined || !equalConstantTime(want, option.hmac)) {
        host.counts.lies++
        continue
      }
      connection.confirmed = true
      connection.answered = true
      // It is heard, and nothing more: subflows begin to the address that the connection has.
      const { hmac: _, ...echo } = option
      connection.toWire(subflow, { options: [{ ...echo, echo: true }] })
    }
  }
  return any
}

/** What the subflow's acknowledgement says of data beyond the DATA_ACK (paper §3.5). */
function sackBlocks(connection: Connection, subflow: Subflow, segment: Segment, acked: number): Block[] {
  const { runs } = subflow.send
  if (runs.length === 0 || !connection.sacks) return []
  const blocks: Block[] = [{ left: 0, right: acked }]
  for (let i = 0; i + 1 < segment.sack.length; i += 2) {
    const left = offsetOf(segment.sack[i]!, subflow.localIsn, acked)
    const right = offsetOf(segment.sack[i + 1]!, subflow.localIsn, acked)
    if (left < right && right <= subflow.next) blocks.push({ left, right })
  }
  const { above } = acknowledged(project(runs, blocks, 'dsn'), connection.dataUna)
  return above
}

/** Whether the peer shows that it lacks what is at `una` and has more: without SACK it acknowledges again what is before. */
function hasHole(
  { una, localIsn, sackPermitted, outstanding }: Subflow,
  { sack }: Segment,
  advanced: boolean,
): boolean {
  if (!sackPermitted) return !advanced && outstanding
  return sack.some((edge) => offsetOf(edge, localIsn, una) > una)
}

/**
 * The peer's TCP of this subflow hands on nothing until what was lost here has come. Where the local TCP believes that the peer has that,
 * it does not send it again: the proxy does. False: nobody can.
 */
function fillHole(connection: Connection, subflow: Subflow, { sack }: Segment, now: number): boolean {
  const { una } = subflow
  const run = subflow.send.atSsn(una)
  if (run === undefined || !subflow.alive) return true
  const dsn = run.dsn + (una - run.ssn)
  const beyond = sack.map((edge) => offsetOf(edge, subflow.localIsn, una)).filter((edge) => edge > una)
  const end = Math.min(run.ssn + run.length, una + connection.segmentSize, ...beyond)
  if (end <= una || beyond.length === 0) return true
  const { forgotten } = connection
  if (forgotten !== undefined && dsn >= Math.max(forgotten.left, connection.dataUna) && dsn < forgotten.right)
    return false
  const bytes = missing(connection, dsn, end - una)
  if (bytes !== undefined && subflow.mayFill(now))
    sendMapped(connection, subflow, run, dsn, bytes, TcpFlag.ACK)
  return true
}

/**
 * Up to `most` bytes from `dsn` in place of those that the local TCP does not send again: what reached the peer over another subflow it
 * drops, so that any bytes will do, and what it was sent first after a break was kept. Undefined: the local TCP sends them.
 */
function missing({ dataUna, kicked }: Connection, dsn: number, most: number): Uint8Array | undefined {
  if (dsn < dataUna) return new Uint8Array(Math.min(most, dataUna - dsn))
  if (kicked === undefined || dsn < kicked.dsn || dsn >= kicked.dsn + kicked.length) return undefined
  const from = dsn - kicked.dsn
  return kicked.bytes.slice(from, Math.min(from + most, kicked.length))
}

/** True when something of it went to the local TCP. */
function forwardPayload(
  connection: Connection,
  subflow: Subflow,
  segment: Segment,
  start: number,
  end: number,
  sack: readonly Block[],
  now: number,
): boolean {
  let any = false
  let at = start
  while (at < end) {
    const run = subflow.recv.atSsn(at)
    if (run === undefined) {
      // Before the oldest mapping it is old; without one the peer sends it again.
      if (at < subflow.acked) {
        at = subflow.acked
        continue
      }
      connection.host.counts.unmapped++
      break
    }
    const length = Math.min(end, run.ssn + run.length) - at
    const dsn = run.dsn + (at - run.ssn)
    connection.rcvMax = Math.max(connection.rcvMax, dsn + length)
    subflow.high = Math.max(subflow.high, at + length)
    if (!connection.sacks) subflow.give(at, at + length)
    connection.toLocal(dsn, {
      flags: Connection.passedFlags(segment.flags),
      payload: { at: segment.payloadAt + (at - start), length },
      sack,
    })
    any = true
    at += length
  }
  subflow.receivedBytes += at - start
  // The peer uses what we called a backup: does the subflow that it should use still work?
  if (subflow.backup) connection.active?.expect(now)
  subflow.burst = now - subflow.dataAt < 1000 ? subflow.burst + 1 : 1
  subflow.dataAt = now
  return any
}

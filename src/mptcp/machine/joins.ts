/** Further subflows: their handshakes, both ways (RFC 8684 §3.2), and their ends. */
import { equalConstantTime } from '../../core/bytes.ts'
import { TcpFlag } from '../../core/tcp.ts'
import { type MptcpOption, ResetReason } from '../wire.ts'
import type { Connection } from './connection.ts'
import { joinAckHmac, joinHmac, joinReplyHmac } from './keys.ts'
import { type Segment, type Tuple, tupleKey } from './segment.ts'
import { Subflow } from './subflow.ts'
import type { AccessInfo } from './types.ts'

const { ACK, FIN, SYN, RST } = TcpFlag
/** First retransmission of a SYN or an unanswered third ACK (ms) before the round trip is known. */
const FIRST_RETRY = 1000
const LEAST_RETRY = 200
/** Longest wait for an answer (ms). */
const LONGEST_RETRY = 10_000
/** How often a packet of a handshake, or a FIN, is sent again. */
const TRIES = 5
/**
 * SYN/ACKs that a SYN of the peer earns. Its address is not proven yet, and gets at most three times the bytes that came from it: a SYN
 * with MP_JOIN has 52 bytes at least (72 with IPv6), our answer at most 68 (88).
 */
const ANSWERS = 2

export function randomWord(connection: Connection): number {
  const bytes = connection.host.random.fill(new Uint8Array(4))
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0)
}

/** How long to wait for an answer, doubled for each try. */
export function retryAfter(connection: Connection, tries: number): number {
  const rtt = Math.max(...connection.subflows.map(({ srtt }) => (Number.isNaN(srtt) ? 0 : srtt)), 0)
  return retryWait(rtt, tries)
}

/** `roundTrip`: 0 while it is not known. */
function retryWait(roundTrip: number, tries: number): number {
  const first = roundTrip === 0 ? FIRST_RETRY : Math.max(LEAST_RETRY, 3 * roundTrip)
  return Math.min(LONGEST_RETRY, first * 2 ** tries)
}

/** After how long (ms) a packet that nobody answers is given up. */
export function patience(roundTrip: number): number {
  let sum = 0
  for (let tries = 0; tries <= TRIES; tries++) sum += retryWait(roundTrip, tries)
  return sum
}

/** Begins a subflow from an access. The port is chosen at random from those that `taken` does not know. */
export function beginJoin(
  connection: Connection,
  access: AccessInfo,
  address: Uint8Array,
  backup: boolean,
  now: number,
  taken: (key: string) => boolean,
): Subflow | undefined {
  const { tuple } = connection
  let wire: Tuple | undefined
  for (let i = 0; i < 16 && wire === undefined; i++) {
    const localPort = 32_768 + (randomWord(connection) % 28_232)
    const candidate = { local: address, localPort, remote: tuple.remote, remotePort: tuple.remotePort }
    if (!taken(tupleKey(candidate))) wire = candidate
  }
  if (wire === undefined) return undefined
  const subflow = new Subflow({
    id: connection.nextSubflowId(),
    tuple: wire,
    key: tupleKey(wire),
    addressId: connection.nextAddressId(),
    access: access.name,
    state: 'syn-sent',
    localIsn: randomWord(connection),
    backup,
    now,
  })
  subflow.localNonce = randomWord(connection)
  sendSyn(connection, subflow, now)
  return subflow
}

function sendSyn(connection: Connection, subflow: Subflow, now: number): void {
  const { host, localSyn, remoteSyn, remoteKey } = connection
  const options = host.writer
    .syn({
      mss: localSyn.mss,
      scale: remoteSyn.scale < 0 ? -1 : localSyn.scale,
      sackPermitted: localSyn.sackPermitted && remoteSyn.sackPermitted,
    })
    .mptcp({
      type: 'join',
      backup: subflow.backup,
      id: subflow.addressId,
      token: remoteKey!.token,
      nonce: subflow.localNonce,
    })
    .finish()
  host.emit({
    to: 'wire',
    tuple: subflow.tuple,
    seq: subflow.localIsn,
    ack: 0,
    flags: SYN,
    window: Math.min(0xffff, connection.windowBytes),
    options,
    payload: undefined,
    access: subflow.access,
    segmentSize: connection.segmentSize,
  })
  subflow.retryAt = now + retryAfter(connection, subflow.tries++)
}

/** The SYN/ACK of a join, which acknowledges its SYN. False when its sender does not know the keys. */
export function handleJoinReply(
  connection: Connection,
  subflow: Subflow,
  segment: Segment,
  now: number,
): boolean {
  const reply = segment.option('join-reply')
  if (reply === undefined) return false
  const { sha } = connection.host
  const local = connection.localKey.bytes
  const remote = connection.remoteKey!.bytes
  const want = joinReplyHmac(joinHmac(sha, remote, local, reply.nonce, subflow.localNonce))
  if (!equalConstantTime(want, reply.hmac)) return false
  if (subflow.tries === 1) subflow.sample(now - subflow.heardAt)
  subflow.hear(now)
  subflow.remoteIsn = segment.seq
  subflow.remoteNonce = reply.nonce
  subflow.remoteAddressId = reply.id
  subflow.remoteBackup = reply.backup
  subflow.remoteScale = Math.max(0, segment.scale)
  subflow.sackPermitted = segment.sackPermitted
  subflow.state = 'joined'
  subflow.tries = 0
  sendThirdAck(connection, subflow, now)
  // With nothing else left the peer hears here and now which path is gone. If the new one is no backup, without a DATA_ACK: one would
  // make it fill the new path with new data, before it knows that the old ones are lost.
  const gone = connection.repeat.filter(({ type }) => type === 'remove-addr')
  if (connection.active !== undefined || gone.length === 0) return true
  if (subflow.backup) connection.ackOn(subflow, ...gone)
  else connection.toWire(subflow, { options: gone })
  return true
}

/** Sent again until the peer's first packet shows that it has it. */
function sendThirdAck(connection: Connection, subflow: Subflow, now: number): void {
  const { localKey, remoteKey, host } = connection
  const hmac = joinHmac(host.sha, localKey.bytes, remoteKey!.bytes, subflow.localNonce, subflow.remoteNonce)
  connection.toWire(subflow, { options: [{ type: 'join-ack', hmac: joinAckHmac(hmac) }] })
  subflow.retryAt = now + retryAfter(connection, subflow.tries++)
}

/** Answers a SYN with MP_JOIN for a connection of ours. */
export function acceptJoin(
  connection: Connection,
  segment: Segment,
  join: Extract<MptcpOption, { type: 'join' }>,
  access: string | undefined,
  now: number,
): Subflow {
  const subflow = new Subflow({
    id: connection.nextSubflowId(),
    tuple: segment.tuple,
    key: segment.key,
    addressId: connection.nextAddressId(),
    access,
    state: 'syn-received',
    localIsn: randomWord(connection),
    backup: join.backup,
    now,
  })
  subflow.remoteIsn = segment.seq
  subflow.localNonce = randomWord(connection)
  subflow.remoteNonce = join.nonce
  subflow.remoteAddressId = join.id
  subflow.remoteBackup = join.backup
  subflow.remoteScale = Math.max(0, segment.scale)
  subflow.sackPermitted = segment.sackPermitted
  answerSyn(connection, subflow, now)
  return subflow
}

/** A SYN of the peer, the first or again. */
export function answerSyn(connection: Connection, subflow: Subflow, now: number): void {
  subflow.answersLeft += ANSWERS
  sendSynAck(connection, subflow, now)
}

function sendSynAck(connection: Connection, subflow: Subflow, now: number): void {
  subflow.retryAt = now + retryAfter(connection, subflow.tries++)
  // The peer sends its SYN again when it has no answer.
  if (subflow.answersLeft === 0) return
  subflow.answersLeft--
  const { host, localSyn, remoteSyn, localKey, remoteKey } = connection
  const hmac = joinHmac(host.sha, localKey.bytes, remoteKey!.bytes, subflow.localNonce, subflow.remoteNonce)
  const options = host.writer
    .syn({
      mss: localSyn.mss,
      scale: remoteSyn.scale < 0 ? -1 : localSyn.scale,
      sackPermitted: localSyn.sackPermitted && subflow.sackPermitted,
    })
    .mptcp({
      type: 'join-reply',
      backup: false,
      id: subflow.addressId,
      hmac: joinReplyHmac(hmac),
      nonce: subflow.localNonce,
    })
    .finish()
  host.emit({
    to: 'wire',
    tuple: subflow.tuple,
    seq: subflow.localIsn,
    ack: subflow.ackAt(1),
    flags: SYN | ACK,
    window: Math.min(0xffff, connection.windowBytes),
    options,
    payload: undefined,
    access: subflow.access,
    segmentSize: connection.segmentSize,
  })
}

/** The third ACK of a join that this host accepts, which acknowledges its SYN/ACK. */
export function handleJoinAck(
  connection: Connection,
  subflow: Subflow,
  ack: Extract<MptcpOption, { type: 'join-ack' }>,
  now: number,
): boolean {
  const { sha } = connection.host
  const { localKey, remoteKey } = connection
  const hmac = joinHmac(sha, remoteKey!.bytes, localKey.bytes, subflow.remoteNonce, subflow.localNonce)
  if (!equalConstantTime(joinAckHmac(hmac), ack.hmac)) return false
  activate(subflow, now)
  connection.ackOn(subflow)
  return true
}

export function activate(subflow: Subflow, now: number): void {
  subflow.state = 'active'
  subflow.retryAt = Number.POSITIVE_INFINITY
  subflow.tries = 0
  subflow.hear(now)
}

/** Sends the handshake packet or FIN that waits for an answer again; false when it has waited often enough. */
export function retry(connection: Connection, subflow: Subflow, now: number): boolean {
  if (subflow.tries > TRIES) return false
  if (connection.done && subflow.finReceived >= 0 && subflow.una < subflow.finSent) {
    // What was lost on the way to the peer went over another subflow, and nobody has it any more.
    resetSubflow(connection, subflow)
    return false
  }
  if (subflow.state === 'syn-sent') sendSyn(connection, subflow, now)
  else if (subflow.state === 'syn-received') sendSynAck(connection, subflow, now)
  else if (subflow.state === 'joined') sendThirdAck(connection, subflow, now)
  else if (subflow.state === 'closing') sendFin(connection, subflow, now)
  return true
}

/** Ends a subflow in order: its own FIN, which carries no data of the connection. */
export function closeSubflow(connection: Connection, subflow: Subflow, now: number): void {
  if (subflow.state !== 'active') return
  subflow.state = 'closing'
  subflow.tries = 0
  subflow.finSent = subflow.next++
  subflow.isLastWord = connection.done
  sendFin(connection, subflow, now)
}

function sendFin(connection: Connection, subflow: Subflow, now: number): void {
  writeFin(connection, subflow)
  subflow.retryAt = now + retryAfter(connection, subflow.tries++)
}

function writeFin(connection: Connection, subflow: Subflow): void {
  const dss = connection.dataAck()
  connection.toWire(subflow, {
    at: subflow.finSent,
    flags: ACK | FIN,
    options: dss === undefined ? [] : [dss],
  })
}

/** It is being closed, and both FINs are acknowledged. */
export function isClosed(subflow: Subflow): boolean {
  return (
    subflow.state === 'closing' &&
    subflow.isFinKnown &&
    subflow.finReceived >= 0 &&
    subflow.acked > subflow.finReceived
  )
}

/** Ends a subflow at once. */
export function resetSubflow(connection: Connection, subflow: Subflow, option?: MptcpOption): void {
  connection.toWire(subflow, {
    flags: RST | ACK,
    options: [option ?? { type: 'reset', transient: false, reason: ResetReason.UNSPECIFIED }],
  })
}

/** Answers what comes on a subflow that is gone, and is no RST, as a host does that has no such connection (RFC 9293 §3.10.7.1). */
export function refuse(connection: Connection, subflow: Subflow, { ack }: Segment): void {
  connection.toWire(subflow, { at: subflow.offsetOfAck(ack), flags: RST, options: [] })
}

/** A FIN that comes once more, on a subflow that is gone, when both ends are done: what was lost before it came another way. */
export function acknowledgeFin(
  connection: Connection,
  subflow: Subflow,
  { seq, ack, payloadLength }: Segment,
): void {
  subflow.acked = Math.max(subflow.acked, subflow.offsetOfSeq(seq) + payloadLength + 1)
  // Its sender waits for ours, if that is lost.
  if (subflow.offsetOfAck(ack) <= subflow.finSent) writeFin(connection, subflow)
  else connection.ackOn(subflow)
}

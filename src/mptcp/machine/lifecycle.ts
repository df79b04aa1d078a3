/** Which subflow carries data, when another does, and what keeps a connection going when none works (paper §5.3, §5.4). */
import { equal } from '../../core/bytes.ts'
import { TcpFlag } from '../../core/tcp.ts'
import type { MptcpOption } from '../wire.ts'
import type { Connection } from './connection.ts'
import { leaveFast } from './fast.ts'
import { beginJoin, closeSubflow, randomWord, resetSubflow, retry } from './joins.ts'
import { placeOf, sendMapped } from './outgoing.ts'
import { forgetPauses, joinAt, type LossKind, pauseJoins } from './pauses.ts'
import type { Subflow } from './subflow.ts'
import { type AccessInfo, accessAt } from './types.ts'

/** A burst of this many packets that stops is asked after, this long (ms) after its last packet. */
const BURST = 8
const PROBE_AFTER = 60
/** The kernel answers one probe in half a second. */
const PROBE_GAP = 600
/** How long a connection without any subflow is kept (ms); the kernel keeps its side as long. */
export const STRANDED = 60_000
const REPEATS = 3
const REPEAT_LEAST = 200
/** And when MP_PRIO follows REMOVE_ADDR at the earliest (ms). */
const SOON = 20
/** Of a seamless handover, both subflows in use: round trips of the new one, and the longest (ms). */
const OVERLAP_ROUND_TRIPS = 3
const OVERLAP_LONGEST = 300

/** What the machine does for a connection: it knows the tables of all. */
export interface Registry {
  add(connection: Connection, subflow: Subflow): void
  remove(connection: Connection, subflow: Subflow): void
  taken(key: string): boolean
  /** Its packets are no larger than its access takes; true: they have to be smaller now. */
  fit(connection: Connection, subflow: Subflow): boolean
  /** The connection is over: the local TCP is reset when it does not know yet. */
  end(connection: Connection, reason: string, reset: boolean): void
}

/** The subflow to use: of those that work one that neither end calls backup, on an access that is none, the earliest. */
export function bestSubflow(connection: Connection, but?: Subflow): Subflow | undefined {
  const { accesses } = connection.host
  const rank = (subflow: Subflow) => {
    const place = accesses.findIndex(({ name }) => name === subflow.access)
    return (accesses[place]?.backup ? 4 : 0) + (subflow.remoteBackup ? 2 : 0) + (place < 0 ? 1 : 0)
  }
  let best: Subflow | undefined
  for (const each of connection.subflows)
    if (each !== but && each.usable && (best === undefined || rank(each) < rank(best))) best = each
  return best
}

/** Data go over `to` from now on. `asked`: the peer wants it so, and need not be told. */
export function switchTo(
  connection: Connection,
  to: Subflow,
  cause: string,
  now: number,
  asked = false,
): void {
  const { active: from, host } = connection
  if (from === to || !to.usable) return
  leaveFast(connection, now)
  const was = from ?? connection.left
  connection.active = to
  connection.strandedAt = Number.POSITIVE_INFINITY
  const broken = from === undefined || !from.usable
  to.leaveAt = Number.POSITIVE_INFINITY
  if (!broken && !asked) {
    from.leaveAt = now + overlap(to)
    from.leaveTries = 0
  }
  if (to.backup && !asked) {
    to.backup = false
    connection.repeat = [
      ...connection.repeat.filter(({ type }) => type !== 'prio'),
      { type: 'prio', backup: false },
    ]
  }
  signal(connection, now)
  if (broken) {
    kick(connection, now)
    // It may be as silent as the one before, and nothing comes of a download by itself: it is asked then.
    to.expect(now)
  }
  host.counts.handovers++
  const last = Math.max(was?.heardAt ?? Number.NEGATIVE_INFINITY, connection.heardAt)
  connection.heardAt = last
  host.tell({
    type: 'moved',
    connection: connection.id,
    from: was?.access ?? '',
    to: to.access ?? '',
    cause,
    gap: broken && Number.isFinite(last) ? now - last : Number.NaN,
  })
}

/**
 * How long (ms) both subflows carry data of a native peer: the new one begins with a small congestion window, which a few round
 * trips open, and the old one has data on their way until then.
 */
function overlap({ srtt }: Subflow): number {
  return Number.isNaN(srtt) ? OVERLAP_LONGEST : Math.min(OVERLAP_LONGEST, OVERLAP_ROUND_TRIPS * srtt)
}

/** What a router said of its path is old: it says it again if it still holds. */
function widen(connection: Connection, subflow: Subflow, registry: Registry): void {
  subflow.widenAt = Number.POSITIVE_INFINITY
  subflow.segmentSize = Number.POSITIVE_INFINITY
  registry.fit(connection, subflow)
}

/** Asks the peer to leave a subflow, a few times: nobody acknowledges it. */
function leave(connection: Connection, subflow: Subflow, now: number): void {
  subflow.leaveAt = Number.POSITIVE_INFINITY
  if (!subflow.usable) return
  if (connection.forwarded && connection.role === 'client' && subflow.id === 0) {
    // The router's tracking of connections saw other numbers on it than the wire from now on: nothing returns to it, and the
    // access gets a subflow from an address of the router's own.
    closeSubflow(connection, subflow, now)
    return
  }
  subflow.backup = true
  connection.ackOn(subflow, { type: 'prio', backup: true })
  if (++subflow.leaveTries < REPEATS) subflow.leaveAt = now + repeatGap(subflow)
}

/** Sends what the peer has to be told on the active subflow, and again a few times: nobody acknowledges it. */
function signal(connection: Connection, now: number): void {
  connection.repeats = 0
  repeatSignal(connection, now)
}

export function repeatSignal(connection: Connection, now: number): void {
  const { active, repeat } = connection
  connection.repeatAt = Number.POSITIVE_INFINITY
  if (active === undefined || repeat.length === 0) return
  const gone = repeat.filter(({ type }) => type === 'remove-addr')
  if (connection.repeats++ === 0 && gone.length > 0) {
    // First, and without MP_PRIO: news that the subflow is no backup would make the kernel fill its first window with new data
    // before it handles the removal, and what is lost would wait for another round trip.
    connection.ackOn(active, ...gone)
    connection.repeatAt = now + (Number.isNaN(active.srtt) ? REPEAT_LEAST : Math.max(SOON, active.srtt))
    return
  }
  connection.ackOn(active, ...repeat)
  if (connection.repeats >= REPEATS) connection.repeat = []
  else connection.repeatAt = now + repeatGap(active)
}

function repeatGap({ srtt }: Subflow): number {
  return Math.max(REPEAT_LEAST, Number.isNaN(srtt) ? 0 : 2 * srtt)
}

/**
 * After a break the local TCP waits for its timer, doubled a few times. Its newest payload on the new subflow brings an
 * acknowledgement at once, and that makes it send what was lost.
 */
function kick(connection: Connection, now: number): void {
  const { held = connection.kicked, active } = connection
  if (active === undefined) return
  connection.lose(connection.sndMax)
  const end = held === undefined ? 0 : held.dsn + held.length
  if (held !== undefined && end > connection.dataUna) {
    let at = Math.max(held.dsn, connection.dataUna)
    while (at < end) {
      const place = placeOf(connection, at, end, now)
      if (place === undefined) break
      const from = at - held.dsn
      const bytes = held.bytes.slice(from, from + place.length)
      sendMapped(connection, place.subflow, place.run, at, bytes, TcpFlag.ACK | TcpFlag.PSH)
      at += place.length
    }
    if (at === end && connection.sacks && active.sackPermitted) {
      // The peer will have it: to say so now, and not when it does, saves the local TCP a round trip.
      connection.kick(held)
      connection.lose(held.dsn)
      connection.acknowledgeLocal([{ left: held.dsn, right: end }])
    }
  } else provoke(connection)
  connection.sendDataFin()
  if (connection.finLocal >= 0 && connection.dataUna <= connection.finLocal) active.ask(now)
  connection.askWindow()
}

/**
 * The newest payload is not known when the kernel sent it. That the peer has it is said to the local TCP all the same: it sends what is
 * before at once, and then the rest, since a receiver may drop what it has not acknowledged (RFC 2018 §8).
 */
function provoke(connection: Connection): void {
  const { first, left = first, dataUna, sndMax, segmentSize } = connection
  const last = left?.send.runs.at(-1)
  if (!connection.sacks || last === undefined || sndMax <= dataUna) return
  const whole = Math.floor((last.length - 1) / segmentSize) * segmentSize
  const from = Math.max(last.dsn + whole, dataUna)
  connection.lose(from)
  connection.acknowledgeLocal([{ left: from, right: last.dsn + last.length }])
}

/** A subflow does not work any more. Of one that is gone the peer is told not to use it. */
export function loseSubflow(
  connection: Connection,
  subflow: Subflow,
  cause: string,
  kind: LossKind,
  registry: Registry,
  now: number,
): void {
  if (subflow.state === 'dead') return
  if (connection.fastWay?.subflow === subflow) leaveFast(connection, now)
  const announce = kind === 'gone' && subflow.alive
  if (subflow.isLastWord && subflow.isFinKnown) connection.isHeard = true
  pauseJoins(connection, subflow, kind, now)
  subflow.state = 'dead'
  subflow.retryAt = Number.POSITIVE_INFINITY
  registry.remove(connection, subflow)
  if (announce) announceRemoval(connection, subflow)
  if (connection.active === subflow) {
    connection.active = undefined
    connection.left = subflow
    const next = bestSubflow(connection)
    if (next !== undefined) switchTo(connection, next, cause, now)
    else connection.strandedAt = now
  } else if (announce) signal(connection, now)
  ensureSubflows(connection, registry, now)
}

function announceRemoval(connection: Connection, subflow: Subflow): void {
  const before = connection.repeat.find(({ type }) => type === 'remove-addr')
  const ids = before?.type === 'remove-addr' ? before.ids : []
  const option: MptcpOption = { type: 'remove-addr', ids: [...ids, subflow.addressId].slice(-4) }
  connection.repeat = [...connection.repeat.filter((each) => each !== before), option]
}

/** Begins subflows on accesses that have none: on all of them, or on any while none works. */
export function ensureSubflows(connection: Connection, registry: Registry, now: number): void {
  const { host, active, restUntil } = connection
  connection.rejoinAt = Number.POSITIVE_INFINITY
  if (!mayJoin(connection)) return
  if (active === undefined) joinEverywhere(connection, true, registry, now)
  else if (!host.init.standby) return
  else if (now < restUntil) connection.rejoinAt = restUntil
  else joinEverywhere(connection, false, registry, now)
}

/** `urgent`: no subflow works, or the only one does not answer. */
function joinEverywhere(connection: Connection, urgent: boolean, registry: Registry, now: number): void {
  const { host, active, repeat, tuple } = connection
  // While the peer takes a lost subflow for one that works, it keeps new data off one that is called a backup.
  const backup = active !== undefined || repeat.some(({ type }) => type === 'remove-addr')
  for (const access of host.accesses) {
    const { name } = access
    if (connection.subflows.some((each) => each.access === name && each.state !== 'dead')) continue
    const at = joinAt(connection, name, urgent)
    if (at <= now) startJoin(connection, access, backup, registry, now, tuple.remote.length)
    else connection.rejoinAt = Math.min(connection.rejoinAt, at)
  }
}

/** Whether further subflows begin from here: a peer that opened the connection begins its own. */
function mayJoin(connection: Connection): boolean {
  const { role, state, confirmed, noJoin } = connection
  if (role !== 'client' || !confirmed || noJoin) return false
  return state === 'established' || (state === 'closing' && hasNoWay(connection))
}

/** Both ends are done, no subflow is left, and the peer may not know yet. */
export function hasNoWay({ state, isHeard, subflows }: Connection): boolean {
  return state === 'closing' && !isHeard && subflows.every((each) => each.state === 'dead')
}

function startJoin(
  connection: Connection,
  access: AccessInfo,
  backup: boolean,
  registry: Registry,
  now: number,
  family: number,
): Subflow | undefined {
  const address = access.addresses.find(({ length }) => length === family)
  const living = connection.subflows.filter(({ state }) => state !== 'dead').length
  const { init } = connection.host
  if (address === undefined || living >= init.subflows || connection.noJoin) return undefined
  // Without the flag a native peer sends over it at once, as it likes.
  const flagged = access.backup || (backup && !init.multipath)
  const subflow = beginJoin(connection, access, address, flagged, now, (key) => registry.taken(key))
  if (subflow === undefined) return undefined
  connection.subflows.push(subflow)
  registry.add(connection, subflow)
  return subflow
}

/** By hand: a subflow from this access. Undefined when there is no place or no address for one. */
export function addSubflow(
  connection: Connection,
  name: string,
  registry: Registry,
  now: number,
): Subflow | undefined {
  const access = connection.host.accesses.find((each) => each.name === name)
  if (access === undefined || connection.state !== 'established' || !connection.confirmed) return undefined
  return startJoin(connection, access, true, registry, now, connection.tuple.remote.length)
}

/** What changed beside the list of accesses itself. */
export interface AccessChange {
  /** The access was not there before, or has other addresses. */
  readonly isNew: (name: string) => boolean
  /** Connections that have a subflow begin their others within this time (ms): not all at once. */
  readonly spread: number
}

/** Subflows on accesses that are gone are lost; then each access that is there gets one. */
export function accessesChanged(
  connection: Connection,
  { isNew, spread }: AccessChange,
  registry: Registry,
  now: number,
): void {
  const { accesses } = connection.host
  const works = (subflow: Subflow) =>
    accesses.some(
      ({ name, addresses }) =>
        name === subflow.access &&
        (subflow.home === undefined || addresses.some((each) => equal(each, subflow.home!))),
    )
  // It was opened while its address was not known yet.
  for (const subflow of connection.subflows)
    if (subflow.access === undefined && subflow.home !== undefined)
      subflow.access = accessAt(accesses, subflow.home)?.name
  connection.restUntil = spread === 0 ? now : now + (spread * randomWord(connection)) / 2 ** 32
  for (const subflow of [...connection.subflows])
    if (subflow.state !== 'dead' && subflow.access !== undefined && !works(subflow))
      loseSubflow(connection, subflow, `${subflow.access} does not work any more`, 'gone', registry, now)
  forgetPauses(connection, isNew)
  ensureSubflows(connection, registry, now)
  preferNormal(connection, now)
}

/** An access that is only a backup is left as soon as another works. */
export function preferNormal(connection: Connection, now: number): void {
  const { active, host } = connection
  const backup = (subflow: Subflow) =>
    host.accesses.find(({ name }) => name === subflow.access)?.backup === true
  if (active === undefined || !backup(active)) return
  const best = bestSubflow(connection)
  if (best !== undefined && !backup(best)) switchTo(connection, best, `${active.access} is a backup`, now)
}

/** Whether there is anything to change to. */
export function hasAlternative(connection: Connection, subflow: Subflow): boolean {
  return (
    connection.subflows.some((each) => each !== subflow && each.usable) ||
    connection.host.accesses.some(({ name }) => name !== subflow.access)
  )
}

/** When it has to be looked at whether the active subflow still works; Infinity while nothing is expected. */
function suspicionAt(connection: Connection): { readonly at: number; readonly act: 'probe' | 'give up' } {
  const { active } = connection
  const never = { at: Number.POSITIVE_INFINITY, act: 'probe' } as const
  if (active === undefined || !active.usable || !connection.confirmed || !hasAlternative(connection, active))
    return never
  if (Number.isFinite(active.askedAt)) return { at: active.askedAt + active.patience, act: 'give up' }
  const { burst, dataAt, heardAt, expectedAt, probedAt } = active
  // Whose window is shut expects nothing, until it opens.
  const stopped = burst >= BURST && heardAt === dataAt && !connection.isShut
  if (!stopped && expectedAt <= heardAt) return never
  const since = stopped ? dataAt : expectedAt
  return { at: Math.max(since + PROBE_AFTER, probedAt + PROBE_GAP), act: 'probe' }
}

export function nextDeadline(connection: Connection): number {
  const { repeatAt, rejoinAt, strandedAt } = connection
  let at = Math.min(repeatAt, rejoinAt, strandedAt + STRANDED, suspicionAt(connection).at)
  for (const { retryAt, leaveAt, widenAt, state } of connection.subflows)
    if (state !== 'dead') at = Math.min(at, retryAt, leaveAt, widenAt)
  return at
}

export function handleDeadline(connection: Connection, registry: Registry, now: number): void {
  if (connection.strandedAt + STRANDED <= now) {
    endStranded(connection, registry)
    return
  }
  if (connection.repeatAt <= now) repeatSignal(connection, now)
  for (const subflow of [...connection.subflows]) {
    if (subflow.leaveAt <= now) leave(connection, subflow, now)
    if (subflow.widenAt <= now) widen(connection, subflow, registry)
    if (subflow.state === 'dead' || subflow.retryAt > now) continue
    if (retry(connection, subflow, now)) continue
    loseSubflow(connection, subflow, 'its handshake was not answered', 'silent', registry, now)
  }
  if (connection.rejoinAt <= now) ensureSubflows(connection, registry, now)
  const suspicion = suspicionAt(connection)
  if (suspicion.at <= now) suspect(connection, suspicion.act, registry, now)
}

/**
 * Nothing is reset when all data have arrived both ways: the local TCP then waits only for its FIN to be acknowledged, which nobody else
 * will do.
 */
function endStranded(connection: Connection, registry: Registry): void {
  const { finLocal, dataUna, isTold, state } = connection
  if (state !== 'closing' && (!isTold || finLocal < 0 || dataUna < finLocal)) {
    registry.end(connection, 'no subflow for a minute', true)
    return
  }
  if (state !== 'closing') {
    connection.state = 'closing'
    connection.dataUna = finLocal + 1
    connection.acknowledgeLocal()
  }
  registry.end(connection, 'closed', false)
}

function suspect(connection: Connection, act: 'probe' | 'give up', registry: Registry, now: number): void {
  const active = connection.active!
  leaveFast(connection, now)
  if (act === 'probe') {
    probe(connection, active, now)
    return
  }
  if (bestSubflow(connection, active) !== undefined) {
    connection.host.counts.blackHoles++
    loseSubflow(connection, active, `${active.access} does not answer`, 'gone', registry, now)
    return
  }
  // Nothing ready: begin one elsewhere, and look again when it is there or has failed.
  active.askedAt = now
  joinEverywhere(connection, true, registry, now)
}

/** Asks the peer for an answer on a subflow: the byte before what is next is old to it. */
export function probe(connection: Connection, subflow: Subflow, now: number): void {
  subflow.probedAt = now
  subflow.probing = true
  subflow.ask(now)
  subflow.burst = 0
  const dss = connection.dataAck()
  connection.toWire(subflow, { at: subflow.next - 1, options: dss === undefined ? [] : [dss] })
}

/**
 * Every subflow is closed in order: both ends are done. One that only begins is given up.
 * A connection that has none, and may begin one, does that first.
 */
export function closeAll(connection: Connection, registry: Registry, now: number): void {
  if (connection.state === 'closing') return
  // The peer may not know yet: it hears it over the next subflow.
  if (mayJoin(connection) && connection.active === undefined) return
  leaveFast(connection, now)
  connection.state = 'closing'
  for (const subflow of [...connection.subflows]) {
    if (subflow.alive) closeSubflow(connection, subflow, now)
    else if (subflow.state !== 'dead') {
      if (subflow.state !== 'syn-sent') resetSubflow(connection, subflow)
      loseSubflow(connection, subflow, 'both ends are done', 'ended', registry, now)
    }
  }
}

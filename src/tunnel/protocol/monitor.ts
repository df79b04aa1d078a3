/**
 * The state of one path: probes, round-trip time, loss, and the verdict on silence. Pure: the caller sends the probes and
 * acts on the verdict.
 *
 * Any authenticated arrival shows that the path works in that direction; probes are sent only when nothing else arrives.
 * A path is silent when something was sent, an answer was due, and nothing at all arrived for longer than its round trip
 * explains. A filling queue (bufferbloat) does not look like that: packets are delayed but keep coming (acknowledgements
 * of the data, or the other end's probes), and the count that the other end reports as received grows.
 *
 * The second rule detects loss in one direction: datagrams arrive, but what they report shows that ours do not. Each
 * probe and echo contains the number of datagrams that its sender has received on the path. If this number stays the same
 * in report after report although we have sent, the outgoing direction is dead. The end that receives nothing sends
 * probes, so reports arrive. The time that a report itself was delayed (a filling queue in the other direction) is
 * subtracted: it follows from its sender's clock and the lowest recent difference to ours.
 */
import type { PathCounters } from '../seam.ts'
import type { PathEvidence } from './api.ts'

/** Own choices, milliseconds. The host decides fast; the anchor's verdict is a fallback if the host's message is lost. */
export interface MonitorTuning {
  /** Pause between probes on a path in use. */
  readonly busyInterval: number
  /** Pause between probes while there is traffic on another path of the peer. */
  readonly standbyInterval: number
  /** Pause between keepalives when there is no traffic; Infinity for none. */
  readonly idleInterval: number
  /** While there is traffic, look this often whether it has come to the path. */
  readonly observeInterval: number
  /** A path in use is measured this often, whatever arrives; absent: when no answer came for MEASURE_INTERVAL. */
  readonly measureInterval?: number
  /** Least silence for `suspect` and for `silent`. */
  readonly suspectFloor: number
  readonly silentFloor: number
  /** Least time without progress in the other end's reports. Shorter: they come later, and are evidence by themselves. */
  readonly oneWayFloor: number
}

export const HOST_TUNING: MonitorTuning = {
  busyInterval: 40,
  standbyInterval: 1_000,
  idleInterval: 20_000,
  observeInterval: 60,
  suspectFloor: 90,
  silentFloor: 220,
  oneWayFloor: 160,
}

export const ANCHOR_TUNING: MonitorTuning = {
  busyInterval: 60,
  standbyInterval: Number.POSITIVE_INFINITY,
  idleInterval: Number.POSITIVE_INFINITY,
  observeInterval: 120,
  suspectFloor: 600,
  silentFloor: 1_500,
  oneWayFloor: 1_400,
}

/** A path counts as in use for this long after data last went or came. */
export const BUSY_HOLD = 1_000
const MEASURE_INTERVAL = 200
/** Where measurements are asked for, paths that carry nothing are measured so often too while others do. */
const STANDBY_MEASURE = 1_000
/** A radio that slept may take this long to wake: verdicts after an idle time wait for it. */
const WAKE_ALLOWANCE = 600
const IDLE_BEFORE_WAKE = 5_000
/** Reports without progress, and datagrams sent without effect, before they count as evidence. */
const STALE_REPORTS = 2
const UNCONFIRMED_DATAGRAMS = 3
/** Clocks drift: the least difference between them is kept for one to two times this long. */
const CLOCK_WINDOW = 30_000
/** No report at all for this long, although data arrives. */
const UNREPORTED_FLOOR = 600
/** Before the first measurement. */
const UNKNOWN_RTT_FLOOR = 1_000
/** Of fewer round trips nobody knows how much they vary: taken for this long at least, milliseconds. */
const FEW_TRIPS = 3
const FEW_TRIPS_FLOOR = 170
const LEAST_PROBES = 3
const RING = 64

export type PathVerdict = 'fine' | 'suspect' | 'silent' | 'one-way'

export interface Assessment {
  readonly verdict: PathVerdict
  /** Send a probe now. */
  readonly probe: boolean
  /** When to ask again. */
  readonly nextAt: number
}

export class PathMonitor {
  readonly #tuning: MonitorTuning
  /** Milliseconds between probes while another path carries the traffic; undefined: the tuning's. */
  standbyMs: number | undefined
  #srtt = Number.NaN
  /** Round trips measured, counted up to FEW_TRIPS. */
  #trips = 0
  #var = Number.NaN
  #minRtt = Number.POSITIVE_INFINITY
  #loss = 0

  /** The last round trip as measured, milliseconds; NaN before the first. */
  lastRtt = Number.NaN

  #sequence = 0
  readonly #probeSentAt = new Float64Array(RING).fill(-1)
  /** Datagrams sent on the path when the probe left. */
  readonly #probeSent = new Float64Array(RING)
  #lastProbeAt = Number.NEGATIVE_INFINITY
  #lastEchoAt: number
  #lastReceivedAt: number
  #lastConfirmedAt: number
  #firstUnansweredAt = Number.NaN
  #unanswered = 0
  /** Nothing had arrived for long when the first unanswered probe left. */
  #waking = false

  #busySince = Number.NaN
  #busyUntil = Number.NEGATIVE_INFINITY
  /** Data sent or received so far, own control payloads subtracted. */
  #dataSeen = 0
  #controlSent = 0
  #controlReceived = 0

  /** Reports since the last one that showed progress; datagrams sent by then, and when the first after it went out. */
  #staleReports = 0
  /** When the newest of those would have come, had it not waited on its way. */
  #staleAt = Number.NaN
  /** Least differences between our clock and the other end's, µs modulo 2^32, in this window and the last. */
  #leastNow = Number.NaN
  #leastBefore = Number.NaN
  #windowEnd = Number.NEGATIVE_INFINITY
  #sentAtConfirmation = 0
  #unconfirmedSince = Number.NaN
  #confirmationSeen = Number.NaN

  /** The first probe after an idle time, until that or a later one is answered; the highest counter reported by then. */
  #firstAfterIdle = Number.NaN
  #highestBeforeIdle = -1
  #lostAfter: number | undefined
  #remoteReceived = 0
  #remoteHighest = -1
  #windowSent = Number.NaN
  #windowReceived = 0
  #windowAt = 0
  /** No verdict before: this end itself was late, datagrams may wait unread. */
  #graceUntil = Number.NEGATIVE_INFINITY

  constructor(tuning: MonitorTuning, now: number) {
    this.#tuning = tuning
    this.#lastEchoAt = now
    this.#lastReceivedAt = now
    this.#lastConfirmedAt = now
  }

  get rttMs(): number {
    return this.#srtt
  }
  get rttVarMs(): number {
    return this.#var
  }
  get loss(): number {
    return this.#loss
  }
  /** Highest counter that the other end reports as received on the path, -1 while unknown. */
  get remoteHighest(): number {
    return this.#remoteHighest
  }
  /** Time (ms) after which an answer counts as lost. */
  get timeout(): number {
    return Number.isNaN(this.#srtt) ? 300 : Math.max(100, this.#srtt + 4 * this.#var + 50)
  }
  /** Loss above 5 %, or a round trip far above the best one seen. */
  get degraded(): boolean {
    return this.loss > 0.05 || this.#srtt > 3 * this.#minRtt + 150
  }
  /** Clearly below the bounds of `degraded`. */
  get recovered(): boolean {
    return this.loss < 0.02 && !(this.#srtt > 2 * this.#minRtt + 75)
  }

  /** Whether a `sample` event is emitted for each measurement. */
  get emitsSamples(): boolean {
    return this.#tuning.measureInterval !== undefined
  }

  busy(now: number): boolean {
    return now < this.#busyUntil
  }

  evidence(now: number): PathEvidence {
    return {
      silentMs: now - this.#lastReceivedAt,
      unconfirmedMs: now - this.#lastConfirmedAt,
      unanswered: this.#unanswered,
      rttMs: this.#srtt,
      rttVarMs: this.#var,
      loss: this.loss,
    }
  }

  /** The other end's last report showed no progress. */
  get stalled(): boolean {
    return this.#staleReports > 0
  }

  /** A control payload was sent or arrived on the path: not data. */
  noteControlSent(): void {
    this.#controlSent++
  }
  noteControlReceived(): void {
    this.#controlReceived++
  }

  /** This end was late by this much (ms): apparent silence may be its own. */
  noteStall(now: number, late: number): void {
    this.#graceUntil = Math.max(this.#graceUntil, now + Math.min(late, 200))
  }

  /** Fresh start of the silence clocks (path just accepted, host woke up). */
  restart(now: number): void {
    this.#lastReceivedAt = now
    this.#lastConfirmedAt = now
    this.#lastEchoAt = now
    this.#unanswered = 0
    this.#firstUnansweredAt = Number.NaN
    this.#lastProbeAt = Number.NEGATIVE_INFINITY
    // Earlier losses do not describe the path as it is now.
    this.#loss = 0
    this.#windowSent = Number.NaN
  }

  /** The other end counts from zero again (it restarted, or the session changed). */
  forgetReports(): void {
    this.#remoteHighest = -1
    this.#highestBeforeIdle = -1
    this.#remoteReceived = 0
    this.#staleReports = 0
    this.#windowEnd = Number.NEGATIVE_INFINITY
    this.#windowSent = Number.NaN
  }

  /** The sequence number for a probe that leaves now; `counters`: of the path before it. */
  probeSent(counters: PathCounters, now: number): number {
    // What has arrived before answers none of it.
    this.#observeArrival(counters)
    const sequence = this.#sequence
    this.#sequence = (sequence + 1) >>> 0
    this.#probeSentAt[sequence % RING] = now
    this.#probeSent[sequence % RING] = counters.sentPackets
    this.#lastProbeAt = now
    if (this.#unanswered++ === 0) {
      if (Number.isNaN(this.#firstAfterIdle) && now - this.#lastReceivedAt > BUSY_HOLD) {
        this.#firstAfterIdle = sequence
        this.#highestBeforeIdle = this.#remoteHighest
      }
      this.#firstUnansweredAt = now
      this.#waking = now - this.#lastReceivedAt > IDLE_BEFORE_WAKE
    }
    return sequence
  }

  /** `time` is the prober's clock as echoed, µs modulo 2^32. */
  echoReceived(sequence: number, time: number, received: number, highest: number, now: number): void {
    const sentAt = this.#probeSentAt[sequence % RING]!
    if (sentAt < 0 || time !== toMicros(sentAt)) return
    this.#lastEchoAt = now
    if (!Number.isNaN(this.#firstAfterIdle)) {
      if (sequence !== this.#firstAfterIdle) this.#lostAfter = this.#highestBeforeIdle
      this.#firstAfterIdle = Number.NaN
    }
    this.lastRtt = now - sentAt
    this.rttSample(this.lastRtt)
    this.#measureLoss(this.#probeSent[sequence % RING]!, received, now)
    this.reportReceived(received, highest, now)
    this.#lastConfirmedAt = now
    this.#staleReports = 0
  }

  /**
   * After an idle time the first probe was lost and a later one was not: a NAT on the way had forgotten the path, and what left with the first
   * is lost, too. The counter after which; undefined: nothing is known to be lost. Once.
   */
  takeLostAfter(): number | undefined {
    const after = this.#lostAfter
    this.#lostAfter = undefined
    return after
  }

  /** Takes a report of the other end on what it has received; `time` is its clock in a probe, absent in an echo. */
  reportReceived(received: number, highest: number, now: number, time?: number): void {
    const waited = time === undefined ? 0 : this.#waited(time, now)
    const progress = (received - this.#remoteReceived) >> 0
    if (progress > 0) {
      this.#remoteReceived = received
      this.#lastConfirmedAt = now
      this.#staleReports = 0
    } else if (progress === 0) {
      this.#staleReports++
      this.#staleAt = now - waited
    }
    if (highest > this.#remoteHighest) this.#remoteHighest = highest
  }

  /** Extra one-way delay (ms) of a probe with this time over the quickest recent one. */
  #waited(time: number, now: number): number {
    const difference = (toMicros(now) - time) >>> 0
    const less = (than: number) => Number.isNaN(than) || (difference - than) >> 0 < 0
    if (now >= this.#windowEnd) {
      this.#leastBefore = now < this.#windowEnd + CLOCK_WINDOW ? this.#leastNow : Number.NaN
      this.#leastNow = Number.NaN
      this.#windowEnd = now + CLOCK_WINDOW
    }
    if (less(this.#leastNow)) this.#leastNow = difference
    if (less(this.#leastBefore)) return ((difference - this.#leastNow) >> 0) / 1000
    return ((difference - this.#leastBefore) >> 0) / 1000
  }

  /** A round trip, milliseconds (RFC 6298 §2). */
  rttSample(rtt: number): void {
    if (!(rtt >= 0)) return
    if (rtt < this.#minRtt) this.#minRtt = rtt
    if (this.#trips < FEW_TRIPS) this.#trips++
    if (Number.isNaN(this.#srtt)) {
      this.#srtt = rtt
      this.#var = rtt / 2
      return
    }
    this.#var = 0.75 * this.#var + 0.25 * Math.abs(this.#srtt - rtt)
    this.#srtt = 0.875 * this.#srtt + 0.125 * rtt
  }

  /**
   * What to do now. `peerBusy`: data flows between the two ends, on any path. `hard`: the path is suspect and probed at
   * the fast pace.
   */
  assess(counters: PathCounters, peerBusy: boolean, hard: boolean, now: number): Assessment {
    this.#observe(counters, now)
    const busy = now < this.#busyUntil
    const tuning = this.#tuning
    const verdict = this.#verdict(busy, counters.sentPackets, now)
    const quick = busy || hard || verdict !== 'fine' || this.#unanswered > 1
    let probeAt: number
    if (quick) {
      const quiet = this.#lastProbeAt + tuning.busyInterval
      const measure = this.#lastEchoAt + MEASURE_INTERVAL
      // Nothing received: probe. Nothing sent: the other end needs to receive something too.
      const quietEnd = Math.min(this.#lastReceivedAt, counters.lastSentAt) + tuning.busyInterval
      probeAt = Math.max(quiet, Math.min(quietEnd, measure))
      if (tuning.measureInterval !== undefined)
        probeAt = Math.min(probeAt, this.#lastProbeAt + tuning.measureInterval)
    } else if (this.#unanswered > 0) {
      probeAt = this.#firstUnansweredAt + this.#silentAfter(tuning.suspectFloor)
    } else {
      const usual =
        tuning.measureInterval === undefined
          ? tuning.standbyInterval
          : Math.min(tuning.standbyInterval, STANDBY_MEASURE)
      const standby = this.standbyMs ?? usual
      const pause = peerBusy ? standby : tuning.idleInterval
      probeAt = Math.max(this.#lastProbeAt, this.#lastEchoAt) + pause
    }
    const probe = now >= probeAt
    let nextAt = probe
      ? now +
        (quick
          ? Math.min(tuning.busyInterval, tuning.measureInterval ?? tuning.busyInterval)
          : this.#silentAfter(tuning.suspectFloor))
      : probeAt
    if (this.#unanswered > 0 || busy) {
      const since = this.#silentSince(busy)
      if (!Number.isNaN(since)) {
        for (const floor of [tuning.suspectFloor, tuning.silentFloor]) {
          const due = Math.max(since + this.#silentAfter(floor), this.#graceUntil)
          if (due > now && due < nextAt) nextAt = due
        }
      }
    }
    if (peerBusy) nextAt = Math.min(nextAt, now + tuning.observeInterval)
    return { verdict, probe, nextAt: Math.max(nextAt, now + 1) }
  }

  #observeArrival({ lastReceivedAt }: PathCounters): void {
    if (lastReceivedAt <= this.#lastReceivedAt) return
    this.#lastReceivedAt = lastReceivedAt
    this.#unanswered = 0
    this.#firstUnansweredAt = Number.NaN
    this.#waking = false
  }

  #observe(counters: PathCounters, now: number): void {
    this.#observeArrival(counters)
    if (this.#confirmationSeen !== this.#lastConfirmedAt) {
      this.#confirmationSeen = this.#lastConfirmedAt
      this.#sentAtConfirmation = counters.sentPackets
      this.#unconfirmedSince = Number.NaN
    } else if (Number.isNaN(this.#unconfirmedSince) && counters.sentPackets > this.#sentAtConfirmation)
      this.#unconfirmedSince = now
    const data =
      Math.max(0, counters.sentPackets - this.#controlSent) +
      Math.max(0, counters.receivedPackets - this.#controlReceived)
    if (data > this.#dataSeen) {
      this.#dataSeen = data
      if (now >= this.#busyUntil) {
        this.#busySince = now
        // An idle path's silence begins with the traffic.
        this.#lastConfirmedAt = Math.max(this.#lastConfirmedAt, now)
      }
      this.#busyUntil = now + BUSY_HOLD
    }
  }

  #verdict(busy: boolean, sent: number, now: number): PathVerdict {
    if (now < this.#graceUntil) return 'fine'
    const bySilence = this.#silenceVerdict(busy, now)
    if (bySilence === 'silent') return 'silent'
    const byReports = this.#reportVerdict(busy, sent, now)
    return byReports === 'fine' ? bySilence : byReports
  }

  #silenceVerdict(busy: boolean, now: number): PathVerdict {
    const since = this.#silentSince(busy)
    if (!Number.isNaN(since) && this.#unanswered > 0) {
      const silence = now - since
      const probed = now - this.#firstUnansweredAt >= this.#roundTrip()
      if (
        silence >= this.#silentAfter(this.#tuning.silentFloor) &&
        this.#unanswered >= LEAST_PROBES &&
        probed
      )
        return 'silent'
      if (silence >= this.#silentAfter(this.#tuning.suspectFloor) && probed) return 'suspect'
    }
    return 'fine'
  }

  /** Whether the other end's reports show that what we send does not arrive. */
  #reportVerdict(busy: boolean, sent: number, now: number): PathVerdict {
    if (!busy || Number.isNaN(this.#unconfirmedSince)) return 'fine'
    const enough = sent - this.#sentAtConfirmation >= UNCONFIRMED_DATAGRAMS
    if (enough && this.#staleReports > 0) {
      const unconfirmed = this.#staleAt - this.#unconfirmedSince
      if (this.#staleReports >= STALE_REPORTS && unconfirmed >= this.#silentAfter(this.#tuning.oneWayFloor))
        return 'one-way'
      if (unconfirmed >= this.#silentAfter(this.#tuning.suspectFloor)) return 'suspect'
    }
    const bound = Math.max(UNREPORTED_FLOOR, 3 * this.#roundTrip(), 2 * this.#tuning.silentFloor)
    const asked = this.#lastProbeAt - this.#lastConfirmedAt > bound / 2
    return asked && now - this.#lastConfirmedAt > bound ? 'one-way' : 'fine'
  }

  /** When the silence that counts began: NaN when none was owed anything. */
  #silentSince(busy: boolean): number {
    if (busy) {
      // Traffic that pauses for BUSY_HOLD begins again and again: probes that wait for answers meanwhile count on.
      const probed = this.#unanswered >= LEAST_PROBES ? this.#firstUnansweredAt : this.#busySince
      return Math.max(this.#lastReceivedAt, Math.min(this.#busySince, probed))
    }
    if (this.#unanswered > 0) return Math.max(this.#lastReceivedAt, this.#firstUnansweredAt)
    return Number.NaN
  }

  #silentAfter(floor: number): number {
    const trip = this.#roundTrip()
    const { silentFloor, oneWayFloor } = this.#tuning
    const least = trip * (floor === silentFloor ? 2 : floor === oneWayFloor ? 1.25 : 1.5)
    const wake = this.#waking && floor === silentFloor ? WAKE_ALLOWANCE : 0
    // At high loss, a few missing answers are weak evidence.
    return Math.max(floor * (1 + 5 * Math.min(this.loss, 0.3)), least, wake)
  }

  #roundTrip(): number {
    if (Number.isNaN(this.#srtt)) return UNKNOWN_RTT_FLOOR / 2
    const measured = this.#srtt + 2 * Math.max(this.#var, 5)
    return this.#trips < FEW_TRIPS ? Math.max(FEW_TRIPS_FLOOR, measured) : measured
  }

  #measureLoss(sent: number, received: number, now: number): void {
    if (Number.isNaN(this.#windowSent)) {
      this.#windowSent = sent
      this.#windowReceived = received
      this.#windowAt = now
      return
    }
    const sentDelta = sent - this.#windowSent
    if (sentDelta < 20 && now - this.#windowAt < 5_000) return
    if (sentDelta < 1) return
    const sample = Math.min(1, Math.max(0, 1 - ((received - this.#windowReceived) >> 0) / sentDelta))
    // EWMA (weight 0.3) that starts at zero loss: one window of probes is too small a sample.
    this.#loss = 0.7 * this.#loss + 0.3 * sample
    this.#windowSent = sent
    this.#windowReceived = received
    this.#windowAt = now
  }
}

/** A time as probes carry it. */
export function toMicros(ms: number): number {
  return Math.floor(ms * 1000) >>> 0
}

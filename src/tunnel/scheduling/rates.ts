/**
 * The rate and delay of a path, learned from its own traffic. Each measurement says how much arrived at the other end in
 * which time, and how long one probe was on its way.
 *
 * - While there is no queue, the path could carry more: its rate grows, slowly once a queue has been seen, faster the
 * longer there has been none, and only while the sent rate is near it.
 * - While a queue stands, the arrival rate is what the path carries: the rate follows it, a little below, until the queue
 * is gone.
 * - A queue that stays although less is sent is caused by others: it counts as the path's delay from then on. So are losses: what
 * the link loses at any rate is expected of it from then on.
 *
 * The one-way delay is measured with two unsynchronized clocks. Their offset is the same for all paths of a peer, so
 * delays of paths can be compared, and are used for nothing else.
 */

/** Two clocks: the first difference seen, µs modulo 2^32; later ones count from it. One for all paths of a peer. */
export interface ClockBase {
  micros?: number
}

export interface RateSample {
  readonly rttMs: number
  /** Share of datagrams lost, 0 to 1. */
  readonly loss: number
  /** When the probe left and arrived, by the two ends' clocks, µs modulo 2^32; -1 for not known. */
  readonly sentAt: number
  readonly arrivedAt: number
  /** Bytes that had arrived by then, modulo 2^32; -1 for not known. */
  readonly receivedBytes: number
}

/** A queue stands when a probe took longer than the best one by this and by this share of the round trip. */
const QUEUE_MS = 10
const QUEUE_SHARE = 0.03
/** Of so many samples each has to show it. */
const STANDING = 3
/** Above this the line drops what it has no room for. */
const LOSS = 0.02
/** Fewer bytes between two samples are too few to judge the link (probes, acknowledgements): such samples are joined. */
const FEW_BYTES = 12_000
const LONGEST_MS = 1_000
/** A queue grows when what was sent in some time took this much longer to arrive. */
const GROWING = 1.05
/** Growth for each round trip: after a queue, and as much more for each STEADY_MS without one, up to FAST; while none was seen. */
const GROWTH = 0.02
const FAST = 0.15
const FIRST_GROWTH = 1
const STEADY_MS = 600
/** A growing rate exceeds the arrival rate by at most this share plus the growth of this many round trips. */
const AHEAD = 0.02
const AHEAD_GAIN = 1.5
/** Time constant (ms of queueing) after which the proven rate of a full link is forgotten. */
const PROVEN_MS = 1_000
/** A line has fallen when it delivers less than this share of the rate behind a queue of this many bounds. */
const FALLEN = 0.6
const FALLEN_QUEUE = 3
/** Time constant (ms) with which the rate follows a fallen line. */
const FALLEN_MS = 60
/** Growth in each round trip, up to this share of the peak delivered within about PEAK_MS. */
const RECLAIM = 2
const RECLAIM_UP_TO = 0.95
const PEAK_MS = 10_000
/** A measurement is late after this (ms), or after LATE_TIMES the usual interval if that is longer. */
const LATE_MS = 30
const LATE_TIMES = 2
const LATE_EVERY_MS = 10
/** When a path comes into use it takes so long (ms) until a first probe leaves. */
const FIRST_MS = 100
/** Measurements that are farther apart (ms) are those of a path that is not in use. */
const SELDOM_MS = 150
/** While it reclaims, what arrives is behind the rate by a round trip's growth. */
const RECLAIM_IN_USE = 0.4
/** Time constant (ms) of the average of the arrival rate. */
const AVERAGE_MS = 120
/** A path grows only while it delivers at least this share of its rate. */
const IN_USE = 0.7
/** Time constant (ms) with which the rate follows the arrival rate. */
const FOLLOW_MS = 80
/** A queue is drained by sending at most this share less, and never less than this share of the link's proven rate. */
const DRAIN = 0.15
const DRAIN_OVER_MS = 300
const DRAIN_LEAST = 0.75
/** A queue longer than this, milliseconds, is drained at half of what the line delivers. */
const LONG_QUEUE_MS = 30
const DRAIN_LONG = 0.5
/** A full link that delivers more than this multiple of the rate has a higher rate than assumed. */
const MORE = 1.25
/** A queue that has not halved by then, and after twice the time that it takes itself, is none of ours. */
const DRAINED_AFTER_MS = 2_000
const DRAINED_TIMES = 2
/** Nothing is known at first: 8 Mbit/s, doubled every round trip until a queue is seen. */
const FIRST_RATE = 1_000
/** Never less (240 kbit/s): of what carries so little too few bytes arrive to learn more. */
const LEAST_RATE = 30
/** Looks shorter than this are joined too, milliseconds. */
const LEAST_MS = 20
/** Losses long after a queue: a line with little room, or a bad one. The rate yields so often, and so far. */
const LOSS_EVERY_MS = 1_000
const LOSS_LEAST = 0.9
/** Above this it yields at once to what arrives. */
const LOSS_MOST = 0.3
/** A loss that has not halved when the rate has yielded so often is none of ours; up to this multiple of it is expected then. */
const YIELDS = 3
const EXPECTED = 1.5
/** The best delay is that of the last one to two windows. */
const WINDOW_MS = 8_000

export class PathRate {
  /** Bytes of datagrams per millisecond. */
  rate = FIRST_RATE
  /** Extra delay of the last probe over the best one, milliseconds. */
  queueMs = 0
  /** Lowest recent round trip, milliseconds; NaN before the first. */
  bestRttMs = Number.NaN
  /** When a queue was last seen. */
  queuedAt = Number.NEGATIVE_INFINITY
  readonly #clock: ClockBase
  #best = Number.NaN
  #windowBest = Number.NaN
  #windowEnd = Number.NEGATIVE_INFINITY
  #windowRtt = Number.NaN
  #at = Number.NaN
  #sentAt = 0
  #receivedBytes = 0
  /** Recent arrivals, in bytes and time; older samples have less weight. */
  #bytes = 0
  #elapsed = 0
  /** Whether a queue has been seen: until then the rate may be far too low. */
  known = false
  /** The first queue was seen again. */
  #confirmed = false
  readonly #queues = new Float64Array(STANDING)
  /** The last three of each: a clock that was read late shows in one of them. */
  readonly #delays = new Float64Array(3).fill(Number.NaN)
  readonly #rtts = new Float64Array(3).fill(Number.NaN)
  #sample = STANDING
  /** Since when it has been in use without a queue. */
  #clearSince = Number.NEGATIVE_INFINITY
  #queuedSince = Number.NaN
  #queueAtFirst = 0
  #leastSince = 0
  #rateBefore = 0
  /** Highest recent delivery rate of a full link. */
  #proven = 0
  /** When the last measurement came, what passes between two, and up to when being late was counted. */
  #sampledAt = Number.POSITIVE_INFINITY
  #every = 25
  #lateSince = 0
  /** The most that it delivered within about PEAK_MS. */
  #peak = 0
  #yieldedAt = Number.NEGATIVE_INFINITY
  /** How often it has yielded to losses in a row; loss and rate before the first time. */
  #yields = 0
  #lossAtFirst = 0
  #rateAtFirst = 0
  /** Loss that does not depend on the rate: a bad link's own. */
  #expectedLoss = 0

  constructor(clock: ClockBase = {}) {
    this.#clock = clock
  }

  /** Best delay there, comparable between paths of one peer only; NaN before the first measurement. */
  get delayMs(): number {
    return this.#best
  }

  /** When the last measurement came; Infinity before the first. */
  get sampledAt(): number {
    return this.#sampledAt
  }

  /**
   * When to call `late` if data is sent then and no measurement has come; `usedSince`: since when the path has been in use,
   * for one that was not is measured seldom.
   */
  lateAt(usedSince: number): number {
    return Math.max(this.#dueAt(usedSince), this.#lateSince + LATE_EVERY_MS)
  }

  /** A measurement that should have come is in a queue, or lost: the line has become slower, or worse. */
  late(usedSince: number, now: number): void {
    const since = Math.min(now - Math.max(this.#dueAt(usedSince), this.#lateSince), LATE_MS)
    this.#lateSince = now
    this.queuedAt = now
    if (this.known && since > 0) this.rate = Math.max(LEAST_RATE, this.rate * Math.exp(-since / FALLEN_MS))
  }

  #dueAt(usedSince: number): number {
    const first = usedSince + FIRST_MS + (this.bestRttMs || 0)
    return Math.max(this.#sampledAt, first) + this.#every + Math.max(LATE_MS, LATE_TIMES * this.#every)
  }

  sample(sample: RateSample, now: number): void {
    const after = now - this.#sampledAt
    if (after > 0 && after < SELDOM_MS) this.#every += (after - this.#every) / 8
    this.#sampledAt = now
    const delay = this.#oneWay(sample)
    this.#delays[this.#sample % 3] = delay
    this.#rtts[this.#sample % 3] = sample.rttMs
    this.#keepBest(median(this.#delays), median(this.#rtts), now)
    // Either best may come from a moment when one end's clock was read late; both rarely do.
    this.queueMs = Math.min(delay - this.#best, sample.rttMs - this.bestRttMs)
    this.#queues[this.#sample++ % STANDING] = this.queueMs
    if (sample.arrivedAt < 0) return
    // What left between two probes arrived between them. The longer of both intervals bounds the rate: packets that were
    // held up and released together arrive faster than any link carries.
    const sending = sinceMs(sample.sentAt, this.#sentAt)
    const arriving = sinceMs(sample.arrivedAt, this.#at)
    const elapsed = Math.max(sending, arriving)
    const bytes = (sample.receivedBytes - this.#receivedBytes) | 0
    const first = Number.isNaN(this.#at)
    if (!first && (elapsed < LEAST_MS || (bytes < FEW_BYTES && elapsed < LONGEST_MS))) return
    const growing = arriving > sending * GROWING
    this.#at = sample.arrivedAt
    this.#sentAt = sample.sentAt
    this.#receivedBytes = sample.receivedBytes
    if (first || bytes < FEW_BYTES) {
      this.#bytes = 0
      this.#elapsed = 0
      this.#clearSince = now
      return
    }
    const look = bytes / elapsed
    const kept = Math.exp(-elapsed / AVERAGE_MS)
    this.#bytes = this.#bytes * kept + bytes
    this.#elapsed = this.#elapsed * kept + elapsed
    const delivered = Math.max(look, this.#bytes / this.#elapsed)
    this.#peak = Math.max(delivered, this.#peak * Math.exp(-elapsed / PEAK_MS))
    const loss = this.#ownLoss(sample.loss)
    const pressed = growing || loss > LOSS || delivered > this.rate * IN_USE
    const queue = this.#standing(STANDING)
    if (queue <= this.#bound) this.#grow(loss, sample.rttMs, delivered, elapsed, now)
    else if (pressed) this.#drain(queue, delay, look, delivered, elapsed, now)
    if (this.rate < LEAST_RATE) this.rate = LEAST_RATE
  }

  /** The least queue of the last samples: jitter comes and goes, a queue stands. */
  #standing(samples: number): number {
    if (!this.known) return this.queueMs
    let least = Number.POSITIVE_INFINITY
    for (let n = 1; n <= samples; n++) least = Math.min(least, this.#queues[(this.#sample - n) % STANDING]!)
    return least
  }

  get #bound(): number {
    return QUEUE_MS + QUEUE_SHARE * this.bestRttMs
  }

  #oneWay({ sentAt, arrivedAt, rttMs }: RateSample): number {
    if (arrivedAt < 0) return rttMs / 2
    const difference = (arrivedAt - sentAt) | 0
    this.#clock.micros ??= difference
    return ((difference - this.#clock.micros) | 0) / 1000
  }

  #keepBest(delay: number, rttMs: number, now: number): void {
    if (now >= this.#windowEnd) {
      const stale = now >= this.#windowEnd + WINDOW_MS
      this.#best = stale ? delay : this.#windowBest
      this.bestRttMs = stale ? rttMs : this.#windowRtt
      this.#windowBest = delay
      this.#windowRtt = rttMs
      this.#windowEnd = now + WINDOW_MS
    }
    this.#windowBest = Math.min(this.#windowBest, delay)
    this.#windowRtt = Math.min(this.#windowRtt, rttMs)
    this.#best = Math.min(this.#best, delay)
    this.bestRttMs = Math.min(this.bestRttMs, rttMs)
  }

  #drain(queue: number, delay: number, look: number, delivered: number, elapsed: number, now: number): void {
    this.queuedAt = now
    this.#clearSince = now
    this.#confirmed = this.known
    this.#yields = 0
    const proven = this.#proven * Math.exp(-elapsed / PROVEN_MS)
    this.#proven = Math.max(delivered, proven)
    // Less is sent on purpose while a queue is drained: then what it delivers is no news.
    if (delivered > Math.max(this.rate, proven) * MORE || !this.known) {
      // The line was full, so this is what it carries; the first such look is better than any guess.
      this.rate = delivered
      this.known = true
      this.#queues.fill(this.queueMs)
      return
    }
    if (Number.isNaN(this.#queuedSince)) this.#rateBefore = this.rate
    // While it grows it is not being drained yet: what was sent before the line fell is still arriving in it.
    if (Number.isNaN(this.#queuedSince) || queue > this.#queueAtFirst) {
      this.#queuedSince = now
      this.#queueAtFirst = queue
      this.#leastSince = delay
    }
    const long = queue - this.#bound > LONG_QUEUE_MS
    if (look < this.rate * FALLEN && this.#standing(2) > this.#bound * FALLEN_QUEUE) {
      const fading = Math.exp(-elapsed / FALLEN_MS)
      this.#proven = Math.max(look, this.#proven * fading)
      this.rate = Math.max(long ? look * (1 - DRAIN_LONG) : look, this.rate * fading)
      return
    }
    this.#leastSince = Math.min(this.#leastSince, delay)
    if (now - this.#queuedSince > DRAINED_AFTER_MS + DRAINED_TIMES * this.#queueAtFirst) {
      this.#queuedSince = Number.NaN
      if (this.#leastSince - this.#best > this.#queueAtFirst / 2) {
        this.#best = this.#leastSince
        this.#windowBest = this.#leastSince
        this.rate = Math.max(this.rate, this.#rateBefore)
        return
      }
    }
    const share = (queue - this.#bound / 2) / (DRAIN_OVER_MS + 2 * this.bestRttMs)
    const less = Math.min(long ? DRAIN_LONG : DRAIN, share)
    const target = Math.max(delivered * (1 - less), this.#proven * (long ? 1 - DRAIN_LONG : DRAIN_LEAST))
    this.rate += (target - this.rate) * Math.min(1, elapsed / FOLLOW_MS)
  }

  /** What is lost because too much is sent, perhaps; 0 while it is no more than the link loses whatever is sent. */
  #ownLoss(loss: number): number {
    if (loss < this.#expectedLoss / 2) this.#expectedLoss = 0
    return loss <= this.#expectedLoss * EXPECTED ? 0 : loss
  }

  #grow(loss: number, rttMs: number, delivered: number, elapsed: number, now: number): void {
    this.#queuedSince = Number.NaN
    // The first queue was one late probe.
    if (!this.#confirmed) this.known = false
    if (loss > LOSS) {
      if (now - Math.max(this.#yieldedAt, this.queuedAt) < LOSS_EVERY_MS) return
      this.#clearSince = now
      this.#yieldedAt = now
      if (this.#yields === YIELDS && loss > this.#lossAtFirst / 2) {
        this.#yields = 0
        this.#expectedLoss = loss
        this.rate = Math.max(this.rate, this.#rateAtFirst)
        return
      }
      if (this.#yields === YIELDS) this.#yields = 0
      if (this.#yields++ === 0) {
        this.#lossAtFirst = loss
        this.#rateAtFirst = this.rate
      }
      const least = loss > LOSS_MOST ? 0 : this.rate * LOSS_LEAST
      this.rate = Math.min(this.rate, Math.max(delivered, least))
      return
    }
    this.#yields = 0
    const most = this.#peak * RECLAIM_UP_TO
    if (this.known && this.rate < most && delivered >= this.rate * RECLAIM_IN_USE) {
      this.rate = Math.min(most, this.rate * (1 + RECLAIM * Math.min(1, elapsed / rttMs)))
      return
    }
    if (delivered < this.rate * IN_USE) {
      // That there was no queue says nothing while little was sent.
      this.#clearSince = now
      return
    }
    const steady = 1 + (now - this.#clearSince) / (STEADY_MS + 4 * rttMs)
    const known = this.rate < this.#proven ? FAST : Math.min(FAST, GROWTH * steady)
    const gain = this.known ? known : FIRST_GROWTH
    const grown = this.rate * (1 + gain * Math.min(1, elapsed / rttMs))
    // A line that is full delivers no more, whatever is sent: no farther than that explains.
    const ahead = delivered * (1 + AHEAD + AHEAD_GAIN * gain)
    this.rate = Math.max(delivered, this.known ? Math.min(grown, Math.max(ahead, this.rate)) : grown)
  }
}

/** Of three; the least while there are fewer. */
function median([a, b, c]: Float64Array): number {
  if (Number.isNaN(a! + b! + c!)) return Math.min(...[a!, b!, c!].filter((one) => !Number.isNaN(one)))
  return Math.max(Math.min(a!, b!), Math.min(Math.max(a!, b!), c!))
}

/** From one time to another, µs modulo 2^32, in milliseconds. */
function sinceMs(at: number, before: number): number {
  return ((at - before) | 0) / 1000
}

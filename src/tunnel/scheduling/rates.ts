/**
 * What a path carries and how long it takes, for `weighted`: learned from its own traffic. Each measurement says how much
 * arrived at the other end in which time, and how long one probe was on its way.
 *
 *  - While there is no queue, the path could carry more: its rate grows, gently once a queue has been seen, faster the
 *    longer there has been none, and only while what is sent is near it.
 *  - While a queue stands, what arrives is what the path carries: the rate follows it, a little below, until it is gone.
 *  - A queue that stays although less is sent is not made by us: it is taken for the path's delay from then on.
 *
 * The one-way delay is told by two clocks that know nothing of each other. Their difference is the same for all paths of
 * a peer, so delays of paths can be compared, and that is all they are used for.
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

/** A queue stands when a probe took longer than the best one by this, and this share of the round trip. */
const QUEUE_MS = 10
const QUEUE_SHARE = 0.03
/** Above this the line drops what it has no room for. */
const LOSS = 0.02
/** Less between two looks says nothing of the line: probes, acknowledgements. Looks are joined until there is more. */
const FEW_BYTES = 12_000
const LONGEST_MS = 1_000
/** A queue grows when what was sent in some time took so much longer to arrive. */
const GROWING = 1.05
/** Growth for each round trip: after a queue, and as much more for each STEADY_MS without one, up to FAST; while none was seen. */
const GROWTH = 0.02
const FAST = 0.15
const FIRST_GROWTH = 1
const STEADY_MS = 400
/** What a full line once carried is soon tried again; it is forgotten over about so many milliseconds of queues. */
const PROVEN_MS = 1_000
/** What arrives is averaged over about so long. */
const AVERAGE_MS = 120
/** A path grows only while it delivers at least this share of its rate. */
const IN_USE = 0.7
/** The difference to what arrives is taken over within about so many milliseconds. */
const FOLLOW_MS = 80
/** A queue is drained by sending so much less at most, and never less than this share of what the line has carried. */
const DRAIN = 0.15
const DRAIN_OVER_MS = 300
const DRAIN_LEAST = 0.75
/** A full line that delivers so many times the rate carries more than was thought. */
const MORE = 1.25
/** A queue that has not halved by then is none of ours. */
const DRAINED_AFTER_MS = 2_000
/** Nothing is known at first: 24 Mbit/s. */
const FIRST_RATE = 3_000
/** Looks shorter than this are joined too, milliseconds. */
const LEAST_MS = 20
/** Losses long after a queue: a line with little room, or a bad one. The rate yields so often, and so far, no more. */
const LOSS_EVERY_MS = 1_000
const LOSS_LEAST = 0.9
/** Above this it yields at once to what arrives. */
const LOSS_MOST = 0.3
/** The best delay is that of the last one to two windows. */
const WINDOW_MS = 8_000

export class PathRate {
  /** Bytes of datagrams per millisecond. */
  rate = FIRST_RATE
  /** What the last probe took longer than the best one, milliseconds. */
  queueMs = 0
  /** Least round trip of late, milliseconds; NaN before the first. */
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
  /** What arrived of late and in what time, older looks counting less. */
  #bytes = 0
  #elapsed = 0
  /** Whether a queue has been seen: until then the rate may be far too low. */
  known = false
  /** Since when there has been no queue. */
  #clearSince = Number.NEGATIVE_INFINITY
  #queuedSince = Number.NaN
  #queueAtFirst = 0
  #leastSince = 0
  #rateBefore = 0
  /** The most that a full line has delivered of late. */
  #proven = 0
  #yieldedAt = Number.NEGATIVE_INFINITY

  constructor(clock: ClockBase = {}) {
    this.#clock = clock
  }

  /** Best delay there, comparable between paths of one peer only; NaN before the first measurement. */
  get delayMs(): number {
    return this.#best
  }

  sample(sample: RateSample, now: number): void {
    const delay = this.#oneWay(sample)
    this.#keepBest(delay, sample.rttMs, now)
    // Either best may come from a moment when one end's clock was read late; both rarely do.
    this.queueMs = Math.min(delay - this.#best, sample.rttMs - this.bestRttMs)
    if (sample.arrivedAt < 0) return
    // What left between two probes arrived between them. Whichever took longer bounds the rate: held up and let go in a
    // bunch, it arrives faster than any line carries.
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
      return
    }
    const look = bytes / elapsed
    const kept = Math.exp(-elapsed / AVERAGE_MS)
    this.#bytes = this.#bytes * kept + bytes
    this.#elapsed = this.#elapsed * kept + elapsed
    const delivered = Math.max(look, this.#bytes / this.#elapsed)
    const pressed = growing || sample.loss > LOSS || delivered > this.rate * IN_USE
    if (this.queueMs <= this.#bound) this.#grow(sample, delivered, elapsed, now)
    else if (pressed) this.#drain(delay, delivered, elapsed, now)
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

  #drain(delay: number, delivered: number, elapsed: number, now: number): void {
    this.queuedAt = now
    this.#clearSince = now
    this.#proven = Math.max(delivered, this.#proven * Math.exp(-elapsed / PROVEN_MS))
    if (delivered > this.rate * MORE || !this.known) {
      // The line was full, so this is what it carries; the first such look is better than any guess.
      this.rate = delivered
      this.known = true
      return
    }
    if (Number.isNaN(this.#queuedSince)) {
      this.#queuedSince = now
      this.#queueAtFirst = this.queueMs
      this.#leastSince = delay
      this.#rateBefore = this.rate
    }
    this.#leastSince = Math.min(this.#leastSince, delay)
    if (now - this.#queuedSince > DRAINED_AFTER_MS) {
      this.#queuedSince = Number.NaN
      if (this.#leastSince - this.#best > this.#queueAtFirst / 2) {
        this.#best = this.#leastSince
        this.#windowBest = this.#leastSince
        this.rate = Math.max(this.rate, this.#rateBefore)
        return
      }
    }
    const less = Math.min(DRAIN, (this.queueMs - this.#bound / 2) / (DRAIN_OVER_MS + 2 * this.bestRttMs))
    const target = Math.max(delivered * (1 - less), this.#proven * DRAIN_LEAST)
    this.rate += (target - this.rate) * Math.min(1, elapsed / FOLLOW_MS)
  }

  #grow({ loss, rttMs }: RateSample, delivered: number, elapsed: number, now: number): void {
    this.#queuedSince = Number.NaN
    if (loss > LOSS) {
      if (now - Math.max(this.#yieldedAt, this.queuedAt) < LOSS_EVERY_MS) return
      this.#clearSince = now
      this.#yieldedAt = now
      const least = loss > LOSS_MOST ? 0 : this.rate * LOSS_LEAST
      this.rate = Math.min(this.rate, Math.max(delivered, least))
      return
    }
    if (delivered < this.rate * IN_USE) return
    const steady = 1 + (now - this.#clearSince) / (STEADY_MS + 4 * rttMs)
    const known = this.rate < this.#proven ? FAST : Math.min(FAST, GROWTH * steady)
    const gain = this.known ? known : FIRST_GROWTH
    this.rate = Math.max(delivered, this.rate * (1 + gain * Math.min(1, elapsed / rttMs)))
  }
}

/** From one time to another, µs modulo 2^32, in milliseconds. */
function sinceMs(at: number, before: number): number {
  return ((at - before) | 0) / 1000
}

/** A line in virtual time whose rate is learned from what it carries. */
import { PathRate } from '../../src/tunnel/scheduling/rates.ts'

const LOOK = 25

/** A line that carries `rate` bytes a millisecond after `delay` ms, with room for `room` ms; fluid, by the millisecond. */
export class Line {
  rate: number
  delay: number
  readonly path = new PathRate()
  now = 5_000
  waiting = 0
  received = 0
  lostBytes = 0
  sentBytes = 0
  /** Share of what is sent that is lost before the queue. */
  lossy = 0
  /** Up to so many milliseconds more, each probe another. */
  jitter = 0
  /** Every 300 ms nothing arrives for so long; then all of it does. */
  stall = 0
  #drawn = 1
  readonly #room: number
  readonly #probes: { sentAt: number; behind: number; loss: number }[] = []
  readonly #news: { at: number; sample: Parameters<PathRate['sample']>[0] }[] = []

  constructor(rate: number, delay: number, room = 100) {
    this.rate = rate
    this.delay = delay
    this.#room = room
    this.run(300, 0)
  }

  /** Lets time pass while `offered` bytes a millisecond want to go; no more go than the path's rate says. */
  run(milliseconds: number, offered: number): void {
    for (let n = 0; n < milliseconds; n++) {
      this.now++
      const sent = Math.min(offered, this.path.rate)
      this.sentBytes += sent
      const kept = Math.min(sent * (1 - this.lossy), this.rate * (this.#room + 1) - this.waiting)
      this.lostBytes += sent - kept
      this.waiting += kept
      const left = Math.min(this.waiting, this.rate)
      this.waiting -= left
      this.received += left
      if (sent > 0 && this.now >= this.path.lateAt(0)) this.path.late(0, this.now)
      if (this.now % LOOK === 0)
        this.#probes.push({
          sentAt: this.now,
          behind: this.received + this.waiting,
          loss: sent > 0 ? (sent - kept) / sent : 0,
        })
      while (this.#probes.length > 0 && this.#probes[0]!.behind <= this.received)
        this.#answer(this.#probes.shift()!)
      while (this.#news.length > 0 && this.#news[0]!.at <= this.now) {
        const { sample } = this.#news.shift()!
        this.path.sample(sample, this.now)
      }
    }
  }

  /** Time that a byte that arrives now would wait, milliseconds. */
  get queueMs(): number {
    return this.waiting / this.rate
  }

  /** The probe leaves the queue now. The other clock is 77 s off; the way back is as long as the way there. */
  #answer({ sentAt, loss }: { sentAt: number; loss: number }): void {
    this.#drawn = (this.#drawn * 16_807) % 2_147_483_647
    const since = this.now % 300
    const late = (this.jitter * this.#drawn) / 2_147_483_647 + Math.max(0, this.stall - since)
    const oneWay = this.now - sentAt + this.delay + late
    this.#news.push({
      at: this.now + 2 * this.delay + late,
      sample: {
        rttMs: oneWay + this.delay,
        loss,
        sentAt: (sentAt * 1000) >>> 0,
        arrivedAt: ((this.now + this.delay + late + 77_000) * 1000) >>> 0,
        receivedBytes: Math.floor(this.received) % 2 ** 32,
      },
    })
  }
}

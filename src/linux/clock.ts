/** The real clock and randomness, for services at the edge; tests use simulated ones. */
import { randomFillSync } from 'node:crypto'
import type { Clock, Random } from '../core/clock.ts'
import { check, declare } from './libc.ts'

const clockGettime = declare<(clock: number, out: Uint8Array) => number>(
  'int clock_gettime(int clock, void *out)',
)
const CLOCK_MONOTONIC = 1
const CLOCK_BOOTTIME = 7

function read(clock: number): number {
  const out = new Uint8Array(16)
  check(clockGettime(clock, out), 'read a clock')
  const view = new DataView(out.buffer)
  return Number(view.getBigInt64(0, true)) * 1000 + Number(view.getBigInt64(8, true)) / 1e6
}

/** CLOCK_MONOTONIC: the same in every thread and process of this machine, whenever they started. */
export class RealClock implements Clock {
  /** performance.now() is that clock counted from the thread's start, and costs a tenth of asking for it. */
  readonly #start = Number(process.hrtime.bigint()) / 1e6 - performance.now()

  now(): number {
    return this.#start + performance.now()
  }

  wall(): number {
    return Date.now()
  }

  /** Milliseconds this machine has been suspended since it started: CLOCK_BOOTTIME counts them, CLOCK_MONOTONIC not. */
  suspended(): number {
    return Math.max(0, read(CLOCK_BOOTTIME) - read(CLOCK_MONOTONIC))
  }
}

/** What `ClockWatch` compares. */
export interface WatchedClock extends Clock {
  suspended(): number
}

/** Notices, when asked now and then, that the machine slept or that its wall clock was set. */
export class ClockWatch {
  readonly #clock: WatchedClock
  #suspended: number
  /** Wall minus boot time: constant unless the wall clock is set. */
  #offset: number

  constructor(clock: WatchedClock) {
    this.#clock = clock
    this.#suspended = clock.suspended()
    this.#offset = this.#read()
  }

  /** Milliseconds slept, and by how many the wall clock jumped, since the last call; below 100 reads as 0. */
  check(): { readonly slept: number; readonly jumped: number } {
    const suspended = this.#clock.suspended()
    const offset = this.#read()
    const slept = suspended - this.#suspended
    const jumped = offset - this.#offset
    this.#suspended = suspended
    this.#offset = offset
    return { slept: slept < NOISE ? 0 : slept, jumped: Math.abs(jumped) < NOISE ? 0 : jumped }
  }

  #read(): number {
    return this.#clock.wall() - this.#clock.now() - this.#clock.suspended()
  }
}

const NOISE = 100

/** The kernel's generator. */
export const realRandom: Random = {
  fill: (out) => randomFillSync(out),
}

/** Drawn from the kernel by the page: a call for four bytes costs as much as one for thousands. */
export function pooledRandom(): Random {
  const pool = new Uint8Array(4096)
  let left = 0
  return {
    fill(out) {
      if (out.length > 64) return realRandom.fill(out)
      if (left < out.length) {
        realRandom.fill(pool)
        left = pool.length
      }
      out.set(pool.subarray(left - out.length, left))
      pool.fill(0, left - out.length, left)
      left -= out.length
      return out
    },
  }
}

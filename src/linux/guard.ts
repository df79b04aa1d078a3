/**
 * Restores kernel state of godwit that another program removes: a network manager that deletes rules it does not know, a
 * script that flushes an address or sets our device down. It watches the kernel's events about what the ledger marks as
 * ours and asks each owner to restore it. The first time is logged, all are counted; a program that keeps removing is
 * answered with a burst of ten restorations, then one every ten seconds.
 */
import type { Clock } from '../core/clock.ts'
import type { Ledger } from './ledger.ts'
import { processInfo } from './proc.ts'
import type { Rtnl, RtnlEvent } from './rtnetlink/types.ts'

export interface Guarded {
  /** Whose it is, for the log. */
  readonly name: string
  /** Devices whose state and addresses are ours. */
  devices(): readonly string[]
  /** Whether an address of another device is ours; absent: none. */
  ownsAddress?(address: string, device: string): boolean
  /** Restores the wanted state and names what was missing. */
  restore(): readonly string[]
  /** Watches for changes that rtnetlink does not report; the returned function ends it. */
  watch?(changed: () => void): () => void
  /** Without it packets are answered wrongly at once: what `watch` reports does not wait for a burst to end. */
  readonly urgent?: boolean
}

/** A burst of removals is answered once, after this (ms). */
const SETTLE_MS = 100
/** Restorations at once; each is earned again after the interval (ms). */
const BURST = 10
const INTERVAL_MS = 10_000

/** More than this are not named at once. */
const MOST_CULPRITS = 4

export interface GuardComponents {
  readonly rtnl: Rtnl
  readonly ledger: Ledger
  readonly clock: Clock
  /** One line for the log. */
  readonly report: (message: string) => void
  /** Name of a running process, or undefined. */
  readonly nameOf?: (pid: number) => string | undefined
}

export class KernelGuard {
  readonly #parts: GuardComponents
  readonly #guarded = new Set<Guarded>()
  readonly #reported = new Set<string>()
  #watching: AbortController | undefined
  #timer: NodeJS.Timeout | undefined
  /** When `#timer` ends. */
  #due = Number.POSITIVE_INFINITY
  /** When restorations would all be earned again. */
  #earnedAt = Number.NEGATIVE_INFINITY
  #restored = 0
  /** Programs that removed something since the last restoration. */
  readonly #culprits = new Set<string>()

  constructor(parts: GuardComponents) {
    this.#parts = parts
  }

  /** Rules, routes, addresses and devices that were put back since the start. */
  get restored(): number {
    return this.#restored
  }

  /** Guards from now on; the returned function ends it, and must be called before anything is taken away on purpose. */
  protect(guarded: Guarded): () => void {
    this.#guarded.add(guarded)
    this.#watch()
    const unwatch = guarded.watch?.(() => this.#restoreSoon(guarded.urgent === true ? 0 : SETTLE_MS))
    return () => {
      unwatch?.()
      this.#guarded.delete(guarded)
      if (this.#guarded.size === 0) this.stop()
    }
  }

  stop(): void {
    this.#watching?.abort()
    this.#watching = undefined
    this.#clearTimer()
  }

  #clearTimer(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#due = Number.POSITIVE_INFINITY
  }

  #watch(): void {
    if (this.#watching !== undefined) return
    const watching = new AbortController()
    this.#watching = watching
    this.#parts.rtnl.watch(
      ['link', 'address', 'route', 'rule'],
      (event) => {
        if (!this.#concerns(event)) return
        this.#noteCulprit(event)
        this.#restoreSoon()
      },
      { signal: watching.signal },
    )
  }

  #concerns(event: RtnlEvent): boolean {
    const { ledger } = this.#parts
    switch (event.type) {
      case 'resync':
        return true
      case 'rule-gone':
        return ledger.ownsRule(event.rule)
      case 'route-gone':
        return ledger.ownsRoute(event.route)
      case 'address-gone': {
        const { link, address } = event.address
        return [...this.#guarded].some(
          (each) => each.devices().includes(link) || each.ownsAddress?.(address, link) === true,
        )
      }
      // IPv6 was turned on for it.
      case 'address':
        return [...this.#guarded].some((each) => each.devices().includes(event.address.link))
      case 'link':
        return !event.link.up && [...this.#guarded].some((each) => each.devices().includes(event.link.name))
      default:
        return false
    }
  }

  /** At once: a command may have ended before its event is read. */
  #noteCulprit({ by }: RtnlEvent): void {
    const pid = by === undefined ? undefined : processOfPort(by)
    if (pid === undefined || pid === process.pid || this.#culprits.size >= MOST_CULPRITS) return
    const name = (this.#parts.nameOf ?? nameOf)(pid)
    this.#culprits.add(name === undefined ? `process ${pid}, which has ended` : `${name}, process ${pid}`)
  }

  #restoreSoon(settleMs = SETTLE_MS): void {
    const now = this.#parts.clock.now()
    const due = Math.max(now + settleMs, this.#earnedAt - (BURST - 1) * INTERVAL_MS)
    if (due >= this.#due) return
    this.#clearTimer()
    this.#due = due
    this.#timer = setTimeout(() => {
      this.#clearTimer()
      this.#restore()
    }, due - now)
  }

  #restore(): void {
    let any = false
    const culprits = [...this.#culprits].join('; ')
    const who = culprits === '' ? 'another program' : `another program (${culprits})`
    this.#culprits.clear()
    for (const guarded of this.#guarded) {
      let restored: readonly string[]
      try {
        restored = guarded.restore()
      } catch (error) {
        this.#once(`${guarded.name} fault`, `${guarded.name}: cannot put back: ${(error as Error).message}`)
        continue
      }
      if (restored.length === 0) continue
      any = true
      this.#restored += restored.length
      const more = restored.length > 3 ? ` and ${restored.length - 3} more` : ''
      const what = restored.slice(0, 3).join(', ') + more
      const text = `${who} removed ${what}; put back`
      this.#once(guarded.name, `${guarded.name}: ${text}. Further cases are only counted (/metrics)`)
    }
    if (!any) return
    const now = this.#parts.clock.now()
    this.#earnedAt = Math.max(now, this.#earnedAt) + INTERVAL_MS
    if (this.#earnedAt - now > (BURST - 1) * INTERVAL_MS)
      this.#once(
        'burst',
        `a program keeps removing kernel state of godwit; restored every ${INTERVAL_MS / 1000} s now`,
      )
  }

  #once(key: string, message: string): void {
    if (this.#reported.has(key)) return
    this.#reported.add(key)
    this.#parts.report(message)
  }
}

/**
 * The process behind a netlink port. The kernel gives the first socket of a process its id and others negative numbers;
 * libnl puts a counter above bit 22.
 */
export function processOfPort(port: number): number | undefined {
  const pid = port & 0x3f_ffff
  return port >= 0x8000_0000 || pid === 0 ? undefined : pid
}

function nameOf(pid: number): string | undefined {
  return processInfo(pid)?.command
}

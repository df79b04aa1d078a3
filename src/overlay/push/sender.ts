/**
 * Sends what wakes nodes through the push service of each, within limits: nodes name the places. An address that fails is left alone
 * for a while, longer from one failure to the next; each account has a share of what is under way, and a rate to each host.
 */
import { Buckets } from '../../core/buckets.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { type PushAddress, parsePush } from './address.ts'
import type { PushService } from './services.ts'

export interface PushSenderParts {
  readonly services: { readonly [Service in PushAddress['service']]?: PushService }
  readonly now: () => number
  readonly log: (message: string) => void
  /** The service does not know the node any more. */
  readonly onGone: (name: string, push: string) => void
}

export interface Push {
  readonly name: string
  /** Whose share it is. */
  readonly account: string
  /** As the node registered it. */
  readonly address: string
  readonly datagram: Uint8Array
}

const MAX_UNDER_WAY = 512
const MAX_OF_ACCOUNT = 16
/** Messages a second of an account to one host, and at once. */
const HOST_RATE = 2
const HOST_BURST = 20
const MAX_REMEMBERED = 20_000
/** After the first failure of an address (ms), doubling to the longest. */
const FIRST_PAUSE = 1000
const LONGEST_PAUSE = 3_600_000
/** Failures that are logged, a second and at once. */
const LOG_RATE = 1 / 60
const LOG_BURST = 10

interface Failing {
  readonly failures: number
  readonly until: number
}

export class PushSender {
  readonly #parts: PushSenderParts
  readonly #failing = new Map<string, Failing>()
  /** By account and host. */
  readonly #rates = new Buckets(HOST_RATE, HOST_BURST)
  /** By account: messages under way. */
  readonly #shares = new Map<string, number>()
  readonly #logged = new TokenBucket(LOG_RATE, LOG_BURST)
  #underWay = 0

  constructor(parts: PushSenderParts) {
    this.#parts = parts
  }

  close(): void {
    for (const service of Object.values(this.#parts.services)) service?.close()
  }

  /** Resolves when it is over, whatever came of it: true if the service has taken it. */
  async send({ name, account, address: text, datagram }: Push): Promise<boolean> {
    const { services, now, log, onGone } = this.#parts
    const parsed = parsePush(text)
    const service = parsed.ok ? services[parsed.value.service] : undefined
    if (!parsed.ok || service === undefined) return false
    const host = parsed.value.service === 'web' ? parsed.value.endpoint.host : parsed.value.service
    const share = this.#shares.get(account) ?? 0
    const isFull = this.#underWay >= MAX_UNDER_WAY || share >= MAX_OF_ACCOUNT
    if (
      isFull ||
      now() < (this.#failing.get(text)?.until ?? 0) ||
      !this.#rates.take(`${account} ${host}`, now())
    )
      return false
    this.#shares.set(account, share + 1)
    this.#underWay++
    try {
      const delivery = await service.send(parsed.value, datagram, account)
      if (delivery === 'gone') {
        this.#fail(text)
        onGone(name, text)
        return false
      }
      this.#failing.delete(text)
      return true
    } catch (error) {
      this.#fail(text)
      if (this.#logged.take(now())) log(`push service ${host}, for ${name}: ${(error as Error).message}`)
      return false
    } finally {
      const left = this.#shares.get(account)! - 1
      if (left === 0) this.#shares.delete(account)
      else this.#shares.set(account, left)
      this.#underWay--
    }
  }

  #fail(text: string): void {
    const failures = (this.#failing.get(text)?.failures ?? 0) + 1
    const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** Math.min(failures - 1, 20))
    remember(this.#failing, text, { failures, until: this.#parts.now() + pause })
  }
}

/** As the one used last; the one used longest ago goes. */
function remember<Value>(map: Map<string, Value>, key: string, value: Value): void {
  map.delete(key)
  map.set(key, value)
  if (map.size > MAX_REMEMBERED) map.delete(map.keys().next().value!)
}

/**
 * The directory of keys (DI-39): which keys the DNS binds to an address, as a validating resolver on this machine says. What
 * comes over the network is not believed, whatever its bits: anybody on the way could set them.
 *
 * Answers are kept for as long as they say, within bounds. Keys whose time is over stay bound until there is another answer. While there is
 * none a host is not greeted: who can keep the answer away must not gain by it (as RFC 7672 § 2.1.2 has it for mail). Data is never held up.
 */
import { createSocket } from 'node:dgram'
import { equal } from '../../core/bytes.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import type { Ip } from '../tables.ts'
import { decodeAnswer, encodeQuestion, type Word } from './record.ts'

// Our choices.
const LEAST_TTL_MS = 60_000
const MOST_TTL_MS = 86_400_000
/** What could not be found out is asked again after this, doubled each time. */
const AGAIN_MS = 5_000
const AGAIN_MOST_MS = 300_000
/** Addresses that are remembered; the oldest make room. */
const MOST_ADDRESSES = 4_096
/** Questions at once, and addresses that wait for their turn; a second, in all. */
const AT_ONCE = 16
const MOST_WAITING = 256
const QUESTIONS_RATE = 50

/** Asks a resolver for the keys of an address; never rejects. */
export type Ask = (ip: Ip) => Promise<Word>

interface Entry {
  word: Word | undefined
  /** Until then it is not asked for again. */
  until: number
  asking: boolean
  failures: number
}

export interface DirectoryInit {
  readonly ask: Ask
  readonly now: () => number
  /** There is another word about this address. */
  readonly changed: (ip: Ip) => void
  readonly warn: (text: string) => void
}

export class KeyDirectory {
  readonly #init: DirectoryInit
  readonly #entries = new Map<Ip, Entry>()
  readonly #waiting = new Set<Ip>()
  readonly #questions = new TokenBucket(QUESTIONS_RATE)
  #asking = 0
  #stopped = false

  constructor(init: DirectoryInit) {
    this.#init = init
  }

  /** The keys bound to an address, as far as it has been asked for; undefined: none is. */
  keys(ip: Ip): readonly Uint8Array[] | undefined {
    const word = this.#entries.get(ip)?.word
    return word?.kind === 'keys' ? word.keys : undefined
  }

  /** Whether it is not known (yet) what is bound to the address. Asks where that is so, or has been for too long. */
  awaits(ip: Ip): boolean {
    this.look(ip)
    const word = this.#entries.get(ip)?.word
    return word === undefined || word.kind === 'failed'
  }

  /** Asks, unless the last answer still holds. */
  look(ip: Ip): void {
    const entry = this.#entries.get(ip)
    if (entry?.asking === true || (entry !== undefined && this.#init.now() < entry.until)) return
    if (this.#waiting.size >= MOST_WAITING) return
    this.#waiting.add(ip)
    this.#next()
  }

  stop(): void {
    this.#stopped = true
    this.#waiting.clear()
  }

  #next(): void {
    for (const ip of this.#waiting) {
      if (this.#asking >= AT_ONCE || !this.#questions.take(this.#init.now())) return
      this.#waiting.delete(ip)
      void this.#ask(ip)
    }
  }

  async #ask(ip: Ip): Promise<void> {
    const entry = this.#entries.get(ip) ?? { word: undefined, until: 0, asking: false, failures: 0 }
    this.#entries.delete(ip)
    this.#entries.set(ip, entry)
    if (this.#entries.size > MOST_ADDRESSES) this.#entries.delete(this.#entries.keys().next().value!)
    entry.asking = true
    this.#asking++
    const word = await this.#init.ask(ip)
    this.#asking--
    entry.asking = false
    if (this.#stopped) return
    this.#answered(ip, entry, word)
    this.#next()
  }

  #answered(ip: Ip, entry: Entry, word: Word): void {
    const now = this.#init.now()
    const before = entry.word
    if (word.kind === 'failed') {
      entry.until = now + Math.min(AGAIN_MS * 2 ** entry.failures++, AGAIN_MOST_MS)
      if (before?.kind !== 'keys') entry.word = word
      if (entry.failures === 1)
        this.#init.warn(
          `the directory does not tell the keys of ${ip}: ${word.reason}; not greeted meanwhile`,
        )
    } else {
      entry.failures = 0
      entry.until = now + Math.min(MOST_TTL_MS, Math.max(LEAST_TTL_MS, word.ttl * 1000))
      entry.word = word
      if (word.kind === 'unsigned')
        this.#init.warn(
          `keys of ${ip} are in the DNS, and are not signed or not validated: they bind nothing`,
        )
    }
    if (!sameWord(before, entry.word)) this.#init.changed(ip)
  }
}

/** Whether both bind the same. A first failure is no news: nothing was known before either. */
function sameWord(before: Word | undefined, after: Word | undefined): boolean {
  if (before?.kind !== 'keys' || after?.kind !== 'keys')
    return (before?.kind ?? 'failed') === (after?.kind ?? 'failed')
  return before.keys.length === after.keys.length && after.keys.every((key, i) => equal(key, before.keys[i]!))
}

const PORT = 53
const ANSWER_MS = 2_000
const TRIES = 2
/** Datagrams read that are no answer; then it is given up. */
const MOST_STRAYS = 8

/** Asks the resolver at an address of the loopback; undefined: this machine has none. */
export function resolverAsker(
  resolver: () => Ip | undefined,
  random: (length: number) => Uint8Array,
  port = PORT,
): Ask {
  return async (ip) => {
    let reason = 'no resolver on this machine (/etc/resolv.conf names none of the loopback)'
    for (let i = 0; i < TRIES; i++) {
      const server = resolver()
      if (server === undefined) break
      const answer = await once(server, port, new DataView(random(2).buffer).getUint16(0), ip)
      if (typeof answer !== 'string') return answer
      reason = answer
    }
    return { kind: 'failed', reason }
  }
}

/** A string says why there is no answer. */
function once(server: Ip, port: number, id: number, ip: Ip): Promise<Word | string> {
  return new Promise((resolve) => {
    const socket = createSocket(server.includes(':') ? 'udp6' : 'udp4')
    let strays = 0
    const done = (outcome: Word | string): void => {
      clearTimeout(timer)
      socket
        .removeAllListeners()
        .on('error', () => {})
        .close()
      resolve(outcome)
    }
    const timer = setTimeout(() => done(`${server} does not answer`), ANSWER_MS)
    socket.once('error', (error) => done(`${server}: ${error.message}`))
    socket.on('message', (bytes) => {
      const answer = decodeAnswer(bytes, id, ip)
      if (answer.ok) done(answer.value)
      else if (++strays >= MOST_STRAYS) done(`${server} sends what is no answer`)
    })
    // As an event: a callback would be called for a failure too (the loopback is down, or has no IPv6).
    socket.once('connect', () => socket.send(encodeQuestion(id, ip)))
    socket.connect(port, server)
  })
}

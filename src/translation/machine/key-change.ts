/**
 * Change of this host's key, and of a peer's (DI-40): KEY_CHANGE under the old key names the new one, its acknowledgement
 * brings a challenge, and a second KEY_CHANGE carries a signature over that by the new key. So nobody can make a row his
 * with a key that he only knows the public half of. Until the peer has acknowledged that, this host signs with the old key;
 * until this host has signed something with the new key, the peer believes both.
 */
import { equal } from '../../core/bytes.ts'
import type { Pair } from '../tables.ts'
import { Control, type IhmpMessage, keyChangeTranscript } from '../wire.ts'
import type { Greeting } from './greeting.ts'
import type { Host, OwnKey } from './host.ts'
import type { Messages } from './messages.ts'
import type { Paths } from './paths.ts'
import type { IhmpState } from './state.ts'

/** A change that was not acknowledged is announced again after this; sooner if the peer answers anything else. */
const AGAIN_MS = 30_000

/** Of this host's key, at one peer. */
interface Change {
  readonly from: OwnKey
  readonly to: OwnKey
}

export class KeyChange {
  readonly #state: IhmpState
  readonly #messages: Messages
  readonly #paths: Paths
  readonly #greeting: Greeting

  constructor(state: IhmpState, messages: Messages, paths: Paths, greeting: Greeting) {
    this.#state = state
    this.#messages = messages
    this.#paths = paths
    this.#greeting = greeting
  }

  // ---------------------------------------------------------------------------------------------------- own

  /**
   * Tells a peer that knows this host by another key than it has now. Called whenever that may be so: after the command,
   * after a restart, when addresses have changed and when a peer has answered.
   */
  announce(host: Host, now: number): void {
    const { ownKey } = host
    if (host.state !== 'peer' || ownKey === undefined) return
    const next = this.#state.components.keys.own(host.bound.local)
    if (next === undefined || equal(next.publicKey, ownKey.publicKey)) return
    for (const { message } of host.requests)
      if (message.newKey !== undefined && equal(message.newKey, next.publicKey)) return
    this.#messages.cancel(host, ({ message }) => message.control === Control.KEY_CHANGE)
    const pair = this.#paths.any(host)
    if (pair === undefined) return // once it has answered from somewhere
    this.#ask(host, { from: ownKey, to: next }, pair, {}, now)
  }

  #ask(host: Host, change: Change, pair: Pair, proof: Partial<IhmpMessage>, now: number): void {
    const body = { ...proof, control: Control.KEY_CHANGE, newKey: change.to.publicKey }
    this.#messages.request(host, pair, body, now, {
      acknowledged: (ack, at) => {
        if (ack.challenge === undefined) this.#adopt(host, change.to, ack, pair)
        else this.#prove(host, change, ack.challenge, pair, at)
      },
      failed: (at) => this.#messages.later(host, at + AGAIN_MS, (then) => this.announce(host, then)),
    })
  }

  #prove(host: Host, change: Change, challenge: Uint8Array, pair: Pair, now: number): void {
    const { from, to } = change
    const receiver = this.#messages.receiver(host, pair)
    const transcript = keyChangeTranscript(from.publicKey, to.publicKey, receiver, challenge)
    const keyProof = this.#state.components.crypto.sign(to, transcript)
    this.#ask(host, change, pair, { response: challenge, keyProof }, now)
  }

  #adopt(host: Host, next: OwnKey, ack: IhmpMessage, pair: Pair): void {
    host.ownKey = next
    this.#state.emit({ kind: 'keep' })
    this.#messages.resign(host)
    // The first words under the new key: from now on the peer believes no other.
    this.#messages.acknowledge(host, ack, pair, host.ports.get(pair.foreign) ?? 0, {})
    this.#state.say(host, 'peer', 'knows the new key of this host')
  }

  // --------------------------------------------------------------------------------------------------- a peer's

  handle(host: Host, message: IhmpMessage, pair: Pair, port: number, now: number): void {
    const { newKey, keyProof } = message
    if (newKey === undefined || host.row.key === undefined) return
    if (equal(newKey, host.row.key)) {
      this.#messages.acknowledge(host, message, pair, port, {}) // it has not heard that it is known
      return
    }
    if (![...host.row.active].every((ip) => this.#state.mayBeAt(ip, newKey))) {
      this.#state.stats.unauthenticated++
      return
    }
    if (keyProof === undefined) {
      if (host.nextKey === undefined || !equal(host.nextKey.key, newKey))
        host.nextKey = { key: newKey, challenge: this.#state.random(16) }
      this.#messages.acknowledge(host, message, pair, port, { challenge: host.nextKey.challenge })
      return
    }
    if (!host.keyChanges.has(now)) return // it says so again
    const former = this.#predecessor(host, newKey, keyProof, message)
    if (former === undefined) {
      this.#state.stats.unauthenticated++
      return
    }
    host.keyChanges.take(now)
    host.nextKey = undefined
    host.formerKey = former
    host.row.key = newKey
    this.#state.emit({ kind: 'keep' })
    this.#messages.acknowledge(host, message, pair, port, {})
    this.#state.say(host, 'peer', 'has another key')
    this.#greeting.unite(host, now)
  }

  /**
   * The key that the owner of the new one continues, by his signature over our challenge, for us; undefined: he has proven
   * nothing. A host that was killed before it heard that its last change is known continues the key before that.
   */
  #predecessor(
    host: Host,
    newKey: Uint8Array,
    keyProof: Uint8Array,
    { receiver, response }: IhmpMessage,
  ): Uint8Array | undefined {
    const { nextKey, formerKey, row } = host
    if (nextKey === undefined || !equal(nextKey.key, newKey)) return undefined
    if (receiver === undefined || response === undefined) return undefined
    if (!equal(response, nextKey.challenge)) return undefined
    return [row.key, formerKey].find(
      (key) =>
        key !== undefined &&
        this.#state.components.crypto.verify(
          newKey,
          keyChangeTranscript(key, newKey, receiver, response),
          keyProof,
        ),
    )
  }
}

/**
 * Keys for packets behind message 1 that nodes leave with their coordinator (ADR 0330): each is given to one peer.
 * A coordinator of the zone that directs a node of another borrows one.
 */
import { MAX_PREKEYS, type Message, type Prekey } from '../wire/message.ts'

/** A node's keys, and the indexes of those given that a message from before may name again. */
export interface Prekeys {
  readonly prekeys: Prekey[]
  readonly given: number[]
}

const MAX_GIVEN = 16
/** How long a key that another coordinator has waits for its direction (ms), and keys that do. */
const LENT_MS = 10_000
const MAX_LENT = 1024

/** Those of a message that are not there and were not given: one key is for one node. */
export function addPrekeys({ prekeys: known, given }: Prekeys, { prekeys = [] }: Message): void {
  for (const prekey of prekeys)
    if (
      known.length < MAX_PREKEYS &&
      !given.includes(prekey.index) &&
      !known.some(({ index }) => index === prekey.index)
    )
      known.push(prekey)
}

/** The next key, which is given now. */
export function givePrekey({ prekeys, given }: Prekeys): Prekey | undefined {
  const prekey = prekeys.shift()
  if (prekey !== undefined && given.push(prekey.index) > MAX_GIVEN) given.shift()
  return prekey
}

/** The node has not followed this direction: it still has the key, and may name it again. */
export function takeBack({ given }: Prekeys, { prekeyIndex = -1 }: Pick<Message, 'prekeyIndex'>): void {
  const at = given.indexOf(prekeyIndex)
  if (at >= 0) given.splice(at, 1)
}

interface Lent {
  readonly name: string
  readonly question: string
  readonly prekey: Prekey
  readonly at: number
}

/** Keys that other coordinators of the zone have and have not named yet. */
export class LentPrekeys {
  readonly #of: (name: string) => Prekeys | undefined
  /** By name and index, the oldest first. */
  readonly #lent = new Map<string, Lent>()

  constructor(of: (name: string) => Prekeys | undefined) {
    this.#of = of
  }

  /** To another coordinator, whose direction will name it; if none does, the node may name it again. One for each question. */
  lend(name: string, question: string, now: number): Prekey | undefined {
    for (const [key, lent] of this.#lent) {
      if (lent.at + LENT_MS > now && this.#lent.size < MAX_LENT) break
      this.#lent.delete(key)
      const owner = this.#of(lent.name)
      if (owner !== undefined) takeBack(owner, { prekeyIndex: lent.prekey.index })
    }
    for (const lent of this.#lent.values())
      if (lent.question === question && lent.name === name) return lent.prekey
    const node = this.#of(name)
    const prekey = node && givePrekey(node)
    if (prekey !== undefined) this.#lent.set(`${name} ${prekey.index}`, { name, question, prekey, at: now })
    return prekey
  }

  /** The direction that names it is there. */
  use(name: string, index: number): void {
    this.#lent.delete(`${name} ${index}`)
  }
}

/**
 * When a further subflow is tried again on an access where one failed. The pause grows with each failure, is jittered, and begins anew
 * after a subflow that lasted: a peer or a firewall that ends every further subflow draws ever fewer joins.
 */
import type { Connection } from './connection.ts'
import { randomWord } from './joins.ts'
import type { Subflow } from './subflow.ts'

/** How a subflow ended: its access or path is gone · nobody answered its handshake · an end was done with it, or the peer refused it. */
export type LossKind = 'gone' | 'silent' | 'ended'

/** First pause (ms), for a join that nobody answered, and the longest. */
const FIRST = 2000
const FIRST_SILENT = 10_000
const LONGEST = 640_000
/** A subflow that lasted this long (ms) was no failure. */
const STEADY = 30_000
/** Pauses differ by this share both ways, so that connections do not join in step. */
const JITTER = 0.25

/** Notes that a subflow ended; before its state says so. */
export function pauseJoins(connection: Connection, subflow: Subflow, kind: LossKind, now: number): void {
  const { access, alive, beganAt, state } = subflow
  if (access === undefined || (connection.state === 'closing' && kind !== 'ended')) return
  const last = connection.pauses?.get(access)
  const steady = alive && now - beganAt >= STEADY
  const refused = kind === 'ended' || state === 'syn-received'
  const first = kind === 'silent' ? FIRST_SILENT : FIRST
  const before = steady ? undefined : last
  const length = before === undefined ? first : Math.min(LONGEST, Math.max(first, 2 * before.length))
  const jitter = 1 + JITTER * (randomWord(connection) / 2 ** 31 - 1)
  // One refusal says little, and silence nothing of what the access is now. What was refused beside others may be taken alone.
  const soon = before === undefined || !refused
  const alone = !connection.subflows.some((each) => each !== subflow && each.usable)
  const aloneLength = before?.aloneLength ?? FIRST
  connection.pauses ??= new Map()
  connection.pauses.set(access, {
    at: now + length * jitter,
    aloneAt: soon ? beganAt + FIRST : now + aloneLength * jitter,
    length,
    aloneLength: soon || !alone ? aloneLength : 2 * aloneLength,
    refused,
  })
}

/** When a join may begin on an access. `alone`: no subflow works. */
export function joinAt({ pauses }: Connection, access: string, alone: boolean): number {
  const pause = pauses?.get(access)
  if (pause === undefined) return Number.NEGATIVE_INFINITY
  return alone ? pause.aloneAt : pause.at
}

/** Accesses changed: those that were silent may answer now. A refusal counts until its access is another. */
export function forgetPauses(connection: Connection, isNew: (access: string) => boolean): void {
  const { pauses } = connection
  if (pauses === undefined) return
  for (const [access, { refused }] of pauses) if (!refused || isNew(access)) pauses.delete(access)
  if (pauses.size === 0) connection.pauses = undefined
}

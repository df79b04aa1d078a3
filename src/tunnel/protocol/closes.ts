/**
 * PATH_CLOSE: sent over another path, with the highest counter received on the closed one, until PATH_CLOSED arrives
 * (docs/wire/tunnel.md).
 */

import type { Paths } from '../seam.ts'
import type { CloseReason } from './api.ts'
import * as K from './constants.ts'
import type { Frame } from './control.ts'
import type { Path } from './path.ts'
import { Deadline, type OpenClose, type Peer, reported } from './peer.ts'

const NEVER = Number.POSITIVE_INFINITY

export class Closes {
  readonly #paths: Pick<Paths, 'counters'>
  readonly #send: (peer: Peer, via: Path, frames: readonly Frame[], now: number) => void

  constructor(
    paths: Pick<Paths, 'counters'>,
    send: (peer: Peer, via: Path, frames: readonly Frame[], now: number) => void,
  ) {
    this.#paths = paths
    this.#send = send
  }

  /** Queues the report to the peer that this path is gone. */
  queue(peer: Peer, path: Path, reason: CloseReason, now: number): void {
    if (!peer.godwit || path.pathId === 0) return
    const { pathId, generation } = path
    const { highestCounter } = this.#paths.counters(path.slot)
    peer.closes = peer.closes.filter((close) => close.pathId !== pathId)
    const session = peer.current?.localIndex ?? -1
    peer.closes.push({ pathId, generation, reason, highestCounter, session, tries: 0, at: now })
    this.sendDue(peer, now)
  }

  /** `Deadline.close` has come: sends what is due, gives up what was sent often enough. */
  sendDue(peer: Peer, now: number): void {
    peer.deadlines[Deadline.close] = NEVER
    if (peer.bestPath() === undefined) return // goes out with the next announcement, or when a path is accepted
    peer.closes = peer.closes.filter((close) => close.tries < K.CLOSE_TRIES)
    let next = NEVER
    const frames: Frame[] = []
    for (const close of peer.closes) {
      if (close.at <= now) {
        frames.push(closeFrame(peer, close))
        close.at = now + K.CLOSE_RETRY * 2 ** close.tries
        close.tries++
      }
      next = Math.min(next, close.at)
    }
    peer.deadlines[Deadline.close] = next
    if (frames.length === 0) return
    // Over all: which of them still works is not known when several accesses go at once.
    for (const path of peer.paths) if (path.usable) this.#send(peer, path, frames, now)
  }
}

/** Those not acknowledged yet, for a payload that goes out anyway. */
export function openCloseFrames(peer: Peer): Frame[] {
  return peer.closes.map((close) => closeFrame(peer, close))
}

/** PATH_CLOSED has come. */
export function acknowledgeClose(peer: Peer, pathId: number, generation: number): void {
  peer.closes = peer.closes.filter((close) => close.pathId !== pathId || close.generation !== generation)
}

function closeFrame(peer: Peer, close: OpenClose): Frame {
  const { pathId, generation, reason, session, highestCounter } = close
  return {
    type: 'path-close',
    pathId,
    generation,
    reason,
    highestCounter: reported(peer, session, highestCounter),
  }
}

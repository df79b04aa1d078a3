/**
 * Processes a control payload of a peer. Whatever it contains, it is answered with at most one datagram: on the path it
 * came on, or, if its source is not proven, to that source within the limits of proofs.ts.
 */

import type { Endpoint } from '../seam.ts'
import type { TunnelEvent } from './api.ts'
import { acknowledgeClose } from './closes.ts'
import { CONTROL_VERSION, type Frame } from './control.ts'
import type { KeyReplacement } from './key-replacement.ts'
import type { Multipath } from './multipath.ts'
import { keepEndpoint, Path, sameEndpoint } from './path.ts'
import type { Candidate, Peer } from './peer.ts'

/** Where a payload came from; see `SlowPath.handleControl`. */
export interface ControlSource {
  readonly localIndex: number
  readonly slot: number
  readonly pathId: number
  readonly from: Endpoint
  readonly socket: number
  readonly counter: number
  readonly newest: boolean
  readonly bytes: number
}

export interface ControlParts {
  readonly multipath: Multipath
  readonly keys: KeyReplacement
  readonly emit: (event: TunnelEvent) => void
  /** The peer's process ends, with the session of this index; a round trip (ms, NaN: not known) ago it read the last. */
  readonly ended: (peer: Peer, localIndex: number, rttMs: number, now: number) => void
}

/** Frames that may be sent to an address before it has proven itself. */
const UNPROVEN: ReadonlySet<Frame['type']> = new Set(['hello', 'path-accept', 'path-response'])

/** Frame types that may occur once in a payload; later ones are ignored. */
type Once = Exclude<Frame['type'], 'path-close' | 'path-closed'>

export class ControlFrames {
  readonly #parts: ControlParts

  constructor(parts: ControlParts) {
    this.#parts = parts
  }

  handle(peer: Peer, source: ControlSource, frames: readonly Frame[], now: number): void {
    const { multipath } = this.#parts
    const { slot, pathId, from, socket, newest, counter } = source
    const exact = slot < 0 ? undefined : multipath.bySlot(slot)
    let via = exact ?? peer.path(pathId)
    via?.monitor.noteControlReceived()
    multipath.heardAt(peer, from, socket, now)
    let candidate: Candidate | undefined
    let proven = false
    const answers: Frame[] = []
    const seen = new Set<Once>()
    // HELLO goes with an announcement only as long as its sender has none of this end: a responder may seal first.
    const wantsHello = frames.some(({ type }) => type === 'path-announce')
    for (const frame of frames) {
      if (frame.type !== 'path-close' && frame.type !== 'path-closed') {
        if (seen.has(frame.type)) continue
        seen.add(frame.type)
      }
      // Paths may be replaced while frames of one payload are read: what follows belongs to the new one.
      if (via !== undefined && multipath.bySlot(via.slot) !== via) via = undefined
      if (frame.type === 'path-announce') {
        // It is sent on the path that it is about.
        if (frame.pathId !== pathId) continue
        const heard = multipath.heardAnnounce(peer, frame, from, socket, newest, now)
        if (heard === undefined) continue
        if (heard instanceof Path) via = heard
        else candidate = heard
        const { generation } = frame
        answers.push({ type: 'path-accept', pathId, generation, observed: keepEndpoint(from) })
      } else if (frame.type === 'path-response') {
        const path = multipath.heardResponse(peer, frame.token, from, socket, newest, now)
        if (path === undefined) continue
        proven = true
        via = path
      } else if (frame.type === 'mechanism') {
        // Travels alone, so that its own answer is the only one.
        if (frames.length > 1) continue
        const { code, body } = frame
        this.#parts.emit({ type: 'frame', peer: peer.index, slot: exact?.slot ?? -1, counter, code, body })
        return
      } else this.#handle(peer, source, frame, { via, answers, wantsHello }, now)
    }
    if (via !== undefined && multipath.bySlot(via.slot) !== via) via = undefined
    const known = candidate === undefined && (proven || via === undefined ? proven : isAt(via, from, socket))
    if (known) {
      if (via !== undefined && answers.length > 0) multipath.send(peer, via, answers, now)
    } else this.#answerUnproven(peer, source, via, candidate, answers, now)
  }

  #answerUnproven(
    peer: Peer,
    source: ControlSource,
    via: Path | undefined,
    announced: Candidate | undefined,
    answers: readonly Frame[],
    now: number,
  ): void {
    const { multipath } = this.#parts
    const { pathId, from, socket, newest, bytes } = source
    const candidate = announced ?? multipath.candidateAt(peer, pathId, from, socket, newest, now)
    if (candidate !== undefined) {
      const allowed = answers.filter(({ type }) => UNPROVEN.has(type))
      multipath.ask(peer, candidate, allowed, bytes, now)
    } else if (via !== undefined && answers.length > 0) multipath.send(peer, via, answers, now)
  }

  #handle(
    peer: Peer,
    { localIndex, newest }: ControlSource,
    frame: Exclude<Frame, { type: 'path-announce' | 'path-response' | 'mechanism' }>,
    {
      via,
      answers,
      wantsHello,
    }: { readonly via: Path | undefined; readonly answers: Frame[]; readonly wantsHello: boolean },
    now: number,
  ): void {
    const { multipath, keys } = this.#parts
    switch (frame.type) {
      case 'hello':
        if (frame.version < CONTROL_VERSION) break
        if (!multipath.onHello(peer, frame, localIndex, newest, now)) break
        if (wantsHello || isResponder(peer, localIndex)) answers.unshift(multipath.helloFrame())
        break
      case 'path-accept': {
        const path = multipath.heardAccept(peer, frame, now)
        // Shows the other end that its answer has arrived.
        if (path !== undefined) answers.push(multipath.watch.probeFrame(path, now))
        break
      }
      case 'path-challenge': {
        const { pathId, token } = frame
        // First of all answers: the frames behind it count for the path that it proves.
        answers.unshift({ type: 'path-response', pathId, token })
        break
      }
      case 'probe':
      case 'echo': {
        if (via === undefined || via.pathId !== frame.pathId) break
        const echo = multipath.watch.heardProbe(peer, via, frame, localIndex, now)
        if (echo === undefined) break
        answers.push(echo)
        // So that the proof is fresh when data flows again.
        const refresh = multipath.refresh(peer, via, now)
        if (refresh !== undefined) answers.push(refresh)
        break
      }
      case 'path-close': {
        multipath.heardClose(peer, frame, via, localIndex, now)
        const { pathId, generation } = frame
        answers.push({ type: 'path-closed', pathId, generation })
        break
      }
      case 'path-closed':
        acknowledgeClose(peer, frame.pathId, frame.generation)
        break
      case 'mtu-probe':
        answers.push({ type: 'mtu-ack', pathId: frame.pathId, size: frame.size })
        break
      case 'mtu-ack':
        if (via?.pathId === frame.pathId) multipath.watch.heardMtuAck(peer, via, frame.size, now)
        break
      case 'key-replace': {
        const answer = keys.offered(peer, frame.publicKey, now)
        if (answer !== undefined) answers.push(answer)
        break
      }
      case 'key-replaced':
        keys.acknowledged(peer, frame.publicKey, now)
        break
      case 'session-end':
        this.#parts.ended(peer, localIndex, via?.monitor.rttMs ?? Number.NaN, now)
    }
  }
}

function isAt(path: Path, from: Endpoint, socket: number): boolean {
  return path.socket === socket && sameEndpoint(path.remote, from)
}

function isResponder(peer: Peer, localIndex: number): boolean {
  for (const session of [peer.current, peer.previous, peer.next])
    if (session?.localIndex === localIndex) return !session.initiator
  return false
}

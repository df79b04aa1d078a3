/**
 * Addresses that a peer has sent from and at which it has not yet proven to receive (docs/wire/tunnel.md, "Proof of an
 * address"). They get no path: only requests for the proof are sent there, with at most three times the bytes that came
 * from there (RFC 9000 §8.1), so that nobody can direct traffic to an address that is not their own.
 */
import type { Random } from '../../core/clock.ts'
import type { Endpoint, Transmit } from '../seam.ts'
import * as K from './constants.ts'
import { encodeFrames, type Frame, TOKEN_LENGTH } from './control.ts'
import { keepEndpoint, sameAddress, sameEndpoint } from './path.ts'
import type { Announced, Candidate, Peer } from './peer.ts'
import { INITIATION, MULTIPATH_OVERHEAD, outerOverhead, TRANSPORT } from './wire.ts'

export class Proofs {
  readonly #transmit: Transmit
  readonly #random: Random

  constructor(transmit: Transmit, random: Random) {
    this.#transmit = transmit
    this.#random = random
  }

  /** The candidate for this path at this address, a new one if there is none; the oldest gives way. */
  expect(
    peer: Peer,
    pathId: number,
    from: Endpoint,
    socket: number,
    announced: Announced | undefined,
    now: number,
  ): Candidate {
    const known = peer.candidates.find(
      (each) =>
        each.pathId === pathId &&
        each.announced?.generation === announced?.generation &&
        now - each.since < K.PROOF_LIFETIME &&
        isAt(each, from, socket),
    )
    if (known !== undefined) return known
    peer.candidates = peer.candidates.filter(
      (each) => now - each.since < K.PROOF_LIFETIME && !(each.pathId === pathId && isAt(each, from, socket)),
    )
    if (peer.candidates.length >= K.CANDIDATES_MAX) peer.candidates.shift()
    const made: Candidate = {
      pathId,
      remote: keepEndpoint(from),
      socket,
      token: this.#random.fill(new Uint8Array(TOKEN_LENGTH)),
      announced,
      since: now,
      received: 0,
      sent: 0,
      askedAt: Number.NEGATIVE_INFINITY,
    }
    peer.candidates.push(made)
    return made
  }

  /** The candidate at this address, undefined when nothing is expected of it. */
  at(peer: Peer, from: Endpoint, socket: number, now: number): Candidate | undefined {
    return peer.candidates.find((each) => isAt(each, from, socket) && now - each.since < K.PROOF_LIFETIME)
  }

  /** Sends `answers`, and the question for the proof unless it was asked just now, as far as the address's bytes allow. */
  ask(peer: Peer, candidate: Candidate, answers: readonly Frame[], now: number): void {
    const { pathId, token } = candidate
    const challenge: Frame = { type: 'path-challenge', pathId, token }
    const due = now - candidate.askedAt >= K.PROOF_RETRY
    if (due && this.#send(peer, candidate, [...answers, challenge])) candidate.askedAt = now
    else if (due && this.#send(peer, candidate, [challenge])) candidate.askedAt = now
    else if (!due && answers.length > 0) this.#send(peer, candidate, answers)
  }

  /** Whether the address has sent enough for message 1 to be sent there; counts it as sent. */
  allowsInitiation(candidate: Candidate): boolean {
    return take(candidate, INITIATION.length + outerOverhead(candidate.remote.address.length))
  }

  /**
   * The peer has returned this token from `from`. The token was sent only to the candidate's address and port, so the
   * peer receives there. A NAT may have given the answer another port, but not another address.
   */
  answered(
    peer: Peer,
    token: Uint8Array,
    from: Endpoint,
    socket: number,
    now: number,
  ): Candidate | undefined {
    const found = peer.candidates.find(
      (each) =>
        each.socket === socket &&
        sameAddress(each.remote, from) &&
        now - each.since < K.PROOF_LIFETIME &&
        each.token.every((byte, i) => byte === token[i]),
    )
    if (found === undefined) return undefined
    this.forget(peer, found)
    this.note(peer, found.remote, socket, false, now)
    return found
  }

  /** The peer has shown that it receives there. */
  note(peer: Peer, remote: Endpoint, socket: number, noted: boolean, now: number): void {
    peer.proven = [
      { remote: keepEndpoint(remote), socket, at: now, noted },
      ...peer.proven.filter((each) => !isAt(each, remote, socket)),
    ].slice(0, K.CANDIDATES_MAX)
  }

  /**
   * When the peer last showed that it receives there; undefined when that is too long ago. `alone`: no path of the peer
   * works, so that a new proof would keep it waiting.
   */
  provenAt(peer: Peer, from: Endpoint, socket: number, alone: boolean, now: number): number | undefined {
    const path = peer.paths.find(
      (each) => each.usable && each.known === undefined && isAt(each, from, socket),
    )
    if (path !== undefined && (path.local || now - path.provenAt < K.PROOF_EXPIRY)) return now
    const known = peer.proven.find((each) => isAt(each, from, socket))
    if (known === undefined) return undefined
    const lasts = alone ? K.PROOF_EXPIRY : known.noted ? K.PROOF_LIFETIME : 0
    return now - known.at < lasts ? known.at : undefined
  }

  forget(peer: Peer, candidate: Candidate): void {
    peer.candidates = peer.candidates.filter((each) => each !== candidate)
  }

  #send(peer: Peer, candidate: Candidate, frames: readonly Frame[]): boolean {
    const { pathId, remote, socket } = candidate
    const body = encodeFrames(frames)
    if (!take(candidate, controlBytes(peer, body.length, remote))) return false
    return this.#transmit.controlTo(peer.index, pathId, remote, socket, body)
  }
}

/** Size of the outer IP packet of a control payload. */
function controlBytes(peer: Peer, length: number, to: Endpoint): number {
  const outer = outerOverhead(to.address.length)
  if (peer.godwit) return length + MULTIPATH_OVERHEAD + outer
  return Math.ceil((length + 2) / 16) * 16 + TRANSPORT.payload + TRANSPORT.tag + outer
}

function take(candidate: Candidate, bytes: number): boolean {
  if (candidate.sent + bytes > K.UNPROVEN_FACTOR * candidate.received) return false
  candidate.sent += bytes
  return true
}

function isAt(
  at: { readonly remote: Endpoint; readonly socket: number },
  from: Endpoint,
  socket: number,
): boolean {
  return at.socket === socket && sameEndpoint(at.remote, from)
}

/** Signalling of an anchor as mechanism frames: reads what hosts ask, has it carried out, answers. */

import type { TunnelCommands } from '../../tunnel/protocol/api.ts'
import { encodeFrames } from '../../tunnel/protocol/control.ts'
import { decode, encode, FrameType, type Signal, Status } from '../wire.ts'
import type { AnchorRequests } from './api.ts'

export class FrameAnswers {
  readonly #tunnel: TunnelCommands
  readonly #requests: AnchorRequests

  constructor(tunnel: TunnelCommands, requests: AnchorRequests) {
    this.#tunnel = tunnel
    this.#requests = requests
  }

  /** A mechanism frame of `host` came on `slot` in the datagram with this counter; answered on the same path. */
  handleFrame(
    host: number,
    code: number,
    body: Uint8Array,
    slot: number,
    counter: number,
    now: number,
  ): void {
    const signal = decode(code, body)
    const answer = signal.ok ? this.#answerTo(host, signal.value, counter, now) : undefined
    if (answer === undefined) return
    const frames = encodeFrames([{ type: 'mechanism', code: answer.type, body: encode(answer) }])
    if (!this.#tunnel.sendFrames(host, frames, slot, now) && slot >= 0)
      this.#tunnel.sendFrames(host, frames, -1, now)
  }

  #answerTo(host: number, signal: Signal, counter: number, now: number): Signal | undefined {
    const { transaction } = signal
    switch (signal.type) {
      case FrameType.ASSOCIATION_REQUEST: {
        const given = this.#requests.associate(host)
        return {
          type: FrameType.ASSOCIATION_RESPONSE,
          transaction,
          ...(typeof given === 'number'
            ? { status: given, v4: new Uint8Array(4), v6: new Uint8Array(16) }
            : { status: Status.OK, ...given }),
        }
      }
      case FrameType.HANDOVER_REQUEST: {
        const { unTid, group, flows } = signal
        const count = this.#requests.handOver(host, unTid, group, flows, counter, now)
        return {
          type: FrameType.HANDOVER_RESPONSE,
          transaction,
          status: count === undefined ? Status.UNKNOWN : Status.OK,
          count: Math.min(count ?? 0, 0xffff),
        }
      }
      case FrameType.SET_MODE_REQUEST: {
        const count = this.#requests.setMode(host, signal.static, signal.flows)
        return { type: FrameType.SET_MODE_RESPONSE, transaction, status: Status.OK, count }
      }
      case FrameType.TALLY_REQUEST:
        return { type: FrameType.TALLY_RESPONSE, transaction, ...this.#requests.tally(host) }
      default:
        return undefined
    }
  }
}

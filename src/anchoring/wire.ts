/**
 * Mechanism frames of anchoring: types 64–79 of the tunnel's control frames (docs/wire/anchoring.md). The tunnel
 * carries, encrypts and authenticates them; this file is the body of each, without the tunnel's type and length.
 * Integers are big-endian.
 *
 * Requests carry a transaction number that the response repeats; they are sent again until answered.
 */
import { type Decoded, decoded, malformed } from '../core/result.ts'
import type { FlowTuple } from './tables/flow-key.ts'

export const FrameType = {
  ASSOCIATION_REQUEST: 64,
  ASSOCIATION_RESPONSE: 65,
  HANDOVER_REQUEST: 66,
  HANDOVER_RESPONSE: 67,
  SET_MODE_REQUEST: 68,
  SET_MODE_RESPONSE: 69,
  TALLY_REQUEST: 70,
  TALLY_RESPONSE: 71,
} as const

export const VERSION = 1

/** Why a request was refused; 0 is success. */
export const Status = {
  OK: 0,
  OVERLOAD: 1,
  BAD_USER: 2,
  EXPIRED: 3,
  UNKNOWN: 4,
  UNSUPPORTED: 5,
  USED: 6,
  REMOVED: 7,
} as const
export type Status = (typeof Status)[keyof typeof Status]

/** Text of a refusal, for the user of the host. */
export function statusText(status: number): string {
  switch (status) {
    case Status.OK:
      return 'ok'
    case Status.OVERLOAD:
      return 'the anchor has no free address for this host'
    case Status.BAD_USER:
      return 'the anchor does not accept this host'
    case Status.EXPIRED:
      return 'the invitation has expired'
    case Status.UNKNOWN:
      return 'unknown'
    case Status.UNSUPPORTED:
      return 'the anchor does not support this version'
    case Status.USED:
      return 'the invitation has been used already'
    case Status.REMOVED:
      return 'the anchor has removed this host'
    default:
      return `status ${status}`
  }
}

export type Signal =
  | { readonly type: typeof FrameType.ASSOCIATION_REQUEST; readonly transaction: number }
  | {
      readonly type: typeof FrameType.ASSOCIATION_RESPONSE
      readonly transaction: number
      readonly status: number
      readonly v4: Uint8Array
      readonly v6: Uint8Array
    }
  | {
      readonly type: typeof FrameType.HANDOVER_REQUEST
      readonly transaction: number
      /** The tunnel to move to, as both ends call it. */
      readonly unTid: number
      /**
       * What the host moves together: 0 is everything without a group of its own, `all` everything including later flows.
       */
      readonly group: number | 'all'
      /** Flows that belong to the group from now on. */
      readonly flows: readonly FlowTuple[]
    }
  | {
      readonly type: typeof FrameType.HANDOVER_RESPONSE | typeof FrameType.SET_MODE_RESPONSE
      readonly transaction: number
      readonly status: number
      /** Rows that were changed. */
      readonly count: number
    }
  | {
      readonly type: typeof FrameType.SET_MODE_REQUEST
      readonly transaction: number
      readonly static: boolean
      readonly flows: readonly FlowTuple[]
    }
  | { readonly type: typeof FrameType.TALLY_REQUEST; readonly transaction: number }
  | {
      readonly type: typeof FrameType.TALLY_RESPONSE
      readonly transaction: number
      /** Data datagrams that the responder has sent to the requester, and received from it; modulo 2^32. */
      readonly sent: number
      readonly received: number
    }

const EVERYTHING = 0xffff
/** Groups that a host may name. */
export const MOST_GROUP_NUMBERS = 4096

/** Flows that fit a control payload of 1,200 bytes even if all are IPv6. */
export const MOST_FLOWS = 30
const ADDRESS4 = 4
const ADDRESS6 = 16

export function byteLength(signal: Signal): number {
  switch (signal.type) {
    case FrameType.ASSOCIATION_REQUEST:
      return 5
    case FrameType.TALLY_REQUEST:
      return 4
    case FrameType.TALLY_RESPONSE:
      return 12
    case FrameType.ASSOCIATION_RESPONSE:
      return 5 + ADDRESS4 + ADDRESS6
    case FrameType.HANDOVER_REQUEST:
      return 7 + flowsLength(signal.flows)
    case FrameType.SET_MODE_REQUEST:
      return 5 + flowsLength(signal.flows)
    case FrameType.HANDOVER_RESPONSE:
    case FrameType.SET_MODE_RESPONSE:
      return 7
  }
}

/** The body of the frame, a new array. */
export function encode(signal: Signal): Uint8Array {
  const out = new Uint8Array(byteLength(signal))
  const view = new DataView(out.buffer)
  view.setUint32(0, signal.transaction)
  switch (signal.type) {
    case FrameType.ASSOCIATION_REQUEST:
      out[4] = VERSION
      break
    case FrameType.ASSOCIATION_RESPONSE:
      out[4] = signal.status
      out.set(signal.v4, 5)
      out.set(signal.v6, 5 + ADDRESS4)
      break
    case FrameType.HANDOVER_REQUEST:
      out[4] = signal.unTid
      view.setUint16(5, signal.group === 'all' ? EVERYTHING : signal.group)
      putFlows(out, view, 7, signal.flows)
      break
    case FrameType.SET_MODE_REQUEST:
      out[4] = signal.static ? 1 : 0
      putFlows(out, view, 5, signal.flows)
      break
    case FrameType.HANDOVER_RESPONSE:
    case FrameType.SET_MODE_RESPONSE:
      out[4] = signal.status
      view.setUint16(5, signal.count)
      break
    case FrameType.TALLY_REQUEST:
      break
    case FrameType.TALLY_RESPONSE:
      view.setUint32(4, signal.sent)
      view.setUint32(8, signal.received)
      break
  }
  return out
}

/** Never throws; trailing bytes are ignored, so that later versions can add to a body. */
export function decode(type: number, body: Uint8Array): Decoded<Signal> {
  const view = new DataView(body.buffer, body.byteOffset, body.length)
  if (body.length < 4) return malformed('shorter than its transaction number')
  const transaction = view.getUint32(0)
  switch (type) {
    case FrameType.ASSOCIATION_REQUEST:
      if (body.length < 5) return malformed('association request cut short')
      if (body[4] !== VERSION) return malformed(`association request of version ${body[4]}`)
      return decoded({ type, transaction })
    case FrameType.ASSOCIATION_RESPONSE:
      if (body.length < 5 + ADDRESS4 + ADDRESS6) return malformed('association response cut short')
      return decoded({
        type,
        transaction,
        status: body[4]!,
        v4: body.slice(5, 5 + ADDRESS4),
        v6: body.slice(5 + ADDRESS4, 5 + ADDRESS4 + ADDRESS6),
      })
    case FrameType.HANDOVER_REQUEST: {
      if (body.length < 7) return malformed('handover request cut short')
      const number = view.getUint16(5)
      if (number !== EVERYTHING && number >= MOST_GROUP_NUMBERS) return malformed(`group ${number}`)
      const flows = getFlows(body, view, 7)
      if (typeof flows === 'string') return malformed(flows)
      const group = number === EVERYTHING ? 'all' : number
      return decoded({ type, transaction, unTid: body[4]!, group, flows })
    }
    case FrameType.SET_MODE_REQUEST: {
      if (body.length < 5) return malformed('set-handover-mode request cut short')
      const flows = getFlows(body, view, 5)
      return typeof flows === 'string'
        ? malformed(flows)
        : decoded({ type, transaction, static: body[4] === 1, flows })
    }
    case FrameType.HANDOVER_RESPONSE:
    case FrameType.SET_MODE_RESPONSE:
      if (body.length < 7) return malformed('response cut short')
      return decoded({ type, transaction, status: body[4]!, count: view.getUint16(5) })
    case FrameType.TALLY_REQUEST:
      return decoded({ type, transaction })
    case FrameType.TALLY_RESPONSE:
      if (body.length < 12) return malformed('tally cut short')
      return decoded({ type, transaction, sent: view.getUint32(4), received: view.getUint32(8) })
    default:
      return malformed(`unknown frame type ${type}`)
  }
}

/*
 * Flows: count (u8), then each: IP version (u8), protocol (u8), local port (u16), remote port (u16), local address,
 * remote address (4 or 16 bytes each). Local is the mobile host: its VIpA.
 */
function flowsLength(flows: readonly FlowTuple[]): number {
  let length = 1
  for (const flow of flows) length += 6 + 2 * flow.local.length
  return length
}

function putFlows(out: Uint8Array, view: DataView, start: number, flows: readonly FlowTuple[]): void {
  if (flows.length > MOST_FLOWS) throw new RangeError(`more than ${MOST_FLOWS} flows in one frame`)
  let at = start
  out[at++] = flows.length
  for (const flow of flows) {
    out[at] = flow.local.length === 4 ? 4 : 6
    out[at + 1] = flow.protocol
    view.setUint16(at + 2, flow.localPort)
    view.setUint16(at + 4, flow.remotePort)
    out.set(flow.local, at + 6)
    out.set(flow.remote, at + 6 + flow.local.length)
    at += 6 + 2 * flow.local.length
  }
}

function getFlows(body: Uint8Array, view: DataView, start: number): FlowTuple[] | string {
  if (start >= body.length) return 'flow list cut short'
  const flows: FlowTuple[] = []
  const count = body[start]!
  let at = start + 1
  for (let i = 0; i < count; i++) {
    if (at + 6 > body.length) return 'flow list cut short'
    const version = body[at]
    if (version !== 4 && version !== 6) return `flow of IP version ${version}`
    const bytes = version === 4 ? ADDRESS4 : ADDRESS6
    if (at + 6 + 2 * bytes > body.length) return 'flow list cut short'
    flows.push({
      protocol: body[at + 1]!,
      localPort: view.getUint16(at + 2),
      remotePort: view.getUint16(at + 4),
      local: body.slice(at + 6, at + 6 + bytes),
      remote: body.slice(at + 6 + bytes, at + 6 + 2 * bytes),
    })
    at += 6 + 2 * bytes
  }
  return flows
}

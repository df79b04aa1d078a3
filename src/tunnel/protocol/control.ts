/**
 * Control frames: what godwits tell each other inside a session (docs/wire/tunnel.md). A control payload is
 *
 *   flags = 1 (u8) · path id (u8) · frame … frame
 *   frame: type (u8) · length (u16) · body (length bytes)
 *
 * The two leading bytes are the inner header of message 32 and belong to the datapath; these codecs begin after them.
 * Integers in bodies are big-endian. A body longer than known is from a later version: the rest is ignored.
 */
import { type Codec, encoded } from '../../core/codec.ts'
import { decoded, malformed } from '../../core/result.ts'
import type { Endpoint } from '../seam.ts'

export const CONTROL_VERSION = 1

/** Bits of HELLO's features. */
export const Feature = {
  /** Opens and seals message 32 with AES-256-GCM. */
  multipathAes: 1,
  /** Folds marks of outer packets into inner ones (RFC 6040 §4.2): outer packets may be ECN-capable. */
  ecn: 2,
} as const

export const FrameType = {
  hello: 1,
  pathAnnounce: 2,
  pathAccept: 3,
  probe: 4,
  echo: 5,
  pathClose: 6,
  pathClosed: 7,
  mtuProbe: 8,
  mtuAck: 9,
  keyReplace: 10,
  keyReplaced: 11,
  pathChallenge: 12,
  pathResponse: 13,
  sessionEnd: 14,
} as const

/** Frames from here on belong to the mechanism. */
export const FIRST_MECHANISM_FRAME = 64

/** Body lengths in bytes; mtuProbe's is the least. */
const BODY = {
  hello: 11,
  pathAnnounce: 7,
  pathAccept: 24,
  probe: 21,
  echo: 29,
  pathClose: 14,
  pathClosed: 5,
  mtu: 3,
  key: 32,
  token: 9,
} as const

/** Bytes of the token that PATH_CHALLENGE carries. */
export const TOKEN_LENGTH = 8

const HEADER = 3

export type Frame =
  | {
      readonly type: 'hello'
      readonly version: number
      readonly features: number
      readonly mtu: number
      /** Drawn at start: shows that a peer has restarted. */
      readonly instance: number
    }
  | {
      readonly type: 'path-announce'
      readonly pathId: number
      readonly generation: number
      readonly mtu: number
    }
  | {
      readonly type: 'path-accept'
      readonly pathId: number
      readonly generation: number
      /** The source of the announcement as it arrived. */
      readonly observed: Endpoint
    }
  | ({ readonly type: 'probe' } & ProbeBody)
  | ({
      readonly type: 'echo'
      /** When the probe arrived, by the clock of the sender of this frame, µs, wraps; -1: not given. */
      readonly arrivedAt: number
      /** Bytes of datagrams received on the path so far, wraps; -1: not given. */
      readonly receivedBytes: number
    } & ProbeBody)
  | {
      readonly type: 'path-close'
      readonly pathId: number
      readonly generation: number
      readonly reason: number
      /** Greatest counter that arrived on the path; -1 for none. */
      readonly highestCounter: number
    }
  | { readonly type: 'path-closed'; readonly pathId: number; readonly generation: number }
  /** `size`: the outer IP packet's; padded to it by `encodeMtuProbe`. */
  | { readonly type: 'mtu-probe' | 'mtu-ack'; readonly pathId: number; readonly size: number }
  | { readonly type: 'key-replace' | 'key-replaced'; readonly publicKey: Uint8Array }
  /** `token`: TOKEN_LENGTH bytes, sent to one address; returning them proves that the peer receives there. */
  | { readonly type: 'path-challenge' | 'path-response'; readonly pathId: number; readonly token: Uint8Array }
  /** The process ends, and with it the session that this comes in. */
  | { readonly type: 'session-end' }
  | { readonly type: 'mechanism'; readonly code: number; readonly body: Uint8Array }

interface ProbeBody {
  readonly pathId: number
  readonly sequence: number
  /** The prober's clock, µs, wraps. */
  readonly time: number
  /** Datagrams the sender of this frame has received on the path so far, wraps. */
  readonly received: number
  /** Greatest counter it has received on the path; -1 for none. */
  readonly highestCounter: number
}

/**
 * The frames of a control payload, in order; decoding leaves unknown types below 64 out. Counters above 2^53 are not
 * expected (a session ends long before) and read as none.
 */
export const controlCodec: Codec<readonly Frame[]> = {
  decode(bytes, at = 0, end = bytes.length) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    const frames: Frame[] = []
    let next = at
    // Type 0 is padding, of message 4: nothing comes behind it.
    while (next < end && bytes[next] !== 0) {
      if (end - next < HEADER) return malformed('frame header cut short')
      const code = bytes[next]!
      const length = view.getUint16(next + 1)
      next += HEADER
      if (end - next < length) return malformed(`frame ${code} cut short`)
      const frame = decodeFrame(code, bytes, view, next, length)
      if (frame === 'short') return malformed(`body of frame ${code} has only ${length} bytes`)
      if (frame === 'bad') return malformed(`body of frame ${code} makes no sense`)
      if (frame !== 'unknown') frames.push(frame)
      next += length
    }
    return decoded(frames)
  },

  encode(frames, out, at = 0) {
    if (at + controlCodec.byteLength(frames) > out.length) throw new RangeError('no room for the frames')
    const view = new DataView(out.buffer, out.byteOffset, out.length)
    let next = at
    for (const frame of frames) next = encodeFrame(out, view, next, frame)
    return next
  },

  byteLength(frames) {
    let length = 0
    for (const frame of frames) length += HEADER + bodyLength(frame)
    return length
  },
}

export function encodeFrames(frames: readonly Frame[]): Uint8Array {
  return encoded(controlCodec, frames)
}

/** An MTU_PROBE whose payload is `payloadLength` bytes with its header; at least 6. */
export function encodeMtuProbe(pathId: number, size: number, payloadLength: number): Uint8Array {
  const out = new Uint8Array(Math.max(payloadLength, HEADER + BODY.mtu))
  const view = new DataView(out.buffer)
  out[0] = FrameType.mtuProbe
  view.setUint16(1, out.length - HEADER)
  out[3] = pathId
  view.setUint16(4, size)
  return out
}

function bodyLength(frame: Frame): number {
  switch (frame.type) {
    case 'hello':
      return BODY.hello
    case 'path-announce':
      return BODY.pathAnnounce
    case 'path-accept':
      return BODY.pathAccept
    case 'probe':
      return BODY.probe
    case 'echo':
      return BODY.echo
    case 'path-close':
      return BODY.pathClose
    case 'path-closed':
      return BODY.pathClosed
    case 'mtu-probe':
    case 'mtu-ack':
      return BODY.mtu
    case 'key-replace':
    case 'key-replaced':
      return BODY.key
    case 'path-challenge':
    case 'path-response':
      return BODY.token
    case 'session-end':
      return 0
    case 'mechanism':
      return frame.body.length
  }
}

const CODE: Record<Exclude<Frame['type'], 'mechanism'>, number> = {
  hello: FrameType.hello,
  'path-announce': FrameType.pathAnnounce,
  'path-accept': FrameType.pathAccept,
  probe: FrameType.probe,
  echo: FrameType.echo,
  'path-close': FrameType.pathClose,
  'path-closed': FrameType.pathClosed,
  'mtu-probe': FrameType.mtuProbe,
  'mtu-ack': FrameType.mtuAck,
  'key-replace': FrameType.keyReplace,
  'key-replaced': FrameType.keyReplaced,
  'path-challenge': FrameType.pathChallenge,
  'path-response': FrameType.pathResponse,
  'session-end': FrameType.sessionEnd,
}

function encodeFrame(out: Uint8Array, view: DataView, start: number, frame: Frame): number {
  const length = bodyLength(frame)
  out[start] = frame.type === 'mechanism' ? frame.code : CODE[frame.type]
  view.setUint16(start + 1, length)
  const at = start + HEADER
  switch (frame.type) {
    case 'hello':
      out[at] = frame.version
      view.setUint32(at + 1, frame.features)
      view.setUint16(at + 5, frame.mtu)
      view.setUint32(at + 7, frame.instance)
      break
    case 'path-announce':
      out[at] = frame.pathId
      view.setUint32(at + 1, frame.generation)
      view.setUint16(at + 5, frame.mtu)
      break
    case 'path-accept':
      out[at] = frame.pathId
      view.setUint32(at + 1, frame.generation)
      out[at + 5] = frame.observed.address.length === 4 ? 4 : 6
      out.fill(0, at + 6, at + 22)
      out.set(frame.observed.address, at + 6)
      view.setUint16(at + 22, frame.observed.port)
      break
    case 'probe':
    case 'echo':
      out[at] = frame.pathId
      view.setUint32(at + 1, frame.sequence)
      view.setUint32(at + 5, frame.time)
      view.setUint32(at + 9, frame.received)
      writeCounter(view, at + 13, frame.highestCounter)
      if (frame.type === 'probe') break
      view.setUint32(at + 21, frame.arrivedAt)
      view.setUint32(at + 25, frame.receivedBytes)
      break
    case 'path-close':
      out[at] = frame.pathId
      view.setUint32(at + 1, frame.generation)
      out[at + 5] = frame.reason
      writeCounter(view, at + 6, frame.highestCounter)
      break
    case 'path-closed':
      out[at] = frame.pathId
      view.setUint32(at + 1, frame.generation)
      break
    case 'mtu-probe':
    case 'mtu-ack':
      out[at] = frame.pathId
      view.setUint16(at + 1, frame.size)
      break
    case 'key-replace':
    case 'key-replaced':
      out.set(frame.publicKey, at)
      break
    case 'path-challenge':
    case 'path-response':
      out[at] = frame.pathId
      out.set(frame.token, at + 1)
      break
    case 'session-end':
      break
    case 'mechanism':
      out.set(frame.body, at)
      break
  }
  return at + length
}

function decodeFrame(
  code: number,
  bytes: Uint8Array,
  view: DataView,
  at: number,
  length: number,
): Frame | 'short' | 'bad' | 'unknown' {
  if (code >= FIRST_MECHANISM_FRAME) return { type: 'mechanism', code, body: bytes.slice(at, at + length) }
  switch (code) {
    case FrameType.hello:
      if (length < BODY.hello) return 'short'
      return {
        type: 'hello',
        version: bytes[at]!,
        features: view.getUint32(at + 1),
        mtu: view.getUint16(at + 5),
        instance: view.getUint32(at + 7),
      }
    case FrameType.pathAnnounce:
      if (length < BODY.pathAnnounce) return 'short'
      return {
        type: 'path-announce',
        pathId: bytes[at]!,
        generation: view.getUint32(at + 1),
        mtu: view.getUint16(at + 5),
      }
    case FrameType.pathAccept: {
      if (length < BODY.pathAccept) return 'short'
      const family = bytes[at + 5]!
      if (family !== 4 && family !== 6) return 'bad'
      return {
        type: 'path-accept',
        pathId: bytes[at]!,
        generation: view.getUint32(at + 1),
        observed: {
          address: bytes.slice(at + 6, at + 6 + (family === 4 ? 4 : 16)),
          port: view.getUint16(at + 22),
        },
      }
    }
    case FrameType.probe:
    case FrameType.echo: {
      if (length < BODY.probe) return 'short'
      const body = {
        pathId: bytes[at]!,
        sequence: view.getUint32(at + 1),
        time: view.getUint32(at + 5),
        received: view.getUint32(at + 9),
        highestCounter: readCounter(view, at + 13),
      }
      if (code === FrameType.probe) return { type: 'probe', ...body }
      const whole = length >= BODY.echo
      return {
        type: 'echo',
        ...body,
        arrivedAt: whole ? view.getUint32(at + 21) : -1,
        receivedBytes: whole ? view.getUint32(at + 25) : -1,
      }
    }
    case FrameType.pathClose:
      if (length < BODY.pathClose) return 'short'
      return {
        type: 'path-close',
        pathId: bytes[at]!,
        generation: view.getUint32(at + 1),
        reason: bytes[at + 5]!,
        highestCounter: readCounter(view, at + 6),
      }
    case FrameType.pathClosed:
      if (length < BODY.pathClosed) return 'short'
      return { type: 'path-closed', pathId: bytes[at]!, generation: view.getUint32(at + 1) }
    case FrameType.mtuProbe:
    case FrameType.mtuAck:
      if (length < BODY.mtu) return 'short'
      return {
        type: code === FrameType.mtuProbe ? 'mtu-probe' : 'mtu-ack',
        pathId: bytes[at]!,
        size: view.getUint16(at + 1),
      }
    case FrameType.keyReplace:
    case FrameType.keyReplaced:
      if (length < BODY.key) return 'short'
      return {
        type: code === FrameType.keyReplace ? 'key-replace' : 'key-replaced',
        publicKey: bytes.slice(at, at + BODY.key),
      }
    case FrameType.pathChallenge:
    case FrameType.pathResponse:
      if (length < BODY.token) return 'short'
      return {
        type: code === FrameType.pathChallenge ? 'path-challenge' : 'path-response',
        pathId: bytes[at]!,
        token: bytes.slice(at + 1, at + BODY.token),
      }
    case FrameType.sessionEnd:
      return { type: 'session-end' }
    default:
      return 'unknown'
  }
}

const NO_COUNTER = 0xffffffff

/** All ones mean "none" (-1). */
function writeCounter(view: DataView, at: number, counter: number): void {
  view.setUint32(at, counter < 0 ? NO_COUNTER : Math.floor(counter / 2 ** 32))
  view.setUint32(at + 4, counter < 0 ? NO_COUNTER : counter >>> 0)
}

/** Counters beyond 2^53 cannot be exact and are read as none. */
function readCounter(view: DataView, at: number): number {
  const counter = view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4)
  return Number.isSafeInteger(counter) ? counter : -1
}

/**
 * Tests whether an anchor can be reached, without a daemon: one WireGuard handshake from a socket of its own, one path
 * proven like any other, one request for an address, and the largest packet that passes. `godwit join` learns from it
 * that an invitation is void; `godwit ping` and `doctor` test each access with it.
 *
 * It uses the host's own key, so the anchor proves its identity and nobody else learns anything. Do not call it while a
 * daemon runs with that key: the anchor would take it for a restart of that host.
 */
import { randomBytes, randomInt } from 'node:crypto'
import type { Socket } from 'node:dgram'
import type { Endpoint } from '../core/endpoint.ts'
import { nodeCrypto } from '../crypto/node-crypto.ts'
import { connectedUdp } from '../linux/bound-socket.ts'
import { controlCodec, encodeFrames, encodeMtuProbe, type Frame } from '../tunnel/protocol/control.ts'
import { addMacs } from '../tunnel/protocol/cookies.ts'
import {
  createInitiation,
  type HandshakeState,
  identity,
  openResponse,
  remoteKey,
  type TransportKeys,
} from '../tunnel/protocol/noise.ts'
import { TimestampSource } from '../tunnel/protocol/timestamp.ts'
import { MessageType, RESPONSE, readIndex } from '../tunnel/protocol/wire.ts'
import { decode, encode, FrameType, Status } from './wire.ts'

export interface Door {
  readonly privateKey: Uint8Array
  readonly publicKey: Uint8Array
  readonly presharedKey?: Uint8Array
  readonly remote: Endpoint
  /** SO_BINDTODEVICE; absent: as the routes say. */
  readonly device?: string
  /** SO_MARK, past the rules of a tunnel. */
  readonly mark?: number
  /** The newest wall time that a handshake was stamped with (ms). */
  readonly floor?: number
  /** A stock WireGuard server: it answers handshakes and nothing else. */
  readonly stock?: boolean
}

export type Knock =
  | {
      readonly kind: 'answered'
      /** Round trip of the handshake (ms). */
      readonly rttMs: number
      /** The anchor's status for this host (`Status`); undefined: none. */
      readonly status?: number
      /** Largest IP packet of those tried that came through; undefined: none was acknowledged. */
      readonly mtu?: number
    }
  /** Nothing came back in time. */
  | { readonly kind: 'silent' }
  /** This machine or a router reports that there is no route. */
  | { readonly kind: 'unreachable'; readonly reason: string }

const PATIENCE_MS = 3000
const RETRY_MS = 500
/** Sizes of IP packets that are tried. */
const SIZES = [1500, 1420, 1280, 1200, 1120, 1000, 576]
const MTU_PATIENCE_MS = 600
const PATH = 254
const NONE = new Uint8Array(0)
const HEADER = 16
const TAG = 16
/** Flags and path id before the frames. */
const INNER = 2

/** Resolves in a few seconds at the latest; never rejects for what the network does. `patience`: for the handshake (ms). */
export async function knock(door: Door, patience = PATIENCE_MS): Promise<Knock> {
  let visit: Visit | undefined
  try {
    visit = new Visit(door)
    return await visit.run(patience)
  } catch (error) {
    return { kind: 'unreachable', reason: (error as Error).message }
  } finally {
    visit?.close()
  }
}

class Visit {
  readonly #door: Door
  readonly #socket: Socket
  readonly #own
  readonly #remote
  readonly #timestamps: TimestampSource
  readonly #pending = new Map<number, HandshakeState>()
  #keys: TransportKeys | undefined
  #index = 0
  #counter = 0
  #sentAt = 0
  #rttMs = 0
  #failure: Error | undefined
  #status: number | undefined
  readonly #sizes = new Set<number>()
  /** Called after each datagram. */
  #heard: () => void = () => {}

  constructor(door: Door) {
    this.#door = door
    this.#own = identity(nodeCrypto, door.privateKey)
    const remote = remoteKey(nodeCrypto, this.#own, door.publicKey)
    if (remote === undefined) throw new Error('not a usable public key')
    this.#remote = remote
    this.#timestamps = new TimestampSource(door.floor ?? 0)
    const { device, mark } = door
    this.#socket = connectedUdp(door.remote, {
      wholeDatagrams: true,
      ...(device !== undefined && { device }),
      ...(mark !== undefined && { mark }),
    })
    this.#socket.on('error', (error) => this.#fail(error))
    this.#socket.on('message', (message) => {
      this.#receive(message)
      this.#heard()
    })
  }

  close(): void {
    if (this.#keys !== undefined && this.#door.stock !== true)
      this.#control([{ type: 'path-close', pathId: PATH, generation: 1, reason: 1, highestCounter: -1 }])
    this.#socket.close()
  }

  async run(patience: number): Promise<Knock> {
    // It fails at once where there is no route.
    await new Promise<void>((resolve) => {
      this.#socket.once('connect', () => resolve())
      this.#socket.once('error', () => resolve())
    })
    if (this.#failure !== undefined) return this.#unreachable(this.#failure)
    const greeted = await this.#until(
      patience,
      () => this.#initiate(),
      () => this.#keys !== undefined,
    )
    if (!greeted) return this.#failure === undefined ? { kind: 'silent' } : this.#unreachable(this.#failure)
    if (this.#door.stock === true) return { kind: 'answered', rttMs: this.#rttMs }
    const hello: Frame = { type: 'hello', version: 1, features: 0, mtu: 1420, instance: randomInt(2 ** 31) }
    const announce: Frame = { type: 'path-announce', pathId: PATH, generation: 1, mtu: SIZES[0]! }
    const request = { type: FrameType.ASSOCIATION_REQUEST, transaction: 1 } as const
    await this.#until(
      patience,
      () => {
        this.#control([hello, announce])
        // A mechanism's frame travels alone.
        this.#control([{ type: 'mechanism', code: request.type, body: encode(request) }])
      },
      () => this.#status !== undefined,
    )
    if (this.#status === Status.OK)
      await this.#until(
        MTU_PATIENCE_MS,
        () => this.#probeSizes(),
        () => this.#sizes.has(SIZES[0]!),
      )
    return {
      kind: 'answered',
      rttMs: this.#rttMs,
      ...(this.#status !== undefined && { status: this.#status }),
      ...(this.#sizes.size > 0 && { mtu: Math.max(...this.#sizes) }),
    }
  }

  /** Calls `act` now and every RETRY_MS until `holds`; false when that takes too long, or nothing can be sent. */
  async #until(patience: number, act: () => void, holds: () => boolean): Promise<boolean> {
    return await new Promise((resolve) => {
      const end = (): void => {
        clearInterval(again)
        clearTimeout(last)
        this.#heard = () => {}
        resolve(holds())
      }
      const again = setInterval(act, RETRY_MS)
      const last = setTimeout(end, patience)
      this.#heard = () => {
        if (holds() || this.#failure !== undefined) end()
      }
      act()
    })
  }

  #fail(error: Error): void {
    this.#failure = error
    // Sizes that do not fit the interface are no end.
    if ((error as NodeJS.ErrnoException).code === 'EMSGSIZE') this.#failure = undefined
    this.#heard()
  }

  #unreachable(error: Error): Knock {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ECONNREFUSED') return { kind: 'unreachable', reason: 'nothing listens on that port' }
    if (code !== 'ENETUNREACH' && code !== 'EHOSTUNREACH')
      return { kind: 'unreachable', reason: error.message }
    const family = this.#door.remote.address.length === 4 ? 'IPv4' : 'IPv6'
    return { kind: 'unreachable', reason: `there is no route to this ${family} address` }
  }

  #initiate(): void {
    const index = randomInt(2 ** 32)
    const stamp = this.#timestamps.next(Date.now())
    const made = createInitiation(nodeCrypto, this.#own, this.#remote, randomBytes(32), index, stamp)
    if (made === undefined) return
    addMacs(nodeCrypto, made.message, this.#remote.mac1Key, undefined, 0)
    this.#pending.set(index, made.state)
    this.#sentAt = performance.now()
    this.#send(made.message)
  }

  #receive(message: Buffer): void {
    if (
      message[0] === MessageType.response &&
      this.#keys === undefined &&
      message.length === RESPONSE_BYTES
    ) {
      const state = this.#pending.get(readIndex(message, RESPONSE.receiver))
      if (state === undefined) return
      const psk = this.#door.presharedKey ?? new Uint8Array(32)
      this.#keys = openResponse(nodeCrypto, state, this.#own, psk, message)
      if (this.#keys === undefined) return
      this.#rttMs = performance.now() - this.#sentAt
      this.#index = readIndex(message, RESPONSE.sender)
    } else if (message[0] === MessageType.transport && this.#keys !== undefined) this.#open(message)
  }

  #open(message: Buffer): void {
    if (message.length < HEADER + TAG) return
    const counter = Number(message.readBigUInt64LE(8))
    const plain = nodeCrypto.open(this.#keys!.receiveKey, counter, message.subarray(HEADER), NONE)
    if (plain === undefined || ((plain[0] ?? 0) & 1) === 0 || plain[0]! >> 4 !== 0) return
    const frames = controlCodec.decode(plain.subarray(INNER))
    for (const frame of frames.ok ? frames.value : []) this.#hear(frame)
  }

  #hear(frame: Frame): void {
    if (frame.type === 'path-challenge')
      this.#control([{ type: 'path-response', pathId: frame.pathId, token: frame.token }])
    else if (frame.type === 'mtu-ack') this.#sizes.add(frame.size)
    else if (frame.type === 'mechanism') {
      const signal = decode(frame.code, frame.body)
      if (signal.ok && signal.value.type === FrameType.ASSOCIATION_RESPONSE)
        this.#status = signal.value.status
    }
  }

  #probeSizes(): void {
    const outer = (this.#door.remote.address.length === 4 ? 20 : 40) + 8
    for (const size of SIZES) this.#seal(encodeMtuProbe(PATH, size, size - outer - HEADER - TAG - INNER))
  }

  #control(frames: readonly Frame[]): void {
    this.#seal(encodeFrames(frames))
  }

  #seal(body: Uint8Array): void {
    const header = Buffer.alloc(HEADER)
    header[0] = MessageType.transport
    header.writeUInt32LE(this.#index, 4)
    header.writeBigUInt64LE(BigInt(this.#counter), 8)
    const plain = Buffer.concat([Buffer.from([1, PATH]), body])
    this.#send(Buffer.concat([header, nodeCrypto.seal(this.#keys!.sendKey, this.#counter++, plain, NONE)]))
  }

  #send(bytes: Uint8Array): void {
    this.#socket.send(bytes, (error) => {
      if (error !== null) this.#fail(error)
    })
  }
}

const RESPONSE_BYTES = 92

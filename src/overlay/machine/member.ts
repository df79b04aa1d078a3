/**
 * A server that runs apart from the coordinator of its zone: its end of what site.ts describes. It registers once a second,
 * asks the coordinator, and answers what that asks. Sans-I/O; whoever drives it has the sockets.
 */
import type { Endpoint } from '../../core/endpoint.ts'
import { datagramCodec } from '../wire/datagram.ts'
import { type Message, ROLE_BITS, type ServerRole, Status, Type } from '../wire/message.ts'
import type { MachineComponents } from './api.ts'
import { Asker, type Way } from './asker.ts'

export interface MemberInit {
  readonly name: string
  /** 32 bytes, of this server and the coordinator. */
  readonly key: Uint8Array
  readonly roles: readonly ServerRole[]
  /** Of this start: 8 bytes; absent: it draws them. */
  readonly boot?: Uint8Array
}

export interface MemberParts extends MachineComponents {
  readonly send: (socket: number, to: Endpoint, bytes: Uint8Array) => void
  /** What the registration says beside name and roles. */
  readonly describe: () => Partial<Message>
  /** The coordinator has answered a registration; `isFresh`: for the first time since it, or this server, was started. */
  readonly onRegistered: (answer: Message, isFresh: boolean, now: number) => void
  /** It does not answer, or refuses; said once until it answers again. */
  readonly onLost: (reason: string, now: number) => void
  /** A request of the coordinator, which may be answered later; a repeated one does not come again. */
  readonly onRequest: (message: Message, answer: (fields: Partial<Message>) => void, now: number) => void
}

const REGISTER_MS = 1000
/** A registration that is not answered for so long has failed (ms). */
const REGISTRATION_MS = 3000
/** Requests of this server that wait for an answer. */
const MAX_REQUESTS = 4096
/** Answers that are remembered, to give them again. */
const MAX_ANSWERS = 8192
const ANSWER_MS = 30_000
const RESTARTED = 'this server was started several times in ten seconds and has to wait for them to end'
const RTT_SMOOTHING = 0.2
const NEVER = Number.POSITIVE_INFINITY

interface Remembered {
  readonly at: number
  answer: Message | undefined
}

export class Member {
  readonly #parts: MemberParts
  readonly #asker: Asker
  readonly #roles: number
  readonly #boot: Uint8Array
  /** Of the coordinator: by this its restart is known. */
  #coordinator: Uint8Array | undefined
  readonly #answers = new Map<number, Remembered>()
  #registerAt = NEVER
  #registering = false
  #isLost = false
  /** Round trip to the coordinator (µs); 0: not measured. */
  rtt = 0

  constructor(parts: MemberParts, { name, key, roles, boot }: MemberInit) {
    this.#parts = parts
    this.#roles = roles.reduce((bits, role) => bits | ROLE_BITS[role], 0)
    this.#boot = boot ?? parts.random.fill(new Uint8Array(8))
    this.#asker = new Asker({
      ...{ crypto: parts.crypto, random: parts.random, wall: parts.wall, key },
      ...{ identity: { type: 'server', name }, provenOnly: true, maxRequests: MAX_REQUESTS },
      send: (bytes, { socket, to }) => parts.send(socket, to, bytes),
      onMessage: (message, way, now) => this.#message(message, way, now),
      onOpened: () => {},
      onSilence: (now) => this.#lost('the coordinator does not answer', now),
    })
  }

  /** Where the coordinator answers, or is asked next. */
  get way(): Way | undefined {
    return this.#asker.way
  }

  /** Where the coordinator is, by this end's sockets; the preferred first. */
  setWays(ways: readonly Way[], now: number): void {
    this.#asker.setWays(ways, now)
    if (this.#registerAt === NEVER && !this.#registering) this.#register(now)
  }

  request(
    message: Omit<Message, 'transaction'>,
    ms: number,
    done: (answer: Message | undefined, now: number) => void,
    now: number,
  ): void {
    this.#asker.request(message, ms, (answer, _way, at) => done(answer, at), now)
  }

  handle(bytes: Uint8Array, from: Endpoint, socket: number, now: number): void {
    const datagram = datagramCodec.decode(bytes)
    if (!datagram.ok || !('index' in datagram.value)) return
    const { kind, index } = datagram.value
    if (this.#asker.owns(kind, index)) this.#asker.handle(datagram.value, { socket, to: from }, now)
  }

  /** It is not used any more: what waits for an answer gets none. */
  close(now: number): void {
    this.#asker.close(now)
  }

  /** Registers at once: something that it describes has changed. */
  refresh(now: number): void {
    if (!this.#registering) this.#register(now)
  }

  nextTimeout(): number | undefined {
    const at = Math.min(this.#registerAt, this.#asker.nextTimeout() ?? NEVER)
    return at === NEVER ? undefined : at
  }

  handleTimeout(now: number): void {
    if ((this.#asker.nextTimeout() ?? NEVER) <= now) this.#asker.handleTimeout(now)
    if (this.#registerAt <= now && !this.#registering) this.#register(now)
    for (const [transaction, { at }] of this.#answers) {
      if (at + ANSWER_MS > now) break
      this.#answers.delete(transaction)
    }
  }

  #register(now: number): void {
    this.#registering = true
    this.#registerAt = NEVER
    const began = now
    this.#asker.request(
      { type: Type.SERVER_REGISTRATION, roles: this.#roles, boot: this.#boot, ...this.#parts.describe() },
      REGISTRATION_MS,
      (answer, _way, at) => {
        this.#registering = false
        this.#registerAt = Math.max(began + REGISTER_MS, at + 1)
        this.#registered(answer, at - began, at)
      },
      now,
    )
  }

  #registered(answer: Message | undefined, ms: number, now: number): void {
    if (answer === undefined) {
      this.#lost('the coordinator does not answer', now)
      return
    }
    if (answer.status !== Status.DONE) {
      const isEarly = answer.status === Status.TOO_MANY
      this.#lost(isEarly ? RESTARTED : 'the coordinator refuses this server or its roles', now)
      return
    }
    // One that was repeated, or opened a session, took longer than a round trip: longer ones count little.
    const measured = Math.max(1, 1000 * ms)
    const isShorter = this.rtt === 0 || measured < this.rtt
    this.rtt = Math.round(isShorter ? measured : this.rtt + RTT_SMOOTHING * (measured - this.rtt))
    const { boot } = answer
    const isFresh =
      this.#isLost ||
      this.#coordinator === undefined ||
      !this.#coordinator.every((byte, i) => byte === boot?.[i])
    this.#coordinator = boot
    this.#isLost = false
    this.#parts.onRegistered(answer, isFresh, now)
  }

  #lost(reason: string, now: number): void {
    if (this.#isLost) return
    this.#isLost = true
    this.#parts.onLost(reason, now)
  }

  #message(message: Message, way: Way, now: number): void {
    if (message.type === Type.KEEP_ALIVE_ACK) return
    const { transaction } = message
    const known = this.#answers.get(transaction)
    if (known !== undefined) {
      if (known.answer !== undefined) this.#asker.tell(known.answer, way)
      return
    }
    const [oldest] = this.#answers.keys()
    if (oldest !== undefined && this.#answers.size >= MAX_ANSWERS) this.#answers.delete(oldest)
    const remembered: Remembered = { at: now, answer: undefined }
    this.#answers.set(transaction, remembered)
    const answer = (fields: Partial<Message>) => {
      remembered.answer = { status: Status.DONE, ...fields, type: (message.type + 1) as Type, transaction }
      this.#asker.tell(remembered.answer, way)
    }
    this.#parts.onRequest(message, answer, now)
  }
}

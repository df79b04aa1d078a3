/** A server apart and the coordinators of its zone over UDP: the sockets, timers and names around machine/members.ts. */
import { createSocket, type Socket } from 'node:dgram'
import { lookup } from 'node:dns/promises'
import { once } from 'node:events'
import { formatAddress, parseAddress } from '../../core/address.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { RealClock, realRandom } from '../../linux/clock.ts'
import { must } from '../../mechanism/schema.ts'
import type { Way } from '../machine/asker.ts'
import { Members } from '../machine/members.ts'
import { overlayCrypto } from '../node/crypto.ts'
import type { Message, ServerRole } from '../wire/message.ts'
import { keyOf, type MemberSettings } from './settings.ts'

export interface CoordinatorLinkParts {
  /** What the registration with a coordinator says beside name and roles. */
  readonly describe: (coordinator: string) => Partial<Message>
  /** A registration was answered; `isFresh`: that coordinator knows nothing of this process yet. */
  readonly onRegistered: (coordinator: string, answer: Message, isFresh: boolean) => void
  readonly onLost: (coordinator: string) => void
  readonly onRequest: (
    coordinator: string,
    message: Message,
    answer: (fields: Partial<Message>) => void,
  ) => void
  readonly log: (level: 'info' | 'warn', message: string) => void
}

/** While no coordinator answers, its name is looked up again each (ms). */
const LOOK_UP_MS = 30_000

export class CoordinatorLink {
  readonly #settings: MemberSettings
  readonly #parts: CoordinatorLinkParts
  readonly #clock = new RealClock()
  readonly #sockets: Socket[] = []
  #members: Members | undefined
  #timer: NodeJS.Timeout | undefined
  #lookUp: NodeJS.Timeout | undefined
  /** Coordinators that were logged as there. */
  readonly #there = new Set<string>()
  #begun: () => void = () => {}
  /** Resolves with the first registration that the coordinator has answered. */
  readonly registered: Promise<void>

  constructor(settings: MemberSettings, parts: CoordinatorLinkParts) {
    this.#settings = settings
    this.#parts = parts
    this.registered = new Promise((resolve) => {
      this.#begun = resolve
    })
  }

  async start(roles: readonly ServerRole[]): Promise<void> {
    this.#sockets.push(await this.#open('udp4', 0))
    // A machine without IPv6 has one.
    const six = await this.#open('udp6', 1).catch(() => undefined)
    if (six !== undefined) this.#sockets.push(six)
    const { name, server_key } = this.#settings
    const { describe, onRegistered, onLost, onRequest, log } = this.#parts
    this.#members = new Members(
      {
        ...{ crypto: overlayCrypto, random: realRandom, wall: () => this.#clock.wall(), describe },
        send: (socket, to, bytes) => this.#send(socket, to, bytes),
        socketFor: (address) => this.#socketFor(address),
        onRegistered: (coordinator, answer, isFresh) => {
          if (!this.#there.has(coordinator))
            log('info', `registered with the coordinator ${this.#textOf(coordinator)}`)
          this.#there.add(coordinator)
          clearInterval(this.#lookUp)
          this.#begun()
          onRegistered(coordinator, answer, isFresh)
        },
        onLost: (coordinator, reason) => {
          this.#there.delete(coordinator)
          const check = `is UDP to it open, and is ${name} in its \`godwit overlay server list\`?`
          log('warn', `${this.#textOf(coordinator)}: ${reason}; ${check}`)
          clearInterval(this.#lookUp)
          if (this.#there.size === 0) this.#lookUp = setInterval(() => void this.#setWays(), LOOK_UP_MS)
          onLost(coordinator)
        },
        onRequest: (coordinator, message, answer) =>
          onRequest(coordinator, message, (fields) => this.#do(() => answer(fields))),
      },
      { name, key: keyOf(server_key), roles },
    )
    this.#tellWays(this.#settings.coordinator.addresses.map((text) => must(parseAddress(text))))
  }

  /** Undefined: no coordinator has answered in time (ms, for each). One whose answer is not `good` has not the last word. */
  request(
    message: Omit<Message, 'transaction'>,
    ms: number,
    good?: (answer: Message) => boolean,
  ): Promise<Message | undefined> {
    return new Promise((resolve) => {
      const members = this.#members
      if (members === undefined) resolve(undefined)
      else this.#do((now) => members.request(message, ms, (answer) => resolve(answer), now, good))
    })
  }

  /** The same of one coordinator. */
  requestOf(
    coordinator: string,
    message: Omit<Message, 'transaction'>,
    ms: number,
  ): Promise<Message | undefined> {
    return new Promise((resolve) => {
      const members = this.#members
      if (members === undefined) resolve(undefined)
      else this.#do((now) => members.requestOf(coordinator, message, ms, (answer) => resolve(answer), now))
    })
  }

  /** Those that answer. */
  get coordinators(): readonly string[] {
    return this.#members?.coordinators ?? []
  }

  /** Round trip to a coordinator (µs); 0: not measured. */
  rttOf(coordinator: string): number {
    return this.#members?.rttOf(coordinator) ?? 0
  }

  async stop(): Promise<void> {
    clearTimeout(this.#timer)
    clearInterval(this.#lookUp)
    this.#members = undefined
    for (const socket of this.#sockets.splice(0)) {
      socket.close()
      await once(socket, 'close')
    }
  }

  #textOf(coordinator: string): string {
    const { host, port } = this.#settings.coordinator
    return coordinator === '' ? `${host} port ${port}` : coordinator
  }

  #socketFor({ length }: Uint8Array): number | undefined {
    const socket = length === 4 ? 0 : 1
    return this.#sockets[socket] === undefined ? undefined : socket
  }

  async #open(type: 'udp4' | 'udp6', index: number): Promise<Socket> {
    const socket = createSocket({ type, ...(type === 'udp6' && { ipv6Only: true }) })
    socket.on('message', (bytes, { address, port }) => {
      const from = parseAddress(address.replace(/%.*/, ''))
      const copy = new Uint8Array(bytes)
      if (from.ok) this.#do((now) => this.#members?.handle(copy, { address: from.value, port }, index, now))
    })
    const bound = once(socket, 'listening')
    socket.bind(0)
    try {
      await bound
    } catch (error) {
      socket.close()
      throw error
    }
    // What the network refuses is lost, as anywhere.
    socket.on('error', () => {})
    return socket
  }

  #send(socket: number, { address, port }: Endpoint, bytes: Uint8Array): void {
    this.#sockets[socket]?.send(bytes, port, formatAddress(address), () => {})
  }

  /** The addresses of its settings, and those that its name has now. */
  async #setWays(): Promise<void> {
    const { host, addresses } = this.#settings.coordinator
    const found = await lookup(host, { all: true }).catch(() => [])
    const texts = new Set([...found.map(({ address }) => address), ...addresses])
    this.#tellWays(
      [...texts].flatMap((text) => {
        const address = parseAddress(text)
        return address.ok ? [address.value] : []
      }),
    )
  }

  #tellWays(addresses: readonly Uint8Array[]): void {
    const { port } = this.#settings.coordinator
    const ways: Way[] = addresses.flatMap((address) => {
      const socket = this.#socketFor(address)
      return socket === undefined ? [] : [{ socket, to: { address, port } }]
    })
    this.#do((now) => this.#members?.setWays(ways, now))
  }

  /** Lets the machine do something, and looks when it is due next. */
  #do(action: (now: number) => void): void {
    try {
      action(this.#clock.now())
    } catch (error) {
      this.#parts.log('warn', `error in the link to the coordinator: ${(error as Error).stack}`)
    }
    clearTimeout(this.#timer)
    const due = this.#members?.nextTimeout()
    if (due === undefined) return
    const wait = Math.min(60_000, Math.max(1, due - this.#clock.now()))
    this.#timer = setTimeout(() => this.#do((now) => this.#members?.handleTimeout(now)), wait)
  }
}

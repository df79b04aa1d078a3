/** A server apart and its coordinator over UDP: the sockets, timers and names around machine/member.ts. */
import { createSocket, type Socket } from 'node:dgram'
import { lookup } from 'node:dns/promises'
import { once } from 'node:events'
import { formatAddress, parseAddress } from '../../core/address.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { RealClock, realRandom } from '../../linux/clock.ts'
import { must } from '../../mechanism/schema.ts'
import type { Way } from '../machine/asker.ts'
import { Member } from '../machine/member.ts'
import { overlayCrypto } from '../node/crypto.ts'
import type { Message, ServerRole } from '../wire/message.ts'
import { keyOf, type MemberSettings } from './settings.ts'

export interface CoordinatorLinkParts {
  /** What the registration says beside name and roles. */
  readonly describe: () => Partial<Message>
  /** A registration was answered; `isFresh`: the coordinator knows nothing of this process yet. */
  readonly onRegistered: (answer: Message, isFresh: boolean) => void
  readonly onRequest: (message: Message, answer: (fields: Partial<Message>) => void) => void
  readonly log: (level: 'info' | 'warn', message: string) => void
}

/** While the coordinator does not answer, its name is looked up again each (ms). */
const LOOK_UP_MS = 30_000

export class CoordinatorLink {
  readonly #settings: MemberSettings
  readonly #parts: CoordinatorLinkParts
  readonly #clock = new RealClock()
  readonly #sockets: Socket[] = []
  #member: Member | undefined
  #timer: NodeJS.Timeout | undefined
  #lookUp: NodeJS.Timeout | undefined
  #isThere = false
  #there: () => void = () => {}
  /** Resolves with the first registration that the coordinator has answered. */
  readonly registered: Promise<void>

  constructor(settings: MemberSettings, parts: CoordinatorLinkParts) {
    this.#settings = settings
    this.#parts = parts
    this.registered = new Promise((resolve) => {
      this.#there = resolve
    })
  }

  async start(roles: readonly ServerRole[]): Promise<void> {
    this.#sockets.push(await this.#open('udp4', 0))
    // A machine without IPv6 has one.
    const six = await this.#open('udp6', 1).catch(() => undefined)
    if (six !== undefined) this.#sockets.push(six)
    const { name, server_key } = this.#settings
    const { describe, onRegistered, onRequest, log } = this.#parts
    this.#member = new Member(
      {
        ...{ crypto: overlayCrypto, random: realRandom, wall: () => this.#clock.wall(), describe },
        send: (socket, to, bytes) => this.#send(socket, to, bytes),
        onRegistered: (answer, isFresh) => {
          if (!this.#isThere) log('info', `registered with the coordinator ${this.#coordinator}`)
          this.#isThere = true
          clearInterval(this.#lookUp)
          this.#there()
          onRegistered(answer, isFresh)
        },
        onLost: (reason) => {
          this.#isThere = false
          const check = `is UDP to it open, and is ${name} in its \`godwit overlay server list\`?`
          log('warn', `${this.#coordinator}: ${reason}; ${check}`)
          clearInterval(this.#lookUp)
          this.#lookUp = setInterval(() => void this.#setWays(), LOOK_UP_MS)
        },
        onRequest: (message, answer) => onRequest(message, (fields) => this.#do(() => answer(fields))),
      },
      { name, key: keyOf(server_key), roles },
    )
    this.#tellWays(this.#settings.coordinator.addresses.map((text) => must(parseAddress(text))))
  }

  /** Undefined: the coordinator did not answer in time (ms). */
  request(message: Omit<Message, 'transaction'>, ms: number): Promise<Message | undefined> {
    return new Promise((resolve) => {
      const member = this.#member
      if (member === undefined) resolve(undefined)
      else this.#do((now) => member.request(message, ms, (answer) => resolve(answer), now))
    })
  }

  /** Registers now: what `describe` says has changed. */
  refresh(): void {
    this.#do((now) => this.#member?.refresh(now))
  }

  /** Round trip to the coordinator (µs); 0: not measured. */
  get rtt(): number {
    return this.#member?.rtt ?? 0
  }

  async stop(): Promise<void> {
    clearTimeout(this.#timer)
    clearInterval(this.#lookUp)
    this.#member = undefined
    for (const socket of this.#sockets.splice(0)) {
      socket.close()
      await once(socket, 'close')
    }
  }

  get #coordinator(): string {
    const { host, port } = this.#settings.coordinator
    return `${host} port ${port}`
  }

  async #open(type: 'udp4' | 'udp6', index: number): Promise<Socket> {
    const socket = createSocket({ type, ...(type === 'udp6' && { ipv6Only: true }) })
    socket.on('message', (bytes, { address, port }) => {
      const from = parseAddress(address.replace(/%.*/, ''))
      const copy = new Uint8Array(bytes)
      if (from.ok) this.#do((now) => this.#member?.handle(copy, { address: from.value, port }, index, now))
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
      const socket = address.length === 4 ? 0 : 1
      return this.#sockets[socket] === undefined ? [] : [{ socket, to: { address, port } }]
    })
    this.#do((now) => this.#member?.setWays(ways, now))
  }

  /** Lets the member do something, and looks when it is due next. */
  #do(action: (now: number) => void): void {
    try {
      action(this.#clock.now())
    } catch (error) {
      this.#parts.log('warn', `error in the link to the coordinator: ${(error as Error).stack}`)
    }
    clearTimeout(this.#timer)
    const due = this.#member?.nextTimeout()
    if (due === undefined) return
    const wait = Math.min(60_000, Math.max(1, due - this.#clock.now()))
    this.#timer = setTimeout(() => this.#do((now) => this.#member?.handleTimeout(now)), wait)
  }
}

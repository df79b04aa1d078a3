/** The UDP sockets of IHMP, one for each own address: what arrives says by its socket at which address. */
import { createSocket, type Socket } from 'node:dgram'
import { inNamespace } from '../linux/netns.ts'
import { familyOf, type Ip, isLinkLocal6, type Pair } from './tables.ts'

/** An address that cannot be bound yet is tried again after this. */
const BIND_AGAIN_MS = 200

interface Link {
  readonly socket: Socket
  ready: boolean
  /** Could not be bound, and is closed; another takes its place soon. */
  failed: boolean
  /** What to send when it is. */
  readonly waiting: (() => void)[]
}

export interface LinksInit {
  readonly port: number
  readonly netns: string | undefined
  /** Called after a datagram has arrived; the bytes are the callee's. */
  readonly message: (bytes: Uint8Array, pair: Pair, port: number) => void
  readonly log: (level: 'warn' | 'debug', text: string) => void
}

export class IhmpLinks {
  readonly #init: LinksInit
  readonly #links = new Map<Ip, Link>()
  /** Addresses at which another program has the port. */
  readonly #taken = new Set<Ip>()

  constructor(init: LinksInit) {
    this.#init = init
  }

  /** Opens sockets for these addresses (with their devices) and closes all others. */
  set(own: ReadonlyMap<Ip, string>): void {
    for (const [ip, link] of this.#links) {
      if (own.has(ip)) continue
      this.#links.delete(ip)
      this.#taken.delete(ip)
      if (!link.failed) link.socket.close()
    }
    for (const [ip, device] of own) if (!this.#links.has(ip)) this.#open(ip, device)
  }

  close(): void {
    this.set(new Map())
  }

  /** Nothing is sent from an address that is not there. */
  send(bytes: Uint8Array, pair: Pair, port: number): void {
    const link = this.#links.get(pair.local)
    if (link === undefined) return
    const send = (): void =>
      link.socket.send(bytes, port === 0 ? this.#init.port : port, pair.foreign, (error) => {
        if (error) this.#init.log('debug', `IHMP to ${pair.foreign}: ${error.message}`)
      })
    if (link.ready) send()
    else link.waiting.push(send)
  }

  #open(ip: Ip, device: string): void {
    const socket = inNamespace(this.#init.netns, () =>
      createSocket({ type: familyOf(ip) === 4 ? 'udp4' : 'udp6', reuseAddr: false }),
    )
    const link: Link = { socket, ready: false, failed: false, waiting: [] }
    this.#links.set(ip, link)
    socket.on('error', (error) => {
      if (this.#links.get(ip) !== link) return
      this.#init.log('debug', `IHMP at ${ip}: ${error.message}`)
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE' && !this.#taken.has(ip)) {
        this.#taken.add(ip)
        const mend = 'stop it, or set [dime] port on all hosts'
        const what = `another program has UDP port ${this.#init.port} at ${ip}: nothing moves there`
        this.#init.log('warn', `${what}; ${mend}`)
      }
      if (link.ready || link.failed) return
      link.failed = true
      socket.close()
      setTimeout(() => {
        if (this.#links.get(ip) === link) this.#open(ip, device)
      }, BIND_AGAIN_MS).unref()
    })
    socket.on('message', (bytes, from) => {
      if (this.#links.get(ip) !== link) return
      const pair = { local: ip, foreign: from.address.replace(/%.*/, '') }
      this.#init.message(Uint8Array.from(bytes), pair, from.port)
    })
    const address = isLinkLocal6(ip) ? `${ip}%${device}` : ip
    socket.bind({ port: this.#init.port, address, exclusive: true }, () => {
      link.ready = true
      this.#taken.delete(ip)
      for (const send of link.waiting.splice(0)) send()
    })
  }
}

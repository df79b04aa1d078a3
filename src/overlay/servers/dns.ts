/** The coordinator's name server: UDP and TCP (RFC 7766) around zone.ts. */
import { createSocket, type Socket as UdpSocket } from 'node:dgram'
import { createServer, type Server, type Socket } from 'node:net'
import { GodwitError } from '../../core/errors.ts'
import { FairRate } from '../../core/fair-rate.ts'
import { sourceOf } from '../../core/source.ts'
import { TokenBucket } from '../../core/token-bucket.ts'
import { Connections, type SourceLimits } from './sources.ts'
import { answerQuery, cutAnswer, MAX_QUERY, type ZoneData } from './zone.ts'

const LIMITS: SourceLimits = { connections: 200, ofSource: 16, rate: 5, burst: 40, longestMs: 30_000 }
const IDLE_MS = 5_000
/** Queries beyond over UDP are answered with the word to ask over TCP, so many a second; what is still beyond is dropped unread. */
const CUT_RATE = 60_000
const RESERVE = { reserve: 500, reserveBurst: 500, reserveMs: 1000 }
const UDP_RATE = { rateOfSource: 500, burstOfSource: 500, rate: 5000, burst: 5000, ...RESERVE }
/** Less over TCP: a resolver comes there for what is cut over UDP. */
const TCP_RATE = { rateOfSource: 50, burstOfSource: 50, rate: 1000, burst: 1000, ...RESERVE }
/** What waits while the thread does something else; as much of it as the kernel allows. */
const RECEIVE_BYTES = 1 << 20
/** Queries on one connection that are answered before it has read the answers. */
const MAX_UNREAD = 65_536

export class NameServer {
  readonly #port: number
  readonly #data: () => ZoneData
  readonly #fault: (error: unknown) => void
  readonly #udp: UdpSocket
  readonly #tcp: Server
  readonly #connections = new Connections(LIMITS)
  readonly #rates = {
    udp: new FairRate(UDP_RATE),
    cut: new TokenBucket(CUT_RATE),
    tcp: new FairRate(TCP_RATE),
  }

  constructor(port: number, data: () => ZoneData, fault: (error: unknown) => void) {
    this.#port = port
    this.#data = data
    this.#fault = fault
    this.#udp = createSocket({
      ...{ type: 'udp6', ipv6Only: false, recvBufferSize: RECEIVE_BYTES },
      // Answers go to addresses: nothing is looked up, nor waited for.
      lookup: (address, _options, found) => found(null, address, 6),
    })
    this.#udp.on('message', (query, { address, port: to }) => {
      const now = performance.now()
      const answer = this.#rates.udp.take(sourceOf(address), now)
        ? this.#answer(query, 'udp')
        : this.#rates.cut.take(now)
          ? cutAnswer(query)
          : undefined
      // An answer that the kernel refuses is lost, as any datagram may be.
      if (answer !== undefined) this.#udp.send(answer, to, address, () => {})
    })
    this.#tcp = createServer((socket) => this.#accept(socket))
  }

  /** Rejects with PORT_TAKEN. */
  async start(): Promise<void> {
    const bound = (what: string) => (resolve: () => void, reject: (error: unknown) => void) => {
      const failed = (error: NodeJS.ErrnoException): void =>
        reject(
          error.code === 'EADDRINUSE'
            ? new GodwitError('PORT_TAKEN', `${what} port ${this.#port} is in use by another process`, {
                hint: 'another name server runs here: stop it, or choose another port with --dns-port',
              })
            : error,
        )
      if (what === 'UDP') {
        this.#udp.once('error', failed)
        this.#udp.bind(this.#port, '::', () => {
          this.#udp.off('error', failed)
          this.#udp.on('error', this.#fault)
          resolve()
        })
      } else {
        this.#tcp.once('error', failed)
        this.#tcp.listen(this.#port, '::', () => {
          this.#tcp.off('error', failed)
          this.#tcp.on('error', this.#fault)
          resolve()
        })
      }
    }
    await new Promise<void>(bound('UDP'))
    await new Promise<void>(bound('TCP'))
  }

  async stop(): Promise<void> {
    this.#connections.close()
    await Promise.all([
      new Promise<void>((resolve) => this.#udp.close(resolve)),
      new Promise<void>((resolve) => this.#tcp.close(() => resolve())),
    ])
  }

  #answer(query: Uint8Array, transport: 'udp' | 'tcp'): Uint8Array | undefined {
    try {
      return answerQuery(query, this.#data(), transport)
    } catch (error) {
      this.#fault(error)
      return undefined
    }
  }

  #accept(socket: Socket): void {
    if (!this.#connections.admit(socket)) return
    const source = sourceOf(socket.remoteAddress ?? '')
    let kept = Buffer.alloc(0)
    socket.setTimeout(IDLE_MS, () => socket.destroy())
    socket.on('data', (bytes) => {
      kept = Buffer.concat([kept, bytes])
      while (kept.length >= 2) {
        const length = kept.readUInt16BE(0)
        if (length > MAX_QUERY) socket.destroy()
        if (socket.destroyed) return
        if (kept.length < 2 + length) break
        const answer = this.#rates.tcp.take(source, performance.now())
          ? this.#answer(kept.subarray(2, 2 + length), 'tcp')
          : undefined
        kept = kept.subarray(2 + length)
        if (answer === undefined || socket.writableLength > MAX_UNREAD) {
          socket.destroy()
          return
        }
        const framed = Buffer.alloc(2 + answer.length)
        framed.writeUInt16BE(answer.length, 0)
        framed.set(answer, 2)
        socket.write(framed)
      }
    })
  }
}

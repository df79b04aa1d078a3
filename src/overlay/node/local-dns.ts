/**
 * A name server for the programs of this machine, on the node's own virtual address. A query for a name of the zone
 * requests a direction and is answered with the node's virtual addresses (Fig. 5 steps 1–2). Other queries are forwarded
 * unchanged to the machine's previous servers. Other machines (peers, the local network) do not reach it; where the kernel has no filters,
 * they get REFUSED, no longer than the query.
 */
import { createSocket, type Socket } from 'node:dgram'
import { createConnection, createServer, type Server, type Socket as Stream } from 'node:net'
import { networkInterfaces } from 'node:os'
import { type Answer, AUTHORITATIVE_ANSWER, decode, encode, type Packet } from 'dns-packet'
import { formatAddress, parseAddress } from '../../core/address.ts'
import { localUdp, makeLocal } from '../../linux/bound-socket.ts'
import { must } from '../../mechanism/schema.ts'
import type { NodePeer } from './protocol.ts'

const PORT = 53
/** Seconds: addresses do not change, nodes come and go. */
const TTL = 10
/** Questions that wait for an answer at a time: about names of the overlay, others, and the same question over and over. */
const MAX_OWN = 256
const MAX_FORWARDED = 512
const MAX_SAME = 64
/** Bytes of answers that a stream has not read. */
const MAX_UNREAD = 1 << 17
/** How long the addresses of this machine are remembered (ms). */
const ADDRESSES_MS = 1000
const FORWARD_MS = 4_000
const IDLE_MS = 10_000
const MAX_STREAMS = 64
/** No query of one question is longer: a message may have so many that reading it takes a tenth of a second. */
const MAX_QUERY = 4096
const HEADER = 12
const FORMERR = 1
const NXDOMAIN = 3
const SERVFAIL = 2
const NOTIMP = 4
const REFUSED = 5

export interface LocalDnsParts {
  /** Undefined: there is no such node. Rejects when it cannot be known now. */
  readonly lookup: (name: string) => Promise<NodePeer | undefined>
  /** Whether a name is one of the overlay's. */
  readonly covers: (name: string) => boolean
  /** Servers for all other names, as text. */
  readonly upstream: () => readonly string[]
  readonly report: (message: string) => void
  /** Of this server and those that it asks. Default: 53. */
  readonly port?: number
}

type Reply = (bytes: Uint8Array) => void

export class LocalDns {
  readonly #parts: LocalDnsParts
  readonly #sockets: Socket[] = []
  readonly #servers: Server[] = []
  readonly #streams = new Set<Stream>()
  #own = 0
  #forwarded = 0
  /** Queries forwarded to other servers, by content. */
  readonly #same = new Map<string, number>()
  #addresses: ReadonlySet<string> = new Set()
  #addressesAt = Number.NEGATIVE_INFINITY
  #bound = ''
  readonly #port: number

  constructor(parts: LocalDnsParts) {
    this.#parts = parts
    this.#port = parts.port ?? PORT
  }

  /** Listens on these addresses of this machine and no others. */
  async listen(addresses: readonly string[]): Promise<void> {
    if (this.#bound === addresses.join()) return
    this.stop()
    this.#bound = addresses.join()
    for (const address of addresses) {
      try {
        await this.#listenOn(address)
      } catch (error) {
        this.#parts.report(`cannot answer names of the overlay on ${address}: ${(error as Error).message}`)
      }
    }
  }

  stop(): void {
    for (const socket of this.#sockets.splice(0)) socket.close()
    for (const server of this.#servers.splice(0)) server.close()
    for (const stream of this.#streams) stream.destroy()
    this.#bound = ''
  }

  async #listenOn(address: string): Promise<void> {
    const socket = await this.#socketOn(address)
    socket.on('error', (error) => this.#parts.report(`name server on ${address}: ${error.message}`))
    socket.on('message', (bytes, from) => {
      this.#answer(bytes, from.address, false, (answer) => {
        if (this.#sockets.includes(socket)) socket.send(answer, from.port, from.address)
      })
    })
    this.#sockets.push(socket)
    const server = createServer((stream) => this.#serve(stream))
    server.on('error', (error) => this.#parts.report(`name server on ${address}: ${error.message}`))
    server.maxConnections = MAX_STREAMS
    server.listen(this.#port, address, () => makeLocal(server))
    this.#servers.push(server)
  }

  async #socketOn(address: string): Promise<Socket> {
    try {
      return localUdp(must(parseAddress(address)), this.#port)
    } catch {
      const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4')
      await new Promise<void>((resolve, reject) => {
        socket.once('error', reject)
        socket.bind(this.#port, address, resolve)
      })
      return socket
    }
  }

  #serve(stream: Stream): void {
    const from = stream.remoteAddress ?? ''
    if (!this.#isOurs(from)) {
      stream.destroy()
      return
    }
    this.#streams.add(stream)
    stream.setTimeout(IDLE_MS, () => stream.destroy())
    stream.on('error', () => stream.destroy())
    stream.on('close', () => this.#streams.delete(stream))
    readFrames(stream, (bytes) =>
      this.#answer(bytes, from, true, (answer) => {
        if (stream.writableLength > MAX_UNREAD) stream.destroy()
        if (!stream.destroyed) stream.write(framed(answer))
      }),
    )
  }

  #answer(bytes: Uint8Array, from: string, stream: boolean, reply: Reply): void {
    if (bytes.length < HEADER || (bytes[2]! & 0xf8) !== 0) return
    if (!this.#isOurs(from)) {
      reply(emptyAnswer(bytes, REFUSED))
      return
    }
    if (bytes.length > MAX_QUERY || bytes[4] !== 0 || bytes[5] !== 1) {
      reply(emptyAnswer(bytes, FORMERR))
      return
    }
    const question = questionIn(bytes)
    if (question === undefined) return
    const work = this.#parts.covers(question.name)
      ? this.#lookUp(question)
      : this.#forward(bytes, question, stream)
    void work.catch(() => failure(question)).then(reply)
  }

  /** Whether it is an address of this machine. */
  #isOurs(address: string): boolean {
    const now = performance.now()
    if (now - this.#addressesAt > ADDRESSES_MS) {
      this.#addressesAt = now
      const all = Object.values(networkInterfaces()).flatMap((each) => each ?? [])
      this.#addresses = new Set(all.map((each) => each.address))
    }
    const plain = address.replace(/%.*/, '')
    return this.#addresses.has(plain) || plain === '::1' || plain.startsWith('127.')
  }

  async #lookUp(question: Question): Promise<Uint8Array> {
    if (this.#own >= MAX_OWN) return failure(question)
    this.#own++
    try {
      return await this.#ofPeer(question)
    } finally {
      this.#own--
    }
  }

  async #ofPeer(question: Question): Promise<Uint8Array> {
    let peer: NodePeer | undefined
    try {
      peer = await this.#parts.lookup(question.name)
    } catch {
      return failure(question)
    }
    if (peer === undefined) return response(question, NXDOMAIN, [])
    const address = question.type === 'AAAA' ? peer.v6 : question.type === 'A' ? peer.v4 : undefined
    if (address === undefined) return response(question, 0, [])
    const data = formatAddress(address)
    const type = question.type as 'A' | 'AAAA'
    return response(question, 0, [{ type, name: question.asked, ttl: TTL, data }])
  }

  /**
   * Forwards the query to the servers in turn. The first answer wins; a refusal is used only if there is no answer. To
   * break loops with a server that forwards to us, the number of identical queries in progress is limited.
   */
  async #forward(bytes: Uint8Array, question: Question, stream: boolean): Promise<Uint8Array> {
    const key = `${question.type} ${question.name}`
    const same = this.#same.get(key) ?? 0
    if (this.#forwarded >= MAX_FORWARDED || same >= MAX_SAME) return failure(question)
    this.#forwarded++
    this.#same.set(key, same + 1)
    try {
      let refused: Uint8Array | undefined
      for (const server of this.#parts.upstream()) {
        const asked = stream ? overTcp(server, this.#port, bytes) : overUdp(server, this.#port, bytes)
        const answer = await asked.catch(() => undefined)
        if (answer !== undefined && ![SERVFAIL, NOTIMP, REFUSED].includes(codeOf(answer))) return answer
        refused ??= answer
      }
      return refused ?? failure(question)
    } finally {
      this.#forwarded--
      const left = (this.#same.get(key) ?? 1) - 1
      if (left === 0) this.#same.delete(key)
      else this.#same.set(key, left)
    }
  }
}

function codeOf(answer: Uint8Array): number {
  return (answer[3] ?? 0) & 15
}

interface Question {
  readonly id: number
  /** As it was asked, and in lower case without the last dot. */
  readonly asked: string
  readonly name: string
  readonly type: string
  readonly desired: boolean
}

/** A header alone: that of the query, whatever is in it. */
function emptyAnswer(query: Uint8Array, code: number): Uint8Array {
  const answer = new Uint8Array(HEADER)
  answer.set(query.subarray(0, 3))
  answer[2] = 0x80 | (query[2]! & 1)
  answer[3] = 0x80 | code
  return answer
}

/** The one question of a query; undefined for anything else. */
function questionIn(bytes: Uint8Array): Question | undefined {
  try {
    const { id = 0, questions = [] } = decode(Buffer.from(bytes))
    const [question, ...more] = questions
    if (question === undefined || more.length > 0) return undefined
    const name = question.name.toLowerCase().replace(/\.$/, '')
    return { id, asked: question.name, name, type: question.type, desired: (bytes[2]! & 1) !== 0 }
  } catch {
    return undefined
  }
}

function response(question: Question, code: number, answers: Answer[]): Uint8Array {
  const packet: Packet = {
    type: 'response',
    id: question.id,
    flags:
      (code === 0 || code === NXDOMAIN ? AUTHORITATIVE_ANSWER : 0) | (question.desired ? 0x180 : 0x80) | code,
    questions: [{ type: question.type as 'A', name: question.asked }],
    answers,
  }
  return encode(packet)
}

function failure(question: Question): Uint8Array {
  return response(question, SERVFAIL, [])
}

function overUdp(server: string, port: number, bytes: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(server.includes(':') ? 'udp6' : 'udp4')
    const timer = setTimeout(() => end(new Error('no answer')), FORWARD_MS)
    let ended = false
    const end = (error?: Error, answer?: Uint8Array): void => {
      if (ended) return
      ended = true
      clearTimeout(timer)
      socket.close()
      if (answer === undefined) reject(error)
      else resolve(answer)
    }
    socket.on('error', (error) => end(error))
    socket.once('connect', () => socket.send(bytes))
    socket.on('message', (answer) => {
      if (answer[0] === bytes[0] && answer[1] === bytes[1]) end(undefined, answer)
    })
    socket.connect(port, server)
  })
}

function overTcp(server: string, port: number, bytes: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const stream = createConnection({ host: server, port, timeout: FORWARD_MS })
    const fail = (): void => {
      stream.destroy()
      reject(new Error('no answer'))
    }
    stream.on('error', fail)
    stream.on('timeout', fail)
    stream.on('close', fail)
    stream.on('connect', () => stream.write(framed(bytes)))
    readFrames(stream, (answer) => {
      resolve(answer)
      stream.destroy()
    })
  })
}

/** Messages of a stream: two bytes of length each (RFC 7766). */
function readFrames(stream: Stream, onFrame: (bytes: Uint8Array) => void): void {
  let left = Buffer.alloc(0)
  stream.on('data', (data: Buffer) => {
    left = Buffer.concat([left, data])
    while (left.length >= 2 && left.length >= 2 + left.readUInt16BE(0)) {
      const end = 2 + left.readUInt16BE(0)
      onFrame(Uint8Array.from(left.subarray(2, end)))
      left = left.subarray(end)
    }
  })
}

function framed(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(2 + bytes.length)
  out[0] = bytes.length >> 8
  out[1] = bytes.length & 255
  out.set(bytes, 2)
  return out
}

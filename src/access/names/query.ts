/**
 * One question to name servers over one access: to the first at once, to the next when it refuses or has been silent for a
 * moment, each from a fresh port with a fresh id, over TCP where the answer does not fit a datagram. Only what answers the
 * question, from where it was asked, counts; everything else is left unread.
 */
import type { Socket as DatagramSocket } from 'node:dgram'
import type { Socket } from 'node:net'
import { parseAddress } from '../../core/address.ts'
import type { Random } from '../../core/clock.ts'
import { GodwitError } from '../../core/errors.ts'
import { type BoundOptions, connectedUdp, connectTcp, type Destination } from '../../linux/bound-socket.ts'
import { type Answer, decodeAnswer, encodeQuestion, type Question } from './message.ts'

export interface Found {
  readonly addresses: readonly Uint8Array[]
  readonly validMs: number
}

/**
 * Queries one server; `over`: by this device, bypassing the tunnel (absent: by the routes). Resolves to the answer;
 * rejects when the server is silent or sends nothing usable. `signal` aborts.
 */
export type AskServer = (
  server: string,
  name: string,
  type: Question['type'],
  over: string | undefined,
  signal: AbortSignal,
) => Promise<Answer>

const PORT = 53
/** A server that has been silent for so long is asked beside the next (ms). */
const NEXT_AFTER_MS = 700
/** So often is each asked: the first question to a sleeping radio is lost often. */
const ROUNDS = 2
const ANSWER_MS = 5000
/** Datagrams read from one server that are not its answer; then it is given up. */
const MOST_STRAYS = 16
/** A name that there is not may be there after so long. */
const NO_NAME_MS = 30_000

/** The first usable answer about the name; `no name` is one. */
export async function askFirst(
  ask: AskServer,
  servers: readonly string[],
  name: string,
  type: Question['type'],
  over: string | undefined,
): Promise<Found> {
  const done = new AbortController()
  const failures: string[] = []
  const one = async (server: string): Promise<Found> => {
    const answer = await ask(server, name, type, over, done.signal)
    if (answer.kind === 'addresses') return { addresses: answer.addresses, validMs: answer.ttl * 1000 }
    if (answer.kind === 'no name') return { addresses: [], validMs: NO_NAME_MS }
    throw new Error(answer.kind === 'failed' ? answer.reason : 'its answer is truncated over TCP too')
  }
  try {
    return await new Promise<Found>((resolve, reject) => {
      const turns = Array.from({ length: ROUNDS }, () => servers).flat()
      let open = 0
      let timer: NodeJS.Timeout | undefined
      const next = () => {
        clearTimeout(timer)
        const server = turns.shift()
        if (server === undefined) return
        open++
        timer = setTimeout(next, NEXT_AFTER_MS)
        one(server).then(resolve, (error: Error) => {
          if (failures.length < servers.length) failures.push(`${server}: ${error.message}`)
          open--
          if (turns.length > 0) next()
          else if (open === 0) reject(new GodwitError('NO_ANSWER', failures.join('; ')))
        })
      }
      done.signal.addEventListener('abort', () => clearTimeout(timer))
      next()
    })
  } finally {
    done.abort()
  }
}

/** Asks with sockets that are bound to the device and carry `mark`. */
export function serverAsker(random: Random, mark: number, port = PORT): AskServer {
  return async (server, name, type, over, signal) => {
    const parsed = parseAddress(server)
    if (!parsed.ok) throw new Error(parsed.reason)
    const to = { address: parsed.value, port }
    const options = over === undefined ? {} : { device: over, mark }
    const question = { id: new DataView(random.fill(new Uint8Array(2)).buffer).getUint16(0), name, type }
    const answer = await overUdp(to, options, question, signal)
    return answer.kind === 'truncated' ? overTcp(to, options, question, signal) : answer
  }
}

function overUdp(
  to: Destination,
  options: BoundOptions,
  question: Question,
  signal: AbortSignal,
): Promise<Answer> {
  const socket = connectedUdp(to, options)
  let strays = 0
  return exchange(socket, signal, (settle) => {
    socket.on('connect', () => socket.send(encodeQuestion(question)))
    socket.on('message', (bytes) => {
      const answer = decodeAnswer(bytes, question)
      if (answer.ok) settle(answer.value)
      else if (++strays >= MOST_STRAYS) settle(new Error(`sends a malformed answer: ${answer.reason}`))
    })
    return () => socket.close()
  })
}

/** RFC 7766: two bytes of length before each message. */
function overTcp(
  to: Destination,
  options: BoundOptions,
  question: Question,
  signal: AbortSignal,
): Promise<Answer> {
  const socket = connectTcp(to, options)
  let bytes = Buffer.alloc(0)
  return exchange(socket, signal, (settle) => {
    const asked = encodeQuestion(question)
    socket.write(Uint8Array.of(asked.length >> 8, asked.length & 255, ...asked))
    socket.on('data', (part) => {
      bytes = Buffer.concat([bytes, part])
      if (bytes.length < 2 || bytes.length < 2 + bytes.readUInt16BE(0)) return
      const answer = decodeAnswer(bytes.subarray(2, 2 + bytes.readUInt16BE(0)), question)
      settle(answer.ok ? answer.value : new Error(answer.reason))
    })
    socket.on('end', () => settle(new Error('hangs up')))
    return () => socket.destroy()
  })
}

/** One answer or failure of a socket within ANSWER_MS; the socket is closed then. */
function exchange(
  socket: DatagramSocket | Socket,
  signal: AbortSignal,
  start: (settle: (outcome: Answer | Error) => void) => () => void,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    let close = () => {}
    let settled = false
    const settle = (outcome: Answer | Error) => {
      if (settled) return
      settled = true
      clearTimeout(timer)
      signal.removeEventListener('abort', given)
      close()
      if (outcome instanceof Error) reject(outcome)
      else resolve(outcome)
    }
    const given = () => settle(new Error('not waited for'))
    const timer = setTimeout(() => settle(new Error('no answer')), ANSWER_MS)
    socket.on('error', (error: Error) => settle(error))
    signal.addEventListener('abort', given)
    close = start(settle)
    if (signal.aborted) given()
  })
}

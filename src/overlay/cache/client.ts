/**
 * A node's requests to the cache server, and what it does with them: a file is encrypted and sent in parts, a part that was lost is sent
 * again from where it ended; what waits is fetched the same way, and becomes a file only when all of it is right.
 */
import { createHash } from 'node:crypto'
import {
  closeSync,
  constants,
  createWriteStream,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { request } from 'node:https'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { TLSSocket } from 'node:tls'
import { concat } from '../../core/bytes.ts'
import { GodwitError } from '../../core/errors.ts'
import { nodeCrypto } from '../../crypto/node-crypto.ts'
import { pinOf } from '../../tunnel/carrier/client.ts'
import { cacheProof } from '../machine/secrets.ts'
import {
  decodeHead,
  encodeHead,
  openSegment,
  SEALED_SEGMENT,
  SEGMENT,
  sealedLength,
  sealSegment,
  segmentsOf,
} from './envelope.ts'

export interface CacheAt {
  readonly host: string
  readonly port: number
  /** SHA-256 of its certificate, base64. */
  readonly certificate: string
}

export interface CacheLogin {
  readonly keyId: Uint8Array
  readonly key: Uint8Array
}

interface Options {
  readonly method?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array
  /** The whole answer is there by then (ms), or counts as none. */
  readonly within?: number
  /** Takes a body that is no JSON. */
  readonly into?: (answer: NodeJS.ReadableStream) => Promise<void>
}

export interface CacheAnswer {
  readonly status: number
  readonly value: unknown
}

const IDLE_MS = 30_000
/** A server that has not shown its certificate by then is not there (ms). */
const CONNECT_MS = 10_000
const MAX_ANSWER = 4 * 2 ** 20
/** Segments in a part. */
const PART_SEGMENTS = 64

export class CacheClient {
  readonly #at: CacheAt
  readonly #login: CacheLogin

  constructor(at: CacheAt, login: CacheLogin) {
    this.#at = at
    this.#login = login
  }

  /** HOST:PORT. */
  get server(): string {
    const { host, port } = this.#at
    return `${host.includes(':') ? `[${host}]` : host}:${port}`
  }

  /** Rejects with CACHE_FAILED when there is no answer; `value` is what a status other than 206 came with. */
  ask(
    path: string,
    { method = 'GET', headers = {}, body, within, into }: Options = {},
  ): Promise<CacheAnswer> {
    const { host, port, certificate } = this.#at
    const { server } = this
    const { keyId, key } = this.#login
    return new Promise((resolve, reject) => {
      const fail = (reason: string): void => {
        stopTimers()
        call.destroy()
        reject(new GodwitError('CACHE_FAILED', `cache server ${server}: ${reason}`))
      }
      const proof = cacheProof(nodeCrypto, key, keyId)
      const call = request({
        ...{ host, port, path, method, agent: false, timeout: IDLE_MS, rejectUnauthorized: false },
        headers: {
          ...headers,
          authorization: `Godwit ${base64(keyId)} ${base64(proof)}`,
          'content-length': String(body?.length ?? 0),
        },
      })
      const connecting = setTimeout(() => fail('no answer'), CONNECT_MS)
      const waiting = within === undefined ? undefined : setTimeout(() => fail('no whole answer'), within)
      const stopTimers = () => {
        clearTimeout(connecting)
        clearTimeout(waiting)
      }
      call.on('error', (error) => fail(error.message))
      call.on('timeout', () => fail('no answer'))
      // Nothing is written before the server has shown its certificate.
      call.on('socket', (socket) =>
        socket.once('secureConnect', () => {
          clearTimeout(connecting)
          const shown = (socket as TLSSocket).getPeerCertificate().raw
          if (shown === undefined || pinOf(shown) !== certificate)
            fail('its certificate is not the one that the account server named')
          else call.end(body)
        }),
      )
      call.on('response', (answer) => {
        const status = answer.statusCode ?? 0
        const done =
          status === 206 && into !== undefined
            ? into(answer).then(() => undefined)
            : textOf(answer).then((text): unknown => JSON.parse(text))
        done.then(
          (value) => {
            stopTimers()
            resolve({ status, value })
          },
          (error: Error) => fail(error.message),
        )
      })
    })
  }
}

async function textOf(answer: AsyncIterable<Uint8Array | string>): Promise<string> {
  const parts: Uint8Array[] = []
  let length = 0
  for await (const part of answer) {
    length += part.length
    if (length > MAX_ANSWER) throw new Error('the answer is too long')
    parts.push(Buffer.from(part))
  }
  return Buffer.concat(parts).toString()
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}

/** A file as it is sent: its head and its bytes in sealed segments. The same each time, as long as the file is the same. */
export class SealedFile {
  readonly bytes: number
  readonly #fd: number
  readonly #head: Uint8Array
  readonly #size: number
  readonly #key: Uint8Array

  /** `name`: what it is called at the other end. */
  constructor(path: string, name: string, key: Uint8Array) {
    this.#fd = openSync(path, 'r')
    const info = fstatSync(this.#fd)
    if (!info.isFile()) {
      closeSync(this.#fd)
      throw new GodwitError('FILE_MISSING', `${path} is not a file`, { kind: 'usage' })
    }
    this.#size = info.size
    this.#head = encodeHead({ name, bytes: info.size })
    this.#key = key
    this.bytes = sealedLength(this.#head.length + info.size)
  }

  get segments(): number {
    return segmentsOf(this.bytes)
  }

  /** SHA-256 of all that is sent. */
  hash(): Uint8Array {
    const sum = createHash('sha256')
    for (let i = 0; i < this.segments; i++) sum.update(this.segment(i))
    return new Uint8Array(sum.digest())
  }

  segment(i: number): Uint8Array {
    const end = Math.min((i + 1) * SEGMENT, this.#head.length + this.#size)
    return sealSegment(nodeCrypto, this.#key, i, this.#plain(i * SEGMENT, end), i === this.segments - 1)
  }

  /** What is sent from this offset on, at most a part; it ends with a segment. */
  part(offset: number): Uint8Array {
    const first = Math.floor(offset / SEALED_SEGMENT)
    const last = Math.min(this.segments, first + PART_SEGMENTS)
    const segments = Array.from({ length: last - first }, (_, i) => this.segment(first + i))
    return concat(...segments).subarray(offset - first * SEALED_SEGMENT)
  }

  close(): void {
    closeSync(this.#fd)
  }

  #plain(from: number, to: number): Uint8Array {
    const out = new Uint8Array(to - from)
    const head = this.#head.subarray(from, Math.min(to, this.#head.length))
    out.set(head)
    for (let at = head.length; at < out.length; ) {
      const read = readSync(this.#fd, out, at, out.length - at, from + at - this.#head.length)
      if (read === 0) throw changed()
      at += read
    }
    return out
  }
}

export function changed(): GodwitError {
  return new GodwitError('FILE_CHANGED', 'the file changed while it was sent', { hint: 'send it again' })
}

/** Fetches an object into `path`, from where an earlier attempt ended; what else is there gives way. Rejects with CACHE_FAILED. */
export async function fetchObject(
  client: CacheClient,
  id: string,
  bytes: number,
  path: string,
): Promise<void> {
  const before = lstatSync(path, { throwIfNoEntry: false })
  const from = before?.isFile() === true && before.size <= bytes ? before.size : 0
  if (from === bytes) return
  if (from === 0) rmSync(path, { force: true })
  const { status } = await client.ask(`/v1/objects/${id}/data`, {
    headers: { range: `bytes=${from}-` },
    into: async (answer) => {
      // The folder may be one where others write: no link is followed.
      const { O_WRONLY, O_NOFOLLOW, O_CREAT, O_EXCL } = constants
      const fd = openSync(path, O_WRONLY | O_NOFOLLOW | (from === 0 ? O_CREAT | O_EXCL : 0), 0o600)
      await pipeline(answer, createWriteStream(path, { fd, start: from }))
    },
  })
  if (status !== 206) throw new GodwitError('CACHE_FAILED', `it answered with status ${status}`)
}

/** SHA-256 of a file. */
export function hashOf(path: string): Uint8Array {
  const fd = openSync(path, 'r')
  try {
    const sum = createHash('sha256')
    const buffer = new Uint8Array(2 ** 20)
    for (let read = readSync(fd, buffer); read > 0; read = readSync(fd, buffer))
      sum.update(buffer.subarray(0, read))
    return new Uint8Array(sum.digest())
  } finally {
    closeSync(fd)
  }
}

/**
 * Decrypts a whole object into a new file of the folder, under a name that nothing there has. Returns its path. Throws
 * CACHE_DAMAGED when it is not what was sent; nothing is left then.
 */
export function openObject(path: string, key: Uint8Array, folder: string, id: string): string {
  const sealed = openSync(path, 'r')
  const temporary = join(folder, `.${id}.new`)
  rmSync(temporary, { force: true })
  const plain = openSync(temporary, 'wx', 0o600)
  try {
    const { size } = fstatSync(sealed)
    const segments = segmentsOf(size)
    const buffer = new Uint8Array(SEALED_SEGMENT)
    let head: { readonly name: string; readonly bytes: number } | undefined
    let written = 0
    for (let i = 0; i < segments; i++) {
      const length = readSync(sealed, buffer, 0, SEALED_SEGMENT, i * SEALED_SEGMENT)
      let clear = openSegment(nodeCrypto, key, i, buffer.subarray(0, length), i === segments - 1)
      if (clear === undefined) throw damaged()
      if (i === 0) {
        const decoded = decodeHead(clear)
        if (!decoded.ok) throw damaged()
        head = decoded.value
        clear = clear.subarray(decoded.value.at)
      }
      for (let at = 0; at < clear.length; ) at += writeSync(plain, clear, at)
      written += clear.length
    }
    if (head === undefined || written !== head.bytes) throw damaged()
    fsyncSync(plain)
    return place(temporary, folder, head.name)
  } finally {
    closeSync(sealed)
    closeSync(plain)
    rmSync(temporary, { force: true })
  }
}

function damaged(): GodwitError {
  return new GodwitError('CACHE_DAMAGED', 'what was received is not what was sent', {
    hint: 'ask its sender to send it again',
  })
}

/** Replaces no file: `name`, or `name (2)` and so on. */
function place(temporary: string, folder: string, name: string): string {
  const dot = name.lastIndexOf('.')
  const [base, end] = dot <= 0 ? [name, ''] : [name.slice(0, dot), name.slice(dot)]
  for (let n = 1; ; n++) {
    const path = join(folder, n === 1 ? name : `${base} (${n})${end}`)
    try {
      linkSync(temporary, path)
      return path
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || n > 9999) throw error
    }
  }
}

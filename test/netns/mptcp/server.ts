/**
 * An HTTP server (all addresses): GET /N answers N bytes that are a function of their place, GET /endless such bytes until
 * somebody gets /enough, GET /paced the same at about 6 MB/s, PUT answers the SHA-256 of what it got. It knows nothing of MPTCP; `mptcpize run` gives its
 * sockets the kernel's.
 */
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import { pipeline, Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'

const CHUNK = 65_536

/** The bytes of a GET, in pieces. */
export function* pieces(length: number): Generator<Buffer> {
  for (let at = 0; at < length; at += CHUNK) {
    const piece = Buffer.alloc(Math.min(CHUNK, length - at))
    for (let i = 0; i + 4 <= piece.length; i += 4) piece.writeUInt32LE(Math.imul(at + i, 2654435761) >>> 0, i)
    yield piece
  }
}

export function digestOf(length: number): string {
  const hash = createHash('sha256')
  for (const piece of pieces(length)) hash.update(piece)
  return hash.digest('hex')
}

let enough = 0

/** Pieces until somebody says that it is enough. */
function* endless(): Generator<Buffer> {
  const before = enough
  for (const piece of pieces(Number.POSITIVE_INFINITY)) {
    if (enough > before) return
    yield piece
  }
}

async function* paced(): AsyncGenerator<Buffer> {
  for (const piece of endless()) {
    yield piece
    await sleep(10)
  }
}

if (process.argv[2] === 'serve')
  createServer((request, response) => {
    const path = request.url!.slice(1)
    if (path === 'enough') {
      enough++
      response.end()
      return
    }
    if (request.method === 'PUT') {
      const hash = createHash('sha256')
      request.on('data', (bytes) => hash.update(bytes))
      request.on('end', () => response.end(hash.digest('hex')))
      return
    }
    const body = path === 'endless' ? endless() : path === 'paced' ? paced() : pieces(Number(path))
    pipeline(Readable.from(body), response, () => {})
  }).listen(Number(process.argv[3]), '::', () => process.stdout.write('listening\n'))

/**
 * HTTP/1.1 server. `{"root": DIR, "port": 80}`; prints `{"ready":true}`.
 *
 *   GET /NAME     a file of the folder
 *   PUT /NAME     reads it to its end, and prints `{"sha256": …, "bytes": …}` of it
 *   GET /stream   pseudo-random bytes until a line `end` comes on stdin; then prints `{"sha256": …, "bytes": …}` of them
 */
import { createCipheriv, createHash, randomBytes } from 'node:crypto'
import { createReadStream, statSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { basename, join } from 'node:path'
import { argumentsOf, commands, print } from './program.ts'

const { root, port } = argumentsOf<{ root: string; port: number }>()
const CHUNK = Buffer.alloc(64 * 1024)
let streaming = true

// An upload may last: Node ends one that takes longer than five minutes.
const server = createServer({ requestTimeout: 0 }, (request, response) => {
  if (request.method === 'PUT') {
    void sink(request, response)
    return
  }
  const name = basename(request.url ?? '')
  if (name === 'stream') {
    void stream(response)
    return
  }
  const path = join(root, name)
  const size = statSync(path, { throwIfNoEntry: false })?.size
  if (size === undefined) {
    response.writeHead(404).end()
    return
  }
  response.writeHead(200, { 'content-length': size, 'content-type': 'application/octet-stream' })
  const body = createReadStream(path, { highWaterMark: 256 * 1024 })
  body.pipe(response)
  response.on('close', () => body.destroy())
})

async function sink(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const hash = createHash('sha256')
  let total = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    hash.update(chunk)
    total += chunk.length
  }
  response.end()
  print({ sha256: hash.digest('hex'), bytes: total })
}

async function stream(response: ServerResponse): Promise<void> {
  const bytes = createCipheriv('aes-256-ctr', randomBytes(32), Buffer.alloc(16))
  const hash = createHash('sha256')
  let total = 0
  response.writeHead(200, { 'content-type': 'application/octet-stream' })
  while (streaming && !response.destroyed) {
    const chunk = bytes.update(CHUNK)
    hash.update(chunk)
    total += chunk.length
    if (!response.write(chunk))
      await new Promise<void>((resolve) => {
        response.once('drain', resolve)
        response.once('close', resolve)
      })
  }
  response.end()
  print({ sha256: hash.digest('hex'), bytes: total })
}

server.listen(port, '::', () => print({ ready: true }))
commands((line) => {
  if (line === 'end') streaming = false
})

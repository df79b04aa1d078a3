/** Serves the files of a folder over HTTP/1.1: `{"root": DIR, "port": 80}`. Prints `{"ready": true}`. */
import { createReadStream, statSync } from 'node:fs'
import { createServer } from 'node:http'
import { basename, join } from 'node:path'
import { argumentsOf, commands, print } from './program.ts'

const { root, port } = argumentsOf<{ root: string; port: number }>()

const server = createServer((request, response) => {
  const path = join(root, basename(request.url ?? ''))
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
server.listen(port, '::', () => print({ ready: true }))
commands(() => {})

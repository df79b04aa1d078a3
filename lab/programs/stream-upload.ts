/**
 * Sends pseudo-random bytes by HTTP PUT until a line `end` comes on stdin. `{"url": …}`; prints `{"ready":true}` as soon as it is connected, and
 * `{"sha256": …, "bytes": …}` of what it sent once the server has answered.
 */
import { createCipheriv, createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { request } from 'node:http'
import { argumentsOf, commands, print } from './program.ts'

const { url } = argumentsOf<{ url: string }>()
const CHUNK = Buffer.alloc(64 * 1024)
let streaming = true
commands((line) => {
  if (line === 'end') streaming = false
})

const bytes = createCipheriv('aes-256-ctr', randomBytes(32), Buffer.alloc(16))
const hash = createHash('sha256')
let total = 0
const upload = request(url, { method: 'PUT' })
const answered = once(upload, 'response')
upload.once('socket', (socket) => socket.once('connect', () => print({ ready: true })))
while (streaming) {
  const chunk = bytes.update(CHUNK)
  hash.update(chunk)
  total += chunk.length
  if (!upload.write(chunk)) await once(upload, 'drain')
}
upload.end()
await answered
print({ sha256: hash.digest('hex'), bytes: total })

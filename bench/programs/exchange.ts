/**
 * Many TCP connections at once, each with an exchange: `server`, or `client ADDRESS COUNT [AT_ONCE [AGAIN_MS]]`, which opens so many at once
 * (default: all) and prints `exchanged in N ms` when all are open and have their answers. Both stay until they are ended; the client
 * exchanges something again over each connection every AGAIN_MS.
 */
import { connect, createServer } from 'node:net'

const [, , role, host = '', count = '0', atOnce = count, again] = process.argv
const PORT = 7_100
const REQUEST = Buffer.alloc(1_000, 1)
const ANSWER = Buffer.alloc(16_000, 2)

if (role === 'server') {
  createServer((socket) => {
    let received = 0
    socket.on('error', () => {})
    socket.on('data', (bytes) => {
      received += bytes.length
      if (received < REQUEST.length) return
      received = 0
      socket.write(ANSWER)
    })
  }).listen({ port: PORT, backlog: 4096 }, () => process.stdout.write('ready\n'))
} else {
  const began = performance.now()
  let opened = 0
  let done = 0
  const open = (): void => {
    if (opened === Number(count)) return
    opened++
    let received = 0
    let isFirst = true
    const socket = connect({ port: PORT, host }, () => socket.write(REQUEST))
    socket.on('error', (error) => {
      process.stdout.write(`failed: ${error.message}\n`)
      process.exit(1)
    })
    socket.on('data', (bytes) => {
      received += bytes.length
      if (received < ANSWER.length) return
      received = 0
      if (again !== undefined) setTimeout(() => socket.write(REQUEST), Number(again))
      if (!isFirst) return
      isFirst = false
      open()
      if (++done === Number(count))
        process.stdout.write(`exchanged in ${Math.round(performance.now() - began)} ms\n`)
    })
  }
  for (let i = 0; i < Number(atOnce); i++) open()
}

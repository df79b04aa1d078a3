/**
 * Many TCP connections at once, each with an exchange: `server`, or `client ADDRESS COUNT`, which prints `exchanged in N ms` when all
 * connections are open and have their answers. Both stay until they are ended.
 */
import { connect, createServer } from 'node:net'

const [, , role, host = '', count = '0'] = process.argv
const PORT = 7_100
const REQUEST = Buffer.alloc(1_000, 1)
const ANSWER = Buffer.alloc(16_000, 2)

if (role === 'server') {
  createServer((socket) => {
    let received = 0
    socket.on('error', () => {})
    socket.on('data', (bytes) => {
      received += bytes.length
      if (received === REQUEST.length) socket.write(ANSWER)
    })
  }).listen({ port: PORT, backlog: 4096 }, () => process.stdout.write('ready\n'))
} else {
  const began = performance.now()
  let done = 0
  for (let i = 0; i < Number(count); i++) {
    let received = 0
    const socket = connect({ port: PORT, host }, () => socket.write(REQUEST))
    socket.on('error', (error) => {
      process.stdout.write(`failed: ${error.message}\n`)
      process.exit(1)
    })
    socket.on('data', (bytes) => {
      received += bytes.length
      if (received < ANSWER.length || ++done < Number(count)) return
      process.stdout.write(`exchanged in ${Math.round(performance.now() - began)} ms\n`)
    })
  }
}

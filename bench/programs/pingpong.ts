/**
 * UDP round trips, as a program of its own so that it runs inside a namespace.
 *
 *   node pingpong.js serve PORT            answers every datagram
 *   node pingpong.js ping HOST PORT COUNT  one round trip after another, prints JSON {samples_us: […], lost}
 */
import { createSocket } from 'node:dgram'

const SIZE = 100
const GIVE_UP_MS = 500

const [mode, ...args] = process.argv.slice(2)
if (mode === 'serve') {
  const socket = createSocket('udp4')
  socket.on('message', (message, from) => socket.send(message, from.port, from.address))
  socket.bind(Number(args[0]))
} else {
  const [host, port, count] = args
  const socket = createSocket('udp4')
  const samples: number[] = []
  let lost = 0
  let sequence = 0
  let sentAt = 0n
  let timer: NodeJS.Timeout | undefined
  const payload = Buffer.alloc(SIZE)
  const next = () => {
    if (samples.length + lost >= Number(count)) {
      process.stdout.write(`${JSON.stringify({ samples_us: samples, lost })}\n`)
      socket.close()
      return
    }
    payload.writeUInt32BE(++sequence)
    timer = setTimeout(() => {
      lost++
      next()
    }, GIVE_UP_MS)
    sentAt = process.hrtime.bigint()
    socket.send(payload, Number(port), host)
  }
  socket.on('message', (message) => {
    if (message.readUInt32BE() !== sequence) return
    clearTimeout(timer)
    samples.push(Number(process.hrtime.bigint() - sentAt) / 1000)
    // A millisecond of rest: latency, not throughput.
    setTimeout(next, 1)
  })
  next()
}

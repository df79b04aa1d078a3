/**
 * The time until a first answer comes from an address that cannot be reached yet.
 *
 *   {"role": "server", "port": 5006}      answers every datagram with the same
 *   {"role": "client", "port": 5006}      stdin `ask ADDRESS`: a datagram every 5 ms until one is answered; prints {"ms": N}
 */
import { createSocket, type Socket } from 'node:dgram'
import { argumentsOf, commands, monotonicMs, print } from './program.ts'

const INTERVAL_MS = 5
const { role, port } = argumentsOf<{ role: 'server' | 'client'; port: number }>()
const datagram = Buffer.alloc(64)

if (role === 'server') {
  const socket = createSocket('udp6')
  socket.on('message', (message, from) => socket.send(message, from.port, from.address, () => {}))
  socket.bind(port, () => print({ ready: true }))
  commands(() => {})
} else {
  print({ ready: true })
  commands((line) => ask(line.split(' ')[1]!))
}

function ask(address: string): void {
  const since = monotonicMs()
  // A socket of its own: its route is chosen anew with each datagram.
  const socket: Socket = createSocket('udp6')
  const timer = setInterval(() => socket.send(datagram, port, address, () => {}), INTERVAL_MS)
  socket.on('error', () => {})
  socket.on('message', () => {
    clearInterval(timer)
    socket.close()
    print({ ms: monotonicMs() - since })
  })
}

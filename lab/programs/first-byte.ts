/**
 * The time until a first answer comes from an address that cannot be reached yet.
 *
 *   {"role": "server", "port": 5006}      answers every datagram with the same; stdin `arrived`: prints {"arrived": N}, when the
 *                                         first of the last client's was there (ms of the machine's clock)
 *   {"role": "client", "port": 5006}      stdin `ask ADDRESS`: a datagram every 5 ms until one is answered; prints
 *                                         {"ms": N, "since": N}, the latter of the same clock
 */
import { createSocket, type Socket } from 'node:dgram'
import { argumentsOf, commands, monotonicMs, print } from './program.ts'

const INTERVAL_MS = 5
const { role, port } = argumentsOf<{ role: 'server' | 'client'; port: number }>()
const datagram = Buffer.alloc(64)

if (role === 'server') {
  const socket = createSocket('udp6')
  let [client, arrived] = [0, 0]
  socket.on('message', (message, from) => {
    if (from.port !== client) [client, arrived] = [from.port, monotonicMs()]
    socket.send(message, from.port, from.address, () => {})
  })
  socket.bind(port, () => print({ ready: true }))
  commands(() => print({ arrived }))
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
    print({ ms: monotonicMs() - since, since })
  })
}

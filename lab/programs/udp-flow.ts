/**
 * Datagrams at a fixed interval with sequence numbers, both ways: the measuring stick for gaps, losses and duplicates.
 * The server starts its own sequence towards the client with the client's first datagram, and follows its newest address.
 *
 *   {"role": "server", "port": 5005, "intervalMs": 5}
 *   {"role": "client", "port": 5005, "host": "198.51.100.2", "intervalMs": 5}
 *
 * A datagram is the sequence number (u32, big-endian) and padding to `bytes` (default 200). Stdin: `stop` ends sending,
 * `report` prints `{"sent": N, "arrivals": [[sequence, ms], …]}` and exits. Times are the machine's monotonic clock.
 */
import { createSocket } from 'node:dgram'
import { argumentsOf, commands, monotonicMs, print } from './program.ts'

const { role, port, host, intervalMs, bytes, six } = argumentsOf<{
  role: 'server' | 'client'
  port: number
  host?: string
  intervalMs: number
  bytes?: number
  /** Addresses are IPv6. */
  six?: boolean
}>()

const socket = createSocket({ type: six ? 'udp6' : 'udp4', recvBufferSize: 1 << 20 })
const datagram = Buffer.alloc(bytes ?? 200)
const arrivals: [number, number][] = []
let peer = host === undefined ? undefined : { address: host, port }
let newest = -1
let sent = 0
let sending = true
let startedAt = 0

socket.on('message', (message, from) => {
  if (message.length < 4) return
  const sequence = message.readUInt32BE(0)
  arrivals.push([sequence, Math.round(monotonicMs() * 1000) / 1000])
  if (role === 'server' && sequence > newest) {
    newest = sequence
    peer = { address: from.address, port: from.port }
    if (startedAt === 0) start()
  }
})
// An unreachable network is what these flows are there to see; the gap shows it.
socket.on('error', () => {})

function start(): void {
  startedAt = monotonicMs()
  tick()
}

/** Sends what is due, so that a late timer shifts no later datagram. */
function tick(): void {
  if (!sending) return
  const due = Math.floor((monotonicMs() - startedAt) / intervalMs) + 1
  for (; sent < due; sent++) {
    datagram.writeUInt32BE(sent, 0)
    if (peer !== undefined) socket.send(Buffer.from(datagram), peer.port, peer.address, () => {})
  }
  setTimeout(tick, Math.max(0, startedAt + sent * intervalMs - monotonicMs()))
}

if (role === 'server') socket.bind(port, () => print({ ready: true }))
else
  socket.bind(0, () => {
    print({ ready: true })
    start()
  })

commands((line) => {
  if (line === 'stop') sending = false
  if (line === 'report') {
    process.stdout.write(`${JSON.stringify({ sent, arrivals })}\n`, () => process.exit(0))
  }
})

/**
 * UDP on unconnected sockets: `server PORT` answers whoever sends and remembers from where; `client PORT HOST` sends a
 * number every 10 ms. On `report` both print what they saw; on `mark` when a datagram sent after it has come back.
 */
import { createSocket } from 'node:dgram'
import { createInterface } from 'node:readline'

const [, , role, port = '', host = ''] = process.argv
const socket = createSocket(host.includes(':') || port.endsWith('6') ? 'udp6' : 'udp4')
const sources = new Set<string>()
let seen = 0
let sent = 0
let mark = Number.POSITIVE_INFINITY

socket.on('error', () => {})
socket.on('message', (bytes, from) => {
  sources.add(`${from.address}:${from.port}`)
  seen++
  if (bytes.readUInt32BE(0) >= mark) report()
  if (role === 'server') socket.send(bytes, from.port, from.address, () => {})
})
socket.bind(role === 'server' ? Number(port) : 0, () => process.stdout.write('ready\n'))
if (role === 'client')
  setInterval(() => {
    const bytes = Buffer.alloc(100)
    bytes.writeUInt32BE(sent++)
    socket.send(bytes, Number(port), host, () => {})
  }, 10)
createInterface({ input: process.stdin }).on('line', (line) => {
  if (line === 'mark') mark = sent
  else report()
})

function report(): void {
  mark = Number.POSITIVE_INFINITY
  process.stdout.write(`${JSON.stringify({ sources: [...sources], seen, sent })}\n`)
}

/**
 * An interactive session, as a terminal at a remote host has: one key every `intervalMs`, each echoed by the far end.
 *
 *   {"role": "server", "port": 22}
 *   {"role": "client", "port": 22, "host": "192.0.2.2", "intervalMs": 100}
 *
 * The server prints `{"peer": ADDRESS}` for each connection. Stdin of the client: `report` prints `{"keys": N, "echoes": N,
 * "worst_ms": …, "local": "ADDRESS:PORT", "broken": bool}` and exits; `finish` types no more, and reports when the last
 * echo is there or the connection broken.
 */
import { createServer, connect as openSocket } from 'node:net'
import { argumentsOf, commands, monotonicMs, print } from './program.ts'

const { role, port, host, intervalMs } = argumentsOf<{
  role: 'server' | 'client'
  port: number
  host?: string
  intervalMs?: number
}>()

if (role === 'server') {
  const server = createServer({ noDelay: true }, (socket) => {
    print({ peer: socket.remoteAddress?.replace('::ffff:', '') })
    socket.on('error', () => {})
    socket.pipe(socket)
  })
  server.listen(port, '::', () => print({ ready: true }))
  commands(() => {})
} else {
  const typed: number[] = []
  let echoes = 0
  let worst = 0
  let broken = false
  let local = ''
  let typing: NodeJS.Timeout | undefined
  let finishing = false
  const socket = openSocket({ port, host: host!, noDelay: true }, () => {
    local = `${socket.localAddress}:${socket.localPort}`
    print({ ready: true, local })
    typing = setInterval(() => {
      typed.push(monotonicMs())
      socket.write('k')
    }, intervalMs ?? 100)
  })
  socket.on('data', (echo) => {
    for (const _ of echo) worst = Math.max(worst, monotonicMs() - (typed[echoes++] ?? 0))
    if (finishing && echoes >= typed.length) report()
  })
  socket.on('error', () => {
    broken = true
  })
  socket.on('close', () => {
    broken = true
    if (finishing) report()
  })
  const report = (): void => {
    // A key typed just now is still under way: it counts when its echo is overdue.
    const overdue = typed.length > echoes ? monotonicMs() - typed[echoes]! : 0
    print({
      keys: typed.length,
      echoes,
      worst_ms: Math.round(Math.max(worst, overdue) * 10) / 10,
      local,
      broken,
    })
    process.exit(0)
  }
  commands((line) => {
    clearInterval(typing)
    finishing = line === 'finish'
    if (line === 'report' || (finishing && (broken || echoes >= typed.length))) report()
  })
}

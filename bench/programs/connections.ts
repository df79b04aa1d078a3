/** Many idle TCP connections: `server`, or `client ADDRESSES COUNT`. Prints `ready`, and stays until it is ended. */
import { connect, createServer } from 'node:net'

const [, , role, list = '', count = '0'] = process.argv
const FIRST_PORT = 7_000
/** Connections per address and port: each needs an own port here. */
const PER_PORT = 5_000

if (role === 'server') {
  let listening = 0
  for (let i = 0; i < 4; i++)
    createServer((socket) => socket.on('error', () => {})).listen(
      { port: FIRST_PORT + i, backlog: 4096 },
      () => {
        if (++listening === 4) process.stdout.write('ready\n')
      },
    )
} else {
  const addresses = list.split(',')
  let open = 0
  let started = 0
  const next = (): void => {
    if (started >= Number(count)) return
    const host = addresses[started % addresses.length]!
    const port = FIRST_PORT + Math.floor(started++ / (PER_PORT * addresses.length))
    const socket = connect({ port, host }, () => {
      if (++open === Number(count)) process.stdout.write('ready\n')
      next()
    })
    socket.on('error', (error) => {
      process.stdout.write(`${error.message}\n`)
      process.exit(1)
    })
  }
  for (let i = 0; i < 200; i++) next()
}

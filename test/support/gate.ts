/**
 * The thread of a `Gate` (postgres.ts): what comes to one socket goes to another one while it is open. A thread, because tests wait for
 * databases without letting their own thread go on.
 */
import { chmodSync } from 'node:fs'
import { createConnection, createServer, type Socket } from 'node:net'
import { parentPort, workerData } from 'node:worker_threads'

const { path, target } = workerData as { readonly path: string; readonly target: string }
const sockets = new Set<Socket>()
let isOpen = true

const server = createServer((near) => {
  const far = createConnection(target)
  for (const socket of [near, far]) {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => socket.destroy())
    if (!isOpen) socket.pause()
  }
  near.on('data', (bytes) => far.write(bytes))
  far.on('data', (bytes) => near.write(bytes))
  near.on('close', () => far.destroy())
  far.on('close', () => near.destroy())
  if (!isOpen) for (const socket of [near, far]) socket.pause()
})
server.listen(path, () => {
  chmodSync(path, 0o777)
  parentPort!.postMessage('ready')
})
parentPort!.on('message', (open: boolean) => {
  isOpen = open
  for (const socket of sockets) open ? socket.resume() : socket.pause()
})

/**
 * The thread that turns WebSockets into datagrams on loopback. As a client it opens and closes them on command, as a
 * server it listens. The engine's packet path does not know about WebSockets.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { Bridge } from './bridge.ts'
import { type Opening, openWebSocket } from './client.ts'
import { CarrierServer, type CarrierServerInit } from './server.ts'

export type CarrierRole = { readonly role: 'client' } | ({ readonly role: 'server' } & CarrierServerInit)

export type CarrierCommand =
  | { readonly type: 'open'; readonly id: number; readonly opening: Opening; readonly enginePort: number }
  | { readonly type: 'close'; readonly id: number }
  /** Ports to which peers of the engine have paths: their connections are no strangers. */
  | { readonly type: 'proven'; readonly ports: readonly number[] }
  | { readonly type: 'stop' }

export type CarrierEvent =
  /** The engine reaches it at this port of 127.0.0.1. */
  | { readonly type: 'opened'; readonly id: number; readonly port: number }
  | { readonly type: 'closed'; readonly id: number; readonly reason: string }
  | { readonly type: 'listening'; readonly port: number }
  | { readonly type: 'failed'; readonly code: string; readonly message: string }

const port = parentPort!
const say = (event: CarrierEvent) => port.postMessage(event)
const role = workerData as CarrierRole

if (role.role === 'server') serve(role)
else open()

function serve(init: CarrierServerInit): void {
  const server = new CarrierServer(init)
  port.on('message', (command: CarrierCommand) => {
    if (command.type === 'proven') server.setProven(new Set(command.ports))
    else if (command.type === 'stop') void server.close().finally(() => port.close())
  })
  server.listen().then(
    (listening) => say({ type: 'listening', port: listening }),
    (error: Error & { code?: string }) => {
      say({ type: 'failed', code: error.code ?? 'CARRIER_FAILED', message: error.message })
      void server.close().finally(() => port.close())
    },
  )
}

function open(): void {
  /** Undefined while it opens. */
  const bridges = new Map<number, Bridge | undefined>()
  const closed = (id: number, reason: string) => {
    if (bridges.delete(id)) say({ type: 'closed', id, reason })
  }
  port.on('message', (command: CarrierCommand) => {
    if (command.type === 'open') void start(command)
    else if (command.type === 'close') {
      const bridge = bridges.get(command.id)
      bridges.delete(command.id)
      bridge?.close('not needed')
    } else if (command.type === 'stop') {
      for (const bridge of bridges.values()) bridge?.close('the daemon stops')
      bridges.clear()
      port.close()
    }
  })
  async function start({ id, opening, enginePort }: CarrierCommand & { type: 'open' }): Promise<void> {
    bridges.set(id, undefined)
    try {
      const socket = await openWebSocket(opening)
      const bridge = await Bridge.open(socket, enginePort, { onClose: (reason) => closed(id, reason) })
      if (!bridges.has(id)) return bridge.close('not needed')
      bridges.set(id, bridge)
      say({ type: 'opened', id, port: bridge.port })
    } catch (error) {
      closed(id, (error as Error).message)
    }
  }
}

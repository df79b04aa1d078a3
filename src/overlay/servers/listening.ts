/** A TCP port of a server of the overlay. */
import type { Server } from 'node:net'
import { GodwitError } from '../../core/errors.ts'
import { giveLittleRoom } from '../../linux/receive-room.ts'

/** Listens on all addresses; connections have little room (`giveRoom`). Rejects with PORT_TAKEN. */
export function listenOn(server: Server, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'EADDRINUSE'
          ? new GodwitError('PORT_TAKEN', `TCP port ${port} is in use by another process`)
          : error,
      ),
    )
    server.listen(port, '::', () => {
      giveLittleRoom(server)
      resolve()
    })
  })
}

/**
 * A TCP connection whose bytes are counted as they come, below TLS: what TLS takes for itself, such as KeyUpdate, is seen by nobody else,
 * costs time and draws an answer. Wakes nobody in between, as a timer would. For connections on which little comes.
 */
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'

/** `allow`: whether these bytes may come; else the connection ends. */
export function metered(socket: Socket, allow: (bytes: number) => boolean): Duplex {
  const stream = new Duplex({
    read: () => void socket.resume(),
    write: (bytes: Buffer, _encoding, done) => void socket.write(bytes, () => done()),
    final: (done) => void socket.end(() => done()),
    destroy(error, done) {
      socket.destroy()
      done(error)
    },
  })
  socket.on('data', (bytes) => {
    if (!allow(bytes.length)) stream.destroy(new Error('it sends too much'))
    else if (!stream.push(bytes)) socket.pause()
  })
  socket.on('end', () => stream.push(null))
  socket.on('error', (error) => stream.destroy(error))
  socket.on('close', () => stream.destroy())
  return stream
}

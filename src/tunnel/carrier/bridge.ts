/**
 * One WebSocket and one UDP socket on loopback: each binary message is one datagram of the tunnel, in both directions.
 * Datagrams that the WebSocket cannot take are dropped, as by a full queue of a link: keeping them would only delay those
 * that follow.
 */
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import type { WebSocket } from 'ws'

/** Largest datagram: an outer packet of the tunnel fits. */
export const MOST_BYTES = 2048
/** Max bytes that wait for the TCP connection. */
const MOST_WAITING = 256 * 1024
const NOT_UNDERSTOOD = 1003

export interface BridgeEvents {
  /** Called for each received message; false: do not forward it. */
  readonly onMessage?: (bytes: number) => boolean
  readonly onClose: (reason: string) => void
}

export class Bridge {
  readonly #socket: WebSocket
  readonly #udp: Socket
  readonly #onClose: (reason: string) => void
  #closed = false

  private constructor(socket: WebSocket, udp: Socket, events: BridgeEvents) {
    this.#socket = socket
    this.#udp = udp
    this.#onClose = events.onClose
    udp.on('message', (datagram) => {
      if (socket.readyState === socket.OPEN && socket.bufferedAmount < MOST_WAITING)
        socket.send(datagram, { binary: true, compress: false })
    })
    // The engine may not listen yet, or no more: what cannot be delivered is lost, like any datagram.
    udp.on('error', () => {})
    socket.on('message', (data: Buffer, isBinary) => {
      if (!isBinary) this.close('sends text', NOT_UNDERSTOOD)
      else if (events.onMessage?.(data.length) !== false && data.length > 0) udp.send(data, () => {})
    })
    socket.on('error', (error) => this.close(error.message))
    socket.on('close', (code) => this.close(`closed with ${code}`))
  }

  /** Datagrams go to this port of 127.0.0.1 and come from there alone. */
  static async open(socket: WebSocket, port: number, events: BridgeEvents): Promise<Bridge> {
    // Datagrams that arrive meanwhile wait in the kernel.
    socket.pause()
    const udp = createSocket({ type: 'udp4', recvBufferSize: 1 << 20 })
    udp.bind(0, '127.0.0.1')
    await once(udp, 'listening')
    udp.connect(port, '127.0.0.1')
    await once(udp, 'connect')
    const bridge = new Bridge(socket, udp, events)
    socket.resume()
    return bridge
  }

  /** The port on loopback that the engine reaches it at. */
  get port(): number {
    return this.#udp.address().port
  }

  /** Repeatable. */
  close(reason: string, code = 1000): void {
    if (this.#closed) return
    this.#closed = true
    this.#udp.close()
    if (this.#socket.readyState === this.#socket.OPEN) this.#socket.close(code)
    // If the other end does not answer the closing handshake, terminate soon.
    setTimeout(() => this.#socket.terminate(), CLOSE_MS).unref()
    this.#onClose(reason)
  }
}

const CLOSE_MS = 1000

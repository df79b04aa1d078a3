/** A client of TLS 1.3 that sends KeyUpdate records without end (RFC 8446 §4.6.3, §7.2), each of which asks for one in return. */
import { createCipheriv, createHmac } from 'node:crypto'
import { once } from 'node:events'
import { connect as connectTcp, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { connect } from 'node:tls'

const APPLICATION_DATA = 23
const HANDSHAKE = 22
/** KeyUpdate, update_requested. */
const UPDATE = Uint8Array.of(24, 0, 0, 1, 1)
const TAG = 16

/** HKDF-Expand-Label of RFC 8446 §7.1. */
function derive(secret: Buffer, label: string, length: number): Buffer {
  const full = Buffer.from(`tls13 ${label}`)
  const info = Buffer.from([length >> 8, length & 0xff, full.length, ...full, 0, 1])
  return createHmac('sha256', secret).update(info).digest().subarray(0, length)
}

export class KeyUpdates {
  /** Below TLS. */
  readonly socket: Socket
  #secret: Buffer
  #sequence = 0

  private constructor(socket: Socket, secret: Buffer) {
    this.socket = socket
    this.#secret = secret
  }

  static async connect(port: number): Promise<KeyUpdates> {
    const socket = connectTcp(port, '127.0.0.1')
    socket.on('error', () => {})
    let isOurs = false
    const below = new Duplex({
      read() {},
      write: (bytes: Buffer, _encoding, done) => socket.write(bytes, done),
    })
    socket.on('data', (bytes) => !isOurs && below.push(bytes))
    const within = connect({
      ...{ socket: below, rejectUnauthorized: false },
      ...{ minVersion: 'TLSv1.3', ciphers: 'TLS_AES_128_GCM_SHA256' },
    })
    let secret: Buffer | undefined
    within.on('keylog', (line) => {
      const hex = /^CLIENT_TRAFFIC_SECRET_0 \S+ (\S+)/.exec(String(line))?.[1]
      if (hex !== undefined) secret = Buffer.from(hex, 'hex')
    })
    await once(within, 'secureConnect')
    isOurs = true
    return new KeyUpdates(socket, secret!)
  }

  write(data: Uint8Array | string): void {
    this.socket.write(this.#record(Buffer.from(data), APPLICATION_DATA))
  }

  /** So many; whether the other end has ended the connection within five seconds. */
  async flood(count: number): Promise<boolean> {
    const closed = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), 5000)
      this.socket.once('close', () => {
        clearTimeout(timer)
        resolve(true)
      })
    })
    const records = Array.from({ length: count }, () => {
      const record = this.#record(UPDATE, HANDSHAKE)
      this.#secret = derive(this.#secret, 'traffic upd', 32)
      this.#sequence = 0
      return record
    })
    this.socket.write(Buffer.concat(records))
    return closed
  }

  #record(content: Uint8Array, type: number): Buffer {
    const head = Buffer.from([APPLICATION_DATA, 3, 3, 0, 0])
    head.writeUInt16BE(content.length + 1 + TAG, 3)
    const nonce = derive(this.#secret, 'iv', 12)
    nonce.writeUInt32BE((nonce.readUInt32BE(8) ^ this.#sequence++) >>> 0, 8)
    const cipher = createCipheriv('aes-128-gcm', derive(this.#secret, 'key', 16), nonce).setAAD(head)
    return Buffer.concat([
      head,
      cipher.update(Buffer.concat([content, Uint8Array.of(type)])),
      cipher.final(),
      cipher.getAuthTag(),
    ])
  }
}

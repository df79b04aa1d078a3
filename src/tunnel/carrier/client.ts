/**
 * Opens a WebSocket over one access: to the anchor itself or through an HTTP proxy (CONNECT), TLS with the anchor's
 * certificate pinned or checked as a browser would.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import { WebSocket } from 'ws'
import { GodwitError } from '../../core/errors.ts'
import { type BoundOptions, connectTcp } from '../../linux/bound-socket.ts'
import { MOST_BYTES } from './bridge.ts'

export interface Opening extends BoundOptions {
  /** `wss://HOST[:PORT]/PATH`. */
  readonly url: string
  /** SHA-256 of the certificate, base64; absent: it must be of a known authority, for that host. */
  readonly pin?: string
  /** Where to connect to: the anchor's address, or the proxy's. */
  readonly address: Uint8Array
  readonly port: number
  /** The address is a proxy's; `authorization`: for Proxy-Authorization. */
  readonly proxy?: { readonly authorization?: string }
}

const OPEN_MS = 10_000
const MOST_HEADER = 8192
const DEFAULT_PORT = 443

/** Resolves to an open WebSocket. Rejects with CARRIER_FAILED. */
export async function openWebSocket(opening: Opening): Promise<WebSocket> {
  const { url, address, port, device, mark, proxy } = opening
  let raw: Socket | undefined
  try {
    const signal = AbortSignal.timeout(OPEN_MS)
    raw = connectTcp({ address, port }, { ...(device && { device }), ...(mark && { mark }) })
    // Kept for the whole of its life: an error without a listener would end the thread.
    raw.on('error', () => {})
    const target = new URL(url)
    if (proxy !== undefined) await tunnelThrough(raw, target, proxy.authorization, signal)
    const secure = await secured(raw, target, opening.pin, signal)
    const socket = new WebSocket(url, {
      createConnection: () => secure,
      perMessageDeflate: false,
      maxPayload: MOST_BYTES,
      handshakeTimeout: OPEN_MS,
      followRedirects: false,
    })
    socket.on('error', () => {})
    await once(socket, 'open', { signal })
    return socket
  } catch (error) {
    raw?.destroy()
    throw new GodwitError('CARRIER_FAILED', `${url}: ${(error as Error).message}`, { cause: error })
  }
}

/** RFC 9110 §9.3.6. The proxy resolves the name. */
async function tunnelThrough(
  raw: Socket,
  { hostname, port }: URL,
  authorization: string | undefined,
  signal: AbortSignal,
): Promise<void> {
  const target = `${hostname}:${port || DEFAULT_PORT}`
  const credentials = authorization === undefined ? '' : `Proxy-Authorization: ${authorization}\r\n`
  raw.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${credentials}\r\n`)
  let head = Buffer.alloc(0)
  for (;;) {
    const [part] = (await once(raw, 'data', { signal })) as [Buffer]
    head = Buffer.concat([head, part])
    const end = head.indexOf('\r\n\r\n')
    if (end >= 0) {
      const status = /^HTTP\/1\.[01] (\d{3})/.exec(head.toString('latin1', 0, end))?.[1]
      if (status !== '200') throw new Error(`the proxy answers ${status ?? 'no HTTP'}`)
      raw.pause()
      raw.removeAllListeners('data')
      if (head.length > end + 4) raw.unshift(head.subarray(end + 4))
      return
    }
    if (head.length > MOST_HEADER) throw new Error('the answer of the proxy is too long')
  }
}

async function secured(
  raw: Socket,
  { hostname }: URL,
  pin: string | undefined,
  signal: AbortSignal,
): Promise<TLSSocket> {
  const isName = !/^\[|^[\d.]+$/.test(hostname)
  const secure = connectTls({
    socket: raw,
    host: hostname,
    ...(isName && { servername: hostname }),
    ALPNProtocols: ['http/1.1'],
    rejectUnauthorized: pin === undefined,
  })
  secure.on('error', () => {})
  await once(secure, 'secureConnect', { signal })
  if (pin !== undefined && pinOf(secure.getPeerCertificate().raw) !== pin) {
    secure.destroy()
    throw new Error('not the certificate of the invitation')
  }
  return secure
}

/** Pin of a certificate in DER. */
export function pinOf(certificate: Uint8Array): string {
  return createHash('sha256').update(certificate).digest('base64')
}

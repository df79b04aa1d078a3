/** Message encryption for Web Push (RFC 8291) in one record of aes128gcm (RFC 8188). */
import { createCipheriv, createDecipheriv, createECDH, createHmac, hkdfSync, randomBytes } from 'node:crypto'
import { POINT } from './address.ts'

const CURVE = 'prime256v1'
const SALT = 16
const TAG = 16
const RECORD = 4096
/** salt (16), record size (32), length of the key id (8), key id: the sender's public key. */
const HEADER = SALT + 4 + 1 + POINT
/** End of the last record (RFC 8188 §2). */
const LAST = 2

export interface PushKeys {
  /** P-256, 32 bytes. */
  readonly privateKey: Uint8Array
  /** 16 bytes. */
  readonly secret: Uint8Array
}

export function publicPoint(privateKey: Uint8Array): Uint8Array {
  const ecdh = createECDH(CURVE)
  ecdh.setPrivateKey(privateKey)
  return new Uint8Array(ecdh.getPublicKey())
}

/** For a receiver with this public key and secret. `own` and `salt` are drawn at random but in tests. Throws for a point that is none. */
export function encryptPush(
  plain: Uint8Array,
  receiver: { readonly publicKey: Uint8Array; readonly secret: Uint8Array },
  own?: Uint8Array,
  salt: Uint8Array = randomBytes(SALT),
): Buffer {
  const ecdh = createECDH(CURVE)
  if (own === undefined) ecdh.generateKeys()
  else ecdh.setPrivateKey(own)
  const point = ecdh.getPublicKey()
  const shared = ecdh.computeSecret(receiver.publicKey)
  const { key, nonce } = keysOf(shared, receiver.secret, receiver.publicKey, point, salt)
  const cipher = createCipheriv('aes-128-gcm', key, nonce)
  const sealed = Buffer.concat([cipher.update(plain), cipher.update(Uint8Array.of(LAST)), cipher.final()])
  const head = Buffer.alloc(5)
  head.writeUInt32BE(RECORD)
  head[4] = POINT
  return Buffer.concat([salt, head, point, sealed, cipher.getAuthTag()])
}

/** Undefined: not for these keys, or damaged. */
export function decryptPush(message: Uint8Array, { privateKey, secret }: PushKeys): Uint8Array | undefined {
  const bytes = Buffer.from(message)
  if (bytes.length < HEADER + 1 + TAG || bytes[SALT + 4] !== POINT) return undefined
  if (bytes.length > HEADER + bytes.readUInt32BE(SALT)) return undefined
  try {
    const ecdh = createECDH(CURVE)
    ecdh.setPrivateKey(privateKey)
    const point = bytes.subarray(SALT + 5, HEADER)
    const { key, nonce } = keysOf(
      ecdh.computeSecret(point),
      secret,
      ecdh.getPublicKey(),
      point,
      bytes.subarray(0, SALT),
    )
    const decipher = createDecipheriv('aes-128-gcm', key, nonce)
    decipher.setAuthTag(bytes.subarray(bytes.length - TAG))
    const padded = Buffer.concat([
      decipher.update(bytes.subarray(HEADER, bytes.length - TAG)),
      decipher.final(),
    ])
    const end = padded.findLastIndex((byte) => byte !== 0)
    return end < 0 || padded[end] !== LAST ? undefined : new Uint8Array(padded.subarray(0, end))
  } catch {
    return undefined
  }
}

/** RFC 8291 §3.4. */
function keysOf(
  shared: Uint8Array,
  secret: Uint8Array,
  receiver: Uint8Array,
  sender: Uint8Array,
  salt: Uint8Array,
): { readonly key: Buffer; readonly nonce: Buffer } {
  const info = Buffer.concat([Buffer.from('WebPush: info\0'), receiver, sender])
  const early = createHmac('sha256', secret).update(shared).digest()
  const input = createHmac('sha256', early).update(info).update(Uint8Array.of(1)).digest()
  const block = (label: string, length: number) =>
    Buffer.from(hkdfSync('sha256', input, salt, `Content-Encoding: ${label}\0`, length))
  return { key: block('aes128gcm', 16), nonce: block('nonce', 12) }
}

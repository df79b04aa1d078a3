/** SHA-256 and its HMAC from OpenSSL, as protocol cores are given them. */
import { createHash, createHmac } from 'node:crypto'

export const nodeSha256 = {
  hash(bytes: Uint8Array): Uint8Array {
    return new Uint8Array(createHash('sha256').update(bytes).digest())
  },
  hmac(key: Uint8Array, message: Uint8Array): Uint8Array {
    return new Uint8Array(createHmac('sha256', key).update(message).digest())
  },
}

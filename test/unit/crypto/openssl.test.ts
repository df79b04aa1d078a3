import assert from 'node:assert/strict'
import { createCipheriv } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { type CipherName, loadAead } from '../../../src/crypto/openssl.ts'
import { Arena } from '../../../src/linux/arena.ts'

const arena = new Arena(1 << 16)
const at = arena.reserve(8192)

for (const from of ['best', 'node'] as const)
  for (const cipher of ['aes-256-gcm', 'chacha20-poly1305'] as CipherName[])
    test(`${cipher} from ${from}: as node:crypto computes it, and refuses forgeries`, () => {
      const aead = loadAead(arena, from)
      const key = Uint8Array.from({ length: 32 }, (_, i) => i)
      const sealing = aead.newContext(cipher, 'seal', key)
      const opening = aead.newContext(cipher, 'open', key)
      fc.assert(
        fc.property(
          fc.uint8Array({ maxLength: 1500 }),
          fc.nat(0xffffffff),
          fc.nat(0x1fffff),
          fc.nat(15),
          (text, low, high, padding) => {
            const nonce = Buffer.alloc(12)
            nonce.writeUInt32LE(low, 4)
            nonce.writeUInt32LE(high, 8)
            const reference = createCipheriv(cipher as 'aes-256-gcm', key, nonce, { authTagLength: 16 })
            const padded = Buffer.concat([text, Buffer.alloc(padding)])
            const expected = Buffer.concat([
              reference.update(padded),
              reference.final(),
              reference.getAuthTag(),
            ])
            arena.u8.set(text, at)
            const to = at + 2048
            aead.seal(sealing, low, high, at, text.length, padding, to)
            const sealed = arena.u8.slice(to, to + padded.length + 16)
            assert.deepEqual(Buffer.from(sealed), expected)
            assert.ok(aead.open(opening, low, high, to, padded.length))
            assert.deepEqual(Buffer.from(arena.u8.subarray(to, to + padded.length)), padded)
            arena.u8.set(sealed, to)
            arena.u8[to + padded.length]! ^= 1
            assert.ok(!aead.open(opening, low, high, to, padded.length))
          },
        ),
        { numRuns: 50 },
      )
      aead.freeContext(sealing)
      aead.freeContext(opening)
    })

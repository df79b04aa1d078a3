/** `keygen` and `pubkey`, as `wg genkey` and `wg pubkey`. */
import { readFileSync } from 'node:fs'
import { usageError } from '../../core/errors.ts'
import { decodeKey, encodeKey, generatePrivateKey, publicKeyOf } from '../../crypto/keys.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines } from '../output.ts'

export async function keygen(options: CommonOptions): Promise<void> {
  const key = generatePrivateKey()
  const privateKey = encodeKey(key)
  if (options.json) printJson({ private_key: privateKey, public_key: encodeKey(publicKeyOf(key)) })
  else printLines([privateKey])
}

export async function pubkey(options: CommonOptions): Promise<void> {
  const key = decodeKey(readFileSync(0, 'utf8').trim())
  if (!key.ok) throw usageError(`standard input: ${key.reason}`, { hint: 'godwit keygen makes a key' })
  const publicKey = encodeKey(publicKeyOf(key.value))
  if (options.json) printJson({ public_key: publicKey })
  else printLines([publicKey])
}

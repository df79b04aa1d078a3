/** Files to transfer: pseudo-random bytes that follow from a seed, and SHA-256 of files. */
import { createCipheriv, createHash } from 'node:crypto'
import { closeSync, createReadStream, openSync, writeSync } from 'node:fs'

const CHUNK = 1 << 20

/** Writes `bytes` pseudo-random bytes (an AES-CTR key stream: no program can compress them) and returns their SHA-256. */
export function writePayload(path: string, bytes: number, seed: number): string {
  const key = createHash('sha256').update(`godwit lab payload ${seed}`).digest()
  const stream = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  const zeros = Buffer.alloc(CHUNK)
  const hash = createHash('sha256')
  const fd = openSync(path, 'w')
  try {
    for (let left = bytes; left > 0; left -= CHUNK) {
      const chunk = stream.update(left < CHUNK ? zeros.subarray(0, left) : zeros)
      hash.update(chunk)
      writeSync(fd, chunk)
    }
  } finally {
    closeSync(fd)
  }
  return hash.digest('hex')
}

/** SHA-256 of a file; undefined when it is not there. */
export async function sha256(path: string): Promise<string | undefined> {
  const hash = createHash('sha256')
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: CHUNK })) hash.update(chunk as Buffer)
  } catch {
    return undefined
  }
  return hash.digest('hex')
}

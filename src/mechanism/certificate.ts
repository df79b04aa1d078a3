/** A TLS certificate of one's own, for servers whose clients pin it. */
import { spawnSync } from 'node:child_process'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { GodwitError } from '../core/errors.ts'
import { needProgram } from '../linux/packages.ts'
import { writeAtomic, writeSecret } from './files.ts'

const NEW_PIN = 'others are made then, and who has pinned these needs the new pin'

export interface TlsFiles {
  /** PEM. */
  readonly cert: string
  readonly key: string
}

/** Makes certificate and key when they are not there. Good for a hundred years: what it proves is that it is the pinned one. */
export function ensureCertificate(certFile: string, keyFile: string, name: string): void {
  const [isThere, hasKey] = [existsSync(certFile), existsSync(keyFile)]
  if (isThere && hasKey) return
  // Another one would keep out all that have pinned it.
  if (isThere || hasKey)
    throw new GodwitError(
      'CERTIFICATE_MISSING',
      `there is ${isThere ? certFile : keyFile}, and no ${isThere ? keyFile : certFile}`,
      {
        kind: 'usage',
        hint: `put a copy back; or remove both: ${NEW_PIN}`,
      },
    )
  const args = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const files = ['-keyout', keyFile, '-out', certFile, '-days', '36500']
  const subject = ['-subj', `/CN=${name.replace(/[^A-Za-z0-9.:-]/g, '').slice(0, 63) || 'godwit'}`]
  const { status, stderr, error } = spawnSync(needProgram('openssl'), [...args, ...files, ...subject], {
    encoding: 'utf8',
    timeout: 30_000,
  })
  if (status !== 0)
    throw new GodwitError('CERTIFICATE_FAILED', `openssl: ${error?.message ?? stderr.trim()}`, {
      op: 'openssl',
    })
  // On the disk, and the key its owner's alone.
  writeSecret(keyFile, readFileSync(keyFile, 'utf8'))
  writeAtomic(certFile, readFileSync(certFile, 'utf8'))
}

/** Reads both. Throws CERTIFICATE_MISSING; `section` is where the user named them. */
export function readCertificate(certFile: string, keyFile: string, section: string): TlsFiles {
  try {
    return { cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') }
  } catch (error) {
    throw new GodwitError('CERTIFICATE_MISSING', `${section}: ${(error as Error).message}`, { kind: 'usage' })
  }
}

/** Throws CERTIFICATE_DAMAGED when one of the files is not what it should be, or the key is another's. */
export function checkCertificate({ cert, key }: TlsFiles, certFile: string, keyFile: string): void {
  let why = 'the key is of another certificate'
  try {
    if (new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))) return
  } catch (error) {
    why = (error as Error).message
  }
  throw new GodwitError('CERTIFICATE_DAMAGED', `${certFile} or ${keyFile} is damaged: ${why}`, {
    kind: 'usage',
    hint: `put copies of both back; or remove both, if godwit made them: ${NEW_PIN}`,
  })
}

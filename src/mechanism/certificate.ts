/** A TLS certificate of one's own, for servers whose clients pin it. */
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, readFileSync } from 'node:fs'
import { GodwitError } from '../core/errors.ts'
import { needProgram } from '../linux/packages.ts'

export interface TlsFiles {
  /** PEM. */
  readonly cert: string
  readonly key: string
}

/** Makes certificate and key when they are not there. Good for a hundred years: what it proves is that it is the pinned one. */
export function ensureCertificate(certFile: string, keyFile: string, name: string): void {
  if (existsSync(certFile) && existsSync(keyFile)) return
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
  chmodSync(keyFile, 0o600)
}

/** Reads both. Throws CERTIFICATE_MISSING; `section` is where the user named them. */
export function readCertificate(certFile: string, keyFile: string, section: string): TlsFiles {
  try {
    return { cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') }
  } catch (error) {
    throw new GodwitError('CERTIFICATE_MISSING', `${section}: ${(error as Error).message}`, { kind: 'usage' })
  }
}

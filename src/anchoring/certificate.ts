/** The certificate that an anchor shows over WebSockets: the one that it is given, or one of its own, and what pins it. */
import { spawnSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { chmodSync, existsSync, readFileSync } from 'node:fs'
import { GodwitError } from '../core/errors.ts'
import { needProgram } from '../linux/packages.ts'
import type { Files } from '../mechanism/services.ts'
import { pinOf } from '../tunnel/carrier/client.ts'
import type { AnchorSettings } from './config.ts'

export interface Certificate {
  /** PEM; absent where a web server does TLS. */
  readonly tls?: { readonly cert: string; readonly key: string }
  /** For invitations; absent: hosts check the certificate as a browser does. */
  readonly pin?: string
}

/** Makes the anchor's own certificate when there is none. Throws what a user can mend. */
export function certificateOf(
  { url, plain, certificate, key, pin }: NonNullable<AnchorSettings['websocket']>,
  files: Pick<Files, 'file' | 'resolve'>,
): Certificate {
  if (plain && certificate === undefined) return {}
  const isOwn = certificate === undefined
  const certFile = isOwn ? files.file('websocket.crt') : files.resolve(certificate)
  const keyFile = isOwn || key === undefined ? files.file('websocket.key') : files.resolve(key)
  if (isOwn && !(existsSync(certFile) && existsSync(keyFile))) make(certFile, keyFile, new URL(url).hostname)
  const cert = read(certFile)
  return {
    ...(!plain && { tls: { cert, key: read(keyFile) } }),
    ...((pin ?? isOwn) && { pin: pinOf(new X509Certificate(cert).raw) }),
  }
}

/** What an invitation says of it. */
export function certificatePin(...given: Parameters<typeof certificateOf>): Pick<Certificate, 'pin'> {
  const { pin } = certificateOf(...given)
  return pin === undefined ? {} : { pin }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new GodwitError('CERTIFICATE_MISSING', `[anchor.websocket]: ${(error as Error).message}`, {
      kind: 'usage',
    })
  }
}

/** Good for a hundred years: what it proves is that it is the one that the invitation names. */
function make(certFile: string, keyFile: string, name: string): void {
  const args = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const files = ['-keyout', keyFile, '-out', certFile, '-days', '36500']
  const subject = ['-subj', `/CN=${name.replace(/[^A-Za-z0-9.:-]/g, '').slice(0, 63) || 'anchor'}`]
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

/** The certificate that an anchor shows over WebSockets: the one that it is given, or one of its own, and what pins it. */
import { X509Certificate } from 'node:crypto'
import { checkCertificate, ensureCertificate, readCertificate } from '../mechanism/certificate.ts'
import type { Files } from '../mechanism/services.ts'
import { pinOf } from '../tunnel/carrier/client.ts'
import type { AnchorSettings } from './config.ts'

export interface Certificate {
  /** PEM; absent where a web server does TLS. */
  readonly tls?: { readonly cert: string; readonly key: string }
  /** For invitations; absent: hosts check the certificate as a browser does. */
  readonly pin?: string
}

/** Creates the anchor's own certificate if there is none. Throws an error with a hint for the user. */
export function certificateOf(
  { url, plain, certificate, key, pin }: NonNullable<AnchorSettings['websocket']>,
  files: Pick<Files, 'file' | 'resolve'>,
): Certificate {
  if (plain && certificate === undefined) return {}
  const isOwn = certificate === undefined
  const certFile = isOwn ? files.file('websocket.crt') : files.resolve(certificate)
  const keyFile = isOwn || key === undefined ? files.file('websocket.key') : files.resolve(key)
  if (isOwn) ensureCertificate(certFile, keyFile, new URL(url).hostname)
  const tls = readCertificate(certFile, plain ? certFile : keyFile, '[anchor.websocket]')
  if (!plain) checkCertificate(tls, certFile, keyFile)
  return {
    ...(!plain && { tls }),
    ...((pin ?? isOwn) && { pin: pinOf(new X509Certificate(tls.cert).raw) }),
  }
}

/** The pin of the certificate for invitations. */
export function certificatePin(...given: Parameters<typeof certificateOf>): Pick<Certificate, 'pin'> {
  const { pin } = certificateOf(...given)
  return pin === undefined ? {} : { pin }
}

/** The parts of a zone's servers that are the same beside the coordinator and apart from it. */
import { X509Certificate } from 'node:crypto'
import { checkCertificate, ensureCertificate, readCertificate } from '../../mechanism/certificate.ts'
import { pinOf } from '../../tunnel/carrier/client.ts'
import type { PushSender } from '../push/sender.ts'
import type { CertifiedServer } from '../wire/message.ts'
import { CacheServer } from './cache.ts'
import type { CacheDirectory } from './cache-directory.ts'
import { CacheStore, limitsFor } from './cache-store.ts'
import { NotificationServer } from './notification.ts'
import { PUSH_FILE, pushSender } from './push-settings.ts'
import { type AnySettings, CACHE_FOLDER, CERTIFICATE_FILES, cachePort, notificationPort } from './settings.ts'

export type Role = 'as' | 'dc' | 'ns' | 'rs' | 'cs'
export const ROLES: readonly Role[] = ['as', 'dc', 'ns', 'rs', 'cs']

export interface RoleParts<Settings extends AnySettings = AnySettings> {
  readonly settings: Settings
  readonly roles: readonly Role[]
  /** A file of the state. */
  readonly file: (name: string) => string
  readonly log: (level: 'error' | 'warn' | 'info', message: string) => void
}

export interface Times {
  readonly now: () => number
  readonly wall: () => number
}

/** The notification server, and push services for those that are not connected to it. */
export class Notifications {
  readonly server: NotificationServer
  readonly #push: PushSender

  constructor(
    { settings, file, log }: Pick<RoleParts, 'settings' | 'file' | 'log'>,
    { now, wall }: Times,
    events: {
      readonly onConnection: (name: string, token: Uint8Array, isConnected: boolean) => void
      readonly onGone: (name: string, address: string) => void
    },
  ) {
    const { onConnection, onGone } = events
    this.server = new NotificationServer({
      ...{ tls: certificateOf(settings, file), port: notificationPort(settings), now, onConnection },
      log: (message) => log('warn', message),
    })
    this.#push = pushSender(file(PUSH_FILE), settings, {
      ...{ now, wall, onGone },
      log: (message) => log('warn', message),
    })
  }

  start(): Promise<void> {
    return this.server.start()
  }

  notify(
    name: string,
    datagram: Uint8Array,
    push: { readonly address: string; readonly account: string } | undefined,
  ): void {
    if (!this.server.notify(name, datagram) && push !== undefined)
      void this.#push.send({ name, datagram, ...push })
  }

  async stop(): Promise<void> {
    await this.server.stop()
    this.#push.close()
  }
}

export function makeCache(
  { settings, file, log }: Pick<RoleParts, 'settings' | 'file' | 'log'>,
  { now, wall }: Times,
  directory: CacheDirectory,
): CacheServer {
  return new CacheServer({
    objects: new CacheStore(file(CACHE_FOLDER), limitsFor(settings.cache_bytes), wall),
    ...{ directory, tls: certificateOf(settings, file), port: cachePort(settings), now, wall },
    log: (message) => log('error', message),
  })
}

export function hostPort({ host, port }: Pick<AnySettings, 'host' | 'port'>): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

export function certificateOf(settings: Pick<AnySettings, 'host'>, file: (name: string) => string) {
  const cert = file(CERTIFICATE_FILES.cert)
  const key = file(CERTIFICATE_FILES.key)
  ensureCertificate(cert, key, settings.host)
  const files = readCertificate(cert, key, 'certificate of the account server')
  checkCertificate(files, cert, key)
  return files
}

/** The pin for nodes (`--pin`): SHA-256 of the certificate, base64. Creates the certificate if there is none. */
export function certificatePin(settings: Pick<AnySettings, 'host'>, file: (name: string) => string): string {
  return pinOf(new X509Certificate(certificateOf(settings, file).cert).raw)
}

/** This host at one of its TLS ports. */
export function certified(
  settings: Pick<AnySettings, 'host'>,
  port: number,
  file: (name: string) => string,
): CertifiedServer {
  const certificate = new Uint8Array(Buffer.from(certificatePin(settings, file), 'base64'))
  return { host: settings.host, port, certificate }
}

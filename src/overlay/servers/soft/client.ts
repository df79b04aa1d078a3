/** As much of the client of NATS as is used; its packages are optional. */
import { randomInt } from 'node:crypto'
import { createRequire } from 'node:module'
import { checkServerIdentity, type PeerCertificate } from 'node:tls'
import { GodwitError, missingError } from '../../../core/errors.ts'
import { refuseExposed } from '../../../mechanism/files.ts'
import { textOf } from '../../store/postgres/settings.ts'
import { parseSoftUrl, type SoftSettings } from './settings.ts'
import { bounded, type TransportClass } from './transport.ts'

export interface NatsMessage {
  readonly subject: string
  readonly data: Uint8Array
}

export interface NatsConnection {
  publish(subject: string, data: Uint8Array): void
  subscribe(
    subject: string,
    options: { readonly callback: (error: Error | null, message: NatsMessage) => void },
  ): { unsubscribe(): void }
  flush(): Promise<void>
  close(): Promise<void>
  closed(): Promise<unknown>
  status(): AsyncIterable<{ readonly type: string; readonly error?: Error }>
  getServer(): string
  readonly info?: { readonly version: string }
}

export interface Bucket {
  put(key: string, bytes: Uint8Array): Promise<number>
  get(key: string): Promise<{ readonly value: Uint8Array; readonly operation: string } | null>
  status(): Promise<{ readonly replicas: number; readonly values: number }>
}

interface BucketOptions {
  readonly history: number
  readonly ttl: number
  readonly replicas: number
  readonly storage: 'memory'
  readonly maxValueSize: number
}

export interface Nats {
  connect(options: Readonly<Record<string, unknown>>): Promise<NatsConnection>
  bucketsOf(connection: NatsConnection): {
    create(name: string, options: BucketOptions): Promise<Bucket>
    open(name: string): Promise<Bucket>
  }
}

/** For every answer (ms). */
export const ANSWER_MS = 2000

/** Throws MISSING. */
export function natsClient(): Nats {
  try {
    const load = createRequire(import.meta.url)
    const { NatsConnectionImpl, setTransportFactory } = load('@nats-io/transport-node') as {
      NatsConnectionImpl: Pick<Nats, 'connect'>
      setTransportFactory: (factory: object) => void
    }
    const { NodeTransport, nodeResolveHost } = load('@nats-io/transport-node/lib/node_transport') as {
      NodeTransport: TransportClass
      nodeResolveHost: unknown
    }
    const Transport = bounded(NodeTransport)
    // As its own `connect`, with bounds.
    setTransportFactory({ factory: () => new Transport(), dnsResolveFn: nodeResolveHost })
    // The one that it comes with.
    const { jetstream } = createRequire(load.resolve('@nats-io/kv'))('@nats-io/jetstream') as {
      jetstream: (connection: NatsConnection, options: object) => unknown
    }
    const { Kvm } = load('@nats-io/kv') as {
      Kvm: new (of: unknown) => ReturnType<Nats['bucketsOf']>
    }
    return {
      connect: (options) => NatsConnectionImpl.connect(options),
      bucketsOf: (connection) => new Kvm(jetstream(connection, { timeout: ANSWER_MS })),
    }
  } catch (error) {
    const packages = 'npm install @nats-io/transport-node @nats-io/kv'
    throw missingError('the client of NATS is not installed', packages, { cause: error })
  }
}

/**
 * To one of the servers, drawn at random; the others are tried after it. One that is lost is not connected to again. Throws SOFT_AWAY,
 * SOFT_REFUSED, SECRET_EXPOSED, FILE_MISSING.
 */
export async function connectTo(nats: Nats, settings: SoftSettings): Promise<NatsConnection> {
  const { user, servers } = parseSoftUrl(settings.url)!
  const { password_file, ca_file, tls } = settings
  const pass = password_file === undefined ? '' : secretIn(password_file)
  const ca = ca_file === undefined ? undefined : textOf(ca_file)
  let failure: unknown
  for (const server of shuffled(servers)) {
    const host = server.replace(/:[0-9]+$/, '').replace(/^\[(.*)\]$/, '$1')
    try {
      return await nats.connect({
        servers: [server],
        name: `godwit ${settings.name}`,
        ...(user !== undefined && { user, pass }),
        ...(tls === 'verify' && {
          tls: {
            ...(ca !== undefined && { ca }),
            // The client checks no address, and other servers' names by that of the first.
            checkServerIdentity: (_name: string, certificate: PeerCertificate) =>
              checkServerIdentity(host, certificate),
          },
        }),
        ...{ noEcho: true, timeout: ANSWER_MS, ignoreClusterUpdates: true, reconnect: false },
        // One that answers no more, as after a cut cable, is left in six seconds.
        ...{ pingInterval: 2000, maxPingOut: 2 },
      })
    } catch (error) {
      // Of a server that refuses more can be learned than of one that is not there.
      if (failure === undefined || softFault(error, settings).code === 'SOFT_REFUSED') failure = error
    }
  }
  throw softFault(failure, settings)
}

function shuffled<T>(list: readonly T[]): readonly T[] {
  return list
    .map((each) => ({ each, order: randomInt(2 ** 32) }))
    .sort((a, b) => a.order - b.order)
    .map(({ each }) => each)
}

function secretIn(file: string): string {
  const text = textOf(file)
  refuseExposed(file)
  return text.replace(/\r?\n$/, '')
}

/** What NATS said, for people. */
export function softFault(error: unknown, { url }: Pick<SoftSettings, 'url'>): GodwitError {
  if (error instanceof GodwitError) return error
  const { message } = error as Error
  const what = `${url}: ${message}`
  if (/auth|permission/i.test(message))
    return new GodwitError('SOFT_REFUSED', what, {
      hint: 'is the user in the address right, and the password in its file? (docs/overlay.md, "Several coordinators")',
      cause: error,
    })
  return new GodwitError('SOFT_AWAY', what, {
    hint: 'is a server of NATS running there, with JetStream, and does it speak TLS? godwit overlay soft show',
    cause: error,
  })
}

/** What is to be seen on the bus of a zone: for `overlay soft show` and `doctor`. */
import { setTimeout as delay } from 'node:timers/promises'
import { nodeCrypto } from '../../../crypto/node-crypto.ts'
import { RealClock, realRandom } from '../../../linux/clock.ts'
import { Fellows } from '../../machine/fellows.ts'
import { overlayCrypto } from '../../node/crypto.ts'
import { MAX_SOFT } from '../../wire/fellow.ts'
import { keyOf, type ServerSettings } from '../settings.ts'
import { connectTo, natsClient } from './client.ts'
import { softNames } from './settings.ts'

export interface SoftReport {
  /** HOST:PORT of the server that is used. */
  readonly server: string
  readonly version: string
  readonly tls: boolean
  readonly bucket: string
  /** Servers that keep each claim, and claims; null: there is no bucket, or no majority of NATS. */
  readonly replicas: number | null
  readonly claims: number | null
  readonly coordinators: readonly { readonly name: string; readonly nodes: number }[]
}

/** Two signs of life of every coordinator (ms). */
const LISTEN_MS = 2300

/** Throws MISSING, SOFT_AWAY, SOFT_REFUSED, SECRET_EXPOSED. */
export async function reportSoft(settings: ServerSettings): Promise<SoftReport> {
  const { soft } = settings
  if (soft === undefined) throw new Error('no bus')
  const nats = natsClient()
  const connection = await connectTo(nats, soft)
  try {
    const names = softNames(settings.zone)
    const clock = new RealClock()
    const key = keyOf(settings.coordinator_key)
    const listener = new Fellows({
      ...{ crypto: overlayCrypto, random: realRandom, wall: () => clock.wall(), name: soft.name },
      secret: overlayCrypto.sharedSecret(key, nodeCrypto.publicKey(key)) ?? key,
      ...{ emit: () => {}, locatedAt: () => undefined, nodes: () => 0, onMoved: () => {} },
      ...{ onAsked: () => {}, log: () => {} },
    })
    connection.subscribe(names.all, {
      callback: (_error, { data }) => {
        if (data.length > MAX_SOFT) return
        listener.handle({ type: 'soft-heard', isOwn: false, bytes: new Uint8Array(data) }, clock.now())
      },
    })
    const bucket = nats
      .bucketsOf(connection)
      .open(names.bucket)
      .then((found) => found.status())
      .catch(() => undefined)
    await delay(LISTEN_MS)
    const status = await bucket
    return {
      server: connection.getServer(),
      version: connection.info?.version ?? '',
      tls: soft.tls !== 'off',
      bucket: names.bucket,
      replicas: status?.replicas ?? null,
      claims: status?.values ?? null,
      coordinators: [...listener.all()]
        .map(({ at: { name }, nodes }) => ({ name, nodes }))
        .sort((a, b) => (a.name < b.name ? -1 : 1)),
    }
  } finally {
    await connection.close()
  }
}

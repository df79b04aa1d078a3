/** Invitations that an anchor gives out: a host's number, its keys for one use, and the text to hand over. */
import { GodwitError, usageError } from '../core/errors.ts'
import { encodeKey, generatePresharedKey, generatePrivateKey, publicKeyOf } from '../crypto/keys.ts'
import { parseHostPort } from '../mechanism/schema.ts'
import type { AnchorSettings } from './config.ts'
import type { HostRecord, HostStore } from './hosts.ts'
import { encodeInvitation } from './invitation.ts'
import { poolAddresses, poolSize } from './pool-addresses.ts'
import { formatWgQuick } from './wg-quick.ts'

export interface InviteOptions {
  /** A configuration of wg-quick for a stock client instead of an invitation. */
  readonly wg?: boolean
  /** Name servers that a stock client is to use. */
  readonly dns?: readonly string[]
  /** Pin of the certificate that hosts must find over WebSockets. */
  readonly pin?: string
}

export interface Invited {
  readonly host: HostRecord
  /** To hand over. */
  readonly text: string
}

/** Adds a host and returns what it needs to join; `own` is the anchor's private key, the next one while it changes. */
export function inviteHost(
  anchor: AnchorSettings,
  own: Uint8Array,
  store: HostStore,
  name: string,
  now: number,
  options: InviteOptions = {},
): Invited {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(name)) {
    throw usageError(`"${name}" is not a valid host name`, { hint: 'letters, digits, ".", "_" and "-"' })
  }
  const privateKey = generatePrivateKey()
  const preshared = encodeKey(generatePresharedKey())
  const number = freeNumber(anchor, store, now)
  const addresses = poolAddresses(anchor, number)
  const expires = now + anchor.invitation_hours * 3_600_000
  const publicKey = encodeKey(publicKeyOf(own))
  const host = {
    name,
    kind: options.wg ? ('wireguard' as const) : ('godwit' as const),
    public_key: encodeKey(publicKeyOf(privateKey)),
    preshared_key: preshared,
    number,
    ...(options.wg ? {} : { expires, anchor_key: publicKey }),
  }
  store.add(host, now)
  const text = options.wg
    ? formatWgQuick({
        privateKey: encodeKey(privateKey),
        addresses,
        dns: options.dns ?? [],
        mtu: 1420,
        peer: {
          publicKey,
          presharedKey: preshared,
          endpoint: anchor.endpoint,
          allowedIps: ['0.0.0.0/0', '::/0'],
          keepalive: 25,
        },
      })
    : encodeInvitation({
        host: name,
        anchor: peerName(anchor.endpoint),
        endpoint: anchor.endpoint,
        ...(anchor.alternatives.length > 0 && { alternatives: anchor.alternatives }),
        ...(anchor.websocket && { websocket: anchor.websocket.url }),
        ...(options.pin !== undefined && { websocket_pin: options.pin }),
        public_key: publicKey,
        private_key: encodeKey(privateKey),
        preshared_key: preshared,
        addresses,
        expires: Math.floor(expires / 1000),
      })
  return { host, text }
}

/** The lowest number that no host has; that of an expired invitation is free again. */
function freeNumber(anchor: AnchorSettings, store: HostStore, now: number): number {
  const used = new Set(
    store.list().flatMap(({ number, expires }) => (expires !== undefined && expires <= now ? [] : [number])),
  )
  const last = poolSize(anchor)
  for (let number = 2; number <= last; number++) if (!used.has(number)) return number
  throw new GodwitError('POOL_EXHAUSTED', `no address of ${anchor.pool4} is free`, {
    hint: 'remove a host (godwit anchor remove NAME), or widen anchor.pool4',
  })
}

/** A name for the peer after its endpoint's host. */
export function peerName(endpoint: string): string {
  const parsed = parseHostPort(endpoint)
  const host = parsed.ok ? parsed.value.host : 'anchor'
  return (
    host
      .replace(/[^A-Za-z0-9._-]/g, '-')
      .replace(/^[^A-Za-z0-9]+/, '')
      .slice(0, 60) || 'anchor'
  )
}

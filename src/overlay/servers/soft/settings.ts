/** The bus between several coordinators of a zone: part of the settings of the overlay's servers (`soft`). The password is in a file of its own. */
import * as z from 'zod'
import { parseAddress } from '../../../core/address.ts'
import { usageError } from '../../../core/errors.ts'

export const softSettings = z.strictObject({
  /** nats://[USER@]HOST[:PORT][,HOST[:PORT]…] */
  url: z.string().refine((text) => parseSoftUrl(text) !== undefined),
  /** Of this coordinator, among those of the zone. */
  name: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/),
  /** Where devices reach this host alone: its notification server and its relay. */
  host: z.string().min(1),
  addresses: z.array(z.string().refine((text) => parseAddress(text).ok)).min(1),
  password_file: z.string().startsWith('/').optional(),
  /** Certificates of authorities (PEM); absent: those of Node.js. */
  ca_file: z.string().startsWith('/').optional(),
  /** `verify`: TLS, and the server's certificate is checked. `off`: none, for a server on this machine or in a network of its own. */
  tls: z.enum(['verify', 'off']).default('verify'),
  /** Servers of NATS that keep each claim. */
  replicas: z.int().min(1).max(5).default(1),
})

export type SoftSettings = z.output<typeof softSettings>

export interface SoftUrl {
  readonly user?: string
  /** HOST:PORT each. */
  readonly servers: readonly string[]
}

const URL_FORM = /^nats:\/\/(?:([^:@/?]+)@)?([^@/?]+)\/?$/
const HOST_FORM = /^(\[[0-9a-fA-F:.]+\]|[^:[\]]+)(?::([0-9]{1,5}))?$/

/** Undefined: not of the form, or with a password in it. */
export function parseSoftUrl(text: string): SoftUrl | undefined {
  const [, user, list] = URL_FORM.exec(text) ?? []
  if (list === undefined) return undefined
  const servers = list.split(',').map((each) => {
    const [, host, port = '4222'] = HOST_FORM.exec(each) ?? []
    return host !== undefined && Number(port) >= 1 && Number(port) <= 65_535 ? `${host}:${port}` : undefined
  })
  if (servers.some((each) => each === undefined)) return undefined
  try {
    const name = user === undefined ? {} : { user: decodeURIComponent(user) }
    return { ...name, servers: servers as string[] }
  } catch {
    return undefined
  }
}

/** Throws USAGE for a URL that is none, or has a password. */
export function checkSoftUrl(text: string): SoftUrl {
  const url = parseSoftUrl(text)
  if (url !== undefined) return url
  const hint = /^nats:\/\/[^/@]*:[^/@]*@/.test(text)
    ? 'put the password into a file that only its owner can read, and name it with --password-file'
    : 'e.g. nats://godwit@nats1.example.org,nats2.example.org,nats3.example.org'
  throw usageError('this is not the address of servers of NATS without a password in it', { hint })
}

/** A zone's own subjects and bucket: names are in lower case. */
export function softNames(zone: string): {
  readonly bucket: string
  readonly all: string
  readonly to: (coordinator: string) => string
} {
  const token = zone.replaceAll('_', 'U').replaceAll('.', '_')
  return {
    bucket: `godwit-${token}`,
    all: `godwit.${token}.all`,
    to: (coordinator) => `godwit.${token}.to.${coordinator}`,
  }
}

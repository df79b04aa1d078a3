/**
 * Settings of an overlay server: its zone, its endpoint, its address blocks and its keys. One file in the state folder,
 * written by `godwit overlay init`; secret.
 */
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import * as z from 'zod'
import { parseAddress, parsePrefix } from '../../core/address.ts'
import { GodwitError } from '../../core/errors.ts'
import { decodeKey, encodeKey, generatePrivateKey, signingPublicKey } from '../../crypto/keys.ts'
import { refuseExposed, writeSecret } from '../../mechanism/files.ts'
import { must } from '../../mechanism/schema.ts'
import { isVirtual } from '../machine/virtual.ts'
import { postgresSettings } from '../store/postgres/settings.ts'
import type { StoreInit } from '../store/store.ts'
import { isFullName, type ServerRole } from '../wire/message.ts'
import { softSettings } from './soft/settings.ts'

export const SETTINGS_FILE = 'overlay-server.json'
export const DATABASE_FILE = 'overlay.db'
/** In its place where the state is in PostgreSQL: a working copy. */
export const COPY_FILE = 'overlay-copy.db'
/** Of what the cache server keeps. */
export const CACHE_FOLDER = 'overlay-cache'
export const CERTIFICATE_FILES = { cert: 'overlay-server.crt', key: 'overlay-server.key' } as const
export const DEFAULT_PORT = 6741
/** Ports of relays: a node has one for each peer that it reaches over this relay. */
const RELAY_PORTS = 64

/** Of a server: a label, as of a node. */
export const SERVER_NAME = /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/

const port = z.int().min(1).max(65_535)
const key = z.string().refine((text) => decodeKey(text).ok)
const address = z.string().refine((text) => parseAddress(text).ok)
/** What every process of a zone has, whatever its roles are. */
const common = {
  version: z.literal(1),
  zone: z.string().refine(isFullName),
  /** Name or address where nodes reach it. */
  host: z.string().min(1),
  /** UDP: signalling; TCP: logins over HTTPS. */
  port,
  relay_ports: z.tuple([port, port]),
  /** TCP, of the notification server; absent: the port after `port`. */
  notification_port: port.optional(),
  /** TCP, of the cache server; absent: the second after `port`. */
  cache_port: port.optional(),
  /** Bytes that the cache server keeps at most; an account has a quarter. */
  cache_bytes: z
    .int()
    .min(1)
    .default(10 * 2 ** 30),
  /** Mbit/s that each end of a relayed pair may send; 0: no limit. */
  relay_mbps: z.number().min(0),
  /** False: the relay forwards in its own thread also where the kernel could. */
  relay_kernel: z.boolean().default(true),
  /** Channels that the relay has at most, and what its link carries (Mbit/s; 0: not known): pairs go to others before it is full. */
  relay_channels: z.int().min(1).max(30_000).default(10_000),
  relay_capacity_mbps: z.number().min(0).default(0),
  addresses: z.array(address).min(1),
  /** PostgreSQL, in the place of a file of SQLite (`overlay store move`). */
  store: postgresSettings.optional(),
  /** Days that a login key is good for unless it is renewed; 0: for good. */
  login_days: z.int().min(0).max(3650).default(90),
}
const settings = z.strictObject({
  ...common,
  /** UDP and TCP; 0: another name server answers for the zone. */
  dns_port: z.int().min(0).max(65_535),
  /** A /64 of unique-local addresses. */
  prefix6: z.string().refine((text) => isBlock(text) && text.endsWith('::/64')),
  /** Null: nodes have IPv6 only. */
  block4: z
    .string()
    .refine((text) => isBlock(text) && !text.includes(':'))
    .nullable(),
  open_to: z.enum(['zone', 'account']),
  /** Who is asked for other zones; none: the name servers of this machine. */
  resolvers: z.array(address).default([]),
  /** NATS, where the zone has several coordinators (`overlay soft use`); their durable state is in one PostgreSQL. */
  soft: softSettings.optional(),
  zone_seed: key,
  coordinator_key: key,
})

/** Of a server that runs apart from the coordinator (`overlay server add`): no key of the zone is in it. */
const member = z.strictObject({
  ...common,
  name: z.string().regex(SERVER_NAME),
  roles: z.array(z.enum(['as', 'ns', 'rs', 'cs'])).min(1),
  /** Of this server and the coordinator. */
  server_key: key,
  coordinator: z.strictObject({ host: z.string().min(1), port, addresses: z.array(address).min(1) }),
  /** Ed25519, public. */
  zone_key: key,
  /** Public, for subscriptions at push services (base64url); its private half is the notification server's. */
  push_key: z.string().regex(/^[A-Za-z0-9_-]{87}$/),
  push_private_key: key.optional(),
})

export type ServerSettings = z.output<typeof settings>
export type MemberSettings = z.output<typeof member>
export type AnySettings = ServerSettings | MemberSettings

export function isMember(settings: AnySettings): settings is MemberSettings {
  return 'server_key' in settings
}

/** Where the store of this process is. `holds`: it is the coordinator's own. */
export function storeOf(settings: AnySettings, file: (name: string) => string, holds = false): StoreInit {
  const { store, zone } = settings
  const common = { notesChanges: isMember(settings) }
  if (store === undefined) return { ...common, file: file(DATABASE_FILE) }
  const of = isMember(settings) ? `${zone}, accounts of ${settings.name}` : zone
  const isOneOfSeveral = !isMember(settings) && settings.soft !== undefined
  const remote = { settings: store, zone: of, holds: holds && isOneOfSeveral ? ('shared' as const) : holds }
  return { ...common, file: file(COPY_FILE), remote }
}

/** Where devices reach this host alone: of several coordinators, each has a notification server and a relay. */
export function ownPlace(settings: ServerSettings): Pick<ServerSettings, 'host' | 'addresses'> {
  return settings.soft ?? settings
}

export function notificationPort(settings: Pick<AnySettings, 'notification_port' | 'port'>): number {
  return settings.notification_port ?? settings.port + 1
}

export function cachePort(settings: Pick<AnySettings, 'cache_port' | 'port'>): number {
  return settings.cache_port ?? settings.port + 2
}

/** Whether nodes accept addresses of this block from a zone. */
export function isBlock(text: string): boolean {
  const prefix = parsePrefix(text)
  if (!prefix.ok) return false
  const { address, length } = prefix.value
  const last = address.map((byte, i) => byte | (0xff >> Math.min(8, Math.max(0, length - 8 * i))))
  return isVirtual(address) && isVirtual(last)
}

export interface NewServer {
  readonly zone: string
  readonly host: string
  readonly port: number
  readonly addresses: readonly string[]
  readonly block4: string | null
  readonly dnsPort: number
  readonly openTo: 'zone' | 'account'
  readonly resolvers: readonly string[]
  readonly loginDays?: number
}

export function newSettings(server: NewServer): ServerSettings {
  // RFC 4193 §3.2.1: forty random bits, so that networks that meet later do not clash.
  const global = randomBytes(5).toString('hex')
  return {
    version: 1,
    zone: server.zone,
    ...{ host: server.host, port: server.port, dns_port: server.dnsPort },
    relay_ports: [server.port + 1, server.port + RELAY_PORTS],
    relay_mbps: 0,
    relay_kernel: true,
    relay_channels: 10_000,
    relay_capacity_mbps: 0,
    addresses: [...server.addresses],
    prefix6: `${groups(`fd${global}0001`)}::/64`,
    block4: server.block4,
    open_to: server.openTo,
    login_days: server.loginDays ?? 90,
    cache_bytes: 10 * 2 ** 30,
    resolvers: [...server.resolvers],
    zone_seed: encodeKey(randomBytes(32)),
    coordinator_key: encodeKey(generatePrivateKey()),
  }
}

function groups(hex: string): string {
  return (hex.match(/.{4}/g) ?? []).map((group) => group.replace(/^0+(?=.)/, '')).join(':')
}

/** Of a process with any roles. Throws NOT_SET_UP, SETTINGS_INVALID, SECRET_EXPOSED (usage). */
export function readAnySettings(path: string): AnySettings {
  if (!existsSync(path))
    throw new GodwitError('NOT_SET_UP', `there is no ${path}`, {
      kind: 'usage',
      hint: 'create it: sudo godwit overlay init --zone ZONE --endpoint HOST',
    })
  refuseExposed(path)
  let value: unknown
  try {
    value = JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    value = undefined
  }
  const isOfMember = typeof value === 'object' && value !== null && 'server_key' in value
  const parsed = (isOfMember ? member : settings).safeParse(value)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new GodwitError('SETTINGS_INVALID', `${path}: ${issue?.path.join('.') || 'it'} is not valid`, {
    kind: 'usage',
    hint: 'restore a copy, or correct it: docs/overlay.md',
  })
}

/** Of the coordinator's process. Throws as `readAnySettings`, and ROLE_ELSEWHERE. */
export function readSettings(path: string): ServerSettings {
  const any = readAnySettings(path)
  if (isMember(any))
    throw elsewhere(`${path} is of server ${any.name}`, 'run it on the host of the coordinator')
  return any
}

export function elsewhere(what: string, hint: string): GodwitError {
  return new GodwitError('ROLE_ELSEWHERE', what, { kind: 'usage', hint })
}

export function writeSettings(path: string, value: ServerSettings): void {
  writeSecret(path, `${JSON.stringify(settings.parse(value), undefined, 2)}\n`)
}

export interface NewMember {
  readonly name: string
  readonly roles: readonly ServerRole[]
  readonly host: string
  readonly port: number
  readonly addresses: readonly string[]
  readonly key: Uint8Array
  readonly push: { readonly point: Uint8Array; readonly privateKey: Uint8Array }
}

/** What a server apart needs of the zone for its roles, and no more. */
export function memberSettings(zone: ServerSettings, server: NewMember): MemberSettings {
  const { name, roles, host, port, addresses, key, push } = server
  return member.parse({
    ...{ version: 1, name, roles, zone: zone.zone, host, port, addresses },
    relay_ports: [port + 1, port + RELAY_PORTS],
    ...{ relay_mbps: zone.relay_mbps, relay_kernel: zone.relay_kernel, cache_bytes: zone.cache_bytes },
    login_days: zone.login_days,
    server_key: encodeKey(key),
    coordinator: { host: zone.host, port: zone.port, addresses: zone.addresses },
    zone_key: encodeKey(signingPublicKey(keyOf(zone.zone_seed))),
    push_key: Buffer.from(push.point).toString('base64url'),
    ...(roles.includes('ns') && { push_private_key: encodeKey(push.privateKey) }),
  })
}

/** Of either kind. */
export function writeAnySettings(path: string, value: AnySettings): void {
  if (isMember(value)) writeMember(path, member.parse(value))
  else writeSettings(path, value)
}

export function writeMember(path: string, value: MemberSettings): void {
  writeSecret(path, `${JSON.stringify(value, undefined, 2)}\n`)
}

/** A key of the settings; they have been checked. */
export function keyOf(text: string): Uint8Array {
  return must(decodeKey(text))
}

/** The commands of the overlay's servers: settings of a zone and its accounts, whether or not the servers run. */
import { randomBytes } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { formatAddress, kindOf, parseAddress, parsePrefix } from '../../core/address.ts'
import { GodwitError, usageError } from '../../core/errors.ts'
import { parseHostPort } from '../../mechanism/schema.ts'
import {
  type AnySettings,
  certificatePin,
  changePushSettings,
  DEFAULT_PORT,
  elsewhere,
  hashPassword,
  hostPort,
  isBlock,
  isMember,
  keyOf,
  memberSettings,
  newSettings,
  PUSH_FILE,
  type PushChange,
  readAnySettings,
  readPushSettings,
  readSettings,
  SERVER_NAME,
  SETTINGS_FILE,
  type ServerRole,
  type ServerSettings,
  Store,
  storeOf,
  vapidKey,
  vapidOf,
  virtualAddresses,
  writeMember,
  writeSettings,
} from '../../overlay/servers/index.ts'

export { ROLES, type Role } from '../../overlay/servers/index.ts'

import type { State } from '../stores/state.ts'

export interface InitOptions {
  readonly zone: string
  /** HOST or HOST:PORT. */
  readonly endpoint: string
  readonly address?: readonly string[]
  readonly ipv4?: string
  readonly dnsPort?: number
  readonly closed?: boolean
  readonly resolver?: readonly string[]
  readonly loginDays?: number
}

/** Inside the block of carriers, where private networks are not, and clear of 100.100.0.0/16: clouds have name servers there. */
const DEFAULT_BLOCK4 = '100.96.0.0/16'

/** Writes the settings of a zone's servers, with fresh keys. Throws SERVER_EXISTS. */
export async function initOverlay(state: State, options: InitOptions): Promise<ServerSettings> {
  const file = state.file(SETTINGS_FILE)
  if (existsSync(file))
    throw new GodwitError('SERVER_EXISTS', `${file} is there already`, {
      kind: 'usage',
      hint: 'nodes trust the keys in it; remove it only to start this zone again from nothing',
    })
  const { host, port } = endpointOf(options.endpoint)
  const addresses = await addressesOf(host, options.address)
  const block4 = options.ipv4 === 'none' ? null : (options.ipv4 ?? DEFAULT_BLOCK4)
  const prefix = block4 === null ? undefined : parsePrefix(block4)
  if (prefix !== undefined && (!prefix.ok || prefix.value.address.length !== 4 || prefix.value.length > 30))
    throw usageError(`--ipv4: "${block4}" is no IPv4 block, e.g. ${DEFAULT_BLOCK4}; \`none\` for none`)
  if (block4 !== null && !isBlock(block4))
    throw usageError(`--ipv4: ${block4} is not private: nodes refuse public addresses`, {
      hint: `choose a block of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10, e.g. ${DEFAULT_BLOCK4}`,
    })
  const zone = options.zone.toLowerCase().replace(/\.$/, '')
  state.prepare()
  const settings = newSettings({
    ...{ zone, host, port, addresses, block4 },
    dnsPort: options.dnsPort ?? 53,
    openTo: options.closed === true ? 'account' : 'zone',
    ...(options.loginDays !== undefined && { loginDays: options.loginDays }),
    resolvers: (options.resolver ?? []).map((text) => {
      const address = parseAddress(text)
      if (!address.ok) throw usageError(`--resolver: ${address.reason}`)
      return formatAddress(address.value)
    }),
  })
  try {
    writeSettings(file, settings)
  } catch (error) {
    if (error instanceof GodwitError) throw error
    throw usageError(`--zone: "${options.zone}" is not a valid zone, e.g. home.example.org`)
  }
  return settings
}

export function endpointOf(text: string): { readonly host: string; readonly port: number } {
  const bare = text.replace(/^\[(.*)\]$/, '$1')
  const address = parseAddress(bare)
  if (address.ok) return { host: formatAddress(address.value), port: DEFAULT_PORT }
  const parsed = parseHostPort(text.includes(':') ? text : `${text}:${DEFAULT_PORT}`)
  if (!parsed.ok) throw usageError(`--endpoint: ${parsed.reason}`)
  return parsed.value
}

/** Addresses that nodes reach the relay at. */
export async function addressesOf(host: string, given: readonly string[] = []): Promise<string[]> {
  const texts = given.length > 0 ? given : parseAddress(host).ok ? [host] : await resolved(host)
  return texts.map((text) => {
    const address = parseAddress(text)
    if (!address.ok) throw usageError(`--address: ${address.reason}`)
    if (['unspecified', 'multicast', 'broadcast', 'link-local'].includes(kindOf(address.value)))
      throw usageError(`--address: ${text} is not an address that nodes can reach`)
    return formatAddress(address.value)
  })
}

async function resolved(host: string): Promise<string[]> {
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address)
  } catch (error) {
    throw usageError(`--endpoint: ${host} does not resolve (${(error as Error).message})`, {
      hint: 'give its addresses with --address',
    })
  }
}

export interface ServerOptions {
  readonly roles: string
  readonly endpoint: string
  readonly address?: readonly string[]
  /** File for its settings. */
  readonly out?: string
}

export interface AddedServer {
  readonly name: string
  readonly roles: readonly ServerRole[]
  /** The file with its settings. */
  readonly file: string
}

const APART: readonly ServerRole[] = ['as', 'ns', 'rs', 'cs']
/** Of these a zone has one apart. */
const ALONE: readonly ServerRole[] = ['as', 'ns']

/** A server apart: its key is kept here, its settings are written to a file for it. Throws SERVER_EXISTS. */
export async function addServer(state: State, name: string, options: ServerOptions): Promise<AddedServer> {
  const zone = readSettings(state.file(SETTINGS_FILE))
  if (!SERVER_NAME.test(name)) throw usageError(`"${name}" is not a valid name of a server, e.g. relay1`)
  const roles = [...new Set(options.roles.split(','))] as ServerRole[]
  if (roles.some((role) => !APART.includes(role)))
    throw usageError(`--roles: "${options.roles}" is not a list of ${APART.join(', ')}`, {
      hint: 'the coordinator, dc, stays where `godwit overlay init` was run',
    })
  const file = resolve(options.out ?? `${name}.json`)
  const { host, port } = endpointOf(options.endpoint)
  const addresses = await addressesOf(host, options.address)
  return withStore(state, (store) => {
    const same = store.servers().find((server) => server.name === name)
    const alone = store
      .servers()
      .find((server) => roles.some((role) => ALONE.includes(role) && server.roles.has(role)))
    if (same !== undefined || alone !== undefined || existsSync(file)) {
      const what = same ?? alone
      const hint = what === undefined ? '--out names another' : `godwit overlay server remove ${what.name}`
      throw new GodwitError(
        'SERVER_EXISTS',
        what === undefined
          ? `${file} is there already`
          : `server ${what.name} has ${[...what.roles].join()} already`,
        { kind: 'usage', hint },
      )
    }
    const key = new Uint8Array(randomBytes(32))
    const push = vapidKey(keyOf(zone.zone_seed))
    writeMember(file, memberSettings(zone, { name, roles, host, port, addresses, key, push }))
    store.putServer({ name, roles: new Set(roles), key, host })
    return { name, roles, file }
  })
}

export interface ListedServer {
  readonly name: string
  readonly roles: readonly ServerRole[]
}

export function listServers(state: State): readonly ListedServer[] {
  readSettings(state.file(SETTINGS_FILE))
  return withStore(state, (store) => store.servers().map(({ name, roles }) => ({ name, roles: [...roles] })))
}

/** Its key is good for nothing from now on. Throws SERVER_UNKNOWN. */
export function removeServer(state: State, name: string): void {
  readSettings(state.file(SETTINGS_FILE))
  withStore(state, (store) => {
    if (!store.removeServer(name))
      throw new GodwitError('SERVER_UNKNOWN', `there is no server ${name} apart`, {
        kind: 'usage',
        hint: 'godwit overlay server list',
      })
  })
}

/** All nodes are told to the coordinator anew: it has an older store than this account server. */
export function distributeAll(state: State): number {
  return withAccounts(state, (store) => {
    store.changeAll()
    return store.accounts().reduce((sum, { name }) => sum + store.nodesOf(name).length, 0)
  })
}

const ACCOUNT = /^[a-z0-9][a-z0-9._-]{0,62}$/

/** The store with the accounts, on the host of the account server. Throws ROLE_ELSEWHERE. */
function withAccounts<T>(state: State, use: (store: Store, settings: AnySettings) => T): T {
  return withStore(state, (store, settings) => {
    const other = store.servers().find(({ roles }) => roles.has('as'))
    if (other !== undefined)
      throw elsewhere(
        `accounts are at server ${other.name}`,
        'run it on the host of that server, with its --state',
      )
    return use(store, settings)
  })
}

/** Where the coordinator's store is. Throws ROLE_ELSEWHERE. */
function withZone<T>(state: State, use: (store: Store, settings: ServerSettings) => T): T {
  const settings = readSettings(state.file(SETTINGS_FILE))
  return withStore(state, (store) => use(store, settings))
}

/** Opens the store of settings that are there. */
function withStore<T>(state: State, use: (store: Store, settings: AnySettings) => T): T {
  const settings = readAnySettings(state.file(SETTINGS_FILE))
  if (isMember(settings) && !settings.roles.includes('as'))
    throw elsewhere(`server ${settings.name} keeps no accounts`, 'run it on the host of the account server')
  const store = new Store(storeOf(settings, (name) => state.file(name)))
  try {
    return use(store, settings)
  } finally {
    store.close()
  }
}

export interface AddedAccount {
  readonly account: string
  /** Present when it was made here. */
  readonly password?: string
  readonly server: string
  readonly pin: string
}

/** Adds an account, or gives an existing one another password with `replace`. Throws ACCOUNT_EXISTS. */
export async function addAccount(
  state: State,
  name: string,
  options: { readonly password?: string | undefined; readonly replace?: boolean | undefined },
): Promise<AddedAccount> {
  if (!ACCOUNT.test(name))
    throw usageError(`"${name}" is not a valid account name: letters, digits, ".", "_" and "-"`)
  const password = options.password ?? randomBytes(15).toString('base64url')
  if (password.length < 8) throw usageError('the password is shorter than 8 characters')
  const hashed = await hashPassword(password)
  return withAccounts(state, (store, settings) => {
    if (store.account(name) !== undefined && options.replace !== true)
      throw new GodwitError('ACCOUNT_EXISTS', `there is an account ${name} already`, {
        kind: 'usage',
        hint: '--replace sets a new password',
      })
    // First: without a certificate nobody could log in, and the password is shown only once.
    const pin = certificatePin(settings, (file) => state.file(file))
    store.putAccount({ name, ...hashed, disabled: false })
    return {
      account: name,
      ...(options.password === undefined && { password }),
      server: `https://${hostPort(settings)}`,
      pin,
    }
  })
}

export interface ListedAccount {
  readonly account: string
  readonly created: string
  readonly nodes: readonly string[]
}

export function listAccounts(state: State): readonly ListedAccount[] {
  return withStore(state, (store) =>
    store.accounts().map(({ name, created }) => ({
      account: name,
      created: new Date(created * 1000).toISOString(),
      nodes: store.nodesOf(name).map((node) => node.name),
    })),
  )
}

export interface ListedNode {
  readonly node: string
  readonly account: string
  /** When its login ends; null: it does not. */
  readonly expires: string | null
  readonly revoked: boolean
  readonly addresses: readonly string[]
}

/** Nodes of all accounts, or of one. Throws ACCOUNT_UNKNOWN. */
export function listNodes(state: State, account: string | undefined): readonly ListedNode[] {
  return withStore(state, (store) => {
    if (account !== undefined && store.account(account) === undefined) throw unknownAccount(account)
    const accounts = account === undefined ? store.accounts().map(({ name }) => name) : [account]
    return accounts.flatMap((name) =>
      store.nodesOf(name).map((node) => ({
        ...{ node: node.name, account: name, revoked: node.expires === 0 },
        expires: node.expires === undefined ? null : new Date(1000 * node.expires).toISOString(),
        addresses: (virtualAddresses(store, node.name) ?? []).map(formatAddress),
      })),
    )
  })
}

/** Ends the login of a node; returns its full name. Throws NODE_UNKNOWN. */
export function revokeLogin(state: State, node: string): string {
  return withAccounts(state, (store, settings) => {
    const name = node.includes('.') ? node : `${node}.${settings.zone}`
    if (!store.revokeLogin(name)) throw unknownNode(name)
    return name
  })
}

function unknownAccount(name: string): GodwitError {
  return new GodwitError('ACCOUNT_UNKNOWN', `there is no account ${name}`, {
    kind: 'usage',
    hint: 'godwit overlay account list',
  })
}

function unknownNode(name: string): GodwitError {
  return new GodwitError('NODE_UNKNOWN', `there is no node ${name}`, {
    kind: 'usage',
    hint: 'godwit overlay account nodes',
  })
}

/** Its nodes can do nothing from now on but what their tunnels do among themselves. Throws ACCOUNT_UNKNOWN. */
export function removeAccount(state: State, name: string): void {
  withAccounts(state, (store) => {
    if (!store.removeAccount(name)) throw unknownAccount(name)
  })
}

/**
 * Sets who may connect to a node; no patterns: the zone's default. Returns the patterns in effect. Throws NODE_UNKNOWN.
 */
export function setAccess(state: State, node: string, patterns: readonly string[]): readonly string[] {
  return withZone(state, (store, settings) => {
    const name = node.includes('.') ? node : `${node}.${settings.zone}`
    if (store.nodeByName(name) === undefined) throw unknownNode(name)
    const full = patterns.map((pattern) => (pattern.includes('.') ? pattern : `${pattern}.${settings.zone}`))
    store.setAccess(name, full.length === 0 ? undefined : full)
    return full
  })
}

export interface PushOptions {
  readonly contact?: string
  readonly allowPrivate?: readonly string[]
  readonly ca?: string
  readonly fcm?: string
  readonly apnsKey?: string
  readonly apnsKeyId?: string
  readonly apnsTeam?: string
  readonly apnsTopic?: string
}

export interface ListedPush {
  readonly web: { readonly key: string; readonly contact: string; readonly allowed: readonly string[] }
  readonly apns: { readonly topic: string; readonly team: string; readonly key_id: string } | null
  readonly fcm: { readonly project: string; readonly account: string } | null
}

/** Sets what is given, and returns what holds, without secrets. Throws SETTINGS_INVALID, FILE_MISSING. */
export function setPushServices(state: State, options: PushOptions): ListedPush {
  const server = readAnySettings(state.file(SETTINGS_FILE))
  const { contact, allowPrivate, ca, fcm, apnsKey, apnsKeyId, apnsTeam, apnsTopic } = options
  const apns = [apnsKey, apnsKeyId, apnsTeam, apnsTopic]
  if (apns.some((each) => each === undefined) && apns.some((each) => each !== undefined))
    throw usageError('APNs needs --apns-key, --apns-key-id, --apns-team and --apns-topic together')
  const change: PushChange = {
    ...(contact !== undefined && { contact }),
    ...(allowPrivate !== undefined && { allowed: allowPrivate.filter((each) => each !== 'none') }),
    ...(ca !== undefined && { ca: textOf(ca) }),
    ...(fcm !== undefined && { fcm: { account: jsonOf(fcm) as never } }),
    ...(apnsKey !== undefined && {
      apns: { key: textOf(apnsKey), keyId: apnsKeyId!, team: apnsTeam!, topic: apnsTopic! },
    }),
  }
  const file = state.file(PUSH_FILE)
  const settings =
    Object.keys(change).length === 0 ? readPushSettings(file) : changePushSettings(file, change)
  const vapid = vapidOf(server, settings.contact)
  const key = Buffer.from(vapid.point).toString('base64url')
  return {
    web: { key, contact: vapid.contact, allowed: settings.allowed },
    apns:
      settings.apns === undefined
        ? null
        : { topic: settings.apns.topic, team: settings.apns.team, key_id: settings.apns.keyId },
    fcm:
      settings.fcm === undefined
        ? null
        : { project: settings.fcm.account.project_id, account: settings.fcm.account.client_email },
  }
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new GodwitError('FILE_MISSING', `${file}: ${(error as Error).message}`, { kind: 'usage' })
  }
}

function jsonOf(file: string): unknown {
  try {
    return JSON.parse(textOf(file))
  } catch (error) {
    if (error instanceof GodwitError) throw error
    throw usageError(`${file} is not JSON`)
  }
}

/** The keys of another zone are forgotten: those that the DNS shows next are taken. Throws ZONE_UNKNOWN. */
export function forgetZone(state: State, zone: string): void {
  withZone(state, (store) => {
    if (store.zoneKeys(zone) === undefined)
      throw new GodwitError('ZONE_UNKNOWN', `no node of zone ${zone} has been met`, { kind: 'usage' })
    store.unpinZone(zone)
  })
}

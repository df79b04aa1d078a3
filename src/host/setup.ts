/** What `anchor init`, `anchor invite` and `join` write: configuration, keys and the anchor's list of hosts. */
import { existsSync, readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { formatAddress, maskAddress, parseInterfaceAddress, parsePrefix } from '../core/address.ts'
import { GodwitError, usageError } from '../core/errors.ts'
import {
  decodeKey,
  encodeKey,
  generatePresharedKey,
  generatePrivateKey,
  publicKeyOf,
} from '../crypto/keys.ts'
import { loadConfig, parseConfig, resolveBeside } from './config.ts'
import type { HostStore } from './hosts.ts'
import { decodeInvitation, encodeInvitation } from './invitation.ts'
import { poolAddresses, poolSize } from './pool.ts'
import { type Config, parseHostPort } from './schema.ts'
import { readPrivateKey, type State, writeAtomic, writeSecret } from './state.ts'
import { addTable, type TomlTable, tomlString } from './toml.ts'
import { formatWgQuick, parseWgQuick } from './wg-quick.ts'

export type Role = 'host' | 'anchor' | 'dime' | 'router'

/** What a configuration makes of this machine. */
export function roleOf({ anchor, router }: Config): 'anchor' | 'router' | 'host' {
  return anchor !== undefined ? 'anchor' : router !== undefined ? 'router' : 'host'
}

/** An anchor's configuration, with `anchor` known to be there. */
export type AnchorConfig = Config & { readonly anchor: NonNullable<Config['anchor']> }

export function loadAnchorConfig(state: State): AnchorConfig {
  const config = loadConfig(state.configFile)
  if (config.anchor !== undefined) return { ...config, anchor: config.anchor }
  throw new GodwitError(
    'NOT_AN_ANCHOR',
    `${state.configFile} has no [anchor]: it is of a ${roleOf(config)}`,
    {
      kind: 'usage',
      hint: 'godwit anchor init --endpoint HOST:PORT --state DIR, with a state of its own',
    },
  )
}

/** A router's configuration, with `router` known to be there. */
export type RouterConfig = Config & { readonly router: NonNullable<Config['router']> }

export function loadRouterConfig(state: State): RouterConfig {
  const config = loadConfig(state.configFile)
  if (config.router !== undefined) return { ...config, router: config.router }
  throw new GodwitError('NOT_A_ROUTER', `${state.configFile} has no [router]`, {
    kind: 'usage',
    hint: 'godwit router init --state DIR …, with a state of its own',
  })
}

/** The configuration of `godwit dime up`, which needs none. */
export function loadDimeConfig(state: State): Config {
  if (existsSync(state.configFile)) return loadConfig(state.configFile)
  const parsed = parseConfig('')
  if ('config' in parsed) return parsed.config
  throw new GodwitError('INTERNAL', 'an empty configuration is not valid')
}

export function loadHostConfig(state: State): Config {
  const config = loadConfig(state.configFile)
  const role = roleOf(config)
  if (role !== 'host') {
    throw new GodwitError('NOT_A_HOST', `${state.configFile} has [${role}]: it is of no host`, {
      kind: 'usage',
      hint: `start it with \`godwit ${role} up\`; a host on the same machine needs a state of its own (--state DIR)`,
    })
  }
  if (config.peer.length === 0) {
    throw new GodwitError('NO_PEER', `${state.configFile} has no [[peer]]`, {
      kind: 'usage',
      hint: 'take an invitation: godwit join INVITATION',
    })
  }
  return config
}

/** The file that holds this machine's private key. */
export function keyFileOf(state: State, config: Config): string {
  const named = config.interface.private_key_file
  return named === undefined ? state.keyFile : resolveBeside(state.configFile, named)
}

/** Writes an anchor's configuration and key; never over an existing one. Returns what to tell. */
export function initAnchor(state: State, endpoint: string): { config: string; public_key: string } {
  const parsed = parseHostPort(endpoint)
  if (!parsed.ok) throw usageError(`--endpoint: ${parsed.reason}`)
  if (existsSync(state.configFile)) {
    throw new GodwitError('CONFIG_EXISTS', `${state.configFile} exists already`, {
      kind: 'usage',
      hint: 'edit it, or give this anchor a state of its own with --state DIR',
    })
  }
  const key = state.ensurePrivateKey()
  const text = [
    '# An anchor of godwit. Every key: docs/configuration.md; check with: godwit config check',
    '',
    '[anchor]',
    `endpoint = ${tomlString(endpoint)}`,
    '',
  ].join('\n')
  writeAtomic(state.configFile, text)
  return { config: state.configFile, public_key: encodeKey(publicKeyOf(key)) }
}

export interface InviteOptions {
  /** A configuration of wg-quick for a stock client instead of an invitation. */
  readonly wg?: boolean
}

/** Adds a host and returns what it needs to join: the text to hand over, and since when it is worthless. */
export function invite(
  state: State,
  store: HostStore,
  name: string,
  now: number,
  options: InviteOptions = {},
): { host: ReturnType<HostStore['list']>[number]; text: string } {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(name)) {
    throw usageError(`"${name}" is no name for a host`, { hint: 'letters, digits, ".", "_" and "-"' })
  }
  const config = loadAnchorConfig(state)
  const { anchor } = config
  const own = readPrivateKey(keyFileOf(state, config))
  const privateKey = generatePrivateKey()
  const preshared = encodeKey(generatePresharedKey())
  const number = freeNumber(anchor, store, now)
  const addresses = poolAddresses(anchor, number)
  const expires = now + anchor.invitation_hours * 3_600_000
  const host = {
    name,
    kind: options.wg ? ('wireguard' as const) : ('godwit' as const),
    public_key: encodeKey(publicKeyOf(privateKey)),
    preshared_key: preshared,
    number,
    ...(options.wg ? {} : { expires }),
  }
  store.add(host, now)
  const publicKey = encodeKey(publicKeyOf(own))
  const text = options.wg
    ? formatWgQuick({
        privateKey: encodeKey(privateKey),
        addresses,
        dns: [],
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
        public_key: publicKey,
        private_key: encodeKey(privateKey),
        preshared_key: preshared,
        addresses,
        expires: Math.floor(expires / 1000),
      })
  return { host, text }
}

/** The lowest number that no host has; that of an expired invitation is free again. */
function freeNumber(anchor: AnchorConfig['anchor'], store: HostStore, now: number): number {
  const used = new Set(
    store.list().flatMap(({ number, expires }) => (expires !== undefined && expires <= now ? [] : [number])),
  )
  const last = poolSize(anchor)
  for (let number = 2; number <= last; number++) if (!used.has(number)) return number
  throw new GodwitError('POOL_EXHAUSTED', `no address of ${anchor.pool4} is free`, {
    hint: 'remove a host (godwit anchor remove NAME), or widen anchor.pool4',
  })
}

/** What `join` tells. */
export interface Joined {
  readonly peer: string
  readonly config: string
  readonly addresses: readonly string[]
}

/** Takes an invitation: adds the anchor to the host's configuration, or starts one. */
export function join(state: State, text: string, now: number): Joined {
  const invitation = decodeInvitation(text)
  if (!invitation.ok)
    throw new GodwitError(
      'INVITATION_INVALID',
      invitation.reason,
      usage('ask for it again: godwit anchor invite NAME'),
    )
  const { endpoint, public_key, private_key, preshared_key, addresses, expires, anchor } = invitation.value
  if (expires * 1000 < now) {
    const since = new Date(expires * 1000).toISOString()
    throw new GodwitError(
      'INVITATION_EXPIRED',
      `the invitation was good until ${since}`,
      usage(
        'ask for a new one: godwit anchor invite NAME; if that is wrong, check the clock of this machine',
      ),
    )
  }
  const current = readHostConfig(state)
  refuseKnown(state, current.config, public_key)
  state.ensurePrivateKey(current.config ? keyFileOf(state, current.config) : state.keyFile)
  const name = freeName(anchor, current.config)
  const keyFile = state.file(`${name}.invitation.key`)
  writeSecret(keyFile, `${private_key}\n`)
  addPeer(state, current.text, {
    name,
    endpoint,
    public_key,
    preshared_key,
    addresses,
    invitation_key_file: keyFile,
  })
  return { peer: name, config: state.configFile, addresses }
}

/** Takes a configuration of wg-quick: the WireGuard server becomes a plain anchor. */
export function joinWireguard(state: State, file: string): Joined {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw usageError(`cannot read ${file}: ${(error as Error).message}`)
  }
  const parsed = parseWgQuick(text)
  if (!parsed.ok) throw new GodwitError('WG_INVALID', `${file}: ${parsed.reason}`, usage('see wg-quick(8)'))
  const { privateKey, peer } = parsed.value
  const current = readHostConfig(state)
  refuseKnown(state, current.config, peer.publicKey)
  installKey(state, current.config, privateKey, file)
  const name = freeName(basename(file).replace(/\.conf$/, ''), current.config)
  const addresses = parsed.value.addresses.map(hostAddress)
  const allowed = peer.allowedIps.map(networkPrefix)
  addPeer(state, current.text, {
    name,
    kind: 'wireguard',
    endpoint: peer.endpoint,
    public_key: peer.publicKey,
    ...(peer.presharedKey === undefined ? {} : { preshared_key: peer.presharedKey }),
    addresses,
    ...(allowed.length === 0 ? {} : { allowed_ips: allowed }),
    keepalive_s: peer.keepalive,
  })
  return { peer: name, config: state.configFile, addresses }
}

/** A WireGuard server knows this host by its key, so the key of the file must become the host's. */
function installKey(state: State, config: Config | undefined, privateKey: string, file: string): void {
  const path = config ? keyFileOf(state, config) : state.keyFile
  if (!existsSync(path) || config === undefined || config.peer.length === 0) {
    writeSecret(path, `${privateKey}\n`)
    return
  }
  const own = readPrivateKey(path)
  const wanted = decodeKey(privateKey)
  if (wanted.ok && Buffer.from(own).equals(wanted.value)) return
  throw new GodwitError(
    'KEY_CONFLICT',
    `${file} brings a private key, and this host has another for its peers`,
    usage('give it a state of its own: godwit join --wg FILE --state DIR'),
  )
}

function usage(hint: string) {
  return { kind: 'usage', hint } as const
}

function readHostConfig(state: State): { text: string; config: Config | undefined } {
  if (!existsSync(state.configFile)) return { text: '', config: undefined }
  const config = loadConfig(state.configFile)
  const role = roleOf(config)
  if (role !== 'host') {
    throw new GodwitError(
      'NOT_A_HOST',
      `${state.configFile} has [${role}]: it is of no host`,
      usage('give the host a state of its own with --state DIR'),
    )
  }
  return { text: readFileSync(state.configFile, 'utf8'), config }
}

function refuseKnown(state: State, config: Config | undefined, publicKey: string): void {
  const known = config?.peer.find((peer) => peer.public_key === publicKey)
  if (!known) return
  throw new GodwitError(
    'ALREADY_JOINED',
    `${state.configFile} has this peer already: ${known.name}`,
    usage('to join anew, remove that [[peer]] from it first'),
  )
}

/** Adds a peer; what the user has written stays. */
function addPeer(state: State, text: string, peer: TomlTable): void {
  const head = '# A host of godwit. Every key: docs/configuration.md; check with: godwit config check\n'
  const next = addTable(text === '' ? head : text, ['peer'], peer)
  const check = parseConfig(next)
  if ('faults' in check) throw new Error(`the configuration made here is wrong: ${check.faults[0]!.reason}`)
  writeSecret(state.configFile, next)
}

/** A name for the peer after its endpoint's host. */
function peerName(endpoint: string): string {
  const parsed = parseHostPort(endpoint)
  const host = parsed.ok ? parsed.value.host : 'anchor'
  return (
    host
      .replace(/[^A-Za-z0-9._-]/g, '-')
      .replace(/^[^A-Za-z0-9]+/, '')
      .slice(0, 60) || 'anchor'
  )
}

function freeName(wanted: string, config: Config | undefined): string {
  const names = new Set(config?.peer.map(({ name }) => name))
  const base = peerName(wanted)
  for (let i = 1; ; i++) {
    const name = i === 1 ? base : `${base}-${i}`
    if (!names.has(name)) return name
  }
}

/** `10.0.0.2/24` is the host's address in a subnet; here the address counts: `10.0.0.2/32`. */
function hostAddress(text: string): string {
  const parsed = parseInterfaceAddress(text)
  if (!parsed.ok) throw usageError(parsed.reason)
  return `${formatAddress(parsed.value.address)}/${parsed.value.address.length * 8}`
}

/** wg-quick takes bits after the prefix as if they were zero. */
function networkPrefix(text: string): string {
  if (parsePrefix(text).ok) return text
  const parsed = parseInterfaceAddress(text)
  if (!parsed.ok) throw usageError(parsed.reason)
  const { address, length } = parsed.value
  return `${formatAddress(maskAddress(address, length))}/${length}`
}

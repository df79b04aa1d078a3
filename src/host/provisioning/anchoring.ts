/** Files written by `anchor init`, `anchor invite` and `join`: configuration, keys and the anchor's list of hosts. */

import { existsSync, readFileSync, rmSync } from 'node:fs'
import { basename } from 'node:path'
import { AnchorKeys } from '../../anchoring/anchor-keys.ts'
import { certificatePin } from '../../anchoring/certificate.ts'
import { ANCHOR_KEYS_FILE, addForward } from '../../anchoring/descriptor.ts'
import { type Forward, ForwardStore } from '../../anchoring/forwards.ts'
import { HostStore } from '../../anchoring/hosts.ts'
import { anchorDescriptor, hostDescriptor } from '../../anchoring/index.ts'
import { decodeInvitation } from '../../anchoring/invitation.ts'
import { type Invited, type InviteOptions, inviteHost, peerName } from '../../anchoring/invite.ts'
import { announcedKey } from '../../anchoring/key-rotation.ts'
import { parseWgQuick } from '../../anchoring/wg-quick.ts'
import { formatAddress, maskAddress, parseInterfaceAddress, parsePrefix } from '../../core/address.ts'
import { GodwitError, usageError } from '../../core/errors.ts'
import { withArticle } from '../../core/words.ts'
import { decodeKey, encodeKey, publicKeyOf } from '../../crypto/keys.ts'
import { SockDiag } from '../../linux/sockdiag.ts'
import { attempt, readPrivateKey, resolveBeside, writeAtomic, writeSecret } from '../../mechanism/files.ts'
import { parseHostPort } from '../../mechanism/schema.ts'
import { routerDescriptor } from '../../routing/index.ts'
import { loadConfig, parseConfig } from '../configuration/config.ts'
import { claimantOf, loadConfigOf } from '../configuration/plan.ts'
import type { Config } from '../configuration/schema.ts'
import { addTable, removeTable, type TomlTable, tomlString } from '../configuration/toml.ts'
import type { State } from '../stores/state.ts'
import { dimeKeyFile } from './translation.ts'

export type { AnchorRekeyed } from '../../anchoring/anchor-rekeying.ts'
export { type Forward, type ForwardProtocol, ForwardStore } from '../../anchoring/forwards.ts'
export { type HostRecord, HostStore } from '../../anchoring/hosts.ts'
export { readLastSeen } from '../../anchoring/last-seen.ts'
export { poolAddresses } from '../../anchoring/pool-addresses.ts'

/** An anchor's configuration, with `anchor` known to be there. */
export type AnchorConfig = Config & { readonly anchor: NonNullable<Config['anchor']> }

export function loadAnchorConfig(state: State): AnchorConfig {
  return loadConfigOf(anchorDescriptor, state) as AnchorConfig
}

/** A router's configuration, with `router` known to be there. */
export type RouterConfig = Config & { readonly router: NonNullable<Config['router']> }

export function loadRouterConfig(state: State): RouterConfig {
  return loadConfigOf(routerDescriptor, state) as RouterConfig
}

/** The file that holds this machine's private key. */
export function keyFileOf(state: State, config: Config): string {
  const named = config.interface.private_key_file
  return named === undefined ? state.keyFile : resolveBeside(state.configFile, named)
}

/** Writes an anchor's configuration and key; never over an existing one. Returns the output of the command. */
export function initAnchor(state: State, endpoint: string): { config: string; public_key: string } {
  const parsed = parseHostPort(endpoint)
  if (!parsed.ok) throw usageError(`--endpoint: ${parsed.reason}`)
  if (existsSync(state.configFile)) {
    throw new GodwitError('CONFIG_EXISTS', `${state.configFile} exists already`, {
      kind: 'usage',
      hint: 'edit it, or give this anchor its own state folder with --state DIR',
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

/** Adds a host to the store of an anchor; see anchoring/invite.ts. */
export function invite(
  state: State,
  store: HostStore,
  name: string,
  now: number,
  options: InviteOptions = {},
): Invited {
  const config = loadAnchorConfig(state)
  const { websocket } = config.anchor
  const files = {
    file: (each: string) => state.file(each),
    resolve: (path: string) => resolveBeside(state.configFile, path),
  }
  const pin = websocket === undefined ? {} : certificatePin(websocket, files)
  return inviteHost(config.anchor, announcedKey(keyFileOf(state, config)), store, name, now, {
    ...options,
    ...pin,
  })
}

/** Keeps an invitation in a file that only its owner can read. */
export function writeInvitation(file: string, text: string): void {
  writeSecret(file, text.endsWith('\n') ? text : `${text}\n`)
}

/** Output of `join`. */
export interface Joined {
  readonly peer: string
  readonly config: string
  readonly addresses: readonly string[]
  /** Name servers of a wg-quick configuration, which are not taken over. */
  readonly dns?: readonly string[]
}

/** Takes an invitation: adds the anchor to the host's configuration, or starts one. */
export function join(state: State, text: string, now: number): Joined {
  const invitation = decodeInvitation(text)
  if (!invitation.ok)
    throw new GodwitError(
      'INVITATION_INVALID',
      invitation.reason,
      usage('get it again, on the anchor: godwit anchor invite NAME'),
    )
  const {
    endpoint,
    alternatives,
    websocket,
    websocket_pin,
    public_key,
    private_key,
    preshared_key,
    addresses,
    expires,
    anchor,
  } = invitation.value
  if (expires * 1000 < now) {
    const since = new Date(expires * 1000).toISOString()
    throw new GodwitError(
      'INVITATION_EXPIRED',
      `the invitation expired at ${since}`,
      usage('get a new one, on the anchor: godwit anchor invite NAME; also check the clock of this machine'),
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
    ...(alternatives && { alternatives }),
    ...(websocket && { websocket }),
    ...(websocket_pin && { websocket_pin }),
    public_key,
    preshared_key,
    addresses,
    invitation_key_file: keyFile,
  })
  return { peer: name, config: state.configFile, addresses }
}

/** Output of `leave`. */
export interface Left {
  readonly peer: string
  readonly config: string
  /** The configuration contained nothing else and was deleted, with the host's key. */
  readonly removed: boolean
  /** What stays then: the key by which other hosts may know this one in address translation. */
  readonly kept?: string
  /** It was a stock WireGuard server. */
  readonly stock?: boolean
}

/** Undoes `join`: the peer goes, its invitation's key too, and with the last peer what `join` had made. */
export function leave(state: State, name: string | undefined): Left {
  const config = loadConfigOf(hostDescriptor, state, { whole: true })
  const names = config.peer.map((peer) => peer.name)
  if (name === undefined && names.length > 1)
    throw usageError('this host has joined several anchors; name one', {
      hint: `they are: ${names.join(', ')}`,
    })
  const index = name === undefined ? 0 : names.indexOf(name)
  const peer = config.peer[index]
  if (peer === undefined)
    throw usageError(`${state.configFile} has no peer ${name}`, { hint: `peers: ${names.join(', ')}` })
  const text = removeTable(readFileSync(state.configFile, 'utf8'), ['peer'], index)
  const rest = text.replace(/^\s*(#.*)?$/gm, '').trim()
  if (peer.invitation_key_file !== undefined)
    rmSync(resolveBeside(state.configFile, peer.invitation_key_file), { force: true })
  const removed = rest === ''
  if (removed) {
    rmSync(state.configFile)
    const kept = state.file(ANCHOR_KEYS_FILE)
    for (const file of [state.keyFile, `${state.keyFile}.next`, state.endpointsFile, kept])
      rmSync(file, { force: true })
  } else writeSecret(state.configFile, text)
  const dime = dimeKeyFile(state)
  return {
    ...{ peer: peer.name, config: state.configFile, removed },
    ...(removed && existsSync(dime) && { kept: dime }),
    ...(peer.kind === 'wireguard' && { stock: true }),
  }
}

/** Takes a configuration of wg-quick: the WireGuard server becomes a plain anchor. */
export function joinWireguard(state: State, file: string): Joined {
  if (!existsSync(file))
    throw usageError(`there is no file ${file}`, { hint: 'give the path of a wg-quick configuration' })
  const text = attempt(`read ${file}`, () => readFileSync(file, 'utf8'))
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
  const { dns } = parsed.value
  return { peer: name, config: state.configFile, addresses, ...(dns.length > 0 && { dns }) }
}

/** A WireGuard server identifies this host by its key, so the key of the file must become the host's. */
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
    `${file} contains a private key, but this host uses another one for its peers`,
    usage('use a separate state folder: godwit join --wg FILE --state DIR'),
  )
}

function usage(hint: string) {
  return { kind: 'usage', hint } as const
}

function readHostConfig(state: State): { text: string; config: Config | undefined } {
  if (!existsSync(state.configFile)) return { text: '', config: undefined }
  const config = loadConfig(state.configFile)
  const { role } = claimantOf(config)
  if (role !== hostDescriptor.role) {
    throw new GodwitError(
      'NOT_A_HOST',
      `this is ${withArticle(role)}, not a host (${state.configFile} has [${role}])`,
      usage('give the host its own state folder with --state DIR'),
    )
  }
  return { text: readFileSync(state.configFile, 'utf8'), config }
}

function refuseKnown(state: State, config: Config | undefined, publicKey: string): void {
  const keys = new AnchorKeys(state.file(ANCHOR_KEYS_FILE))
  const known = config?.peer.find((peer) =>
    [peer.public_key, keys.of(peer.public_key).current].includes(publicKey),
  )
  if (!known) return
  throw new GodwitError(
    'ALREADY_JOINED',
    `${state.configFile} has this peer already: ${known.name}`,
    usage(`to join anew: sudo godwit leave ${known.name}, then join`),
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

/** wg-quick ignores bits after the prefix. */
function networkPrefix(text: string): string {
  if (parsePrefix(text).ok) return text
  const parsed = parseInterfaceAddress(text)
  if (!parsed.ok) throw usageError(parsed.reason)
  const { address, length } = parsed.value
  return `${formatAddress(maskAddress(address, length))}/${length}`
}

/** Leads a port of an anchor that does not run to a host. */
export function forwardPort(state: State, request: Parameters<typeof addForward>[4]): readonly Forward[] {
  const { anchor } = loadAnchorConfig(state)
  const sockets = new SockDiag()
  try {
    const hosts = new HostStore(state.file('hosts.json'))
    return addForward(anchor, sockets, hosts, new ForwardStore(state.file('forwards.json')), request)
  } finally {
    sockets.close()
  }
}

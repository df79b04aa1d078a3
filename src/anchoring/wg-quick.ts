/** The configuration file of wg-quick(8): read one to use a stock WireGuard server, print one for a stock client. */
import { parseInterfaceAddress } from '../core/address.ts'
import { type Decoded, decoded, malformed } from '../core/result.ts'
import { decodeKey } from '../crypto/keys.ts'
import { parseHostPort } from '../mechanism/schema.ts'

export interface WgQuick {
  readonly privateKey: string
  readonly addresses: readonly string[]
  readonly mtu?: number
  readonly dns: readonly string[]
  readonly peer: {
    readonly publicKey: string
    readonly presharedKey?: string
    readonly endpoint: string
    readonly allowedIps: readonly string[]
    readonly keepalive: number
  }
}

/** Keys of wg-quick that have no meaning here; anything else unknown is refused. */
const IGNORED = new Set(['listenport', 'fwmark', 'table', 'saveconfig'])
const HOOKS = new Set(['preup', 'postup', 'predown', 'postdown'])

/** Reads a file with one peer; the reason names the line. */
export function parseWgQuick(text: string): Decoded<WgQuick> {
  const values: Record<'interface' | 'peer', Map<string, string[]>> = {
    interface: new Map(),
    peer: new Map(),
  }
  let section: 'interface' | 'peer' | undefined
  let peers = 0
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const line = raw.replace(/#.*/, '').trim()
    const fail = (reason: string) => malformed(`line ${index + 1}: ${reason}`)
    if (line === '') continue
    const header = /^\[(interface|peer)\]$/i.exec(line)
    if (header) {
      section = header[1]!.toLowerCase() as 'interface' | 'peer'
      if (section === 'peer' && ++peers > 1)
        return fail('there is a second [Peer]; put each into its own file')
      continue
    }
    const equals = line.indexOf('=')
    if (equals < 0 || section === undefined) return fail('not a WireGuard configuration')
    const name = line.slice(0, equals).trim().toLowerCase()
    const value = line.slice(equals + 1).trim()
    if (HOOKS.has(name))
      return fail(`${line.slice(0, equals).trim()} runs commands, which godwit does not support; remove it`)
    const entries = value
      .split(',')
      .map((part) => part.trim())
      .filter((part) => part !== '')
    const list = values[section].get(name) ?? []
    values[section].set(name, [...list, ...entries])
  }
  return collect(values.interface, values.peer)
}

function collect(iface: Map<string, string[]>, peer: Map<string, string[]>): Decoded<WgQuick> {
  const known = new Set([
    'privatekey',
    'address',
    'mtu',
    'dns',
    'publickey',
    'presharedkey',
    'endpoint',
    'allowedips',
  ])
  known.add('persistentkeepalive')
  const unknown = [...iface.keys(), ...peer.keys()].find((name) => !known.has(name) && !IGNORED.has(name))
  if (unknown !== undefined) return malformed(`\`${unknown}\` is not a key of wg-quick`)
  const one = (map: Map<string, string[]>, name: string): string => map.get(name)?.[0] ?? ''
  const presharedKey = one(peer, 'presharedkey')
  const keys: [string, string][] = [
    ['PrivateKey', one(iface, 'privatekey')],
    ['PublicKey', one(peer, 'publickey')],
    ...(presharedKey === '' ? [] : [['PresharedKey', presharedKey] as [string, string]]),
  ]
  for (const [name, value] of keys) {
    const decodedKey = decodeKey(value)
    if (!decodedKey.ok) return malformed(`${name}: ${value === '' ? 'is missing' : decodedKey.reason}`)
  }
  const endpoint = parseHostPort(one(peer, 'endpoint'))
  if (!endpoint.ok) return malformed(`Endpoint: ${endpoint.reason}`)
  const addresses = iface.get('address') ?? []
  if (addresses.length === 0) return malformed('Address is missing')
  const allowedIps = peer.get('allowedips') ?? []
  for (const address of [...addresses, ...allowedIps]) {
    const parsed = parseInterfaceAddress(address)
    if (!parsed.ok) return malformed(parsed.reason)
  }
  const mtu = Number(one(iface, 'mtu'))
  return decoded({
    privateKey: one(iface, 'privatekey'),
    addresses,
    dns: iface.get('dns') ?? [],
    ...(mtu > 0 ? { mtu } : {}),
    peer: {
      publicKey: one(peer, 'publickey'),
      ...(presharedKey === '' ? {} : { presharedKey }),
      endpoint: one(peer, 'endpoint'),
      allowedIps,
      keepalive: Number(one(peer, 'persistentkeepalive')) || 0,
    },
  })
}

export function formatWgQuick(config: WgQuick): string {
  const { peer } = config
  return [
    '[Interface]',
    `PrivateKey = ${config.privateKey}`,
    `Address = ${config.addresses.join(', ')}`,
    ...(config.dns.length > 0 ? [`DNS = ${config.dns.join(', ')}`] : []),
    ...(config.mtu === undefined ? [] : [`MTU = ${config.mtu}`]),
    '',
    '[Peer]',
    `PublicKey = ${peer.publicKey}`,
    ...(peer.presharedKey === undefined ? [] : [`PresharedKey = ${peer.presharedKey}`]),
    `Endpoint = ${peer.endpoint}`,
    `AllowedIPs = ${peer.allowedIps.join(', ')}`,
    `PersistentKeepalive = ${peer.keepalive}`,
    '',
  ].join('\n')
}

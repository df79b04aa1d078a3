/** The way to each anchor over each access, tried from outside in without a daemon: for `godwit ping`, `doctor` and `join`. */
import { lookup } from 'node:dns/promises'
import { existsSync } from 'node:fs'
import { AccessMonitor, type UnusedInterface } from '../../access/index.ts'
import { AnchorKeys } from '../../anchoring/anchor-keys.ts'
import { ANCHOR_KEYS_FILE } from '../../anchoring/descriptor.ts'
import { decodeInvitation } from '../../anchoring/invitation.ts'
import { type Door, type Knock, knock } from '../../anchoring/knock.ts'
import { Status, statusText } from '../../anchoring/wire.ts'
import { parseAddress } from '../../core/address.ts'
import { GodwitError } from '../../core/errors.ts'
import { formatEndpoint } from '../../core/flow.ts'
import type { WayStatus } from '../../core/mechanism.ts'
import { decodeKey } from '../../crypto/keys.ts'
import { RealClock } from '../../linux/clock.ts'
import { OUR_DEVICES } from '../../linux/ledger.ts'
import { Rtnetlink } from '../../linux/rtnetlink/index.ts'
import { readPrivateKey, resolveBeside } from '../../mechanism/files.ts'
import { mayChangeNetwork } from '../../mechanism/needs.ts'
import { must, parseHostPort } from '../../mechanism/schema.ts'
import { RememberedTimestamp } from '../../mechanism/timestamp.ts'
import type { Config } from '../configuration/schema.ts'
import type { State } from '../stores/state.ts'
import { keyFileOf } from './anchoring.ts'

/** An answer to `join` that comes later than this is no reason to wait (ms). */
const JOIN_PATIENCE_MS = 2000

type Peer = Config['peer'][number]

/** Whether this process may bind sockets to accesses. */
export const mayTry = mayChangeNetwork

/** Tests every peer over every access, peers in parallel; each test takes at most a few seconds. */
export async function tryWays(state: State, config: Config): Promise<WayStatus[]> {
  const { accesses } = listAccesses(config)
  const tried = config.peer.map(async (peer) => {
    // One after the other: the anchor keeps one session of a host beside the one before.
    const ways: WayStatus[] = []
    for (const { name, down } of accesses) {
      const { endpoint, alternatives } = peer
      const none = { peer: peer.name, access: name, remote: endpoint, ok: false, rtt_ms: null, mtu: null }
      if (down !== undefined) ways.push({ ...none, reason: down })
      else
        for (const each of [endpoint, ...alternatives])
          ways.push(await tryWay(state, config, peer, name, each))
    }
    return ways
  })
  return (await Promise.all(tried)).flat()
}

async function tryWay(
  state: State,
  config: Config,
  peer: Peer,
  access: string,
  endpoint: string,
): Promise<WayStatus> {
  const { host, port } = must(parseHostPort(endpoint))
  const base = { peer: peer.name, access, remote: endpoint, ok: false, rtt_ms: null, mtu: null }
  const address = await addressOf(host)
  if (typeof address === 'string') return { ...base, reason: address }
  const invitation = peer.invitation_key_file && resolveBeside(state.configFile, peer.invitation_key_file)
  const keyFile = invitation && existsSync(invitation) ? invitation : keyFileOf(state, config)
  const floor = new RememberedTimestamp(state.file('timestamp')).get()
  const found = await knock({
    privateKey: readPrivateKey(keyFile),
    publicKey: must(decodeKey(new AnchorKeys(state.file(ANCHOR_KEYS_FILE)).of(peer.public_key).current)),
    ...(peer.preshared_key !== undefined && { presharedKey: must(decodeKey(peer.preshared_key)) }),
    remote: { address, port },
    device: access,
    ...(floor !== undefined && { floor }),
    stock: peer.kind === 'wireguard',
  })
  const remote = formatEndpoint(address, port)
  return { ...base, remote, ...describe(found, peer.kind === 'wireguard', port) }
}

function describe(found: Knock, stock: boolean, port: number): Omit<WayStatus, 'peer' | 'access' | 'remote'> {
  const none = { ok: false, rtt_ms: null, mtu: null }
  switch (found.kind) {
    case 'silent':
      return {
        ...none,
        reason: `no answer: UDP port ${port} is blocked, the anchor is down, or the anchor does not know this host`,
      }
    case 'unreachable':
      return { ...none, reason: found.reason }
    case 'answered': {
      const { rttMs, status, mtu } = found
      const rtt_ms = Math.round(rttMs * 10) / 10
      const refused = status === undefined || status === Status.OK ? undefined : statusText(status)
      const silent = status === undefined && !stock ? 'answers, but assigns this host no address' : undefined
      const reason = refused ?? silent
      return { ok: reason === undefined, rtt_ms, mtu: mtu ?? null, ...(reason !== undefined && { reason }) }
    }
  }
}

/** An address for a host's name, or why there is none. */
async function addressOf(host: string): Promise<Uint8Array | string> {
  const literal = parseAddress(host)
  if (literal.ok) return literal.value
  try {
    const { address } = await lookup(host)
    const parsed = parseAddress(address)
    return parsed.ok ? parsed.value : parsed.reason
  } catch (error) {
    return `the name ${host} has no address here (${(error as NodeJS.ErrnoException).code})`
  }
}

/** The accesses that a daemon with this configuration would have now, and what it would not use. */
export function listAccesses(config: Pick<Config, 'access'>): {
  readonly accesses: readonly { readonly name: string; readonly down: string | undefined }[]
  readonly unused: readonly UnusedInterface[]
} {
  const named = Object.keys(config.access)
  const never = named.filter((pattern) => config.access[pattern]?.use === 'never')
  const rtnl = new Rtnetlink()
  const monitor = new AccessMonitor(
    { rtnl, clock: new RealClock() },
    { routing: false, ours: OUR_DEVICES, named, never },
  )
  try {
    monitor.start()
    const accesses = monitor
      .accesses()
      .map(({ name, state, reason }) => ({ name, down: state === 'down' ? `down: ${reason}` : undefined }))
    return { accesses, unused: monitor.unused() }
  } finally {
    monitor.stop()
    rtnl.close()
  }
}

/**
 * Asks the anchor whether an invitation is still valid. Throws INVITATION_REFUSED if it says no; returns a warning for
 * the user if it does not answer within JOIN_PATIENCE_MS, undefined if it says yes.
 */
export async function checkInvitation(text: string): Promise<string | undefined> {
  const invitation = decodeInvitation(text)
  if (!invitation.ok) return undefined // `join` reports what is wrong with it
  const { endpoint, private_key, public_key, preshared_key } = invitation.value
  const { host, port } = must(parseHostPort(endpoint))
  const address = await addressOf(host)
  if (typeof address === 'string') return address
  const door: Door = {
    privateKey: must(decodeKey(private_key)),
    publicKey: must(decodeKey(public_key)),
    presharedKey: must(decodeKey(preshared_key)),
    remote: { address, port },
  }
  const found = await knock(door, JOIN_PATIENCE_MS)
  if (found.kind !== 'answered')
    return `the anchor at ${endpoint} does not answer; godwit ping tests the way to it`
  const { status } = found
  if (status === undefined || status === Status.OK) return undefined
  throw new GodwitError('INVITATION_REFUSED', statusText(status), {
    kind: 'usage',
    hint: 'get another one, on the anchor: godwit anchor invite NAME',
  })
}

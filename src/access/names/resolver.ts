/**
 * Resolves names separately for each access: by that access's own name servers, over that access, bypassing every tunnel.
 * For the endpoints of tunnels, whose names cannot be resolved through the tunnel that they are needed for, and which
 * different networks may resolve differently.
 *
 * An answer is only a hint where to try: the tunnel's handshake proves who is there.
 */
import { lookup } from 'node:dns/promises'
import { formatAddress, parseAddress } from '../../core/address.ts'
import type { Clock, Random } from '../../core/clock.ts'
import { GodwitError } from '../../core/errors.ts'
import type { Access } from '../machine.ts'
import { isName } from './message.ts'
import { IPV4ONLY, type Nat64Prefix, prefixesIn, synthesise } from './nat64.ts'
import { type AskServer, askFirst, type Found, serverAsker } from './query.ts'
import type { SystemServers } from './servers.ts'

export interface Resolution {
  /** As text, the preferred one first. */
  readonly addresses: readonly string[]
  /** IPv4 ones among them as this access's NAT64 writes them; of no use anywhere else. */
  readonly synthesised: readonly string[]
  /** They may be other ones after so long (ms); infinite: never. */
  readonly validMs: number
}

/** An access as far as names are concerned. */
export type AccessView = Pick<Access, 'name' | 'ifindex' | 'families' | 'generation'>

export interface AccessResolverParts {
  readonly servers: SystemServers
  readonly access: (name: string) => AccessView | undefined
  readonly clock: Pick<Clock, 'now'>
  readonly random: Random
  /** Mark of what goes past the tunnel. */
  readonly mark: number
  /** Default: sockets. */
  readonly ask?: AskServer
  /** The host's own resolver. Default: getaddrinfo. */
  readonly lookUp?: (name: string) => Promise<readonly string[]>
}

/** Of answers that come without a time, and of the NAT64 prefix of an access (RFC 7050 §3.4 wants a TTL, which is 0 often). */
const UNTIMED_MS = 30_000
const PREFIX_MS = 600_000

export class AccessResolver {
  readonly #parts: AccessResolverParts
  /** Asks one name server. */
  readonly ask: AskServer
  /** NAT64 prefixes by access. */
  readonly #prefixes = new Map<
    string,
    { generation: number; until: number; prefixes: readonly Nat64Prefix[] }
  >()

  constructor(parts: AccessResolverParts) {
    this.#parts = parts
    this.ask = parts.ask ?? serverAsker(parts.random, parts.mark)
  }

  get servers(): SystemServers {
    return this.#parts.servers
  }

  /**
   * The addresses of `host` (a name or an address) for use over an access. Rejects when there are none, with what was
   * tried.
   */
  async resolve(host: string, over: string): Promise<Resolution> {
    const access = this.#parts.access(over)
    if (access === undefined) throw new GodwitError('NO_ACCESS', `there is no access ${over}`)
    const found = await this.#find(host, access)
    const { addresses } = found
    const four = addresses.filter(({ length }) => length === 4)
    const prefixes = four.length > 0 && !access.families.includes(4) ? await this.#nat64(access) : []
    if (addresses.length === 0)
      throw new GodwitError('NO_ADDRESS', `${host} has no address over ${access.name}`)
    return {
      addresses: texts([...addresses].sort((a, b) => b.length - a.length)),
      synthesised: texts(prefixes.flatMap((prefix) => four.map((v4) => synthesise(prefix, v4)))),
      validMs: prefixes.length > 0 ? Math.min(found.validMs, PREFIX_MS) : found.validMs,
    }
  }

  /** How an access without IPv4 reaches IPv4 addresses: prefixes of its NAT64; none: it does not, or that is not known now. */
  async nat64(over: string): Promise<readonly Nat64Prefix[]> {
    const access = this.#parts.access(over)
    return access === undefined || access.families.includes(4) ? [] : this.#nat64(access)
  }

  /** Name servers for an access: its own, then the host's. */
  serversOf(access: AccessView): readonly string[] {
    const { servers } = this.#parts
    const all = [...new Set([...servers.of(access), ...servers.host().servers])]
    return all.filter((text) => access.families.includes(text.includes(':') ? 6 : 4))
  }

  async #find(host: string, access: AccessView): Promise<Found> {
    const literal = parseAddress(host)
    if (literal.ok) return { addresses: [literal.value], validMs: Number.POSITIVE_INFINITY }
    const listed = this.#parts.servers.hosts(host)
    if (listed.length > 0) return { addresses: parsed(listed), validMs: UNTIMED_MS }
    const servers = this.serversOf(access)
    // Names that only this machine's own resolver knows: without a domain, of mDNS, behind a stub.
    if (servers.length === 0 || !isName(host) || !host.includes('.') || /\.local\.?$/.test(host)) {
      const { lookUp = systemLookUp } = this.#parts
      return { addresses: parsed(await lookUp(host)), validMs: UNTIMED_MS }
    }
    const types = ['AAAA', 'A'] as const
    const answers = await Promise.allSettled(
      types.map((type) => askFirst(this.ask, servers, host, type, access.name)),
    )
    const good = answers.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))
    const bad = answers.find((each) => each.status === 'rejected')
    const addresses = good.flatMap((each) => each.addresses)
    if (addresses.length === 0 && bad !== undefined) throw bad.reason
    const validMs = Math.min(...good.map((each) => each.validMs), bad === undefined ? Infinity : UNTIMED_MS)
    return { addresses, validMs }
  }

  /** How this access reaches IPv4 addresses; empty: it does not. */
  async #nat64(access: AccessView): Promise<readonly Nat64Prefix[]> {
    const now = this.#parts.clock.now()
    const known = this.#prefixes.get(access.name)
    if (known?.generation === access.generation && now < known.until) return known.prefixes
    const servers = this.serversOf(access)
    if (servers.length === 0) return []
    try {
      const { addresses } = await askFirst(this.ask, servers, IPV4ONLY, 'AAAA', access.name)
      const prefixes = prefixesIn(addresses)
      this.#prefixes.set(access.name, { generation: access.generation, until: now + PREFIX_MS, prefixes })
      return prefixes
    } catch {
      return known?.generation === access.generation ? known.prefixes : []
    }
  }
}

function texts(addresses: readonly Uint8Array[]): string[] {
  return [...new Set(addresses.map(formatAddress))]
}

function parsed(texts: readonly string[]): Uint8Array[] {
  return texts.flatMap((text) => {
    const address = parseAddress(text)
    return address.ok ? [address.value] : []
  })
}

async function systemLookUp(name: string): Promise<string[]> {
  return (await lookup(name, { all: true, order: 'verbatim' })).map(({ address }) => address)
}

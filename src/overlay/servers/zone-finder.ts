/**
 * Finds the coordinator of another zone by the DNS (NT-17; Fig. 5 step 3): `_ntm._udp.ZONE` SRV says where it is, `_ntm.ZONE` TXT has
 * its keys. What the DNS names is hostile until decoded, and is an address that datagrams may go to, or is left out.
 */
import { Resolver } from 'node:dns/promises'
import { parseAddress } from '../../core/address.ts'
import type { Endpoint } from '../../core/endpoint.ts'
import { decodeKey } from '../../crypto/keys.ts'
import { mayBeHost } from '../machine/virtual.ts'
import type { FoundZone } from '../machine/zones.ts'

const TIMEOUT_MS = 1500
const TRIES = 2
/** Hosts of a zone's SRV, and addresses of each, that are looked at. */
const MAX_HOSTS = 2
const MAX_ADDRESSES = 4
const TEXT = /^v=1 k=(\S{44}) s=(\S{44})$/

export class ZoneFinder {
  readonly #resolver = new Resolver({ timeout: TIMEOUT_MS, tries: TRIES })

  /** `servers`: who is asked, as text; none: those of this machine. */
  constructor(servers: readonly string[]) {
    if (servers.length > 0) this.#resolver.setServers(servers)
  }

  /** Undefined: there is no such zone, or the DNS does not answer. Never rejects. */
  async find(zone: string): Promise<FoundZone | undefined> {
    try {
      const [texts, services] = await Promise.all([
        this.#resolver.resolveTxt(`_ntm.${zone}`),
        this.#resolver.resolveSrv(`_ntm._udp.${zone}`),
      ])
      const keys = keysIn(texts)
      if (keys === undefined) return undefined
      const first = services.sort((a, b) => a.priority - b.priority).slice(0, MAX_HOSTS)
      const found = await Promise.all(first.map(({ name, port }) => this.#endpointsOf(name, port)))
      return { ...keys, endpoints: found.flat() }
    } catch {
      return undefined
    }
  }

  /** Look-ups under way end as if nothing had been found. */
  stop(): void {
    this.#resolver.cancel()
  }

  async #endpointsOf(host: string, port: number): Promise<Endpoint[]> {
    const [six, four] = await Promise.all([
      this.#resolver.resolve6(host).catch((): string[] => []),
      this.#resolver.resolve4(host).catch((): string[] => []),
    ])
    return [...four.slice(0, MAX_ADDRESSES), ...six.slice(0, MAX_ADDRESSES)].flatMap((text) => {
      const address = parseAddress(text)
      const endpoint = address.ok ? { address: address.value, port } : undefined
      return endpoint !== undefined && mayBeHost(endpoint) ? [endpoint] : []
    })
  }
}

function keysIn(texts: readonly (readonly string[])[]): Pick<FoundZone, 'coordinator' | 'zone'> | undefined {
  for (const text of texts.slice(0, 8)) {
    const [, k, s] = TEXT.exec(text.join('')) ?? []
    const [coordinator, zone] = [decodeKey(k ?? ''), decodeKey(s ?? '')]
    if (coordinator.ok && zone.ok) return { coordinator: coordinator.value, zone: zone.value }
  }
  return undefined
}

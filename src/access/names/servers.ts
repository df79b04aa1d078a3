/**
 * Which name servers this host has, and which of them belong to one access: what its network manager keeps in files.
 *
 *   /run/systemd/netif/links/N, leases/N    systemd-networkd: DNS= of the link, of its lease
 *   /run/systemd/resolve/netif/N            systemd-resolved: SERVERS= that others have set for the link
 *   /run/resolvconf/interface{,s}/IFACE.*   resolvconf, openresolv
 *   /run/dhcpcd/hook-state/resolv.conf/…    dhcpcd without resolvconf
 *   /var/lib/dhcp/dhclient*.leases          ISC dhclient
 *   /run/systemd/resolve/resolv.conf        all that systemd-resolved knows
 *   /run/NetworkManager/resolv.conf         all that NetworkManager knows
 *   /etc/resolv.conf                        the host's, whatever wrote it
 *
 * They are small, and read anew each time: a lease changes without a word. What NetworkManager keeps of one link is not in files,
 * and not read (ADR 0080).
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { formatAddress, parseAddress } from '../../core/address.ts'

export interface Link {
  readonly name: string
  readonly ifindex: number
}

export interface HostServers {
  /** In the host's order, as text, without those on this machine. */
  readonly servers: readonly string[]
  /** The host asks a resolver on this machine, and which others that one asks is not known. */
  readonly stub: boolean
}

/** Files larger than this are not read whole: no list of name servers is. */
const MOST_BYTES = 65_536
const MOST_SERVERS = 8

export class SystemServers {
  readonly #root: string

  /** `root`: where the system's files are, for tests. */
  constructor(root = '/') {
    this.#root = root
  }

  /** Those that the access's own network named. */
  of(link: Link): readonly string[] {
    const { name, ifindex } = link
    const found = [
      ...settings(this.#read(`run/systemd/netif/links/${ifindex}`), 'DNS'),
      ...settings(this.#read(`run/systemd/netif/leases/${ifindex}`), 'DNS'),
      ...settings(this.#read(`run/systemd/resolve/netif/${ifindex}`), 'SERVERS'),
      ...['run/resolvconf/interface', 'run/resolvconf/interfaces', 'run/dhcpcd/hook-state/resolv.conf']
        .flatMap((folder) => this.#filesOf(folder, name))
        .flatMap((file) => nameServers(this.#read(file))),
      ...this.#list('var/lib/dhcp')
        .filter((file) => /^dhclient.*\.leases$/.test(file))
        .flatMap((file) => leased(this.#read(join('var/lib/dhcp', file)), name)),
    ]
    return usable(found)
  }

  /** Those of the host. */
  host(): HostServers {
    const own = nameServers(this.#read('etc/resolv.conf'))
    const behind = own.some(isLocal)
      ? [
          ...nameServers(this.#read('run/systemd/resolve/resolv.conf')),
          ...nameServers(this.#read('run/NetworkManager/resolv.conf')),
        ]
      : []
    const servers = usable([...own, ...behind])
    return { servers, stub: own.length === 0 || (own.some(isLocal) && servers.length === 0) }
  }

  /** The addresses of a name in /etc/hosts. */
  hosts(name: string): readonly string[] {
    const wanted = name.toLowerCase()
    return this.#read('etc/hosts')
      .split('\n')
      .flatMap((line) => {
        const [address, ...names] = line.replace(/#.*/, '').trim().split(/\s+/)
        return names.some((each) => each.toLowerCase() === wanted) ? [address!] : []
      })
      .filter((text) => parseAddress(text).ok)
  }

  /** A record is named after its interface, with a point and the program behind it. */
  #filesOf(folder: string, name: string): string[] {
    return this.#list(folder)
      .filter((file) => file === name || file.startsWith(`${name}.`))
      .map((file) => join(folder, file))
  }

  #list(folder: string): string[] {
    try {
      return readdirSync(join(this.#root, folder)).sort()
    } catch {
      return []
    }
  }

  #read(file: string): string {
    try {
      return readFileSync(join(this.#root, file), 'utf8').slice(0, MOST_BYTES)
    } catch {
      return '' // not every host has it
    }
  }
}

function nameServers(text: string): string[] {
  return [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map(([, address]) => address!)
}

/** The words of `KEY=…` lines. */
function settings(text: string, key: string): string[] {
  return text
    .split('\n')
    .filter((line) => line.startsWith(`${key}=`))
    .flatMap((line) => line.slice(key.length + 1).split(/\s+/))
}

/** Name servers of the interface's last lease in a file of dhclient. */
function leased(text: string, name: string): string[] {
  const leases = text.split(/^lease\s*\{/m).filter((lease) => lease.includes(`interface "${name}"`))
  const option = /option domain-name-servers ([^;]+);/.exec(leases.at(-1) ?? '')
  return option?.[1]?.split(/[\s,]+/) ?? []
}

/** Each once, as addresses: without the port, interface and name that systemd writes beside them. */
function usable(texts: readonly string[]): string[] {
  const found = new Set<string>()
  for (const text of texts) {
    const bare = /^\[?([^\]#%]+?)\]?(?:%[^#]*)?(?:#.*)?$/.exec(text)?.[1]?.replace(/^([\d.]+):\d+$/, '$1')
    const parsed = bare === undefined ? undefined : parseAddress(bare)
    if (parsed?.ok !== true || isLocal(bare!) || found.size >= MOST_SERVERS) continue
    found.add(formatAddress(parsed.value))
  }
  return [...found]
}

function isLocal(text: string): boolean {
  return text.startsWith('127.') || text === '::1' || text === '0.0.0.0' || text === '::'
}

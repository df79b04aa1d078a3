/**
 * The name servers of this host. By default they are the networks' own; queries to servers that only one access reaches
 * bypass the tunnel over that access. With [host] dns they are the configured ones, reached through the tunnel;
 * systemd-resolved or resolvconf is told to use them.
 */
import type { AccessMonitor } from '../access/index.ts'
import type { AskServer, SystemServers } from '../access/names/index.ts'
import { type AddressKind, kindOf, parseAddress } from '../core/address.ts'
import { MAIN_TABLE } from '../linux/ledger.ts'
import { type DnsKeeper, dnsKeeper, type SystemDns } from '../linux/system-dns.ts'

/** Where a name server is reached: `to` is a prefix. */
export interface NameServerWay {
  readonly to: string
  readonly table: number
}

export interface NameServersParts {
  readonly servers: SystemServers
  readonly ask: AskServer
  readonly monitor: Pick<AccessMonitor, 'accesses' | 'table' | 'watch'>
  readonly dns: SystemDns
  readonly report: (level: 'info' | 'warn', message: string) => void
  /** Replaces all that were led before. */
  readonly lead: (ways: readonly NameServerWay[]) => void
}

export interface NameServersInit {
  /** Configured name servers. */
  readonly dns: readonly string[]
  readonly keeper: DnsKeeper | 'auto'
  /** The table of the tunnel. */
  readonly table: number
  /** Traffic goes through the tunnel unless it is led past it. */
  readonly all: boolean
}

/** After a change of the networks, whose managers write their files a little later (ms). */
const SETTLE_MS = 500
/** Leases change without an event, so they are read again at this interval. */
const REREAD_MS = 15_000
/** Every resolver answers this name, and it reveals nothing about this host. */
const HARMLESS = 'ipv4only.arpa'

export class NameServers {
  readonly #parts: NameServersParts
  readonly #init: NameServersInit
  /** Servers that no access named, with the access that they need; null: the tunnel reaches them. */
  readonly #found = new Map<string, string | null>()
  #ready = false
  #led = ''
  #unwatch: (() => void) | undefined
  #timer: NodeJS.Timeout | undefined
  #probing: AbortController | undefined

  constructor(parts: NameServersParts, init: NameServersInit) {
    this.#parts = parts
    this.#init = init
  }

  start(): void {
    const { dns, table } = this.#init
    if (dns.length > 0) {
      this.#lead(dns.map((server) => ({ to: host(server), table })))
      this.#set(dns)
      return
    }
    this.#unwatch = this.#parts.monitor.watch(() => this.#networksChanged())
    this.#refresh()
  }

  /** Traffic flows through the tunnel: whether it reaches a server can be tried. */
  tunnelReady(): void {
    if (this.#ready) return
    this.#ready = true
    if (this.#unwatch !== undefined) this.#refresh()
  }

  stop(): void {
    this.#unwatch?.()
    this.#unwatch = undefined
    clearTimeout(this.#timer)
    this.#probing?.abort()
  }

  /** Gives the host's name servers back, also after a run that was killed. */
  cleanUp(): void {
    try {
      this.#parts.dns.giveBack()
    } catch (error) {
      this.#parts.report(
        'warn',
        `the name servers of this host could not be restored: ${(error as Error).message}`,
      )
    }
  }

  #set(dns: readonly string[]): void {
    const keeper = this.#init.keeper === 'auto' ? dnsKeeper() : this.#init.keeper
    try {
      this.#parts.dns.set(keeper, dns)
      if (keeper !== 'none') return
      const [level, why] =
        this.#init.keeper === 'auto'
          ? (['warn', '[host] dns needs systemd-resolved or resolvconf: install one of them'] as const)
          : (['info', 'dns_by = "none"'] as const)
      this.#parts.report(level, `the name servers of this host stay unchanged (${why})`)
    } catch (error) {
      this.#parts.report('warn', `[host] dns: ${(error as Error).message}`)
    }
  }

  #networksChanged(): void {
    this.#found.clear()
    this.#later(SETTLE_MS)
  }

  #later(ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#refresh(), ms)
  }

  #refresh(): void {
    const { servers, monitor } = this.#parts
    const up = monitor.accesses().filter(({ state }) => state !== 'down')
    const ways = new Map<string, number>()
    for (const access of up) {
      const table = monitor.table(access.name)
      for (const server of servers.of(access))
        if (table !== undefined && !ways.has(server)) ways.set(server, table)
    }
    const untried: string[] = []
    for (const server of servers.host().servers) {
      if (ways.has(server)) continue
      const found = this.#found.get(server)
      const table = found == null ? undefined : monitor.table(found)
      if (isPrivate(server)) ways.set(server, MAIN_TABLE)
      else if (table !== undefined) ways.set(server, table)
      else if (found === undefined) untried.push(server)
    }
    this.#lead([...ways].map(([server, table]) => ({ to: host(server), table })))
    this.#later(REREAD_MS)
    if (this.#ready && this.#init.all && untried.length > 0)
      void this.#try(
        untried,
        up.map(({ name }) => name),
      )
  }

  #lead(ways: readonly NameServerWay[]): void {
    const text = ways.map(({ to, table }) => `${to} ${table}`).join()
    if (text === this.#led) return
    this.#led = text
    this.#parts.lead(ways)
  }

  /** Which of these the tunnel does not reach, and which access does. */
  async #try(servers: readonly string[], accesses: readonly string[]): Promise<void> {
    this.#probing?.abort()
    const probing = new AbortController()
    this.#probing = probing
    const { ask } = this.#parts
    // One that refuses answers others: through the tunnel it is of no use, over an access it is what the host had.
    const answers = (server: string, refusals: boolean, over?: string) =>
      ask(server, HARMLESS, 'A', over, probing.signal).then(
        ({ kind }) => refusals || kind !== 'failed',
        () => false,
      )
    for (const server of servers) {
      const needed = (await answers(server, false))
        ? null
        : await firstOf(accesses, (name) => answers(server, true, name))
      if (probing.signal.aborted) return
      if (needed === undefined) continue // no access reaches it now
      this.#found.set(server, needed)
      if (needed !== null)
        this.#parts.report('info', `${server} answers over ${needed} only: queries to it bypass the tunnel`)
    }
    this.#refresh()
  }
}

async function firstOf(
  names: readonly string[],
  holds: (name: string) => Promise<boolean>,
): Promise<string | undefined> {
  for (const name of names) if (await holds(name)) return name
  return undefined
}

function host(server: string): string {
  return `${server}/${server.includes(':') ? 128 : 32}`
}

/** No anchor reaches it from elsewhere. */
function isPrivate(server: string): boolean {
  const parsed = parseAddress(server)
  return parsed.ok && NOT_GLOBAL.has(kindOf(parsed.value))
}

const NOT_GLOBAL: ReadonlySet<AddressKind> = new Set(['private', 'shared', 'link-local', 'unique-local'])

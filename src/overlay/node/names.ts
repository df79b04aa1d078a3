/**
 * Makes the overlay's names resolvable on this machine: runs the local name server and registers it. systemd-resolved
 * sends it only queries for the zone; the other resolvers send all queries, and it forwards those for other names to the
 * machine's previous servers.
 */
import type { SystemServers } from '../../access/names/index.ts'
import type { Recorder } from '../../core/mechanism.ts'
import { watchFile } from '../../linux/file-watch.ts'
import { type DnsKeeper, dnsKeeper, type SystemDns } from '../../linux/system-dns.ts'
import { LocalDns, type LocalDnsParts } from './local-dns.ts'
import type { ResolvConf } from './resolv-conf.ts'

export type NamesKeeper = DnsKeeper | 'file'

export interface NodeNamesParts {
  readonly lookup: LocalDnsParts['lookup']
  readonly servers: SystemServers
  readonly system: SystemDns
  readonly file: ResolvConf
  readonly recorder: Recorder
}

export interface NodeNamesInit {
  readonly keeper: NamesKeeper | 'auto'
  /** What names of the overlay end in: the own zone, then others. */
  readonly zones: readonly string[]
}

/** Interval (ms) at which the file is checked where it cannot be watched: its manager rewrites it when networks change. */
const LOOK_MS = 5_000
const LOCAL = '127.0.0.1'

export class NodeNames {
  readonly #parts: NodeNamesParts
  readonly #init: NodeNamesInit
  readonly #dns: LocalDns
  #keeper: NamesKeeper = 'none'
  #address: string | undefined
  /** Times that it was stopped: what was starting meanwhile changes nothing. */
  #ended = 0
  #unwatch: (() => void) | undefined

  constructor(parts: NodeNamesParts, init: NodeNamesInit) {
    this.#parts = parts
    this.#init = init
    const suffixes = init.zones.map((zone) => `.${zone}`)
    this.#dns = new LocalDns({
      lookup: parts.lookup,
      covers: (name) => suffixes.some((suffix) => name.endsWith(suffix)) && !name.startsWith('_'),
      upstream: () => this.upstream(),
      report: (message) => parts.recorder.log('warn', message),
    })
  }

  /** The node has these virtual addresses. Never rejects: names are a convenience. */
  async start(addresses: readonly string[]): Promise<void> {
    const [address] = addresses
    if (address === undefined) return
    const { recorder } = this.#parts
    const ended = this.#ended
    await this.#dns.listen(addresses)
    if (ended !== this.#ended) {
      this.#dns.stop()
      return
    }
    this.#address = address
    const found = dnsKeeper()
    this.#keeper = this.#init.keeper === 'auto' ? (found === 'none' ? 'file' : found) : this.#init.keeper
    try {
      this.#tell(address)
    } catch (error) {
      recorder.log(
        'warn',
        `names: ${(error as Error).message}; ask ${address} for names that end in ${this.#init.zones.join(', ')}`,
      )
      this.#keeper = 'none'
    }
    if (this.#keeper === 'file') this.#unwatch = this.#watch(address)
  }

  stop(): void {
    this.#ended++
    this.#unwatch?.()
    this.#unwatch = undefined
    this.#dns.stop()
    this.#address = undefined
    this.cleanUp()
  }

  /** As it was before. Repeatable, also after a run that was killed. */
  cleanUp(): void {
    try {
      this.#parts.system.giveBack()
      this.#parts.file.giveBack()
    } catch (error) {
      this.#parts.recorder.log('warn', `names: ${(error as Error).message}`)
    }
  }

  view(): object {
    return { server: this.#address ?? null, keeper: this.#keeper, zone: this.#init.zones[0] }
  }

  /** The servers that this machine has beside us. A file that names none stands for a server on this machine (resolv.conf(5)). */
  upstream(): readonly string[] {
    const ofFile = this.#keeper === 'file'
    const known = ofFile ? this.#parts.file.others() : this.#parts.servers.host().servers
    const others = known.filter((server) => server !== this.#address)
    return ofFile && others.length === 0 ? [LOCAL] : others
  }

  #tell(address: string): void {
    if (this.#keeper === 'file') this.#parts.file.set(address)
    else if (this.#keeper !== 'none') this.#parts.system.set(this.#keeper, [address], this.#init.zones)
  }

  #watch(address: string): () => void {
    const look = () => this.#look(address)
    try {
      return watchFile(this.#parts.file.path, look)
    } catch {
      const timer = setInterval(look, LOOK_MS)
      return () => clearInterval(timer)
    }
  }

  #look(address: string): void {
    try {
      if (this.#parts.file.set(address))
        this.#parts.recorder.log(
          'info',
          'another program wrote /etc/resolv.conf; godwit added its line again',
        )
    } catch (error) {
      this.#parts.recorder.log('debug', `names: ${(error as Error).message}`)
    }
  }
}

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

/** Interval (ms) at which the file is checked where it cannot be watched, or written: its manager rewrites it when networks change. */
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
  /** Why the file does not have our line. */
  #trouble: string | undefined

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
    if (this.#keeper === 'file') {
      this.#keepLine(address, true)
      return
    }
    try {
      if (this.#keeper !== 'none') this.#parts.system.set(this.#keeper, [address], this.#init.zones)
    } catch (error) {
      recorder.log('warn', this.#cannot(error, address))
      this.#keeper = 'none'
    }
  }

  stop(): void {
    this.#ended++
    this.#unwatch?.()
    this.#unwatch = undefined
    this.#trouble = undefined
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
    const keeper = this.#trouble === undefined ? this.#keeper : 'none'
    return { server: this.#address ?? null, keeper, zone: this.#init.zones[0] }
  }

  /** The servers that this machine has beside us. A file that names none stands for a server on this machine (resolv.conf(5)). */
  upstream(): readonly string[] {
    const ofFile = this.#keeper === 'file' && this.#trouble === undefined
    const known = ofFile ? this.#parts.file.others() : this.#parts.servers.host().servers
    const others = known.filter((server) => server !== this.#address)
    return ofFile && others.length === 0 ? [LOCAL] : others
  }

  /** Adds our line to the file where it is missing, and again whenever another program changes the file. */
  #keepLine(address: string, isFirst = false): void {
    const { file, recorder } = this.#parts
    const before = this.#trouble
    let added = false
    try {
      added = file.set(address)
      this.#trouble = undefined
    } catch (error) {
      this.#trouble = this.#cannot(error, address)
    }
    if (this.#trouble !== undefined && this.#trouble !== before) recorder.log('warn', this.#trouble)
    else if (this.#trouble === undefined && before !== undefined)
      recorder.log('info', `names: ${file.path} can be written now; godwit added its line`)
    else if (added && !isFirst)
      recorder.log('info', 'another program wrote /etc/resolv.conf; godwit added its line again')
    if (isFirst || (before === undefined) !== (this.#trouble === undefined)) this.#watch(address)
  }

  #cannot(error: unknown, address: string): string {
    return `names: ${(error as Error).message}; ask ${address} for names that end in ${this.#init.zones.join(', ')}`
  }

  /** What keeps a file from being written, such as a link to a file that is still missing, may end without an event. */
  #watch(address: string): void {
    this.#unwatch?.()
    const look = () => this.#keepLine(address)
    try {
      if (this.#trouble === undefined) {
        this.#unwatch = watchFile(this.#parts.file.path, look)
        return
      }
    } catch {
      // The kernel has no watch left.
    }
    const timer = setInterval(look, LOOK_MS)
    this.#unwatch = () => clearInterval(timer)
  }
}

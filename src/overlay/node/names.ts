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
/** A file without name servers is looked at once more after this, before ours alone is in it (ms). */
const EMPTIED_MS = 300
/** Our line is added again at once so many times; then after a pause, doubling from the first to the last, until it stood for QUIET_MS. */
const AT_ONCE = 5
const FIRST_PAUSE = 1_000
const LONGEST_PAUSE = 60_000
const QUIET_MS = 120_000

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
  /** Times that our line was added again, and when the last one was (ms). */
  #added = 0
  #addedAt = Number.NEGATIVE_INFINITY
  #later: NodeJS.Timeout | undefined

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
    clearTimeout(this.#later)
    this.#later = undefined
    this.#added = 0
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
  #keepLine(address: string, isFirst = false, isSettled = false): void {
    const { file, recorder } = this.#parts
    const before = this.#trouble
    let added = false
    try {
      const pause = isFirst ? 0 : this.#pause(address, isSettled)
      if (pause > 0) {
        this.#lookLater(address, pause)
        return
      }
      added = file.set(address)
      this.#trouble = undefined
    } catch (error) {
      this.#trouble = this.#cannot(error, address)
    }
    if (this.#trouble !== undefined && this.#trouble !== before) recorder.log('warn', this.#trouble)
    else if (this.#trouble === undefined && before !== undefined)
      recorder.log('info', `names: ${file.path} can be written now; godwit added its line`)
    else if (added && !isFirst) this.#noteAdded(address)
    if (isFirst || (before === undefined) !== (this.#trouble === undefined)) this.#watch(address)
  }

  /** Before our line is added again (ms). */
  #pause(address: string, isSettled: boolean): number {
    const { file } = this.#parts
    if (!file.lacks(address)) return 0
    if (!isSettled && file.isEmptied()) return EMPTIED_MS
    const since = performance.now() - this.#addedAt
    if (since >= QUIET_MS) this.#added = 0
    const over = this.#added - AT_ONCE
    return over < 0 ? 0 : Math.max(0, Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** Math.min(over, 6)) - since)
  }

  #lookLater(address: string, ms: number): void {
    if (this.#later !== undefined) return
    this.#later = setTimeout(() => {
      this.#later = undefined
      this.#keepLine(address, false, true)
    }, ms)
    this.#later.unref()
  }

  #noteAdded(address: string): void {
    const { recorder } = this.#parts
    this.#addedAt = performance.now()
    this.#added++
    if (this.#added < AT_ONCE)
      recorder.log('info', 'another program wrote /etc/resolv.conf; godwit added its line again')
    else if (this.#added === AT_ONCE)
      recorder.log(
        'warn',
        `names: another program writes /etc/resolv.conf again and again; godwit adds its line less often now. Have that program ask ${address} for names that end in ${this.#init.zones.join(', ')}, and set [overlay] dns = "none"`,
      )
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

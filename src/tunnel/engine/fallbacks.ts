/**
 * Slower ways that the engine uses when the kernel or a path refuses the fast one. Each is counted for /metrics and
 * logged the first time, because nothing else would show why traffic is several times slower.
 */
import { errnoName } from '../../linux/libc.ts'
import type { Engine } from './engine.ts'
import type { LogLine } from './events.ts'

export class Fallbacks {
  readonly #engine: Engine
  readonly #log: (line: LogLine) => void
  readonly #logged = new Set<string>()

  constructor(engine: Engine, log: (line: LogLine) => void) {
    this.#engine = engine
    this.#log = log
  }

  /**
   * `sends_split`: batches sent datagram by datagram; `sockets_without_gro`; `fragmented`: datagrams cut by IP;
   * `recut`: TCP packets cut in two.
   */
  counters(): Record<string, number> {
    const { datapath, counts } = this.#engine
    let split = counts.split
    let refusal = 0
    for (const socket of datapath.sockets) {
      if (socket === undefined) continue
      split += socket.split
      if (socket.splitError !== 0) refusal = socket.splitError
    }
    const { fragmented } = datapath.sender
    this.#once(
      'split',
      split,
      () =>
        `the kernel refuses UDP batches (UDP_SEGMENT${refusal === 0 ? '' : `: ${errnoName(refusal)}`}): datagrams are sent one by one, several times slower`,
    )
    this.#once(
      'gro',
      counts.withoutGro,
      () => 'the kernel delivers UDP datagrams one by one (no UDP_GRO): receiving is slower',
    )
    this.#once(
      'fragmented',
      fragmented,
      () => 'a path has a smaller MTU than the tunnel needs: tunnel datagrams are fragmented',
    )
    return {
      sends_split: split,
      sockets_without_gro: counts.withoutGro,
      fragmented,
      recut: datapath.outbound.counts.recut,
    }
  }

  #once(what: string, count: number, message: () => string): void {
    if (count === 0 || this.#logged.has(what)) return
    this.#logged.add(what)
    this.#log({ type: 'log', level: 'warn', message: message() })
  }
}

/** The relay as the process that runs it has it: its thread, and news of the machine's routes for that. */
import { parseAddress } from '../../core/address.ts'
import type { GodwitError } from '../../core/errors.ts'
import { Rtnetlink } from '../../linux/rtnetlink/index.ts'
import { must } from '../../mechanism/schema.ts'
import { EngineWorker } from '../../tunnel/engine/thread.ts'
import type { RelayCommand, RelayEvent, RelaySetup } from './protocol.ts'
import type { ServerSettings } from './settings.ts'

/** A change of routes rarely comes alone (ms). */
const SETTLE_MS = 50

export interface RelayPartEvents {
  readonly onEvent: (event: RelayEvent) => void
  readonly onEnd: (error: GodwitError | undefined) => void
}

export class RelayPart {
  readonly #worker: EngineWorker
  readonly #rtnl = new Rtnetlink()
  readonly #watching = new AbortController()
  #timer: NodeJS.Timeout | undefined

  private constructor(worker: EngineWorker) {
    this.#worker = worker
    this.#rtnl.watch(['link', 'address', 'route', 'rule'], () => this.#changed(), {
      signal: this.#watching.signal,
    })
  }

  static async start(
    settings: Pick<
      ServerSettings,
      'relay_ports' | 'addresses' | 'relay_mbps' | 'relay_kernel' | 'relay_channels' | 'relay_capacity_mbps'
    >,
    { onEvent, onEnd }: RelayPartEvents,
  ): Promise<RelayPart> {
    const [first, last] = settings.relay_ports
    const setup: RelaySetup = {
      ports: Array.from({ length: last - first + 1 }, (_, i) => first + i),
      addresses: settings.addresses.map((text) => must(parseAddress(text))),
      rate: (settings.relay_mbps * 1e6) / 8,
      kernel: settings.relay_kernel,
      capacity: 1000 * settings.relay_capacity_mbps,
      maxChannels: settings.relay_channels,
    }
    const entry = new URL('./relay-worker.js', import.meta.url)
    const events = { onEvent: (event: unknown) => onEvent(event as RelayEvent), onEnd }
    return new RelayPart(await EngineWorker.start(entry, setup, events))
  }

  post(command: RelayCommand): void {
    this.#worker.post(command)
  }

  async stop(): Promise<void> {
    clearTimeout(this.#timer)
    this.#watching.abort()
    this.#rtnl.close()
    await this.#worker.stop()
  }

  #changed(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.post({ type: 'routes' })
    }, SETTLE_MS)
  }
}

/**
 * Which links NetworkManager has marked as metered (NMMetered: yes, or guessed so, as of telephones and modems). Without a bus or
 * NetworkManager none is; one that comes later is noticed.
 */
import { Shared } from '../core/shared.ts'
import { Bus, BusError, type Signal, type Target } from '../linux/dbus/index.ts'
import { changedOf, numberOf, textOf } from './radio/bus-radio.ts'
import { NETWORK_MANAGER } from './radio/network-manager.ts'

const MANAGER: Target = {
  service: NETWORK_MANAGER,
  path: '/org/freedesktop/NetworkManager',
  interface: NETWORK_MANAGER.name,
}
const DEVICE = `${NETWORK_MANAGER.name}.Device`
/** NM_METERED_YES, NM_METERED_GUESS_YES. */
const METERED = [1, 3]
/** Signals come in bursts. */
const READ_AFTER_MS = 50
/** How often a bus that is not there is looked for. */
const AGAIN_MS = 30_000

export interface MeteredInit {
  /** Address of the bus; default: the system bus. */
  readonly address?: string
  /** Called when other links are metered than before. */
  readonly changed: (metered: ReadonlySet<string>) => void
  /** Default: `Bus.open`. */
  readonly open?: (address: string | undefined, ended: () => void) => Promise<MeteredBus>
}

type MeteredBus = Pick<Bus, 'call' | 'properties' | 'follow' | 'close'>

export class MeteredLinks {
  readonly #init: MeteredInit
  #names: ReadonlySet<string> = new Set()
  #bus: MeteredBus | undefined
  /** NetworkManager is there. */
  #present = false
  /** Runs readings one after the other, so that a slow answer cannot overwrite a newer one. */
  readonly #reads = new Shared<void>()
  #reading: NodeJS.Timeout | undefined
  #again: NodeJS.Timeout | undefined
  #stopped = false

  constructor(init: MeteredInit) {
    this.#init = init
  }

  has(name: string): boolean {
    return this.#names.has(name)
  }

  start(): void {
    void this.#connect().catch(() => this.#lost())
  }

  stop(): void {
    this.#stopped = true
    clearTimeout(this.#reading)
    clearTimeout(this.#again)
    this.#bus?.close()
  }

  async #connect(): Promise<void> {
    const { open = Bus.open, address } = this.#init
    const bus = await open(address, () => this.#lost())
    if (this.#stopped) return bus.close()
    this.#bus = bus
    await bus.follow(NETWORK_MANAGER, {
      owned: (present) => {
        this.#present = present
        if (present) this.#readSoon()
        else this.#set(new Set())
      },
      signal: (signal) => {
        if (concernsDevices(signal)) this.#readSoon()
      },
    })
  }

  #lost(): void {
    this.#bus?.close()
    this.#bus = undefined
    this.#present = false
    this.#set(new Set())
    clearTimeout(this.#again)
    if (!this.#stopped) this.#again = setTimeout(() => this.start(), AGAIN_MS).unref()
  }

  #readSoon(ms = READ_AFTER_MS): void {
    if (this.#stopped) return
    this.#reading ??= setTimeout(() => {
      this.#reading = undefined
      // On failure the last known state stays: a NetworkManager that ends reports it, a slow one is asked again.
      this.#reads.ask(() => this.#read()).catch(() => this.#present && this.#readSoon(AGAIN_MS))
    }, ms)
    this.#reading.unref()
  }

  async #read(): Promise<void> {
    const bus = this.#bus
    if (bus === undefined) return
    const [devices] = await bus.call(MANAGER, 'GetDevices')
    const names = new Set<string>()
    for (const path of devices as readonly string[]) {
      const target = { service: NETWORK_MANAGER, path, interface: DEVICE }
      const properties = await bus.properties(target).catch(unlessSilent)
      if (properties === undefined || !METERED.includes(numberOf(properties.get('Metered')) ?? 0)) continue
      for (const key of ['Interface', 'IpInterface']) names.add(textOf(properties.get(key)) ?? '')
    }
    names.delete('')
    if (this.#present && this.#bus === bus) this.#set(names)
  }

  #set(names: ReadonlySet<string>): void {
    const same = names.size === this.#names.size && [...names].every((name) => this.#names.has(name))
    if (same || this.#stopped) return
    this.#names = names
    this.#init.changed(names)
  }
}

/** A device that has just been removed has no properties; if NetworkManager has none for a device, nothing is known. */
function unlessSilent(error: unknown): undefined {
  if (!(error instanceof BusError) || error.dbusName === 'timeout') throw error
}

function concernsDevices(signal: Signal): boolean {
  if (signal.member === 'DeviceAdded' || signal.member === 'DeviceRemoved') return true
  const found = changedOf(signal)
  return (
    found !== undefined &&
    found.of === DEVICE &&
    (found.changed.has('Metered') || found.changed.has('IpInterface'))
  )
}

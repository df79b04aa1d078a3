/**
 * The driver of a radio: the one that was asked for, or what looks after the interface. At start that may not be up yet,
 * so it is looked for until it is found; then it stays.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { GodwitError } from '../../core/errors.ts'
import { Bus } from '../../linux/dbus/index.ts'
import { hasModem, ModemManagerRadio } from './modem-manager.ts'
import { managesWifi, NetworkManagerRadio } from './network-manager.ts'
import { type AccessPoint, type Driver, type Radio, type RadioEvent, SUPPLICANT_FOLDER } from './radio.ts'
import { SupplicantRadio } from './supplicant.ts'

export interface RadioOptions {
  readonly driver: Driver
  /** Folder of wpa_supplicant's control sockets; where this end's socket goes. */
  readonly folder?: string
  readonly own?: string
  /** Of a modem. */
  readonly apn?: string
  /** Address of the bus; absent: the system's. */
  readonly address?: string
}

const LOOK_EVERY_MS = 2_000

/** A radio for the interface `name`. Throws KernelError where a socket cannot be made. */
export function openRadio(name: string, options: RadioOptions): Radio {
  switch (options.driver) {
    case 'wpa_supplicant':
      return new SupplicantRadio(name, options)
    case 'networkmanager':
      return new NetworkManagerRadio(name, options)
    case 'modemmanager':
      return new ModemManagerRadio(name, options)
    default:
      return new FoundRadio(name, options)
  }
}

/** Does nothing until what drives the interface is found, then passes everything on. */
class FoundRadio implements Radio {
  readonly name: string
  readonly #options: RadioOptions
  readonly #listeners: ((event: RadioEvent) => void)[] = []
  #radio: Radio | undefined
  #timer: NodeJS.Timeout | undefined
  #trouble: GodwitError | undefined
  #closed = false

  constructor(name: string, options: RadioOptions) {
    this.name = name
    this.#options = options
    if (this.#socketIsThere()) this.#radio = openRadio(name, { ...options, driver: 'wpa_supplicant' })
    else void this.#look()
  }

  scan(): void {
    if (this.#radio !== undefined) this.#radio.scan()
    else this.#fail('scan')
  }

  associate(point: AccessPoint): void {
    if (this.#radio !== undefined) this.#radio.associate(point)
    else this.#fail('associate')
  }

  release(): void {
    this.#radio?.release()
  }

  subscribe(listener: (event: RadioEvent) => void): void {
    this.#listeners.push(listener)
    if (this.#trouble !== undefined && this.#radio === undefined)
      listener({ type: 'trouble', error: this.#trouble })
    this.#radio?.subscribe(listener)
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#radio?.close()
  }

  #socketIsThere(): boolean {
    return existsSync(join(this.#options.folder ?? SUPPLICANT_FOLDER, this.name))
  }

  #fail(op: 'scan' | 'associate'): void {
    const event: RadioEvent = { type: 'failed', op, reason: 'no service controls it yet' }
    for (const listener of this.#listeners) listener(event)
  }

  async #look(): Promise<void> {
    const driver = await this.#which()
    if (this.#closed) return
    try {
      if (driver === undefined) throw this.#nothing()
      this.#radio = openRadio(this.name, { ...this.#options, driver })
    } catch (error) {
      this.#tellTrouble(error as GodwitError)
      this.#timer = setTimeout(() => void this.#look(), LOOK_EVERY_MS)
      return
    }
    for (const listener of this.#listeners) this.#radio.subscribe(listener)
  }

  async #which(): Promise<Driver | undefined> {
    if (this.#socketIsThere()) return 'wpa_supplicant'
    const bus = await Bus.open(this.#options.address, () => {}).catch(() => undefined)
    if (bus === undefined) return undefined
    try {
      if (await managesWifi(bus, this.name)) return 'networkmanager'
      return (await hasModem(bus, this.name)) ? 'modemmanager' : undefined
    } finally {
      bus.close()
    }
  }

  #nothing(): GodwitError {
    return new GodwitError('RADIO_DEVICE', `nothing drives ${this.name}`, {
      hint: `it needs wpa_supplicant with a control socket in ${this.#options.folder ?? SUPPLICANT_FOLDER}, NetworkManager or ModemManager`,
    })
  }

  #tellTrouble(error: GodwitError): void {
    if (this.#trouble?.message === error.message) return
    this.#trouble = error
    for (const listener of this.#listeners) listener({ type: 'trouble', error })
  }
}

/**
 * A cellular radio controlled through ModemManager (its D-Bus API, 1.6 and newer). The network chooses the cell, so there
 * is one point: the operator that the modem is registered with. If NetworkManager manages the modem, it is told to
 * connect, and it sets addresses; otherwise ModemManager is told, and whatever configures the interface sets addresses.
 */
import { GodwitError } from '../../core/errors.ts'
import type { Bus, Properties, Service, Signal, Target, Value, Variant } from '../../linux/dbus/index.ts'
import { BusRadio, type BusRadioOptions, changedOf, NO_OBJECT, numberOf, textOf } from './bus-radio.ts'
import { NETWORK_MANAGER } from './network-manager.ts'
import type { AccessPoint } from './radio.ts'

export const MODEM_MANAGER: Service = {
  name: 'org.freedesktop.ModemManager1',
  title: 'ModemManager',
  unit: 'ModemManager',
}
const ROOT = '/org/freedesktop/ModemManager1'
const MODEM = `${MODEM_MANAGER.name}.Modem`
const SIMPLE = `${MODEM}.Simple`
const SIGNAL = `${MODEM}.Signal`
const GPP = `${MODEM}.Modem3gpp`
const OBJECTS = 'org.freedesktop.DBus.ObjectManager'
const NM_ROOT = '/org/freedesktop/NetworkManager'
const NM_DEVICE = `${NETWORK_MANAGER.name}.Device`

/** MMModemPortType, MMModemState. */
const PORT_NET = 2
const LOCKED = 2
const DISABLED = 3
const REGISTERED = 8
const CONNECTING = 10
const CONNECTED = 11

/** How often the modem is to measure, seconds. */
const MEASURE_EVERY_S = 1
/** Technologies by how much their measurement matters when there are several. */
const TECHNOLOGIES = ['Nr5g', 'Lte', 'Umts', 'Gsm', 'Evdo', 'Cdma']
/** Power in the whole band over that of one resource element: 10·log₁₀(12 · 50), an LTE carrier of 10 MHz. */
const BAND_OVER_ELEMENT_DB = 28
/** 3GPP's values for "not known" lie below. */
const FAINTEST_DBM = -140

/** Strength in percent as ModemManager makes it of RSSI: 100 for −51 dBm and more, 0 for −113 and less. */
export function dbmOfQuality(percent: number): number {
  return -113 + 0.62 * Math.min(100, Math.max(0, percent))
}

/**
 * Received power in the whole band, dBm, which compares with Wi-Fi's: as measured, else from the power of the reference
 * signal (RSRP, RSCP), which is a part of it. Undefined when nothing was measured.
 */
export function dbmOfMeasurement(measured: Properties): number | undefined {
  const value = (name: string) => {
    const dbm = numberOf(measured.get(name))
    return dbm !== undefined && dbm < 0 && dbm > FAINTEST_DBM ? dbm : undefined
  }
  const rsrp = value('rsrp')
  const rscp = value('rscp')
  const ecio = numberOf(measured.get('ecio'))
  return (
    value('rssi') ??
    (rsrp === undefined ? undefined : rsrp + BAND_OVER_ELEMENT_DB) ??
    (rscp === undefined || ecio === undefined ? undefined : rscp - ecio)
  )
}

export interface ModemOptions extends BusRadioOptions {
  readonly apn?: string
}

export class ModemManagerRadio extends BusRadio {
  readonly #apn: string | undefined
  #modem = NO_OBJECT
  #state = 0
  #operator = { code: '', name: '' }
  #quality = 0
  readonly #measured = new Map<string, Properties>()
  /** A connection was asked for and is not there yet; `begun` once the modem is at it. */
  #wanted: { begun: boolean } | undefined
  #releasing = false

  constructor(name: string, options: ModemOptions = {}) {
    super(name, MODEM_MANAGER, options)
    this.#apn = options.apn
  }

  scan(): void {
    void this.#scan().catch((error) => this.failed('scan', error))
  }

  associate(): void {
    this.#releasing = false
    const wanted = { begun: false }
    this.#wanted = wanted
    void this.#connect().catch((error) => {
      if (this.#wanted !== wanted) return
      this.#wanted = undefined
      this.failed('associate', error)
    })
  }

  release(): void {
    this.#wanted = undefined
    this.#releasing = true
    this.left()
    void this.#disconnect().catch((error) => {
      if (error instanceof GodwitError && error.code === 'BUS_REFUSED') this.trouble(error)
    })
  }

  protected async find(bus: Bus): Promise<void> {
    const found = await modemOf(bus, this.name)
    if (found === undefined)
      throw new GodwitError('RADIO_DEVICE', `ModemManager has no modem with the interface ${this.name}`, {
        hint: '`mmcli -L` lists its modems, `mmcli -m N` their interfaces',
      })
    this.#modem = found.path
    this.#measured.clear()
    for (const [of, properties] of found.interfaces) this.#take(of, properties)
    if (this.#state === LOCKED)
      throw new GodwitError('RADIO_DEVICE', `the SIM of ${this.name} asks for its PIN`, {
        hint: `mmcli -m ${this.#modem.slice(this.#modem.lastIndexOf('/') + 1)} then mmcli -i SIM --pin=PIN`,
      })
    // Modems that cannot measure in dBm report their quality in percent.
    await bus.call(this.#on(SIGNAL), 'Setup', 'u', [MEASURE_EVERY_S]).catch(() => {})
    this.#settle()
  }

  protected forget(): void {
    this.#modem = NO_OBJECT
    this.#state = 0
    if (this.#wanted === undefined) return
    this.#wanted = undefined
    this.failed('associate', 'ModemManager or the modem went away')
  }

  protected hear(signal: Signal): void {
    if (
      signal.interface === OBJECTS &&
      signal.member === 'InterfacesRemoved' &&
      signal.body[0] === this.#modem
    ) {
      if ((signal.body[1] as readonly string[]).includes(MODEM)) this.lookAgain()
      return
    }
    if (signal.interface === OBJECTS && signal.member === 'InterfacesAdded') this.lookNow()
    const properties = signal.path === this.#modem ? changedOf(signal) : undefined
    if (properties === undefined) return
    const { of, changed } = properties
    this.#take(of, changed)
    this.#settle()
    const heard = of === SIGNAL || (of === MODEM && changed.has('SignalQuality') && this.#measured.size === 0)
    if (heard && this.point !== undefined) this.tell({ type: 'signal', dbm: this.#dbm() })
  }

  #on(of: string): Target {
    return { service: MODEM_MANAGER, path: this.#modem, interface: of }
  }

  #take(of: string, properties: Properties): void {
    if (of === MODEM) {
      this.#state = numberOf(properties.get('State')) ?? this.#state
      const quality = properties.get('SignalQuality')?.value
      if (Array.isArray(quality)) this.#quality = Number(quality[0])
    } else if (of === GPP) {
      this.#operator = {
        code: textOf(properties.get('OperatorCode')) ?? this.#operator.code,
        name: textOf(properties.get('OperatorName')) ?? this.#operator.name,
      }
    } else if (of === SIGNAL) {
      for (const technology of TECHNOLOGIES) {
        const measured = properties.get(technology)?.value
        if (!(measured instanceof Map)) continue
        if (dbmOfMeasurement(measured as Properties) === undefined) this.#measured.delete(technology)
        else this.#measured.set(technology, measured as Properties)
      }
    }
  }

  #dbm(): number {
    for (const technology of TECHNOLOGIES) {
      const measured = this.#measured.get(technology)
      if (measured !== undefined) return dbmOfMeasurement(measured)!
    }
    return dbmOfQuality(this.#quality)
  }

  #here(): AccessPoint {
    const { code, name } = this.#operator
    return { id: code || this.#modem, network: name || code || 'cellular', dbm: this.#dbm() }
  }

  /** Tells what the modem's state means. */
  #settle(): void {
    if (this.#state === CONNECTED) {
      if (this.#releasing || this.point !== undefined) return
      this.#wanted = undefined
      const { id, network, dbm } = this.#here()
      this.tell({ type: 'associated', point: id, network })
      this.tell({ type: 'signal', dbm })
      return
    }
    if (this.#state === CONNECTING && this.#wanted !== undefined) this.#wanted.begun = true
    else if (this.#wanted?.begun === true) {
      this.#wanted = undefined
      this.failed('associate', 'the network refused the connection')
    }
    if (this.point === undefined) return
    if (this.#releasing) this.left()
    else this.tell({ type: 'lost', reason: this.#state < REGISTERED ? 'no network' : 'disconnected' })
  }

  async #scan(): Promise<void> {
    const { bus } = this
    if (this.#state === DISABLED) await bus.call(this.#on(MODEM), 'Enable', 'b', [true])
    this.tell({ type: 'points', points: this.#state >= REGISTERED ? [this.#here()] : [] })
  }

  async #connect(): Promise<void> {
    const { bus } = this
    const device = await networkManagerDevice(bus, this.#modem)
    if (device !== undefined) {
      const manager = { service: NETWORK_MANAGER, path: NM_ROOT, interface: NETWORK_MANAGER.name }
      await bus.call(manager, 'ActivateConnection', 'ooo', [NO_OBJECT, device, NO_OBJECT])
    } else {
      const wish = new Map<string, Variant>()
      if (this.#apn !== undefined) wish.set('apn', { signature: 's', value: this.#apn })
      await bus.call(this.#on(SIMPLE), 'Connect', 'a{sv}', [wish])
    }
    this.#settle()
  }

  async #disconnect(): Promise<void> {
    if (this.#state < CONNECTING) return
    const device = await networkManagerDevice(this.bus, this.#modem)
    if (device !== undefined)
      await this.bus.call({ service: NETWORK_MANAGER, path: device, interface: NM_DEVICE }, 'Disconnect')
    else await this.bus.call(this.#on(SIMPLE), 'Disconnect', 'o', [NO_OBJECT])
  }
}

/** The modem that has the interface, and its properties by interface of its object. */
async function modemOf(
  bus: Bus,
  name: string,
): Promise<{ path: string; interfaces: ReadonlyMap<string, Properties> } | undefined> {
  const root = { service: MODEM_MANAGER, path: ROOT, interface: OBJECTS }
  const [objects] = await bus.call(root, 'GetManagedObjects')
  for (const [path, interfaces] of objects as ReadonlyMap<string, ReadonlyMap<string, Properties>>) {
    const ports = interfaces.get(MODEM)?.get('Ports')?.value
    if (!Array.isArray(ports)) continue
    const has = ports.some((port: Value) => Array.isArray(port) && port[0] === name && port[1] === PORT_NET)
    if (has) return { path, interfaces }
  }
  return undefined
}

/** Whether ModemManager has a modem with the interface. Never rejects. */
export async function hasModem(bus: Bus, name: string): Promise<boolean> {
  return (await modemOf(bus, name).catch(() => undefined)) !== undefined
}

/** NetworkManager's device for a modem; undefined when it has none or is not there. */
async function networkManagerDevice(bus: Bus, modem: string): Promise<string | undefined> {
  try {
    const manager = { service: NETWORK_MANAGER, path: NM_ROOT, interface: NETWORK_MANAGER.name }
    const [devices] = await bus.call(manager, 'GetDevices')
    for (const path of devices as readonly string[]) {
      const properties = await bus.properties({ service: NETWORK_MANAGER, path, interface: NM_DEVICE })
      const managed = properties.get('Managed')?.value !== false
      if (textOf(properties.get('Udi')) === modem && managed) return path
    }
  } catch {
    // Not there: ModemManager connects.
  }
  return undefined
}

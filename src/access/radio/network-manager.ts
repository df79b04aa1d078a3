/**
 * A Wi-Fi radio driven through NetworkManager (its D-Bus API, 1.16 and newer). Networks and their secrets are those of
 * its profiles. To stay on the chosen access point, a copy of the network's profile with that BSSID is activated, which
 * NetworkManager keeps in memory and drops when it is no longer active: the user's own profiles stay as they are.
 */
import { randomUUID } from 'node:crypto'
import { fromHex } from '../../core/bytes.ts'
import { GodwitError } from '../../core/errors.ts'
import type { Bus, Properties, Service, Signal, Target, Value, Variant } from '../../linux/dbus/index.ts'
import { BusError } from '../../linux/dbus/index.ts'
import {
  BusRadio,
  type BusRadioOptions,
  changedOf,
  NO_OBJECT,
  numberOf,
  pathsOf,
  textOf,
} from './bus-radio.ts'
import type { AccessPoint } from './radio.ts'

export const NETWORK_MANAGER: Service = {
  name: 'org.freedesktop.NetworkManager',
  title: 'NetworkManager',
  unit: 'NetworkManager',
}
const SUPPLICANT: Service = { name: 'fi.w1.wpa_supplicant1', title: 'wpa_supplicant', unit: 'wpa_supplicant' }

const ROOT = '/org/freedesktop/NetworkManager'
const MANAGER = NETWORK_MANAGER.name
const DEVICE = `${MANAGER}.Device`
const WIRELESS = `${MANAGER}.Device.Wireless`
const ACCESS_POINT = `${MANAGER}.AccessPoint`
const ACTIVE = `${MANAGER}.Connection.Active`
const PROFILE = `${MANAGER}.Settings.Connection`

/** NMDeviceType, NMDeviceState, NMActiveConnectionState, NM80211Mode, NMSettingsConnectionFlags. */
const WIFI = 2
const UNMANAGED = 10
const DISCONNECTED = 30
const IP_CONFIG = 70
const ACTIVATED = 100
const DEVICE_FAILED = 120
const DEACTIVATED = 4
const INFRASTRUCTURE = 2
const VOLATILE = 0x4

/** NMDeviceStateReason, those that a radio meets. */
const REASONS: Readonly<Record<number, string>> = {
  3: 'it is no longer managed',
  5: 'no usable address',
  7: 'a secret is missing: store it for all users in the profile',
  8: 'the association broke',
  9: 'wpa_supplicant refused the profile',
  10: 'wpa_supplicant failed',
  11: 'wpa_supplicant took too long',
  15: 'DHCP did not start',
  16: 'DHCP failed',
  17: 'DHCP failed',
  36: 'the device is gone',
  39: 'the user disconnected it',
  53: 'the network was not found',
}

/** Settings with secrets, which a profile does not show unasked. */
const SECRETIVE = ['802-11-wireless-security', '802-1x']
const SIGNAL_EVERY_MS = 100

type Settings = Map<string, Map<string, Variant>>

/** Strength in percent as NetworkManager makes it of dBm: 100 for −40 and more, 0 for −100 and less, a line between. */
export function dbmOfPercent(percent: number): number {
  return -100 + 0.6 * Math.min(100, Math.max(0, percent))
}

export class NetworkManagerRadio extends BusRadio {
  readonly #poll: NodeJS.Timeout
  #device = NO_OBJECT
  #state = 0
  /** Properties of the device: the access point and the activation that hold. */
  #activePoint = NO_OBJECT
  #activeConnection = NO_OBJECT
  /** D-Bus objects of the points that were reported last. */
  readonly #objects = new Map<string, string>()
  /** The requested point whose connection is pending; its activation once NetworkManager has answered. */
  #wanted: { readonly point: AccessPoint; activation: string | undefined } | undefined
  #releasing = false
  #reason = ''
  #settling = false
  #unsettled = false
  /** The interface's object in wpa_supplicant, where that shows its signal; undefined while it is not known. */
  #supplicant: string | undefined
  #polling = false

  constructor(name: string, options: BusRadioOptions = {}) {
    super(name, NETWORK_MANAGER, options)
    this.#poll = setInterval(() => void this.#pollSignal(), SIGNAL_EVERY_MS)
  }

  scan(): void {
    void this.#scan().catch((error) => this.failed('scan', error))
  }

  associate(point: AccessPoint): void {
    this.#releasing = false
    const wanted = { point, activation: undefined }
    this.#wanted = wanted
    void this.#activate(wanted).catch((error) => {
      if (this.#wanted === wanted) this.#giveUp(error)
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

  override close(): void {
    clearInterval(this.#poll)
    super.close()
  }

  protected async find(bus: Bus): Promise<void> {
    this.#device = await deviceOf(bus, this.name)
    const device = await bus.properties(this.#on(this.#device, DEVICE))
    if (numberOf(device.get('DeviceType')) !== WIFI)
      throw new GodwitError('RADIO_DEVICE', `${this.name} is not Wi-Fi`, {
        hint: 'for a modem set driver = "modemmanager"; other interfaces need no [[router.radio]]',
      })
    this.#take(device)
    this.#take(await bus.properties(this.#on(this.#device, WIRELESS)))
    this.#check()
    this.#changed()
  }

  protected forget(): void {
    this.#device = NO_OBJECT
    this.#state = 0
    this.#activePoint = NO_OBJECT
    this.#supplicant = undefined
    if (this.#wanted !== undefined) this.#giveUp('NetworkManager or the device went away')
  }

  protected hear(signal: Signal): void {
    const { path, interface: of, member, body } = signal
    if (of === DEVICE && member === 'StateChanged' && path === this.#device)
      this.#stateChanged(body[0] as number, body[2] as number)
    if (of === MANAGER && member === 'DeviceRemoved' && body[0] === this.#device) this.lookAgain()
    if (of === MANAGER && member === 'DeviceAdded' && this.#device === NO_OBJECT) this.lookNow()
    const properties = changedOf(signal)
    if (properties === undefined) return
    const { changed } = properties
    if (path === this.#device) {
      this.#take(changed)
      if (changed.has('LastScan')) void this.#tellPoints().catch((error) => this.failed('scan', error))
      this.#changed()
    } else if (path === this.#wanted?.activation && properties.of === ACTIVE) {
      if (numberOf(changed.get('State')) === DEACTIVATED) this.#giveUp(this.#reason || 'it was deactivated')
    } else if (path === this.#activePoint && this.#supplicant === undefined) {
      const percent = numberOf(changed.get('Strength'))
      if (percent !== undefined && this.point !== undefined)
        this.tell({ type: 'signal', dbm: dbmOfPercent(percent) })
    }
  }

  #on(path: string, of: string): Target {
    return { service: NETWORK_MANAGER, path, interface: of }
  }

  #take(properties: Properties): void {
    this.#state = numberOf(properties.get('State')) ?? this.#state
    this.#activePoint = textOf(properties.get('ActiveAccessPoint')) ?? this.#activePoint
    this.#activeConnection = textOf(properties.get('ActiveConnection')) ?? this.#activeConnection
  }

  #check(): void {
    if (this.#state === UNMANAGED)
      throw new GodwitError('RADIO_DEVICE', `NetworkManager leaves ${this.name} alone`, {
        hint: `nmcli device set ${this.name} managed yes`,
      })
  }

  #stateChanged(state: number, reason: number): void {
    this.#state = state
    this.#reason = REASONS[reason] ?? `reason ${reason}`
    if (state === DEVICE_FAILED && this.#wanted?.activation !== undefined) this.#giveUp(this.#reason)
    else if (state === UNMANAGED) this.lookAgain()
    else this.#changed()
  }

  /** Compares the current state with the reported one; runs once more when something changes meanwhile. */
  #changed(): void {
    this.#unsettled = true
    if (this.#settling) return
    void this.#settle()
  }

  async #settle(): Promise<void> {
    this.#settling = true
    while (this.#unsettled) {
      this.#unsettled = false
      const up = this.#state >= IP_CONFIG && this.#state <= ACTIVATED
      if (!up || this.#activePoint === NO_OBJECT) {
        if (this.point === undefined || up) continue
        if (this.#wanted === undefined && !this.#releasing) this.tell({ type: 'lost', reason: this.#reason })
        else this.left()
        continue
      }
      // Still the one before.
      const wanted = this.#wanted
      if (wanted !== undefined && this.#activeConnection !== wanted.activation) continue
      const point = await this.#read(this.#activePoint)
      if (this.#wanted !== wanted || point === undefined || this.#unsettled || this.#releasing) continue
      this.#wanted = undefined
      if (point.id === this.point) continue
      this.tell({ type: 'associated', point: point.id, network: point.network })
      this.tell({ type: 'signal', dbm: point.dbm })
      await this.#findSupplicant()
    }
    this.#settling = false
  }

  async #scan(): Promise<void> {
    this.#check()
    try {
      await this.bus.call(this.#on(this.#device, WIRELESS), 'RequestScan', 'a{sv}', [new Map()])
    } catch (error) {
      // Too soon after the last one, whose results will do; or one is under way.
      if (!(error instanceof BusError && error.dbusName === `${DEVICE}.NotAllowed`)) throw error
      await this.#tellPoints()
    }
  }

  async #tellPoints(): Promise<void> {
    const [paths] = await this.bus.call(this.#on(this.#device, WIRELESS), 'GetAllAccessPoints')
    const found = await Promise.all(
      (paths as readonly string[]).map(async (path) => ({ path, point: await this.#read(path) })),
    )
    this.#objects.clear()
    const points: AccessPoint[] = []
    for (const { path, point } of found) {
      if (point === undefined || point.network === '') continue
      this.#objects.set(point.id, path)
      points.push(point)
    }
    this.tell({ type: 'points', points })
  }

  /** An access point; undefined when it went, or is none that one associates with. */
  async #read(path: string): Promise<AccessPoint | undefined> {
    let properties: Properties
    try {
      properties = await this.bus.properties(this.#on(path, ACCESS_POINT))
    } catch {
      return undefined
    }
    const id = textOf(properties.get('HwAddress'))?.toLowerCase()
    const strength = numberOf(properties.get('Strength'))
    if (id === undefined || strength === undefined) return undefined
    if ((numberOf(properties.get('Mode')) ?? INFRASTRUCTURE) !== INFRASTRUCTURE) return undefined
    return { id, network: networkOf(properties.get('Ssid')), dbm: dbmOfPercent(strength) }
  }

  async #activate(wanted: { readonly point: AccessPoint; activation: string | undefined }): Promise<void> {
    const { point } = wanted
    this.#check()
    this.#reason = ''
    const settings = await this.#copyOf(await this.#profile(point), point)
    if (this.#wanted !== wanted) return
    const object = this.#objects.get(point.id) ?? NO_OBJECT
    const [, activation] = await this.bus.call(
      this.#on(ROOT, MANAGER),
      'AddAndActivateConnection2',
      'a{sa{sv}}ooa{sv}',
      [settings, this.#device, object, new Map([['persist', { signature: 's', value: 'volatile' }]])],
    )
    if (this.#wanted !== wanted) return
    wanted.activation = activation as string
    // It may have come to its end before it was known.
    const active = await this.bus.properties(this.#on(wanted.activation, ACTIVE)).catch(() => undefined)
    if (this.#wanted !== wanted) return
    if (active === undefined || numberOf(active.get('State')) === DEACTIVATED)
      this.#giveUp(this.#reason || 'it was deactivated')
    else this.#changed()
  }

  /** The profile of the point's network: one for this very point before one for any, the latest used first. */
  async #profile(point: AccessPoint): Promise<{ path: string; settings: Settings }> {
    const device = await this.bus.properties(this.#on(this.#device, DEVICE))
    let best: { path: string; settings: Settings } | undefined
    let most = -1
    for (const path of pathsOf(device.get('AvailableConnections'))) {
      const flags = numberOf((await this.bus.properties(this.#on(path, PROFILE))).get('Flags')) ?? 0
      if ((flags & VOLATILE) !== 0) continue
      const [settings] = await this.bus.call(this.#on(path, PROFILE), 'GetSettings')
      const wireless = (settings as Settings).get('802-11-wireless')
      if (networkOf(wireless?.get('ssid')) !== point.network) continue
      const bssid = wireless?.get('bssid')?.value
      const own = bssid instanceof Uint8Array && bssid.every((byte, i) => byte === bytesOf(point.id)[i])
      if (bssid !== undefined && !own) continue
      const usedAt = Number((settings as Settings).get('connection')?.get('timestamp')?.value ?? 0)
      const worth = usedAt + (own ? Number.MAX_SAFE_INTEGER / 2 : 0)
      if (worth > most) {
        most = worth
        best = { path, settings: settings as Settings }
      }
    }
    if (best !== undefined) return best
    throw new GodwitError('RADIO_NETWORK', `NetworkManager has no profile for ${point.network}`, {
      hint: `nmcli device wifi connect "${point.network}" --ask`,
    })
  }

  async #copyOf(profile: { path: string; settings: Settings }, point: AccessPoint): Promise<Settings> {
    const settings: Settings = new Map([...profile.settings].map(([name, values]) => [name, new Map(values)]))
    for (const name of SECRETIVE.filter((each) => settings.has(each))) {
      // Without a secret the activation fails later, and NetworkManager reports it.
      const [secrets] = await this.bus
        .call(this.#on(profile.path, PROFILE), 'GetSecrets', 's', [name])
        .catch((): readonly Value[] => [])
      const values = secrets instanceof Map ? (secrets as Settings).get(name) : undefined
      for (const [key, value] of values ?? []) settings.get(name)?.set(key, value)
    }
    const connection = settings.get('connection') ?? new Map<string, Variant>()
    connection.set('id', { signature: 's', value: `godwit ${this.name}` })
    connection.set('uuid', { signature: 's', value: randomUUID() })
    connection.set('autoconnect', { signature: 'b', value: false })
    connection.set('interface-name', { signature: 's', value: this.name })
    connection.delete('timestamp')
    settings.set('connection', connection)
    const wireless = settings.get('802-11-wireless')
    wireless?.set('bssid', { signature: 'ay', value: bytesOf(point.id) })
    wireless?.delete('seen-bssids')
    return settings
  }

  #giveUp(error: unknown): void {
    this.#wanted = undefined
    if (this.point !== undefined && this.#state < IP_CONFIG) this.left()
    this.failed('associate', error)
  }

  async #disconnect(): Promise<void> {
    if (this.#state > DISCONNECTED) await this.bus.call(this.#on(this.#device, DEVICE), 'Disconnect')
  }

  /** wpa_supplicant reports the strength in dBm on request; NetworkManager in percent, every few seconds. */
  async #findSupplicant(): Promise<void> {
    const root = { service: SUPPLICANT, path: '/fi/w1/wpa_supplicant1', interface: SUPPLICANT.name }
    try {
      const [path] = await this.bus.call(root, 'GetInterface', 's', [this.name])
      this.#supplicant = path as string
    } catch {
      this.#supplicant = undefined // iwd, or not permitted
    }
  }

  async #pollSignal(): Promise<void> {
    if (this.#supplicant === undefined || this.point === undefined || this.#polling) return
    this.#polling = true
    const target = { service: SUPPLICANT, path: this.#supplicant, interface: `${SUPPLICANT.name}.Interface` }
    try {
      const [answer] = await this.bus.call(target, 'SignalPoll')
      // Introspection declares a dictionary; wpa_supplicant 2.10 sends a variant with a dictionary in it.
      const properties = answer instanceof Map ? answer : (answer as Variant | undefined)?.value
      const dbm = properties instanceof Map ? numberOf(properties.get('rssi') as Variant) : undefined
      // Drivers report 0 and -9999 when they do not know.
      if (dbm !== undefined && dbm < 0 && dbm > -200 && this.point !== undefined)
        this.tell({ type: 'signal', dbm })
    } catch {
      // It went: NetworkManager's percentage will do.
      this.#supplicant = undefined
      const point = await this.#read(this.#activePoint)
      if (point?.id === this.point && point !== undefined) this.tell({ type: 'signal', dbm: point.dbm })
    }
    this.#polling = false
  }
}

/** NetworkManager's object for an interface. Rejects with RADIO_DEVICE when it has none. */
export async function deviceOf(bus: Bus, name: string): Promise<string> {
  const manager = { service: NETWORK_MANAGER, path: ROOT, interface: MANAGER }
  try {
    const [path] = await bus.call(manager, 'GetDeviceByIpIface', 's', [name])
    return path as string
  } catch (error) {
    if (!(error instanceof BusError) || error.code !== 'BUS_FAILED') throw error
    throw new GodwitError('RADIO_DEVICE', `NetworkManager knows no interface ${name}`, {
      hint: '`nmcli device` shows those that it knows',
      cause: error,
    })
  }
}

/** Whether NetworkManager has the interface as Wi-Fi and looks after it. Never rejects. */
export async function managesWifi(bus: Bus, name: string): Promise<boolean> {
  try {
    const target = { service: NETWORK_MANAGER, path: await deviceOf(bus, name), interface: DEVICE }
    const properties = await bus.properties(target)
    return (
      numberOf(properties.get('DeviceType')) === WIFI && (numberOf(properties.get('State')) ?? 0) > UNMANAGED
    )
  } catch {
    return false
  }
}

/** An SSID is bytes: as text where it is UTF-8, else what is not ASCII as `\xNN`, as wpa_supplicant writes it. */
function networkOf(variant: Variant | undefined): string {
  if (!(variant?.value instanceof Uint8Array)) return ''
  const bytes = variant.value
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    return [...bytes]
      .map((byte) =>
        byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`,
      )
      .join('')
  }
}

function bytesOf(bssid: string): Uint8Array {
  const bytes = fromHex(bssid)
  return bytes.ok ? bytes.value : new Uint8Array(6)
}

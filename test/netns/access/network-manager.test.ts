/** The NetworkManager driver on a real bus: python-dbusmock's NetworkManager with Wi-Fi, then NetworkManager itself. */
import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  dbmOfPercent,
  NETWORK_MANAGER,
  NetworkManagerRadio,
} from '../../../src/access/radio/network-manager.ts'
import type { Bus, Target, Value, Variant } from '../../../src/linux/dbus/index.ts'
import { findProgram } from '../../../src/linux/packages.ts'
import { Ear, type RadioBed, radioCompliance } from '../../suites/radio.ts'
import { MockService, o, PrivateBus, s, u, withoutBus, withoutMock, y } from '../../support/private-bus.ts'

const ROOT = '/org/freedesktop/NetworkManager'
const MANAGER = 'org.freedesktop.NetworkManager'
const DEVICE = `${MANAGER}.Device`
const WIRELESS = `${DEVICE}.Wireless`
const ACTIVE = `${MANAGER}.Connection.Active`
/** Object manager of dbusmock's template. */
const MOCKS = '/org/freedesktop'
const WLAN = `${ROOT}/Devices/wlan`
const [DISCONNECTED, IP_CONFIG, ACTIVATED, FAILED] = [30, 70, 100, 120]

const POINTS = [
  { id: '02:00:00:00:00:01', network: 'röw', dbm: -61 },
  { id: '02:00:00:00:00:02', network: 'röw', dbm: -48 },
]

function percentOf(dbm: number): number {
  return Math.round((dbm + 100) / 0.6)
}

/** A NetworkManager with one Wi-Fi device, two access points of a network, and a profile for that. */
class MockedManager implements RadioBed {
  readonly points = POINTS
  readonly tolerance = 0.5
  readonly radio: NetworkManagerRadio
  readonly bus: PrivateBus
  /** Settings that activations were asked for with. */
  readonly asked: ReadonlyMap<Value, ReadonlyMap<Value, Variant>>[] = []
  #service!: MockService
  #point = 0
  #activations = 0
  #state = ACTIVATED
  #refuse = false
  #closed = false

  private constructor(bus: PrivateBus) {
    this.bus = bus
    this.radio = new NetworkManagerRadio('wlan7', { address: bus.address })
  }

  static async make(refused?: string): Promise<MockedManager> {
    const bed = new MockedManager(await PrivateBus.start(refused))
    await bed.start()
    return bed
  }

  async start(): Promise<void> {
    this.#activations = 0
    this.#state = ACTIVATED
    const service = await MockService.start(
      this.bus,
      NETWORK_MANAGER,
      ['--template', 'networkmanager'],
      (_path, member, args) => this.#do(this.#called(member, args)),
    )
    this.#service = service
    await service.mock(MOCKS, 'AddWiFiDevice', 'ssi', ['wlan', 'wlan7', DISCONNECTED])
    for (const [index, { id, network, dbm }] of POINTS.entries())
      await service.mock(MOCKS, 'AddAccessPoint', 'ssssuuuyu', [
        WLAN,
        `ap${index}`,
        network,
        id.toUpperCase(),
        2,
        5180,
        54_000,
        percentOf(dbm),
        0x100,
      ])
    await service.mock(MOCKS, 'AddWiFiConnection', 'ssss', [WLAN, 'home', POINTS[0]!.network, 'wpa-psk'])
    await service.addMethods(`${ROOT}/Settings/home`, `${MANAGER}.Settings.Connection`, [
      ['GetSecrets', 's', 'a{sa{sv}}', 'ret = {args[0]: {"psk": "a secret"}}'],
    ])
    // As NetworkManager 1.42: each activation is an object, and answered before anything comes of it.
    await service.addMethods(ROOT, MANAGER, [
      [
        'AddAndActivateConnection2',
        'a{sa{sv}}ooa{sv}',
        'ooa{sv}',
        `n = len([c for c in self.call_log if c[1] == "AddAndActivateConnection2"])
active = dbus.ObjectPath("${ROOT}/ActiveConnection/%d" % n)
self.AddObject(active, "${ACTIVE}", {"State": dbus.UInt32(1)}, [])
ret = (dbus.ObjectPath("${ROOT}/Settings/copy"), active, dbus.Dictionary({}, signature="sv"))`,
      ],
    ])
    await service.addMethods(WLAN, DEVICE, [['Disconnect', '', '', '']])
    await service.addProperties(WLAN, WIRELESS, { LastScan: { signature: 'x', value: -1n } })
    await service.addProperties(WLAN, WIRELESS, { ActiveAccessPoint: o('/') })
    await this.#associate(this.#point)
  }

  async stop(): Promise<void> {
    await this.#service.stop()
  }

  async close(): Promise<void> {
    this.#closed = true
    this.radio.close()
    await this.#service.stop()
    await this.bus.close()
  }

  setSignal(dbm: number): void {
    const path = `${ROOT}/AccessPoint/ap${this.#point}`
    this.#do(this.#service.update(path, `${MANAGER}.AccessPoint`, { Strength: y(percentOf(dbm)) }))
  }

  drop(): void {
    this.#do(this.#leave(8))
  }

  refuse(): void {
    this.#refuse = true
  }

  /** What is under way when the test ends is cut off. */
  #do(work: Promise<void>): void {
    work.catch((error: unknown) => {
      if (!this.#closed) throw error
    })
  }

  async #called(member: string, args: readonly Value[]): Promise<void> {
    if (member === 'RequestScan')
      await this.#service.update(WLAN, WIRELESS, {
        LastScan: { signature: 'x', value: BigInt(++this.#activations) },
      })
    if (member === 'Disconnect') await this.#leave(39)
    if (member !== 'AddAndActivateConnection2') return
    const settings = args[0] as ReadonlyMap<Value, ReadonlyMap<Value, Variant>>
    this.asked.push(settings)
    const active = `${ROOT}/ActiveConnection/${this.asked.length}`
    const bssid = settings.get('802-11-wireless')?.get('bssid')?.value as Uint8Array
    if (this.#state >= IP_CONFIG) await this.#enter(DISCONNECTED, 60)
    await this.#service.update(WLAN, DEVICE, { ActiveConnection: o(active) })
    if (this.#refuse) {
      this.#refuse = false
      await this.#enter(FAILED, 7)
      await this.#service.update(active, ACTIVE, { State: u(4) })
      await this.#enter(DISCONNECTED, 0)
    } else await this.#associate(bssid[5]! - 1)
  }

  async #associate(point: number): Promise<void> {
    this.#point = point
    await this.#service.update(WLAN, WIRELESS, { ActiveAccessPoint: o(`${ROOT}/AccessPoint/ap${point}`) })
    for (const state of [40, 50, IP_CONFIG, ACTIVATED]) await this.#enter(state, 0)
  }

  async #leave(reason: number): Promise<void> {
    await this.#enter(DISCONNECTED, reason)
    await this.#service.update(WLAN, WIRELESS, { ActiveAccessPoint: o('/') })
  }

  async #enter(state: number, reason: number): Promise<void> {
    const before = this.#state
    this.#state = state
    await this.#service.emit(WLAN, DEVICE, 'StateChanged', 'uuu', [u(state), u(before), u(reason)])
    await this.#service.update(WLAN, DEVICE, { State: u(state) })
  }
}

test('OH-38: NetworkManager: percent is what it makes of dBm', () => {
  assert.equal(dbmOfPercent(100), -40)
  assert.equal(dbmOfPercent(0), -100)
  assert.equal(dbmOfPercent(50), -70)
})

radioCompliance('NetworkManager', () => MockedManager.make(), withoutMock)

test('OH-38: NetworkManager: a copy of the profile holds the point, with its secret; the profile stays', {
  skip: withoutMock,
}, async () => {
  const bed = await MockedManager.make()
  try {
    const ear = new Ear(bed.radio)
    await ear.next('associated')
    bed.radio.associate(POINTS[1]!)
    await ear.next('associated', ({ point }) => point === POINTS[1]!.id)
    const [settings] = bed.asked
    const value = (setting: string, key: string) => settings!.get(setting)?.get(key)?.value
    assert.deepEqual(value('802-11-wireless', 'bssid'), Uint8Array.of(2, 0, 0, 0, 0, 2))
    assert.equal(value('802-11-wireless-security', 'psk'), 'a secret')
    assert.equal(value('connection', 'autoconnect'), false)
    assert.equal(value('connection', 'interface-name'), 'wlan7')
  } finally {
    await bed.close()
  }
})

test('OH-38: NetworkManager: no profile, and a call that is not permitted, are told with their mend', {
  skip: withoutMock,
}, async () => {
  const bed = await MockedManager.make(`${MANAGER}.AddAndActivateConnection2`)
  try {
    const ear = new Ear(bed.radio)
    await ear.next('associated')
    bed.radio.associate({ id: '02:00:00:00:00:09', network: 'other', dbm: -50 })
    assert.match((await ear.next('failed')).reason, /no profile for other/)
    bed.radio.associate(POINTS[1]!)
    const { error } = await ear.next('trouble')
    assert.equal(error.code, 'BUS_REFUSED')
    assert.match(error.hint ?? '', /polkit/)
    assert.match((await ear.next('failed')).reason, /does not permit/)
  } finally {
    await bed.close()
  }
})

test('OH-38: NetworkManager: wpa_supplicant on the bus is asked for the signal in dBm', {
  skip: withoutMock,
}, async () => {
  const bed = await MockedManager.make()
  const service = { name: 'fi.w1.wpa_supplicant1', title: 'wpa_supplicant', unit: '' }
  const root = '/fi/w1/wpa_supplicant1'
  try {
    const supplicant = await MockService.start(bed.bus, service, [service.name, root, service.name])
    await supplicant.addMethods(root, service.name, [
      ['GetInterface', 's', 'o', `ret = dbus.ObjectPath("${root}/Interfaces/1")`],
    ])
    await supplicant.add(root, `${root}/Interfaces/1`, `${service.name}.Interface`, { Ifname: s('wlan7') }, [
      [
        'SignalPoll',
        '',
        'v',
        'ret = dbus.Dictionary({"rssi": dbus.Int32(-77), "noise": dbus.Int32(9999)}, signature="sv")',
      ],
    ])
    const ear = new Ear(bed.radio)
    await ear.next('associated')
    bed.radio.associate(POINTS[1]!)
    await ear.next('associated', ({ point }) => point === POINTS[1]!.id)
    await ear.next('signal', ({ dbm }) => dbm === -77)
    await supplicant.stop()
    bed.setSignal(-52)
    await ear.next('signal', ({ dbm }) => Math.abs(dbm + 52) < 0.5)
  } finally {
    await bed.close()
  }
})

/** Installing it would let it loose on the machine's own network, so the tests do not. */
const withoutManager: string | false =
  withoutBus ||
  (findProgram('NetworkManager') === undefined
    ? 'NetworkManager is not installed; the tests do not install it, as it takes over the network of the machine'
    : false)

/** NetworkManager in a network of its own with a veth pair, with files of its own. */
async function startManager(bus: PrivateBus): Promise<() => Promise<void>> {
  const etc = join(bus.folder, 'etc')
  mkdirSync(etc)
  writeFileSync(
    join(etc, 'nm.conf'),
    '[main]\nplugins=keyfile\nauth-polkit=root-only\nno-auto-default=*\ndns=none\nrc-manager=unmanaged\n',
  )
  const script = [
    'mkdir -p /run/NetworkManager /var/lib/NetworkManager /etc/NetworkManager',
    'for folder in /run/NetworkManager /var/lib/NetworkManager /etc/NetworkManager; do mount -t tmpfs none $folder; done',
    'mount -t sysfs -o ro none /sys', // no udev here: it does not wait for it
    'ip link add veth0 type veth peer name veth1',
    `exec NetworkManager --no-daemon --config=${etc}/nm.conf --config-dir=${etc}/conf.d --state-file=${etc}/state`,
  ].join(' && ')
  const child = await bus.serve(NETWORK_MANAGER, 'unshare', ['-n', '-m', 'sh', '-c', script])
  return () => bus.stop(child)
}

test('OH-38: NetworkManager itself: a device that is no Wi-Fi, one that is none, and its end are told', {
  skip: withoutManager,
}, async () => {
  const bus = await PrivateBus.start()
  const stop = await startManager(bus)
  const wired = new NetworkManagerRadio('veth0', { address: bus.address })
  const none = new NetworkManagerRadio('nope0', { address: bus.address })
  try {
    const ear = new Ear(wired)
    const { error } = await ear.next('trouble', ({ error: { message } }) => /is not Wi-Fi/.test(message))
    assert.equal(error.code, 'RADIO_DEVICE')
    await new Ear(none).next('trouble', ({ error: { message } }) => /knows no interface nope0/.test(message))
    await stop()
    await ear.next('trouble', ({ error: { code } }) => code === 'BUS_NO_SERVICE')
  } finally {
    wired.close()
    none.close()
    await bus.close()
  }
})

test('OH-38: NetworkManager itself: root may activate a profile for a time, others are refused with the mend', {
  skip: withoutManager,
}, async () => {
  const home = await PrivateBus.start()
  await startManager(home)
  const root = await home.connect()
  process.seteuid!(65_534)
  const other = await home.connect()
  process.seteuid!(0)
  try {
    const manager: Target = { service: NETWORK_MANAGER, path: ROOT, interface: MANAGER }
    const states: number[] = []
    let signals = 0
    let changed: () => void = () => {}
    await root.follow(NETWORK_MANAGER, {
      owned: () => {},
      signal: ({ interface: of, member, body }) => {
        if (of === DEVICE && member === 'StateChanged') states.push(body[0] as number)
        signals++
        changed()
      },
    })
    const until = async (holds: () => Promise<boolean>) => {
      for (let seen = signals; !(await holds()); seen = signals)
        if (seen === signals)
          await new Promise<void>((resolve) => {
            changed = resolve
          })
    }
    const device = (await root.call(manager, 'GetDeviceByIpIface', 's', ['veth0']))[0] as string
    const activate = (bus: Bus) =>
      bus.call(manager, 'AddAndActivateConnection2', 'a{sa{sv}}ooa{sv}', [
        new Map([
          [
            'connection',
            new Map([
              ['id', s('for a time')],
              ['type', s('802-3-ethernet')],
            ]),
          ],
          ['ipv4', new Map([['method', s('link-local')]])],
        ]),
        device,
        '/',
        new Map([['persist', s('volatile')]]),
      ])
    const onDevice = { ...manager, path: device, interface: DEVICE }
    await until(async () => (await root.properties(onDevice)).get('State')?.value !== 20)

    await assert.rejects(activate(other), { code: 'BUS_REFUSED' })
    const [profile] = await activate(root)
    const settings = { ...manager, path: profile as string, interface: `${MANAGER}.Settings.Connection` }
    assert.equal(Number((await root.properties(settings)).get('Flags')?.value) & 4, 4)
    await until(async () => states.includes(IP_CONFIG))
    await root.call(onDevice, 'Disconnect')
    await until(async () => !(await profiles(root)).includes(profile as string))
  } finally {
    root.close()
    other.close()
    await home.close()
  }
})

async function profiles(bus: Bus): Promise<readonly string[]> {
  const target = { service: NETWORK_MANAGER, path: `${ROOT}/Settings`, interface: `${MANAGER}.Settings` }
  return (await bus.call(target, 'ListConnections'))[0] as readonly string[]
}

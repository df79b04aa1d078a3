/** The ModemManager driver on a real bus: a modem that python-dbusmock stands in for. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openRadio } from '../../../src/access/radio/auto.ts'
import {
  dbmOfMeasurement,
  dbmOfQuality,
  MODEM_MANAGER,
  ModemManagerRadio,
} from '../../../src/access/radio/modem-manager.ts'
import { NETWORK_MANAGER } from '../../../src/access/radio/network-manager.ts'
import type { Properties, Value, Variant } from '../../../src/linux/dbus/index.ts'
import { Ear, type RadioBed, radioCompliance } from '../../suites/radio.ts'
import { i, MockService, o, PrivateBus, s, u, withoutMock } from '../../support/private-bus.ts'

const ROOT = '/org/freedesktop/ModemManager1'
const PATH = `${ROOT}/Modem/0`
const MODEM = 'org.freedesktop.ModemManager1.Modem'
const [REGISTERED, CONNECTING, CONNECTED] = [8, 10, 11]
const RSSI_OVER_RSRP = 28

function measured(values: Readonly<Record<string, number>>): Variant {
  const entries = Object.entries(values).map(([name, value]) => [name, { signature: 'd', value }] as const)
  return { signature: 'a{sv}', value: new Map<Value, Value>(entries) }
}

/** A ModemManager with one LTE modem, connected. */
class MockedModem implements RadioBed {
  readonly points = [{ id: '44010', network: 'docomo', dbm: -67 }]
  readonly tolerance = 0.5
  readonly radio: ModemManagerRadio
  readonly bus: PrivateBus
  readonly calls: string[] = []
  #service!: MockService
  #refuse = false
  #closed = false

  private constructor(bus: PrivateBus) {
    this.bus = bus
    this.radio = new ModemManagerRadio('wwan7', { address: bus.address, apn: 'spmode.ne.jp' })
  }

  static async make(): Promise<MockedModem> {
    const bed = new MockedModem(await PrivateBus.start())
    await bed.start()
    return bed
  }

  async start(): Promise<void> {
    const service = await MockService.start(
      this.bus,
      MODEM_MANAGER,
      ['--is-object-manager', MODEM_MANAGER.name, ROOT, MODEM_MANAGER.name],
      (_path, member, args) => {
        this.calls.push(
          `${member} ${JSON.stringify(args, (_, each) => (each instanceof Map ? [...each] : each))}`,
        )
        if (member === 'Connect') this.#do(this.#connect())
        if (member === 'Disconnect') this.#do(this.#enter(REGISTERED))
      },
    )
    this.#service = service
    await service.add(
      ROOT,
      PATH,
      MODEM,
      {
        State: i(CONNECTED),
        SignalQuality: { signature: '(ub)', value: [74, true] },
        Ports: {
          signature: 'a(su)',
          value: [
            ['cdc-wdm0', 6],
            ['wwan7', 2],
          ],
        },
      },
      [['Enable', 'b', '', '']],
    )
    await service.addMethods(PATH, `${MODEM}.Simple`, [
      ['Connect', 'a{sv}', 'o', 'ret = dbus.ObjectPath("/org/freedesktop/ModemManager1/Bearer/0")'],
      ['Disconnect', 'o', '', ''],
    ])
    await service.addMethods(PATH, `${MODEM}.Signal`, [['Setup', 'u', '', '']])
    await service.addProperties(PATH, `${MODEM}.Signal`, {
      Rate: u(0),
      Lte: measured({ rsrp: -67 - RSSI_OVER_RSRP, rsrq: -11, snr: 9 }),
    })
    await service.addProperties(PATH, `${MODEM}.Modem3gpp`, {
      OperatorCode: s('44010'),
      OperatorName: s('docomo'),
    })
    // The driver may have looked before the modem was whole.
    await service.emit(ROOT, 'org.freedesktop.DBus.ObjectManager', 'InterfacesAdded', 'oa{sa{sv}}', [
      o(PATH),
      { signature: 'a{sa{sv}}', value: new Map([[MODEM, new Map()]]) },
    ])
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
    const Lte = measured({ rsrp: dbm - RSSI_OVER_RSRP, rsrq: -11, snr: 9 })
    this.#do(this.#service.update(PATH, `${MODEM}.Signal`, { Lte }))
  }

  drop(): void {
    this.#do(this.#enter(REGISTERED))
  }

  refuse(): void {
    this.#refuse = true
  }

  async #connect(): Promise<void> {
    await this.#enter(CONNECTING)
    await this.#enter(this.#refuse ? REGISTERED : CONNECTED)
    this.#refuse = false
  }

  async #enter(state: number): Promise<void> {
    await this.#service.update(PATH, MODEM, { State: i(state) })
  }

  /** What is under way when the test ends is cut off. */
  #do(work: Promise<void>): void {
    work.catch((error: unknown) => {
      if (!this.#closed) throw error
    })
  }
}

test('OH-38: ModemManager: power in the band, measured or from the reference signal; percent as it makes it', () => {
  const of = (values: Readonly<Record<string, number>>) =>
    dbmOfMeasurement(measured(values).value as unknown as Properties)
  assert.equal(of({ rssi: -65, rsrp: -95 }), -65)
  assert.equal(of({ rsrp: -95, snr: 3 }), -67)
  assert.equal(of({ rscp: -90, ecio: -6 }), -84)
  assert.equal(of({ rssi: -32768, rsrp: -32768 }), undefined)
  assert.equal(of({}), undefined)
  assert.equal(dbmOfQuality(100), -51)
  assert.equal(dbmOfQuality(0), -113)
})

radioCompliance('ModemManager', () => MockedModem.make(), withoutMock)

test('OH-38: ModemManager: connects with the access point name that the configuration has', {
  skip: withoutMock,
}, async () => {
  const bed = await MockedModem.make()
  try {
    const ear = new Ear(bed.radio)
    await ear.next('associated')
    bed.drop()
    await ear.next('lost')
    bed.radio.associate()
    await ear.next('associated')
    assert.ok(
      bed.calls.some((call) => call.startsWith('Connect') && call.includes('spmode.ne.jp')),
      bed.calls.join('\n'),
    )
  } finally {
    await bed.close()
  }
})

test('OH-38: ModemManager: a modem that NetworkManager looks after is connected by that', {
  skip: withoutMock,
}, async () => {
  const bed = await MockedModem.make()
  const root = '/org/freedesktop/NetworkManager'
  try {
    let activated: (args: readonly Value[]) => void = () => {}
    const activation = new Promise<readonly Value[]>((resolve) => {
      activated = resolve
    })
    const manager = await MockService.start(
      bed.bus,
      NETWORK_MANAGER,
      [NETWORK_MANAGER.name, root, NETWORK_MANAGER.name],
      (_path, member, args) => {
        if (member === 'ActivateConnection') activated(args)
      },
    )
    await manager.add(root, `${root}/Devices/3`, 'org.freedesktop.NetworkManager.Device', {
      Udi: s(PATH),
      Managed: { signature: 'b', value: true },
    })
    await manager.addMethods(root, NETWORK_MANAGER.name, [
      ['GetDevices', '', 'ao', `ret = [dbus.ObjectPath("${root}/Devices/3")]`],
      ['ActivateConnection', 'ooo', 'o', `ret = dbus.ObjectPath("${root}/ActiveConnection/1")`],
    ])
    const ear = new Ear(bed.radio)
    await ear.next('associated')
    bed.drop()
    await ear.next('lost')
    bed.radio.associate()
    assert.deepEqual(await activation, ['/', `${root}/Devices/3`, '/'])
    assert.ok(!bed.calls.some((call) => call.startsWith('Connect')))
    await manager.stop()
  } finally {
    await bed.close()
  }
})

test('OH-38: the driver is found by what has the interface', { skip: withoutMock }, async () => {
  const bed = await MockedModem.make()
  const found = openRadio('wwan7', { driver: 'auto', address: bed.bus.address, folder: '/nonexistent' })
  const other = openRadio('wlan8', { driver: 'auto', address: bed.bus.address, folder: '/nonexistent' })
  try {
    assert.equal((await new Ear(found).next('associated')).network, 'docomo')
    const { error } = await new Ear(other).next('trouble')
    assert.equal(error.message, 'nothing drives wlan8')
    assert.match(error.hint ?? '', /NetworkManager or ModemManager/)
  } finally {
    found.close()
    other.close()
    await bed.close()
  }
})

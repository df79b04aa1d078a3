/**
 * An access that NetworkManager marks as metered, beside another one: it is used last (issue 14, point 10). python-dbusmock
 * stands in for NetworkManager; the daemons, their tunnel and the traffic are real.
 */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { NETWORK_MANAGER } from '../../../src/access/radio/network-manager.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { MockService, PrivateBus, s, u, withoutMock } from '../../support/private-bus.ts'
import { LaptopBed, SERVER, until } from './laptop-bed.ts'

usesPrograms('ping')
usePrivateNames()

const ROOT = '/org/freedesktop/NetworkManager'
const DEVICE = `${NETWORK_MANAGER.name}.Device`
const ACCESSES = ['acc1', 'acc2']
/** NMMetered. */
const YES = 1
const NO = 2
const skip = withoutMock

let bus: PrivateBus
let manager: MockService
let bed: LaptopBed

const device = (name: string) => `${ROOT}/Devices/${ACCESSES.indexOf(name) + 1}`
const mark = (name: string, metered: number) => manager.update(device(name), DEVICE, { Metered: u(metered) })

before(async () => {
  if (skip) return
  bus = await PrivateBus.start()
  manager = await MockService.start(bus, NETWORK_MANAGER, [NETWORK_MANAGER.name, ROOT, NETWORK_MANAGER.name])
  const list = ACCESSES.map((name) => `dbus.ObjectPath("${device(name)}")`).join(', ')
  await manager.addMethods(ROOT, NETWORK_MANAGER.name, [['GetDevices', '', 'ao', `ret = [${list}]`]])
  for (const name of ACCESSES)
    await manager.add(ROOT, device(name), DEVICE, {
      Interface: s(name),
      IpInterface: s(name),
      Metered: u(name === 'acc1' ? YES : NO),
    })
  bed = await LaptopBed.build()
  bed.environment = { DBUS_SYSTEM_BUS_ADDRESS: bus.address }
})
after(async () => {
  if (skip) return
  await bed.close()
  await manager.stop()
  await bus.close()
})

/** The access that carries the laptop's echo requests. */
const carrier = async () =>
  (await bed.status()).flows.find(({ proto, dst }) => proto === 'icmp' && dst.startsWith(SERVER))?.access
const carries = (access: string) => until(`${access} carries`, async () => (await carrier()) === access)

test('issue 14, point 10: an access marked as metered is used last: only where no other works, and no longer than that', {
  skip,
}, async () => {
  await bed.up()
  const ping = await bed.lab.programs.start('mh', 'ping', ['-i', '0.1', SERVER])
  await carries('acc2')
  assert.match(bed.log('mh'), /acc1 is metered according to NetworkManager: it is a backup now/)

  bed.lab.setLink('acc2', { state: 'down' })
  await carries('acc1')
  bed.lab.setLink('acc2', { state: 'up' })
  await carries('acc2')

  // The user marks the other one while the traffic flows.
  await mark('acc1', NO)
  await mark('acc2', YES)
  await carries('acc1')
  await ping.stop()
  await bed.down()
})

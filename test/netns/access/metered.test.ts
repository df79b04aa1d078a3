/** NetworkManager's mark "metered", by a NetworkManager that python-dbusmock stands in for (issue 14, point 10). */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { MeteredLinks } from '../../../src/access/metered.ts'
import { NETWORK_MANAGER } from '../../../src/access/radio/network-manager.ts'
import { MockService, PrivateBus, s, u, withoutMock } from '../../support/private-bus.ts'

const ROOT = '/org/freedesktop/NetworkManager'
const DEVICE = 'org.freedesktop.NetworkManager.Device'
const skip = withoutMock
let home: PrivateBus

before(async () => {
  if (!skip) home = await PrivateBus.start()
})
after(async () => {
  if (!skip) await home.close()
})

async function manager(): Promise<MockService> {
  const service = await MockService.start(home, NETWORK_MANAGER, [
    NETWORK_MANAGER.name,
    ROOT,
    NETWORK_MANAGER.name,
  ])
  const path = (n: number) => `${ROOT}/Devices/${n}`
  await service.addMethods(ROOT, NETWORK_MANAGER.name, [
    ['GetDevices', '', 'ao', `ret = [dbus.ObjectPath("${path(1)}"), dbus.ObjectPath("${path(2)}")]`],
  ])
  await service.add(ROOT, path(1), DEVICE, { Interface: s('wlan0'), IpInterface: s('wlan0'), Metered: u(4) })
  // A modem: its traffic goes over another interface than its control.
  await service.add(ROOT, path(2), DEVICE, {
    Interface: s('cdc-wdm0'),
    IpInterface: s('wwan0'),
    Metered: u(3),
  })
  return service
}

test('links that are metered, marked so later, and no more; NetworkManager may come and go', {
  skip,
}, async () => {
  const told: string[][] = []
  let wake = () => {}
  const links = new MeteredLinks({
    address: home.address,
    changed: (names) => {
      told.push([...names].sort())
      wake()
    },
  })
  const next = async (count: number) => {
    while (told.length < count) await new Promise<void>((done) => (wake = done))
    return told[count - 1]
  }
  links.start()
  const first = await manager()
  assert.deepEqual(await next(1), ['cdc-wdm0', 'wwan0'])
  assert.deepEqual([links.has('wwan0'), links.has('wlan0')], [true, false])
  await first.update(`${ROOT}/Devices/1`, DEVICE, { Metered: u(1) })
  assert.deepEqual(await next(2), ['cdc-wdm0', 'wlan0', 'wwan0'])
  await first.update(`${ROOT}/Devices/2`, DEVICE, { Metered: u(2) })
  assert.deepEqual(await next(3), ['wlan0'])
  await first.stop()
  assert.deepEqual(await next(4), [])
  const second = await manager()
  assert.deepEqual(await next(5), ['cdc-wdm0', 'wwan0'])
  links.stop()
  await second.stop()
  assert.equal(told.length, 5)
})

test('without a bus nothing is metered, and nothing fails', async () => {
  const links = new MeteredLinks({
    address: 'unix:path=/nowhere/bus',
    changed: () => assert.fail('nothing changed'),
  })
  links.start()
  await new Promise((done) => setImmediate(done))
  assert.equal(links.has('wlan0'), false)
  links.stop()
})

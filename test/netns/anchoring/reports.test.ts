/**
 * What users of VPNs report most often, as their machines are: no IPv6 by decision of who runs the machine. A host and an anchor
 * do their work or say what to do.
 */
import assert from 'node:assert/strict'
import { after, afterEach, before, test } from 'node:test'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ANCHOR, ANCHOR6, LaptopBed, SERVER6, until } from './laptop-bed.ts'

usesPrograms('curl', 'ip')
usePrivateNames()

let bed: LaptopBed

before(async () => {
  bed = await LaptopBed.build(topologyNamed('upmt'))
  bed.configuration = bed.configuration.replaceAll(`[${ANCHOR6}]`, ANCHOR)
})

afterEach(async () => {
  await bed.down()
})

after(async () => {
  await bed.close()
})

const ipv6 = (role: string, off: 0 | 1, ...devices: string[]) =>
  bed.shell(
    role,
    devices.map((each) => `echo ${off} > /proc/sys/net/ipv6/conf/${each}/disable_ipv6`).join('\n'),
  )
const seen6 = () => bed.ask('mh', `http://[${SERVER6}]/`, '-m', '2')

test('UP-37: IPv6 is turned off on the host: IPv4 goes through the tunnel, and IPv6 does when it is turned on', async () => {
  await ipv6('mh', 1, 'all', 'default')
  await bed.up()
  assert.match(bed.log('mh'), /IPv6 is turned off for godwit0 .*: the tunnel carries IPv4 only/)
  assert.equal(await bed.seen(), ANCHOR)
  await ipv6('mh', 0, 'all')
  await until('IPv6 goes through the tunnel', async () => (await seen6()) === ANCHOR6)
  // Only there: the networks still have it, and nothing goes round the tunnel.
  await ipv6('mh', 1, 'godwit0')
  await until('IPv6 is refused', async () =>
    (await bed.shell('mh', `ip -6 route get ${SERVER6} 2>&1 || true`)).includes('No route to host'),
  )
  assert.equal(await bed.seen(), ANCHOR)
  await bed.down()
  await ipv6('mh', 0, 'all', 'default')
})

test('UP-32: IPv6 is turned off on the anchor: programs of hosts are told at once that there is no way', async () => {
  await bed.anchor.stop()
  await ipv6('an', 1, 'all', 'default')
  bed.anchor = await bed.daemon('an')
  await bed.up()
  assert.equal(await bed.seen(), ANCHOR)
  const asked = bed.run('mh', 'curl', '-sS', '-m', '8', `http://[${SERVER6}]/`)
  await assert.rejects(asked, /Failed to connect/) // not "timed out"
  // The same while it runs.
  await ipv6('an', 1, 'all')
  await until('the device has it again', async () =>
    (await bed.shell('an', 'ip -6 -o addr show dev gwan0')).includes('fd67:6f64:7769:1::1'),
  )
  await assert.rejects(bed.run('mh', 'curl', '-sS', '-m', '8', `http://[${SERVER6}]/`), /Failed to connect/)
  await ipv6('an', 0, 'all', 'default')
})

/** A router stands beside what others make, and replaces nobody's route (house point 3); its machine is as people have them. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { kernelState, NEIGHBOURS } from '../host/neighbours.ts'
import { SERVER, Sites } from './bed.ts'

usesPrograms('ip', 'nft', 'ping')
usePrivateNames()

let sites: Sites
const role = 'ma'

before(async () => {
  sites = await Sites.start()
})

after(async () => {
  await sites.close()
})

const ping = (to: string) => sites.said('ta', 'ping', '-c', '1', '-W', '1', to)
const untilReached = (to: string) =>
  sites.until(`${to} is reached`, async () => / 0% packet loss/.test(await ping(to)))

test('OH-7: the gateway gets another address in its own subnet: errors that it sends name the new one', async () => {
  await sites.said(
    role,
    'sh',
    '-ec',
    `echo 1 > /proc/sys/net/ipv4/conf/lan/promote_secondaries
     ip address add 10.1.0.9/24 dev lan
     ip address del 10.1.0.1/24 dev lan`,
  )
  await sites.said('ta', 'ip', 'route', 'replace', 'default', 'via', '10.1.0.9')
  await untilReached(SERVER[4])
  await sites.until('routes name it', async () =>
    / src 10\.1\.0\.9 /.test(await sites.said(role, 'ip', 'route', 'get', SERVER[4])),
  )
})

test('OH-6: IPv6 is turned off on a router: what is IPv4 passes, and IPv6 when it is turned on', async () => {
  const set = (off: 0 | 1) =>
    sites.said(
      role,
      'sh',
      '-ec',
      `for each in all default; do echo ${off} > /proc/sys/net/ipv6/conf/$each/disable_ipv6; done`,
    )
  await sites.down(role)
  await set(1)
  await sites.up(role)
  assert.match(sites.log(role), /IPv6 is turned off for gwrt0 .*: subnets of IPv6 are not reached/)
  await untilReached(SERVER[4])
  await set(0)
  await sites.said(role, 'ip', 'address', 'add', 'fd00:1::1/64', 'dev', 'lan', 'nodad')
  await untilReached(SERVER[6])
  // As the other test found it.
  for (const [n, name] of ['acc1', 'acc2'].entries()) {
    await sites.said(role, 'ip', 'address', 'add', `2001:db8:${11 + n}::2/64`, 'dev', name, 'nodad')
    await sites.said(
      role,
      'ip',
      'route',
      'add',
      'default',
      'via',
      `2001:db8:${11 + n}::1`,
      'dev',
      name,
      'metric',
      `${100 * (n + 1)}`,
    )
  }
})

test('house point 3: a router beside all of them, in a hotspot that has the prefix of home', async () => {
  const script = (text: string) => sites.said(role, 'sh', '-ec', `DEV=acc1; GATEWAY=192.168.11.1\n${text}`)
  const show = (command: string, ...args: string[]) => sites.lab.programs.run(role, command, args)
  await sites.down(role)
  // Docker's nat table is Tailscale's too. wg-quick's rules take the place before all others: main, then its tunnel, get
  // everything, whatever a router has (docs/router.md).
  for (const { make, name } of NEIGHBOURS)
    if (name !== 'Docker' && !name.startsWith('wg-quick')) assert.equal(await script(make), '', name)
  await script('ip address add 10.2.0.77/24 dev acc1')
  const before = await kernelState(show, false)
  const others = await kernelState(show, true)
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    await sites.up(role)
    await sites.untilPaths(role, ['acc1', 'acc2'])
    assert.match(await sites.said('ta', 'ping', '-c', '2', SERVER[4]), / 0% packet loss/)
    assert.deepEqual(await kernelState(show, true), others, 'during')
    await sites.down(role, signal)
    if (signal === 'SIGKILL') await sites.godwit(role, 'router', 'down')
    assert.deepEqual(await kernelState(show, false), before, `after ${signal}`)
  }
})

/** House point 3: a router stands beside what others make, and replaces nobody's route. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { kernelState, NEIGHBOURS } from '../host/neighbours.ts'
import { SERVER, Sites } from './bed.ts'

usesPrograms('ip', 'nft', 'ping')
usePrivateNames()

test('house point 3: a router beside all of them, in a hotspot that has the prefix of home', async () => {
  const sites = await Sites.start()
  try {
    const role = 'ma'
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
  } finally {
    await sites.close()
  }
})

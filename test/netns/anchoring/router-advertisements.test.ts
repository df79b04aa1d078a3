/** Networks whose routers announce an old prefix with no preferred lifetime, again and again. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { Program } from '../../../lab/hosts.ts'
import { namespaceOf } from '../../../lab/topology.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { ANCHOR, LaptopBed, until } from './laptop-bed.ts'

usesPrograms('curl', 'ip', 'radvd')
usePrivateNames()

let bed: LaptopBed
let router: Program

/** The prefix from which the laptop's tunnel starts, and one beside it. */
const OLD = '2001:db8:1:1'
const NEW = '2001:db8:1:2'

function announce(oldPreferred: number): string {
  const prefix = (net: string, preferred: number) =>
    `prefix ${net}::/64 { AdvValidLifetime 3600; AdvPreferredLifetime ${preferred}; };`
  return `interface lan { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; ${prefix(OLD, oldPreferred)} ${prefix(NEW, 1800)} };`
}

before(async () => {
  bed = await LaptopBed.build()
  const sysctls = new KernelSysctls(namespaceOf('mh'))
  sysctls.set('net.ipv6.conf.acc1.accept_ra', 2)
  sysctls.set('net.ipv6.conf.acc1.autoconf', 1)
  await bed.shell('mh', 'ip address del 2001:db8:1:1::100/64 dev acc1; ip -6 route del default dev acc1')
  await bed.shell('net', `ip -6 route add ${NEW}::/64 via 2001:db8:1:ff::2`)
  await bed.shell('nat1', `ip address add ${NEW}::1/64 dev lan`)
  const file = join(bed.folder, 'radvd.conf')
  writeFileSync(file, announce(1800))
  const args = ['-n', '-C', file, '-p', join(bed.folder, 'radvd.pid'), '-m', 'stderr']
  router = await bed.lab.programs.start('nat1', 'radvd', args)
  await until('the laptop has an address of each prefix', () =>
    [OLD, NEW].every((net) => own(net) === 'preferred'),
  )
  await bed.up()
})
after(() => bed.close())

function own(net: string): 'preferred' | 'deprecated' | undefined {
  const found = bed.lab
    .rtnl('mh')
    .addresses({ link: 'acc1' })
    .find(({ address }) => address.startsWith(`${net}:`))
  if (found === undefined || found.tentative) return undefined
  return found.deprecated ? 'deprecated' : 'preferred'
}

test('a prefix that is deprecated with every advertisement tears no path down', async () => {
  const paths = async () =>
    (await bed.status()).peers[0]!.paths.map(({ id, access, state }) => `${id} ${access} ${state}`).sort()
  writeFileSync(join(bed.folder, 'radvd.conf'), announce(0))
  router.child.kill('SIGHUP')
  await until('the old prefix is deprecated', () => own(OLD) === 'deprecated')
  await until('the path stands on the new one', async () =>
    (await paths()).every((path) => path.endsWith(' up')),
  )
  const changes: string[] = []
  let last = ''
  const watching = new AbortController()
  bed.lab.rtnl('mh').watch(
    ['address'],
    (event) => {
      if (event.type === 'address' && event.address.address.startsWith(`${OLD}:`))
        changes.push(event.address.deprecated ? 'deprecated' : 'preferred')
    },
    { signal: watching.signal },
  )
  for (let turn = 0; turn < 10; turn++) {
    const seen = changes.length
    router.child.kill('SIGHUP')
    await until('an advertisement has come', () => changes.length > seen)
    const now = (await paths()).join()
    if (turn > 2) assert.equal(now, last, `advertisement ${turn}`)
    last = now
  }
  watching.abort()
  assert.ok(changes.length >= 10)
  assert.equal(await bed.seen(), ANCHOR)
})

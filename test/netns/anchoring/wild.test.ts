/**
 * Accesses as reports of other programs' users describe them: two in one network, without a gateway, with an address alone in its
 * network, renamed, moved away and back, with routers that come and go. Each carries traffic, and a transfer moves to it and back.
 */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { Program } from '../../../lab/hosts.ts'
import { namespaceOf } from '../../../lab/topology.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ANCHOR, goesOn, LaptopBed, until } from './laptop-bed.ts'

usesPrograms('curl', 'ip', 'radvd')
usePrivateNames()

let bed: LaptopBed
let reader: Program

before(async () => {
  bed = await LaptopBed.build(undefined, '', 4)
  await bed.serveClock()
  await bed.up()
  reader = await bed.readClock()
  await goesOn(reader)
})
after(() => bed.close())

const paths = async () => (await bed.status()).peers.flatMap((peer) => peer.paths)

const moves = (access: string) =>
  bed.godwit('mh', 'move', 'all', access).then(
    () => true,
    () => false,
  )

/** The access carries everything, then acc1 does again. */
async function carries(access: string): Promise<void> {
  for (const each of [access, 'acc1']) {
    await until(`everything is moved to ${each}`, () => moves(each))
    await until(`flows are on ${each}`, async () =>
      (await bed.status()).flows.every((flow) => flow.mechanism === 'direct' || flow.access === each),
    )
    await goesOn(reader)
    assert.equal(await bed.seen(), ANCHOR)
  }
}

test('issue 10: a modem that gives an address alone in its network, with a gateway on the link, or with none', async () => {
  await bed.shell(
    'nat2',
    'echo 1 > /proc/sys/net/ipv4/conf/lan/proxy_arp; echo 0 > /proc/sys/net/ipv4/neigh/lan/proxy_delay; ip route replace 192.168.2.100/32 dev lan',
  )
  for (const route of [
    'via 192.168.2.1 dev acc2 onlink',
    'dev acc2',
    'dev acc2 scope link src 192.168.2.100',
  ]) {
    await bed.shell(
      'mh',
      `ip -4 address flush dev acc2; ip address add 192.168.2.100/32 dev acc2; ip route add default ${route} metric 700`,
    )
    await carries('acc2')
  }
})

test('issue 10: an interface is renamed while it is used, set down for that or not', async () => {
  await bed.godwit('mh', 'move', 'all', 'acc2')
  await bed.shell(
    'mh',
    'ip link set acc2 name wwan7 2>/dev/null || { ip link set acc2 down; ip link set acc2 name wwan7; ip link set wwan7 up; ip route replace default dev wwan7 metric 700; }',
  )
  await goesOn(reader)
  await carries('wwan7')
  await bed.shell(
    'mh',
    'ip link set wwan7 down; ip link set wwan7 name acc2; ip link set acc2 up; ip route replace default dev acc2 metric 700',
  )
  await carries('acc2')
  assert.deepEqual((await paths()).map(({ access }) => access).sort(), ['acc1', 'acc2'])
})

test('issue 10: an interface is moved into another namespace, as for a container, and comes back', async () => {
  await bed.godwit('mh', 'move', 'all', 'acc2')
  await bed.shell('mh', `ip link set acc2 netns ${namespaceOf('ch2')}`)
  await goesOn(reader)
  await until('nothing of it is left', async () => !(await paths()).some(({ access }) => access === 'acc2'))
  await bed.shell('ch2', `ip link set acc2 netns ${namespaceOf('mh')}`)
  await bed.shell(
    'mh',
    'ip link set acc2 up; ip address add 192.168.2.100/24 dev acc2; ip route add default via 192.168.2.1 dev acc2 metric 700',
  )
  await carries('acc2')
})

test('issue 10: cable and radio in the same network: each is a way of its own', async () => {
  await bed.shell(
    'nat1',
    `ip link add br0 type bridge; ip link set br0 up
     ip address flush dev lan; ip link set lan master br0
     ip address add 192.168.1.1/24 dev br0
     ip link add lan9 type veth peer name wlan0 netns ${namespaceOf('mh')}
     ip link set lan9 master br0 up`,
  )
  await bed.shell(
    'mh',
    'ip link set wlan0 up; ip address add 192.168.1.150/24 dev wlan0; ip route add default via 192.168.1.1 dev wlan0 metric 600',
  )
  await carries('wlan0')
  // The router asks everybody again, as it does after a while: who is at which address is answered by that interface alone.
  for (const access of ['wlan0', 'acc1']) {
    await until(`everything is moved to ${access}`, () => moves(access))
    await bed.shell('nat1', 'ip neigh flush dev br0')
    for (let i = 0; i < 3; i++) await goesOn(reader)
    const states = (await paths()).filter((path) => ['acc1', 'wlan0'].includes(path.access))
    assert.deepEqual(
      states.map(({ state }) => state),
      ['up', 'up'],
      `on ${access}`,
    )
  }
  await bed.godwit('mh', 'move', 'all', 'auto')
  await bed.shell('nat1', 'ip link set lan down')
  await goesOn(reader)
  await bed.shell('nat1', 'ip link set lan up')
  await carries('wlan0')
  await bed.shell('mh', 'ip link del wlan0')
  await goesOn(reader)
  const answers = () => bed.run('mh', 'cat', '/proc/sys/net/ipv4/conf/acc1/arp_ignore')
  assert.equal(await answers(), '1')
  await bed.down()
  assert.equal(await answers(), '0')
  await bed.up()
  reader = await bed.readClock()
})

test('issue 10: a router that ends takes its route back (lifetime 0), and comes again with another prefix', async () => {
  const radvd = async (prefix: string) => {
    const file = join(bed.folder, 'radvd.conf')
    writeFileSync(
      file,
      `interface lan { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; prefix ${prefix} { AdvPreferredLifetime 600; AdvValidLifetime 1200; }; };`,
    )
    await bed.shell(
      'nat2',
      `ip -6 address replace ${prefix.replace('::/64', '::1/64')} dev lan; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding`,
    )
    return bed.lab.programs.start('nat2', 'radvd', [
      '-n',
      '-C',
      file,
      '-p',
      join(bed.folder, 'radvd.pid'),
      '-m',
      'stderr',
    ])
  }
  await bed.shell(
    'mh',
    'ip -6 address flush dev acc2 scope global; ip -6 route flush dev acc2 default; cd /proc/sys/net/ipv6/conf/acc2; echo 2 > accept_ra; echo 2 > use_tempaddr',
  )
  const six = async () =>
    (await bed.status()).accesses
      .find(({ name }) => name === 'acc2')!
      .addresses.filter((each) => each.includes(':'))
  for (const prefix of ['2001:db8:2:1::/64', '2001:db8:2:9::/64']) {
    const router = await radvd(prefix)
    await until('it has addresses', async () =>
      (await six()).some((each) => each.startsWith(prefix.slice(0, 12))),
    )
    await carries('acc2')
    await router.stop()
    await goesOn(reader)
    await carries('acc2')
  }
})

test('UP-38: nothing was said that nobody can mend', () => {
  assert.doesNotMatch(bed.log('mh'), /\b(warn|error)\b/)
})

test('issue 10: a rule of another program, as a VPN has it against leaks, stops every access: log, status and doctor name it, and when it is gone all goes on', async () => {
  // A router that answers for every address would take packets without the rule's route.
  await bed.shell('nat2', 'echo 0 > /proc/sys/net/ipv4/conf/lan/proxy_arp')
  await bed.shell('mh', 'ip neigh flush dev acc2; ip rule add priority 100 not fwmark 0xca6c prohibit')
  const mend = 'ip rule del priority 100 not fwmark 0xca6c prohibit'
  const stopped = async () => (await bed.status()).accesses.filter((each) => each.obstacle?.endsWith(mend))
  await until('status says it of both', async () => (await stopped()).length === 2)
  await until('nothing works', async () => (await paths()).every(({ state }) => state !== 'up'))
  assert.match(bed.log('mh'), new RegExp(`warn +.*acc1, acc2: the IPv4 rule .*${mend}`))
  // In the words of a terminal 80 characters wide.
  const said = (text: string) => text.replaceAll(/\s+/g, ' ')
  assert.ok(said(await bed.godwit('mh', 'status')).includes(mend))
  const doctor = JSON.parse(await bed.godwit('mh', 'doctor', '--json'))
  const finding = doctor.findings.find((each: { name: string }) => each.name === 'a way out of each access')
  assert.equal(finding.ok, false)
  assert.equal(finding.mend, `if nothing needs it: ${mend}`)
  assert.deepEqual(finding.parts, ['router', 'host', 'overlay'])
  assert.match(await bed.shell('mh', 'ip rule'), /^100:\t.*prohibit$/m)
  await bed.shell('mh', mend)
  await goesOn(reader)
  assert.deepEqual(await stopped(), [])
})

test('issue 10: two routers of IPv6 in one network, one of which dies without a word: the other one is taken', async () => {
  await bed.close()
  bed = await LaptopBed.build(undefined, '', 6)
  await bed.serveClock()
  await bed.shell(
    'mh',
    `ip link set acc1 down
     ip -4 address flush dev acc2
     ip -6 address flush dev acc2 scope global
     ip -6 route flush default
     cd /proc/sys/net/ipv6
     echo 2 > conf/acc2/accept_ra
     echo 1000 > neigh/acc2/base_reachable_time_ms
     echo 1 > neigh/acc2/delay_first_probe_time`,
  )
  await bed.shell('nat2', 'ip -6 route replace 2001:db8:2:1::/64 dev lan')
  const routers = new Map<string, Program>()
  for (const own of ['fe80::a', 'fe80::b']) {
    const file = join(bed.folder, `${own.at(-1)}.conf`)
    writeFileSync(
      file,
      `interface lan { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 1800; AdvRASrcAddress { ${own}; }; prefix 2001:db8:2:1::/64 { }; };`,
    )
    await bed.shell(
      'nat2',
      `ip -6 address add ${own}/64 dev lan nodad; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding`,
    )
    const args = ['-n', '-C', file, '-p', `${file}.pid`, '-m', 'stderr']
    routers.set(own, await bed.lab.programs.start('nat2', 'radvd', args))
  }
  const ways = async (...table: string[]) =>
    [...(await bed.run('mh', 'ip', '-6', 'route', 'show', ...table)).matchAll(/default via (\S+)/g)].map(
      (each) => each[1]!,
    )
  await until('both routers are known', async () => (await ways('dev', 'acc2')).length === 2)
  await bed.up(1)
  reader = await bed.readClock()
  await goesOn(reader)
  const [first, second] = await ways('table', '6701')
  assert.ok(first && second)
  const gone = routers.get(first)!
  gone.child.kill('SIGKILL')
  await gone.ended
  await bed.shell('nat2', `ip -6 address del ${first}/64 dev lan`)
  await until('Linux knows that it is silent', async () =>
    /FAILED|INCOMPLETE/.test(await bed.run('mh', 'ip', '-6', 'neigh', 'show', first, 'dev', 'acc2')),
  )
  for (let n = 0; n < 3; n++) await goesOn(reader)
  assert.equal(await bed.seen(), ANCHOR)
})

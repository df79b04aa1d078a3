/**
 * What other programs, and whoever runs the network, change on the only access while a transfer goes on: gateway, address, preferred
 * source, MTU, the interface itself. The transfer goes on, and nothing is said that nobody can mend.
 */
import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { PROTOCOL } from '../../../src/linux/ledger.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { needProgram, usesPrograms } from '../../../src/linux/packages.ts'
import { ANCHOR, ANCHOR6, LaptopBed, SERVER, goesOn as tells, until } from './laptop-bed.ts'

usesPrograms('curl', 'ip', 'ping', 'systemd-networkd', 'unshare')
usePrivateNames()

let bed: LaptopBed
let reader: Program

before(async () => {
  bed = await LaptopBed.build(topologyNamed('upmt'))
  bed.configuration = bed.configuration.replaceAll(`[${ANCHOR6}]`, ANCHOR)
  await bed.serveClock()
  await bed.shell('mh', 'ip link set acc2 down')
  await bed.up(1)
  reader = await bed.readClock()
  await goesOn()
})

after(async () => {
  await bed.close()
})

/** What the server says half a second from now arrives, on the connection of the beginning, and the path is up over this access. */
async function goesOn(access = 'acc1'): Promise<void> {
  await tells(reader)
  await until(`the path is up over ${access}`, async () =>
    (await bed.status()).peers[0]!.paths.some((path) => path.access === access && path.state === 'up'),
  )
}

const addresses = async () =>
  (await bed.status()).accesses[0]!.addresses.filter((each) => !each.includes(':'))

test('UP-38: the gateway changes, the address stays: renewed by DHCP, or another router of the same network', async () => {
  await bed.shell('nat1', 'ip address add 192.168.1.254/24 dev lan; ip address del 192.168.1.1/24 dev lan')
  await bed.shell('nat1', 'ip address replace 192.168.1.254/24 dev lan')
  await bed.shell('mh', 'ip route replace default via 192.168.1.254 dev acc1 metric 100')
  await goesOn()
  assert.equal(await bed.seen(), ANCHOR)
})

test('issue 10: the only network stands still for 350 ms, as a radio that scans does: no datagram is lost', async () => {
  const pings = bed.lab.programs.run('mh', 'ping', ['-q', '-i', '0.005', '-c', '300', SERVER])
  await delay(500) // in their midst
  bed.lab.setLink('acc1', { delayMs: 350 })
  await delay(350)
  bed.lab.setLink('acc1', { delayMs: 0 })
  assert.match(await pings, /300 packets transmitted, 300 received/)
  await goesOn()
})

test('UP-38: a second address of the same family comes, and the first one goes', async () => {
  await bed.shell('mh', 'ip address add 192.168.1.101/24 dev acc1')
  await goesOn()
  assert.deepEqual(await addresses(), ['192.168.1.100/24', '192.168.1.101/24'])
  await bed.shell(
    'mh',
    `echo 1 > /proc/sys/net/ipv4/conf/acc1/promote_secondaries
     ip address del 192.168.1.100/24 dev acc1
     ip route replace default via 192.168.1.254 dev acc1 metric 100`,
  )
  await goesOn()
  assert.deepEqual(await addresses(), ['192.168.1.101/24'])
})

test('UP-38: another program deletes the default route and adds it with another metric and source, again and again', async () => {
  for (let i = 0; i < 6; i++) {
    await bed.shell(
      'mh',
      `ip route del default dev acc1
       ip route add default via 192.168.1.254 dev acc1 metric ${100 + (i % 2)} src 192.168.1.101`,
    )
    await delay(300) // as often as that program does it
  }
  await goesOn()
  // Without the moment in between nothing changes over.
  const { handovers } = await bed.status()
  for (const metric of [300, 20100, 300]) {
    await bed.shell(
      'mh',
      `was=$(ip -4 route show default dev acc1)
       ip route add default via 192.168.1.254 dev acc1 metric ${metric}
       ip route del $was dev acc1`,
    )
    await delay(300)
  }
  await goesOn()
  assert.equal((await bed.status()).handovers.length, handovers.length)
})

test('UP-37: the MTU of the access is changed while it is used', async () => {
  for (const mtu of [1280, 1500]) {
    await bed.shell('nat1', `ip link set lan mtu ${mtu}`)
    await bed.shell('mh', `ip link set acc1 mtu ${mtu}`)
    await until('it is known', async () =>
      (await bed.status()).peers[0]!.paths.some((path) => path.state === 'up' && path.mtu === mtu),
    )
    await goesOn()
  }
})

test('UP-38: the access becomes a port of a bridge, which takes its address and its route', async () => {
  await bed.shell(
    'mh',
    `ip link add br0 type bridge
     ip link set br0 up
     ip link set acc1 master br0
     ip address flush dev acc1
     ip address add 192.168.1.101/24 dev br0
     ip route add default via 192.168.1.254 dev br0 metric 100`,
  )
  await goesOn('br0')
  assert.equal(await bed.seen(), ANCHOR)
})

test('UP-38: nothing was said that nobody can mend', () => {
  assert.doesNotMatch(bed.log('mh'), /\b(warn|error)\b/)
})

/** systemd-networkd on the laptop, with files of its own; /sys is mounted as in a container: it waits for no udev. */
async function networkd(files: Readonly<Record<string, string>>): Promise<Program> {
  const folder = join(bed.folder, 'network')
  mkdirSync(folder, { recursive: true })
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text)
  const script = `
    mount -t tmpfs tmpfs /run
    mkdir -p /run/systemd/network
    cp ${folder}/* /run/systemd/network
    mount -t sysfs -o ro sysfs /sys
    exec ${needProgram('systemd-networkd')}`
  return bed.lab.programs.start('mh', 'unshare', ['-m', 'sh', '-ec', script], {
    log: join(bed.folder, 'networkd.log'),
    env: { SYSTEMD_LOG_LEVEL: 'info' },
  })
}

const rules = (which: RegExp) =>
  bed.run('mh', 'ip', '-details', 'rule').then((text) =>
    text
      .split('\n')
      .filter((line) => which.test(line))
      .sort(),
  )
const OURS = new RegExp(` proto ${PROTOCOL}\\b`)
const ITS = /^1000:/

test('house point 3: systemd-networkd itself, with its defaults, starts and starts again: its rules and routes stay, ours are there, the connection goes on', async () => {
  const before = await rules(OURS)
  assert.ok(before.length > 0)
  const files = {
    '10-br0.network': `[Match]
Name=br0
[Address]
Address=192.168.1.101/24
Broadcast=no
[Route]
Gateway=192.168.1.254
Metric=100
[RoutingPolicyRule]
From=192.168.77.0/24
Table=77
Priority=1000
`,
  }
  for (let n = 0; n < 2; n++) {
    const daemon = await networkd(files)
    await until('it has configured the bridge', async () =>
      /proto static/.test(await bed.run('mh', 'ip', 'route', 'show', 'default', 'dev', 'br0')),
    )
    const own = await rules(ITS)
    assert.equal(own.length, 1)
    await goesOn('br0')
    await until('our rules are there', async () => (await rules(OURS)).join() === before.join())
    assert.equal(await bed.seen(), ANCHOR)
    // Nobody takes away again what the other puts back.
    const routes = () => bed.run('mh', 'ip', '-details', 'route', 'show', 'table', 'all')
    const [count, all] = [await restored(), await routes()]
    await delay(1_500)
    assert.deepEqual([await restored(), await routes()], [count, all])
    assert.deepEqual(await rules(ITS), own)
    if (n === 1) {
      await bed.down()
      assert.deepEqual(await rules(OURS), [])
      assert.deepEqual(await rules(ITS), own)
      // It starts where networkd manages the rules.
      await bed.up(1)
      assert.deepEqual(await rules(OURS), before)
      assert.deepEqual(await rules(ITS), own)
      assert.equal(await bed.seen(), ANCHOR)
    }
    await daemon.stop()
  }
})

const restored = async () =>
  /^godwit_kernel_restored_total \d+$/m.exec(
    await bed.run(
      'mh',
      'curl',
      '-s',
      '--unix-socket',
      join(bed.state('mh'), 'control.sock'),
      'http://godwit/metrics',
    ),
  )?.[0]

test('UP-38: a VLAN is an access beside its own parent: connections move there and back, and survive its end', async () => {
  reader = await bed.readClock()
  await goesOn('br0')
  // A kernel without 802.1Q has other devices on a parent.
  const sub = (parent: string, address: string) => `
    ip link set ${parent} up
    ip link add link ${parent} name ${parent}.10 type vlan id 10 2>/dev/null ||
      ip link add link ${parent} name ${parent}.10 type macvlan mode bridge
    ip address add ${address} dev ${parent}.10
    ip link set ${parent}.10 up`
  await bed.shell('nat2', sub('lan', '192.168.20.1/24'))
  await bed.shell(
    'mh',
    `${sub('acc2', '192.168.20.2/24')}
     ip route add default via 192.168.2.1 dev acc2 metric 500
     ip route add default via 192.168.20.1 dev acc2.10 metric 400`,
  )
  for (const access of ['acc2.10', 'acc2', 'acc2.10']) {
    await goesOn(access)
    await bed.godwit('mh', 'move', 'all', access)
    await until(`flows are on ${access}`, async () =>
      (await bed.status()).flows.every((flow) => flow.mechanism === 'direct' || flow.access === access),
    )
    assert.equal(await bed.seen(), ANCHOR)
  }
  await bed.shell('mh', 'ip link del acc2.10')
  await goesOn('acc2')
})

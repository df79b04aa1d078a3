/**
 * Accesses of other kinds than an Ethernet: a bond, a VLAN on a bridge, a MACVLAN, a port of a VRF. Each carries what a site sends when
 * it is the only one. A kernel may have no such devices: then that test is skipped.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { after, before, test } from 'node:test'
import { namespaceOf } from '../../../lab/topology.ts'
import { createNamespace, deleteNamespace, usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { SERVER, Sites } from './bed.ts'

usesPrograms('ip', 'ping')
usePrivateNames()

const role = 'mb'
let sites: Sites

before(async () => {
  sites = await Sites.start({}, ['acc*', 'bond*', 'br0.10', 'mac*', 'ppp*'])
})
after(() => sites.close())

const shell = async (host: string, script: string) => {
  const said = await sites.said(host, 'sh', '-ec', script)
  assert.equal(said, '', script)
}
const reaches = async () =>
  sites.until('the server is reached', async () =>
    / 0% packet loss/.test(await sites.said('tb', 'ping', '-c', '3', '-i', '0.2', '-W', '1', SERVER[4])),
  )

/** Gives an interface the addresses of the second network, at its number `end`. */
const addresses = (dev: string, end: 1 | 2) => `
  ip link set ${dev} up
  ip address add 192.168.22.${end}/24 dev ${dev}
  ip address add 2001:db8:22::${end}/64 dev ${dev} nodad
  ${end === 1 ? '' : `ip route add default via 192.168.22.1 dev ${dev} metric 200; ip -6 route add default via 2001:db8:22::1 dev ${dev} metric 200`}`

/** The interface of the second network gives its addresses and routes up. */
const AWAY = 'ip address flush dev acc2; ip -6 route flush dev acc2'

/** The second network on a bridge of the net, with another port `acc3` of the router. */
const ON_A_BRIDGE = `
  ip link add br0 type bridge; ip address flush dev mbacc2; ip link set mbacc2 master br0
  ip link add mbacc3 type veth peer name acc3 netns ${namespaceOf(role)}; ip link set mbacc3 master br0 up
  ${addresses('br0', 1)}`
const OFF_THE_BRIDGE = `ip link del mbacc3; ip link del br0; ${addresses('mbacc2', 1)}`

/** While the other network is away, the site is reached over this access. */
async function carriesAlone(access: string): Promise<void> {
  await sites.untilPaths(role, ['acc1', access])
  await shell('net', 'ip link set mbacc1 down')
  await sites.untilPaths(role, [access])
  await reaches()
  await shell('net', 'ip link set mbacc1 up; ip address replace 2001:db8:21::1/64 dev mbacc1 nodad')
  await sites.untilPaths(role, ['acc1', access])
}

/** Whether the kernel makes such devices. */
function lacks(kind: string, ...more: string[]): string | false {
  const name = `kinds-${process.pid}`
  createNamespace(name)
  try {
    execFileSync('ip', ['-n', name, 'link', 'add', 'p0', 'type', 'veth', 'peer', 'name', 'p1'], {
      stdio: 'ignore',
    })
    const parent = ['vlan', 'macvlan'].includes(kind) ? ['link', 'p0'] : []
    execFileSync('ip', ['-n', name, 'link', 'add', ...parent, 'name', 't0', 'type', kind, ...more], {
      stdio: 'ignore',
    })
    return false
  } catch {
    return `this kernel has no devices of kind ${kind}`
  } finally {
    deleteNamespace(name)
  }
}

test('issue 10: an access that is a bond (active-backup): a member is pulled, and nothing of it is seen above', {
  skip: lacks('bond'),
}, async () => {
  await shell('net', ON_A_BRIDGE)
  await shell(
    role,
    `ip link add bond0 type bond mode active-backup miimon 20
     for each in acc2 acc3; do ip link set $each down; ip address flush dev $each; ip link set $each master bond0; done
     ${addresses('bond0', 2)}`,
  )
  await carriesAlone('bond0')
  const handovers = async () => (await sites.status(role)).handovers.length
  const before = await handovers()
  await shell('net', 'ip link set mbacc2 down')
  await reaches()
  await shell('net', 'ip link set mbacc2 up; ip link set mbacc3 down')
  await reaches()
  assert.equal(await handovers(), before)
  await carriesAlone('bond0')
  await shell(role, `ip link del bond0; ${addresses('acc2', 2)}`)
  await shell('net', OFF_THE_BRIDGE)
  await carriesAlone('acc2')
})

test('issue 10: an access that is a VLAN on a bridge', { skip: lacks('vlan', 'id', '10') }, async () => {
  await shell(
    'net',
    `ip address flush dev mbacc2; ip link add link mbacc2 name mbacc2.10 type vlan id 10; ${addresses('mbacc2.10', 1)}`,
  )
  await shell(
    role,
    `${AWAY}; ip link add br0 type bridge; ip link set br0 up; ip link set acc2 master br0
     ip link add link br0 name br0.10 type vlan id 10; ${addresses('br0.10', 2)}`,
  )
  await carriesAlone('br0.10')
  await shell(role, `ip link del br0; ${addresses('acc2', 2)}`)
  await shell('net', `ip link del mbacc2.10; ${addresses('mbacc2', 1)}`)
  await carriesAlone('acc2')
})

test('issue 10: an access that is a MACVLAN', { skip: lacks('macvlan') }, async () => {
  await shell(
    role,
    `${AWAY}; ip link add link acc2 name mac0 type macvlan mode bridge; ${addresses('mac0', 2)}`,
  )
  await carriesAlone('mac0')
  await shell(role, `ip link del mac0; ${addresses('acc2', 2)}`)
  await carriesAlone('acc2')
})

test('issue 10: an access that is a port of a VRF', { skip: lacks('vrf', 'table', '10') }, async () => {
  await shell(
    role,
    `ip link add red type vrf table 10; ip link set red up; ${AWAY}; ip link set acc2 master red
     ${addresses('acc2', 2).replaceAll('route add', 'route add table 10')}`,
  )
  await carriesAlone('acc2')
})

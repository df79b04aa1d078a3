/**
 * Other VPNs with a full tunnel on the same laptop, whichever starts or stops first: the real OpenVPN with
 * `redirect-gateway def1`, the real wg-quick (over wireguard-go), and Tailscale's rules as it makes them. Both work, and
 * afterwards the kernel is as before.
 */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { encodeKey, generatePrivateKey, publicKeyOf } from '../../../src/crypto/keys.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ANCHOR, LaptopBed, until } from '../../netns/anchoring/laptop-bed.ts'
import { kernelState, NEIGHBOURS } from '../../netns/host/neighbours.ts'

usesPrograms('curl', 'ip', 'nft', 'openvpn', 'wg', 'wg-quick', 'wireguard-go')
usePrivateNames()

/** Where the other VPN's server is, and what it calls itself inside. */
const FAR = '192.0.2.18'
const OPENVPN = '10.8.0.1'
const WIREGUARD = '10.99.0.1'
const DEVICE = `q${process.pid}`

let bed: LaptopBed

before(async () => {
  bed = await LaptopBed.build()
  await bed.shell(
    'an2',
    'echo 1 > /proc/sys/net/ipv4/ip_forward; nft "table ip nat { chain out { type nat hook postrouting priority srcnat; oifname wan masquerade; }; }"',
  )
  await bed.web('an2', 'far', 8080)
})
after(() => bed.close())

const state = (others: boolean) => kernelState((command, ...args) => bed.run('mh', command, ...args), others)

interface Vpn {
  readonly inside: string
  start(): Promise<() => Promise<void>>
}

function openvpn(): Vpn {
  const key = join(bed.folder, 'static.key')
  const common = [
    '--dev',
    'tun',
    '--proto',
    'udp',
    '--secret',
    key,
    '--cipher',
    'AES-256-CBC',
    '--auth',
    'SHA256',
  ]
  const args = [...common, '--verb', '1', '--ping', '5']
  return {
    inside: OPENVPN,
    start: async () => {
      await bed.run('mh', 'openvpn', '--genkey', 'secret', key)
      const server = await bed.lab.programs.start('an2', 'openvpn', [
        ...args,
        '--ifconfig',
        OPENVPN,
        '10.8.0.2',
        '--lport',
        '1194',
      ])
      const client = await bed.lab.programs.start('mh', 'openvpn', [
        ...args,
        ...[
          '--ifconfig',
          '10.8.0.2',
          OPENVPN,
          '--remote',
          FAR,
          '1194',
          '--nobind',
          '--redirect-gateway',
          'def1',
        ],
      ])
      await client.expect((line) => line.includes('Initialization Sequence Completed'), 15_000)
      return async () => {
        await client.stop()
        await server.stop()
      }
    },
  }
}

function wgQuick(): Vpn {
  const [near, far] = [generatePrivateKey(), generatePrivateKey()]
  const file = (role: string) => join(bed.lab.createScratch(), `${DEVICE}${role === 'mh' ? 'a' : 'b'}.conf`)
  const files = { mh: file('mh'), an2: file('an2') }
  const write = (role: 'mh' | 'an2', lines: readonly string[]) =>
    writeFileSync(files[role], `${lines.join('\n')}\n`, { mode: 0o600 })
  write('an2', [
    ...['[Interface]', `PrivateKey = ${encodeKey(far)}`, `Address = ${WIREGUARD}/24`, 'ListenPort = 51822'],
    ...['[Peer]', `PublicKey = ${encodeKey(publicKeyOf(near))}`, 'AllowedIPs = 10.99.0.2/32'],
  ])
  write('mh', [
    ...['[Interface]', `PrivateKey = ${encodeKey(near)}`, 'Address = 10.99.0.2/24'],
    ...['[Peer]', `PublicKey = ${encodeKey(publicKeyOf(far))}`, `Endpoint = ${FAR}:51822`],
    ...['AllowedIPs = 0.0.0.0/0, ::/0', 'PersistentKeepalive = 1'],
  ])
  const run = (role: 'mh' | 'an2', what: 'up' | 'down') =>
    bed.run(role, 'env', 'WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1', 'wg-quick', what, files[role])
  return {
    inside: WIREGUARD,
    start: async () => {
      await run('an2', 'up')
      await run('mh', 'up')
      return async () => {
        await run('mh', 'down')
        await run('an2', 'down')
      }
    },
  }
}

/** Both work: what is the VPN's own answers, and the server sees `seen`. */
async function bothWork(vpn: Vpn, seen: string): Promise<void> {
  await until(
    `the VPN at ${vpn.inside} answers`,
    async () => (await bed.ask('mh', `http://${vpn.inside}:8080/`)) === 'far',
  )
  assert.equal(await bed.seen(), seen)
}

/** `later`: whom the server sees while a VPN works that was started after godwit. */
async function bothOrders(vpn: Vpn, later: string): Promise<void> {
  const clean = await state(false)
  const stop = await vpn.start()
  const alone = await state(true)
  await bed.up()
  await bothWork(vpn, ANCHOR)
  assert.deepEqual(await state(true), alone, 'the VPN first: all of it is as it was')
  await bed.down()
  assert.deepEqual(await state(false), alone)
  await stop()
  await until('nothing of the VPN is left', async () => (await state(false)).length === clean.length)
  await bed.up()
  const again = await vpn.start()
  await bothWork(vpn, later)
  await again()
  assert.equal(await bed.seen(), ANCHOR)
  await bed.down()
  assert.deepEqual(await state(false), clean)
}

test('OpenVPN with redirect-gateway def1, in either order: its networks are reached, the rest goes through the tunnel, and it is said', async () => {
  await bothOrders(openvpn(), ANCHOR)
  const said = bed.log('mh').match(/tun\d+ has half-default routes \(/g)
  assert.ok(said !== null, 'it is said')
})

test('routes of DHCP option 121 that halve the Internet take nothing past the tunnel, and are said', async () => {
  await bed.up()
  for (const to of ['0.0.0.0/1', '128.0.0.0/1'])
    await bed.shell('mh', `ip route add ${to} via 192.168.1.1 dev acc1 proto dhcp`)
  assert.equal(await bed.seen(), ANCHOR)
  await until('it is said', () => bed.log('mh').includes('acc1 has half-default routes'))
  for (const to of ['0.0.0.0/1', '128.0.0.0/1']) await bed.shell('mh', `ip route del ${to} dev acc1`)
  await bed.down()
})

test('wg-quick with a full tunnel: before godwit it keeps its own networks; after it, it gets everything and its packets go through the tunnel', async () => {
  await bothOrders(wgQuick(), FAR)
})

test('Tailscale, started after godwit and stopped before it, and the other way round: its table is asked first', async () => {
  const { make, undo } = NEIGHBOURS.find(({ name }) => name === 'Tailscale')!
  const tailscale = async (script: string) => void (await bed.shell('mh', script))
  const works = async () => {
    assert.match(await bed.run('mh', 'ip', 'route', 'get', '100.64.9.9'), /dev tailscale0 /)
    assert.equal(await bed.seen(), ANCHOR)
  }
  await bed.up()
  await tailscale(make)
  await works()
  await bed.down()
  assert.match(await bed.run('mh', 'ip', 'route', 'get', '100.64.9.9'), /dev tailscale0 /)
  await bed.up()
  await works()
  await tailscale(undo)
  assert.equal(await bed.seen(), ANCHOR)
  await bed.down()
})

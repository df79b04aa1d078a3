/** A router stands beside what others make, and replaces nobody's route (house point 3); its machine is as people have them. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { kernelState, NEIGHBOURS } from '../host/neighbours.ts'
import { HOME, PORT, SERVER, Sites } from './bed.ts'

usesPrograms('dnsmasq', 'ip', 'nft', 'ping', 'tayga')
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

/** What the networks in front of the router have for IPv4 addresses, and its gateway of the first one. */
const NAT64 = '2001:db8:64::'
const RESOLVER = '2001:db8:11::1'

/** The two networks of the mobile router carry IPv6 alone, with a NAT64 (tayga) and its name server behind them. */
async function withNat64(body: () => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-nat64-'))
  const file = (name: string) => join(folder, name)
  const { programs } = sites.lab
  const onNet = (...words: string[]) => programs.run('net', words[0]!, words.slice(1))
  const four = (verb: 'add' | 'del') =>
    [1, 2].map(
      (n) =>
        `ip address ${verb} 192.168.1${n}.2/24 dev acc${n}; ${verb === 'add' ? `ip route replace default via 192.168.1${n}.1 dev acc${n} metric ${n}00` : ''}`,
    )
  writeFileSync(
    file('tayga.conf'),
    `tun-device nat64\nipv4-addr 192.168.255.1\nipv6-addr 2001:db8:65::1\nprefix ${NAT64}/96\ndynamic-pool 192.168.255.0/24\ndata-dir ${folder}\n`,
  )
  writeFileSync(file('resolv.conf'), `nameserver ${RESOLVER}\n`)
  const names = ['--keep-in-foreground', '--conf-file=/dev/null', '--no-resolv', '--no-hosts', '--user=root']
  const server = await programs.start('net', 'dnsmasq', [
    ...names,
    `--pid-file=${file('dnsmasq.pid')}`,
    `--address=/ipv4only.arpa/${NAT64}192.0.0.170`,
  ])
  await onNet('tayga', '--mktun', '-c', file('tayga.conf'))
  await onNet('ip', 'link', 'set', 'nat64', 'up')
  await onNet('ip', 'route', 'add', '192.168.255.0/24', 'dev', 'nat64')
  await onNet('ip', 'route', 'add', `${NAT64}/96`, 'dev', 'nat64')
  const translator = await programs.start('net', 'tayga', ['--nodetach', '-c', file('tayga.conf')])
  const mount = (...args: string[]) => assert.equal(spawnSync(args[0]!, args.slice(1)).status, 0)
  // This test's own: the mounts of this process are private.
  mount('mount', '--bind', file('resolv.conf'), '/etc/resolv.conf')
  try {
    await sites.until('the name server runs', () => existsSync(file('dnsmasq.pid')))
    assert.equal(await sites.said(role, 'sh', '-ec', four('del').join('\n')), '')
    await body()
  } finally {
    mount('umount', '/etc/resolv.conf')
    await sites.said(role, 'sh', '-ec', four('add').join('\n'))
    for (const program of [server, translator]) await program.stop()
    await onNet('ip', 'link', 'del', 'nat64')
    rmSync(folder, { recursive: true })
  }
}

test('issue 10, OH-2: networks of IPv6 alone with a NAT64: home, whose endpoint is an IPv4 address, is reached; so it is after a move there', async () => {
  await sites.untilPaths(role, ['acc1', 'acc2'])
  const remotes = async () =>
    (await sites.status(role)).peers.flatMap(({ paths }) =>
      paths.map(({ remote, state }) => `${remote} ${state}`).sort(),
    )
  const translated = `[${NAT64}c000:202]:${PORT} up`
  const untilTranslated = () =>
    sites.until('both paths lead through the NAT64', async () => {
      const all = await remotes()
      return all.length === 2 && all.every((each) => each === translated)
    })
  assert.deepEqual(await remotes(), [`${HOME[4]}:${PORT} up`, `${HOME[4]}:${PORT} up`])
  await withNat64(async () => {
    // It moves there while it runs.
    await untilTranslated()
    await untilReached(SERVER[4])
    await untilReached(SERVER[6])
    await sites.down(role)
    // It starts there.
    await sites.up(role)
    await untilTranslated()
    await untilReached(SERVER[4])
  })
  await sites.until('both paths are of IPv4 again', async () =>
    (await remotes()).every((each) => each === `${HOME[4]}:${PORT} up`),
  )
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

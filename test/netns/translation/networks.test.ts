/** DIME in the networks that people have (issue 10, C): addresses that come back, firewalls, Docker, temporary addresses. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, pause, until } from './bed.ts'
import { Counted, serve } from './counted.ts'
import { openPublished, ownMoves, Published } from './published.ts'

usesPrograms('ip', 'iptables', 'nft', 'tayga')

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

/** What OpenWrt, firewalld and ufw have in common; `open`: what may begin from outside, beside IHMP. */
function firewall(name: 'm' | 'c', open: string): void {
  const rules = `table inet firewall {
    chain input {
      type filter hook input priority filter; policy drop
      iif lo accept
      ct state invalid drop
      ct state established,related accept
      meta l4proto { icmp, icmpv6 } accept
      udp dport 1021 accept
      ${open}
    }
    chain output { type filter hook output priority filter; ct state invalid drop; }
  }`
  execFileSync('ip', ['netns', 'exec', bed.netns(name), 'nft', '-f', '-'], { input: rules })
}

async function daemons(): Promise<void> {
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
}

/** From one access to the other, with nothing in between. */
async function hop(from: 1 | 2, to: 1 | 2): Promise<void> {
  bed.down(from)
  await until('m is detached', async () => (await bed.hosts('m')).some((h) => h.detached))
  bed.up(to)
  await bed.on(to)
}

test('the same address comes back: both directions go on at once, long before TCP asks again', async () => {
  await serve(bed, 80)
  await serve(bed, 81, 'ticks')
  const echo = await Counted.open(bed, 'm', '10.3.0.2', 80)
  const ticks = await Counted.open(bed, 'm', '10.3.0.2', 81)
  await daemons()
  await echo.echo('at first')
  bed.down(1)
  await until('m is detached', async () => (await bed.hosts('m')).some((h) => h.detached))
  echo.send(1)
  // TCP asks again after 0.2, 0.6, 1.4, 3.0, 6.2 and 12.6 s.
  await pause(7_000)
  bed.up(1)
  await Promise.all([echo.echoed('after the outage', 3), ticks.more('after the outage', 3)])
})

test('firewalls at both ends that drop what is invalid: connections move away, back, and away again', async () => {
  firewall('m', '')
  firewall('c', 'tcp dport 80 accept')
  await serve(bed, 80)
  const echo = await Counted.open(bed, 'm', '10.3.0.2', 80)
  await daemons()
  await echo.echo('at first', 50_000)
  await hop(1, 2)
  await echo.echo('moved', 1_000_000)
  await hop(2, 1)
  await echo.echo('moved back', 1_000_000)
  await hop(1, 2)
  await echo.echo('away again', 1_000_000)
  assert.ok(echo.lives)
})

test('a router between that drops what is invalid: connections go away and come back, and those that only receive', async () => {
  execFileSync('ip', ['netns', 'exec', bed.netns('r'), 'nft', '-f', '-'], {
    input: `table inet firewall {
      chain forward {
        type filter hook forward priority filter; policy drop
        ct state invalid counter drop
        ct state established,related accept
        udp dport 1021 accept
        iifname { lan1, lan2 } accept
      }
    }`,
  })
  await serve(bed, 80)
  await serve(bed, 81, 'ticks')
  const echo = await Counted.open(bed, 'm', '10.3.0.2', 80)
  const ticks = await Counted.open(bed, 'm', '10.3.0.2', 81)
  await daemons()
  await echo.echo('at first', 50_000)
  await hop(1, 2)
  await echo.echo('moved', 2_000_000)
  await ticks.more('moved')
  await hop(2, 1)
  await Promise.all([echo.echo('moved back', 2_000_000), ticks.more('moved back', 10, 200)])
  assert.match(bed.run('r', 'nft', 'list', 'chain', 'inet', 'firewall', 'forward'), /packets [1-9]\d* bytes/)
  assert.match(bed.log('m') + bed.log('c'), /were stuck; they go on with other ports/)
  await hop(1, 2)
  await Promise.all([echo.echo('away again', 2_000_000), ticks.more('away again', 10, 200)])
  assert.ok(echo.lives && ticks.lives)
})

for (const settings of ['fast_path = true', 'fast_path = false'])
  test(`a firewall that begins with \`flush ruleset\`, at both ends: moved connections go on, and move again (${settings})`, async () => {
    bed.settings = settings
    await serve(bed, 80)
    const echo = await Counted.open(bed, 'm', '10.3.0.2', 80)
    await daemons()
    await echo.echo('at first')
    await hop(1, 2)
    await echo.echo('moved', 1_000_000)
    const tables = (name: 'm' | 'c') => bed.run(name, 'nft', 'list', 'tables')
    for (const name of ['m', 'c'] as const) {
      const before = tables(name)
      bed.run(name, 'nft', 'flush', 'ruleset')
      await until(`the tables of ${name}`, () => tables(name) === before)
      assert.ok(settings.endsWith('true') || before.includes('ip godwit_main_dime'))
    }
    await echo.echo('with new tables', 1_000_000)
    await hop(2, 1)
    await echo.echo('moved back', 1_000_000)
    assert.ok(echo.lives)
    for (const name of ['m', 'c'] as const) await bed.end(name)
    assert.deepEqual(bed.kernelState('m'), bed.before.m)
  })

test('a connection that only receives goes on behind a firewall that lets in what is known alone', async () => {
  firewall('m', '')
  await serve(bed, 81, 'ticks')
  const ticks = await Counted.open(bed, 'm', '10.3.0.2', 81)
  await daemons()
  await hop(1, 2)
  await ticks.more('moved')
})

test('a deprecated address of IPv6 stays in use until a preferred one works', async () => {
  await serve(bed, 80)
  const echo = await Counted.open(bed, 'm', 'fd00:3::2', 80)
  await daemons()
  const deprecate = (address: string): string =>
    bed.run('m', 'ip', 'addr', 'change', address, 'dev', 'acc1', 'preferred_lft', '0', 'valid_lft', '600')
  const wires = async (): Promise<string[]> => (await bed.sockets('m')).map((s) => s.wire_local)
  deprecate('fd00:1::2/64')
  await pause(1_000)
  await echo.echo('deprecated')
  assert.deepEqual(await wires(), ['fd00:1::2'])
  bed.rtnl.m.addAddress('acc1', 'fd00:1::99/64', { noDad: true })
  await until('m is on the preferred one', async () => (await wires()).every((ip) => ip === 'fd00:1::99'))
  await echo.echo('on the preferred one')
  const { handovers } = await bed.status('m')
  assert.deepEqual(
    handovers.map((h) => h.cause),
    ['confirmed'],
    'it has left an address that worked',
  )
})

for (const at of ['m', 'c'] as const)
  test(`Docker at ${at === 'm' ? 'the host that moves' : 'the other host'}: connections to a published port go on where they are`, async () => {
    const published = new Published(bed.netns(at))
    try {
      await published.serve()
      await serve(bed, 80)
      const own = await Counted.open(bed, 'm', '10.3.0.2', 80)
      const container = await openPublished(bed, at, Published.PORT)
      await daemons()
      await container.echo('before')
      await ownMoves(bed, own, container)
    } finally {
      published.close()
    }
  })

test('DI-6: IPv6 is turned off at both ends: connections move over IPv4, and the log has no fault', async () => {
  for (const name of ['m', 'c'] as const)
    for (const each of ['all', 'default'])
      bed.run(name, 'sh', '-c', `echo 1 > /proc/sys/net/ipv6/conf/${each}/disable_ipv6`)
  await serve(bed, 81, 'ticks')
  const ticks = await Counted.open(bed, 'm', '10.3.0.2', 81)
  await daemons()
  const { m } = bed.rtnl
  m.addAddress('acc2', '10.2.0.2/24')
  m.addRoute({ to: 'default', via: '10.2.0.1', dev: 'acc2', metric: 60 })
  m.deleteAddress('acc1', '10.1.0.2/24')
  await bed.on(2)
  await ticks.more('over the other access')
  for (const name of ['m', 'c'] as const) assert.doesNotMatch(bed.log(name), / (warn|error) /)
})

const NAT64 = '2001:db8:64::'
/** c by the translator. */
const FAR = `${NAT64}10.3.0.2`

/** r translates between m's networks, which carry IPv6, and c, which has IPv4 alone. */
async function nat64(): Promise<void> {
  const file = join(bed.folder, 'tayga.conf')
  writeFileSync(
    file,
    `tun-device nat64\nipv4-addr 192.168.255.1\nipv6-addr 2001:db8:65::1\nprefix ${NAT64}/96\ndynamic-pool 192.168.255.0/24\ndata-dir ${bed.folder}\n`,
  )
  bed.run('r', 'tayga', '--mktun', '-c', file)
  for (const line of [
    'link set nat64 up',
    'route add 192.168.255.0/24 dev nat64',
    `route add ${NAT64}/96 dev nat64`,
  ])
    bed.run('r', 'ip', ...line.split(' '))
  bed.spawn('r', 'tayga', ['--nodetach', '-c', file])
  bed.run('c', 'ip', '-6', 'address', 'flush', 'dev', 'wan', 'scope', 'global')
}

const withoutFour = (n: 1 | 2) => bed.run('m', 'ip', '-4', 'address', 'flush', 'dev', `acc${n}`)
/** Why the connection of m that is known to both is where it is. */
async function why(): Promise<string | undefined> {
  const [flow] = (await bed.status('m')).flows
  return flow && (await bed.why('m', flow.id)).now[0]?.reason
}

test('DI-6: connections through a NAT64 to a host with IPv4 alone: both run DIME, and they go on as without it', async () => {
  await nat64()
  withoutFour(1)
  await serve(bed, 80)
  await serve(bed, 81, 'ticks')
  const echo = await Counted.open(bed, 'm', FAR, 80)
  const ticks = await Counted.open(bed, 'm', FAR, 81)
  await bed.daemon('c')
  await bed.daemon('m')
  await echo.echo('both daemons run')
  await pause(3_000)
  bed.up(2)
  withoutFour(2)
  await pause(2_000)
  await echo.echo('another access is there')
  await ticks.more('another access is there')
  await assert.rejects(bed.move('m', 'all', 'acc2'))
  await echo.echo('nothing can move')
  for (const name of ['m', 'c'] as const) {
    assert.deepEqual(
      (await bed.hosts(name)).map(({ state }) => state),
      ['plain'],
    )
    assert.ok((await bed.sockets(name)).every(({ proven }) => !proven))
  }
  bed.down(1)
  echo.send(1)
  await pause(1_500)
  assert.ok(echo.lives && ticks.lives)
  bed.up(1)
  withoutFour(1)
  await echo.echoed('the access is back')
  await ticks.more('the access is back')
  await bed.end('m')
  await echo.echo('without a daemon')
  for (const name of ['m', 'c'] as const) assert.doesNotMatch(bed.log(name), / (warn|error) /)
})

test('DI-6: a host moves to a network with a NAT64, its peer has IPv4 alone: connections wait, and go on when the first network is back', async () => {
  await nat64()
  await serve(bed, 80)
  const echo = await Counted.open(bed, 'm', '10.3.0.2', 80)
  await daemons()
  bed.up(2)
  withoutFour(2)
  await pause(1_500)
  bed.down(1)
  echo.send(1)
  const later = await Counted.open(bed, 'm', FAR, 80)
  await later.echo('a new connection through the translator')
  await pause(3_000)
  assert.ok(echo.lives)
  assert.match(
    (await why()) ?? 'no flow',
    /^this host has IPv6 alone now, host1 IPv4: nothing is rewritten, and the connection waits for a network with IPv4; /,
  )
  await later.echo('a new connection through the translator')
  bed.up(1)
  await echo.echoed('the first network is back')
  await echo.echo('and goes on')
  assert.match((await why()) ?? 'no flow', /nothing has moved, so nothing is rewritten/)
  await later.echo('the new one goes on')
  for (const name of ['m', 'c'] as const) assert.doesNotMatch(bed.log(name), / (warn|error) /)
})

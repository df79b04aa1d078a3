/**
 * What users of VPNs report most often, as their machines and networks are: no IPv6 by decision of who runs the machine, networks
 * that carry small packets only and do not say so, clocks that are set while the daemon runs. A host and an anchor do their work or say what to do.
 */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, afterEach, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ANCHOR, ANCHOR6, LaptopBed, SERVER, SERVER6, until } from './laptop-bed.ts'

usesPrograms('curl', 'ip', 'nft')
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

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))

/** A megabyte to whoever asks; how many bytes came, of what is sent. */
const MEGABYTE = `require('http').createServer((q, r) => {
  let bytes = 0
  q.on('data', (data) => (bytes += data.length))
  q.on('end', () => r.end(q.method === 'POST' ? String(bytes) : Buffer.alloc(1e6)))
}).listen(8081, '::', () => console.log('up'))`

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

test('UP-7: no network has IPv6, and the anchor is given by an IPv6 address: `up` and `ping` say so, and end', async () => {
  const { configuration } = bed
  bed.configuration = configuration.replaceAll(ANCHOR, `[${ANCHOR6}]`)
  await ipv6('mh', 1, 'acc1', 'acc2')
  const command = (...args: string[]) =>
    bed.lab.programs.start('mh', process.execPath, [GODWIT, ...args, '--state', bed.state('mh')])
  const ping = await command('ping')
  const said: string[] = []
  for (let line = await ping.line(); line !== undefined; line = await ping.line()) said.push(line)
  assert.notEqual(await ping.ended, 0)
  assert.match(said.join('\n'), /acc1.*there is no route to this IPv6 address/)
  const up = await command('up')
  await until('it says so', () =>
    up.errors.includes(`(${ANCHOR6}, port 51820): no network of this host has IPv6`),
  )
  await up.stop()
  bed.configuration = configuration
  await ipv6('mh', 0, 'acc1', 'acc2')
})

test('UP-37: networks that carry 1,124 or 700 bytes and do not say so: transfers both ways, over IPv4 and IPv6', async () => {
  const server = await bed.lab.programs.start('ch1', process.execPath, ['-e', MEGABYTE])
  await server.expect((line) => line === 'up', 10_000)
  const file = join(bed.folder, 'megabyte')
  writeFileSync(file, new Uint8Array(1e6))
  const silent = `table inet silent {
    chain out {
      type filter hook output priority 0
      icmp type destination-unreachable drop
      icmpv6 type packet-too-big drop
    }
  }`
  for (const role of ['nat1', 'nat2', 'net']) await bed.shell(role, `nft -f - <<'END'\n${silent}\nEND`)
  for (const mtu of [1124, 700]) {
    for (const n of [1, 2]) {
      await bed.shell(`nat${n}`, `ip link set wan mtu ${mtu}`)
      await bed.shell('net', `ip link set nat${n} mtu ${mtu}`)
    }
    await bed.up()
    const narrow = async () => (await bed.status()).peers[0]!.paths.every((path) => (path.mtu ?? 0) <= mtu)
    await until('it is known', narrow)
    for (const host of [SERVER, `[${SERVER6}]`]) {
      const curl = (...args: string[]) =>
        bed.run('mh', 'curl', '-sS', '-m', '20', ...args, `http://${host}:8081/`)
      assert.equal(await curl('-o', '/dev/null', '-w', '%{size_download}'), '1000000')
      assert.equal(await curl('--data-binary', `@${file}`), '1000000')
    }
    assert.match(await bed.godwit('mh', 'ping'), mtu === 700 ? /\b700\b/ : /\b1120\b/)
    await bed.down()
  }
  await server.stop()
})

/** The wall clock of a program, in all its threads, is off by as many milliseconds as the file says. */
const WRONG_CLOCK = `
  const { readFileSync } = require('node:fs')
  const now = Date.now.bind(Date)
  Date.now = () => now() + Number(readFileSync(process.env.CLOCK_FILE, 'utf8'))`

test('UP-7: the clock of a host is set hours forth and back while it runs, and is in the seventies after its next start', async () => {
  const clock = join(bed.folder, 'clock')
  const hours = (n: number) => writeFileSync(clock, String(n * 3_600_000))
  writeFileSync(`${clock}.cjs`, WRONG_CLOCK)
  bed.environment = { NODE_OPTIONS: `--require ${clock}.cjs`, CLOCK_FILE: clock }
  hours(0)
  await bed.up()
  const handovers = (await bed.status()).handovers.length
  for (const n of [-4, 10]) {
    hours(n)
    assert.equal(await bed.seen(), ANCHOR)
    // Nothing that waits or ages goes by that clock.
    for (let i = 0; i < 10; i++) await bed.seen()
    const { peers } = await bed.status()
    assert.ok(peers[0]!.paths.every(({ state }) => state !== 'down'))
  }
  assert.ok((await bed.status()).handovers.length <= handovers + 1)
  await bed.down()
  // As a machine without a battery: the anchor takes no handshake older than the last, so this one is stamped later.
  hours(-24 * 365 * 50)
  await bed.up()
  assert.equal(await bed.seen(), ANCHOR)
  bed.environment = {}
})

// Last: its machine's own addresses of IPv6 are gone then.
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

/**
 * Names as networks have them: an anchor whose record changes, a host that starts before its network, a provider's
 * resolver that answers its own network alone, an access with IPv6 and NAT64 alone. Name servers are dnsmasq, the NAT64
 * is tayga.
 */
import assert from 'node:assert/strict'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import type { PathStatus, PeerStatus } from '../../../src/core/mechanism.ts'
import type { Status } from '../../../src/host/daemon/daemon.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('curl', 'dnsmasq', 'tayga', 'nft', 'ip', 'unshare')

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const NAME = 'anchor.example.net'
/** Answers to the first access's network alone, and is not on its link. */
const RESOLVER1 = '203.0.113.2'
const RESOLVER2 = '2001:db8:2:ff::2'
const NAT64 = '2001:db8:64::'

let lab: Lab
let folder: string
let host: Program
let anchor: Program
let names: Program[] = []

const path = (...parts: string[]) => join(folder, ...parts)
const run = (role: string, program: string, ...args: string[]) => lab.programs.run(role, program, args)
const godwit = (role: string, state: string, ...args: string[]) =>
  run(role, process.execPath, GODWIT, ...args, '--state', path(state))

/** A shell line that runs a command where /etc/resolv.conf and /run are the mobile host's own. */
const withOwnFiles = (command: string) => [
  '-m',
  'sh',
  '-c',
  `mount --bind ${path('resolv.conf')} /etc/resolv.conf && mount --bind ${path('run')} /run && exec ${command}`,
]

async function daemon(role: string, state: string, ...args: string[]): Promise<Program> {
  const command = `${process.execPath} ${GODWIT} ${args.join(' ')} --state ${path(state)}`
  const log = path(`${state}.log`)
  if (role === 'mh') return lab.programs.start(role, 'unshare', withOwnFiles(command), { log })
  return lab.programs.start(role, 'sh', ['-c', `exec ${command}`], { log })
}

const ready = (program: Program) => program.expect((line) => line.trim() === 'ready', 20_000)

/** Both name servers say that the anchor is there. */
function setRecord(address: string): void {
  writeFileSync(path('hosts'), `${address} ${NAME}\n198.51.100.2 www.example.net\n`)
  for (const server of names) server.signal('SIGHUP')
}

async function nameServer(role: string, ...args: string[]): Promise<Program> {
  const options = [
    '--keep-in-foreground',
    '--conf-file=/dev/null',
    '--no-resolv',
    '--no-hosts',
    '--user=root',
  ]
  const pid = path(`${role}.pid`)
  const files = [`--addn-hosts=${path('hosts')}`, '--local-ttl=5', `--pid-file=${pid}`]
  const server = await lab.programs.start(role, 'dnsmasq', [...options, ...files, ...args], {
    log: path(`${role}.log`),
  })
  // It writes its number once it answers signals: SIGHUP before that would end it, and its names with it.
  for (let n = 0; n < 200 && !existsSync(pid); n++) await delay(50)
  assert.ok(existsSync(pid), `dnsmasq of ${role} runs`)
  return server
}

async function paths(): Promise<PathStatus[]> {
  const status = JSON.parse(await godwit('mh', 'mh', 'status', '--json')) as { peers: PeerStatus[] }
  return status.peers.flatMap((peer) => [...peer.paths])
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  let last: unknown
  const end = performance.now() + 20_000
  while (performance.now() < end) {
    try {
      if (await holds()) return
    } catch (error) {
      last = error
    }
    await delay(100)
  }
  const known = JSON.stringify(await paths().catch(String))
  assert.fail(`not within twenty seconds: ${what} ${last ?? ''} ${known} ${host.errors}`)
}

const pathUp = (access: string, remote: string) => async () =>
  (await paths()).some((each) => each.access === access && each.remote === remote && each.state === 'up')

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-names-'))
  lab = await Lab.build(topologyNamed('upmt'))
  for (const role of ['an', 'an2']) await run(role, 'ip', 'link', 'set', 'lo', 'up')
  setRecord(addressOf(lab.spec, 'an', 'wan'))
  writeFileSync(path('resolv.conf'), `nameserver ${RESOLVER1}\noptions timeout:2\n`)
  mkdirSync(path('run', 'systemd', 'netif', 'links'), { recursive: true })
  const acc2 = lab.rtnl('mh').link('acc2')!.index
  writeFileSync(path('run', 'systemd', 'netif', 'links', String(acc2)), `DNS=${RESOLVER2}\n`)
  await run(
    'nat1',
    'nft',
    'add table inet provider; add chain inet provider in { type filter hook input priority 0; }; add rule inet provider in iifname wan meta l4proto { tcp, udp } th dport 53 drop',
  )
  names = [await nameServer('nat1'), await nameServer('nat2', `--address=/ipv4only.arpa/${NAT64}192.0.0.170`)]
  await godwit('an', 'an', 'anchor', 'init', '--endpoint', `${NAME}:51820`)
  anchor = await daemon('an', 'an', 'anchor', 'up')
  await ready(anchor)
  await godwit('mh', 'mh', 'join', (await godwit('an', 'an', 'anchor', 'invite', 'laptop')).trim())
  // The second access has IPv6 alone, and a NAT64 behind it.
  lab.setLink('acc2', { state: 'down' })
  await run('mh', 'ip', '-4', 'address', 'flush', 'dev', 'acc2')
  writeFileSync(
    path('tayga.conf'),
    `tun-device nat64\nipv4-addr 192.168.255.1\nipv6-addr 2001:db8:65::1\nprefix ${NAT64}/96\ndynamic-pool 192.168.255.0/24\ndata-dir ${folder}\n`,
  )
  await run('nat2', 'tayga', '--mktun', '-c', path('tayga.conf'))
  await run('nat2', 'ip', 'link', 'set', 'nat64', 'up')
  await run('nat2', 'ip', 'route', 'add', '192.168.255.0/24', 'dev', 'nat64')
  await run('nat2', 'ip', 'route', 'add', `${NAT64}/96`, 'dev', 'nat64')
  await lab.programs.start('nat2', 'tayga', ['--nodetach', '-c', path('tayga.conf')], {
    log: path('tayga.log'),
  })
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

test('issue 10, A2: a host that starts before its network is ready once the network and its name server are there', async () => {
  lab.setLink('acc1', { state: 'down' })
  host = await daemon('mh', 'mh', 'up')
  await until('the daemon runs', async () => (await paths()).length === 0)
  lab.setLink('acc1', { state: 'up' })
  await ready(host)
  assert.ok(await pathUp('acc1', `${addressOf(lab.spec, 'an', 'wan')}:51820`)())
})

test("issue 10, A2: a provider's resolver that answers its own network alone goes on answering the host's programs", async () => {
  const lookUp = withOwnFiles(
    `${process.execPath} -e "require('dns').promises.resolve4('www.example.net').then((a)=>console.log(a[0]))"`,
  )
  await until('the name resolves', async () => (await run('mh', 'unshare', ...lookUp)) === '198.51.100.2')
  const rules = await run('mh', 'ip', 'rule', 'list')
  assert.match(rules, new RegExp(`6835:\\s+from all to ${RESOLVER1} lookup 6701`))
})

test("issue 10, A2: the anchor's record changes while the host runs: it is found at the new address", async () => {
  await anchor.stop()
  cpSync(path('an'), path('an2'), { recursive: true })
  rmSync(path('an2', 'control.sock'), { force: true })
  anchor = await daemon('an2', 'an2', 'anchor', 'up')
  await ready(anchor)
  setRecord(addressOf(lab.spec, 'an2', 'wan'))
  await until('a path to the new address', pathUp('acc1', `${addressOf(lab.spec, 'an2', 'wan')}:51820`))
})

const SYNTHESISED = '[2001:db8:64::c000:212]:51820'

test('issue 10, A2: an access with IPv6 and NAT64 that comes while IPv4 works has a path, asked of its own resolver', async () => {
  lab.setLink('acc2', { state: 'up' })
  await until('a path over NAT64', pathUp('acc2', SYNTHESISED))
  assert.equal((await paths()).length, 2)
})

test('issue 10, A2: an endpoint that is an IPv4 address is reached behind NAT64 too', async () => {
  await host.stop()
  const file = path('mh', 'godwit.toml')
  const config = readFileSync(file, 'utf8')
  writeFileSync(file, config.replace(`"${NAME}:51820"`, `"${addressOf(lab.spec, 'an2', 'wan')}:51820"`))
  assert.notEqual(readFileSync(file, 'utf8'), config)
  lab.setLink('acc1', { state: 'down' })
  host = await daemon('mh', 'mh', 'up')
  await ready(host)
  assert.ok(await pathUp('acc2', SYNTHESISED)())
  lab.setLink('acc1', { state: 'up' })
  await until('the other access too', async () => (await paths()).every(({ state }) => state === 'up'))
})

/** The host's part of 464XLAT on the second access, as clatd sets it up: IPv4 by a device of its own, which makes it IPv6. */
async function translateOnHost(): Promise<Program> {
  writeFileSync(
    path('clat.conf'),
    `tun-device clat\nipv4-addr 192.0.0.2\nipv6-addr 2001:db8:2:1::c1a8\nprefix ${NAT64}/96\nmap 192.0.0.1 2001:db8:2:1::c1a7\ndata-dir ${path('run')}\n`,
  )
  await run('mh', 'tayga', '--mktun', '-c', path('clat.conf'))
  await run(
    'mh',
    'sh',
    '-ec',
    `ip link set clat up mtu 1400
     ip address add 192.0.0.1/32 dev clat
     ip route add default dev clat metric 2048
     ip -6 route add 2001:db8:2:1::c1a7 dev clat
     echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
     echo 1 > /proc/sys/net/ipv6/conf/acc2/proxy_ndp
     ip -6 neigh add proxy 2001:db8:2:1::c1a7 dev acc2`,
  )
  return lab.programs.start('mh', 'tayga', ['--nodetach', '-c', path('clat.conf')], { log: path('clat.log') })
}

test('issue 10: a host that translates IPv4 itself (464XLAT): the tunnel carries it, its device is no access, what bypasses the tunnel takes the translator, and at the end all goes by it again', async () => {
  await run('mh', 'ip', 'link', 'set', 'acc1', 'down')
  const program = `require('http').createServer((q, r) => r.end(q.socket.remoteAddress)).listen(80, '0.0.0.0', () => console.log('ready'))`
  const web = await lab.programs.start('ch1', process.execPath, ['-e', program])
  assert.ok(await web.expect((line) => line === 'ready', 5000))
  const seen = (address = '198.51.100.2') => run('mh', 'curl', '-sS', '-m', '4', `http://${address}/`)
  await translateOnHost()
  await until('everything is on the second access', pathUp('acc2', SYNTHESISED))
  await until('the tunnel carries it', async () => (await seen()) === addressOf(lab.spec, 'an2', 'wan'))
  const { unused } = JSON.parse(await godwit('mh', 'mh', 'status', '--json')) as Status
  assert.match(unused.find(({ name }) => name === 'clat')!.reason, /^a device of kind tun/)
  // Where the name server translates names, programs try such an address first: they are told at once to take IPv4.
  await assert.rejects(seen(`[${NAT64}c633:6402]`), /Failed to connect/) // not "timed out"
  const past = [
    'run',
    '--direct',
    '--state',
    path('mh'),
    '--',
    'curl',
    '-sS',
    '-m',
    '4',
    'http://198.51.100.2/',
  ]
  const translated = addressOf(lab.spec, 'nat2', 'wan')
  await until(
    'what bypasses the tunnel takes the translator',
    async () => (await run('mh', process.execPath, GODWIT, ...past)) === translated,
  )
  assert.equal(await seen(), addressOf(lab.spec, 'an2', 'wan'))
  const file = path('mh', 'godwit.toml')
  writeFileSync(file, `${readFileSync(file, 'utf8')}\n[host]\nexcept = ["to:198.51.100.2"]\n`)
  await godwit('mh', 'mh', 'reload')
  await until('what is excepted takes it too', async () => (await seen()) === translated)
  await host.stop()
  await until('the translator carries it', async () => (await seen()) === translated)
})

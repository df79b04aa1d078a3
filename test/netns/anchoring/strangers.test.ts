/**
 * An anchor forwards for its hosts (issue 8, point 12): not for strangers on its links in their name, nothing that begins
 * outside to hosts that are masqueraded, and no host takes the connection table from the others.
 */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { checksum } from '../../../src/core/checksum.ts'
import {
  createNamespace,
  deleteNamespace,
  inNamespace,
  spawnIn,
  usePrivateNames,
} from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { RawSender } from '../../../src/linux/raw-packets.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { udpPacket } from '../../support/udp-packet.ts'
import { until } from '../translation/bed.ts'
import { lines } from '../translation/flows.ts'

usesPrograms('ip', 'nft', 'ping')

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const HOSTILE = fileURLToPath(new URL('../../support/hostile-host.js', import.meta.url))
/** `stranger` shares a link with the anchor, `far` is behind it. */
const NAMES = { an: 'strangers-an', stranger: 'strangers-nb', far: 'strangers-far' } as const
type Name = keyof typeof NAMES
const [ANCHOR, STRANGER, VICTIM, FAR] = ['10.97.0.1', '10.97.0.2', '10.97.0.66', '10.96.0.2']
/** Of the pool: the first host's, and one that nobody has. */
const [HOST, NOBODY] = ['198.18.0.2', '198.18.0.9']
/** One of 32 is counted: so many, a few per cent more or less. */
const MOST_CONNECTIONS = 8_192
const MOST_BY_CHANCE = 1.3 * MOST_CONNECTIONS
/** Prints where datagrams come from, and what they say. */
const LISTENER = `const s=require('dgram').createSocket('udp4');s.on('message',(m,f)=>console.log(f.address+' '+m));s.bind(7007,'0.0.0.0',()=>console.log('up'))`
/** FROM TO TEXT */
const SENDER = `const[,from,to,text]=process.argv;const s=require('dgram').createSocket('udp4');s.bind(0,from,()=>s.send(text,7007,to,()=>s.close()))`

const folder = mkdtempSync(join(tmpdir(), 'godwit-strangers-'))
const programs: ChildProcess[] = []

function start(name: Name, args: readonly string[]): ChildProcess {
  const program = spawnIn(NAMES[name], process.execPath, [...args], { stdio: ['pipe', 'pipe', 'pipe'] })
  programs.push(program)
  return program
}

function run(name: Name, program: string, ...args: string[]): string {
  return inNamespace(NAMES[name], () => execFileSync(program, args, { encoding: 'utf8' }))
}

const godwit = (...args: string[]) => run('an', process.execPath, GODWIT, ...args, '--state', folder)
const send = (from: string, to: string, text: string) =>
  run('stranger', process.execPath, '-e', SENDER, from, to, text)
const inAnchor = (path: string) => Number(inNamespace(NAMES.an, () => readFileSync(path, 'utf8')))
/** Packets of IPv4 that the kernel has given to the tunnel's device; of IPv6 it sends its own there. */
const handedToHosts = () =>
  Number(/packets (\d+)/.exec(run('an', 'nft', 'list', 'chain', 'ip', 'seen', 'out'))?.[1])

before(async () => {
  for (const name of Object.values(NAMES)) createNamespace(name)
  const ip = (...args: string[]) => execFileSync('ip', args)
  const link = (device: string, to: Name, ours: string, theirs: string) => {
    const ends = ['type', 'veth', 'peer', 'name', 'eth0', 'netns', NAMES[to]]
    ip('-n', NAMES.an, 'link', 'add', device, ...ends)
    ip('-n', NAMES.an, 'addr', 'add', `${ours}/24`, 'dev', device)
    ip('-n', NAMES.an, 'link', 'set', device, 'up')
    ip('-n', NAMES[to], 'addr', 'add', `${theirs}/24`, 'dev', 'eth0')
    ip('-n', NAMES[to], 'link', 'set', 'eth0', 'up')
    ip('-n', NAMES[to], 'link', 'set', 'lo', 'up')
    ip('-n', NAMES[to], 'route', 'add', 'default', 'via', ours)
  }
  link('lan', 'stranger', ANCHOR!, STRANGER!)
  link('wan', 'far', '10.96.0.1', FAR!)
  ip('-n', NAMES.an, 'link', 'set', 'lo', 'up')
  ip('-n', NAMES.an, 'route', 'add', 'default', 'via', FAR!)
  ip('-n', NAMES.stranger, 'addr', 'add', `${VICTIM}/24`, 'dev', 'eth0')
  ip('-n', NAMES.stranger, 'addr', 'add', `${NOBODY}/32`, 'dev', 'lo')
  // No help from the kernel: many systems do not look where sources belong.
  const sysctls = new KernelSysctls(NAMES.an)
  for (const each of ['all', 'default', 'lan', 'wan']) sysctls.set(`net/ipv4/conf/${each}/rp_filter`, 0)
  godwit('anchor', 'init', '--endpoint', `${ANCHOR}:51820`)
  await lines(start('an', [GODWIT, 'anchor', 'up', '--state', folder])).wait('ready')
  run('an', 'nft', 'add table ip seen')
  run('an', 'nft', 'add chain ip seen out { type filter hook postrouting priority 300; }')
  run('an', 'nft', 'add rule ip seen out oifname gwan0 counter')
})

after(() => {
  for (const program of programs) program.kill('SIGKILL')
  for (const name of Object.values(NAMES)) deleteNamespace(name)
  rmSync(folder, { recursive: true })
})

test("a stranger's packets in the name of a host are not masqueraded", async () => {
  const listener = lines(start('far', ['-e', LISTENER]))
  await listener.wait('up')
  send(NOBODY!, FAR!, 'forged')
  send(NOBODY!, ANCHOR!, 'forged to the anchor')
  // The anchor's own kernel forwards what is nobody's, as it was told to; this comes behind.
  send(STRANGER!, FAR!, 'own')
  await listener.wait(`${STRANGER} own`)
  assert.ok(!listener.text.includes('forged'), listener.text)
})

test('nothing that begins outside gets to a host that is masqueraded', async () => {
  const before = handedToHosts()
  send(STRANGER!, HOST!, 'from outside')
  run('stranger', 'ping', '-c', '1', '-W', '1', ANCHOR!)
  assert.equal(handedToHosts(), before)
  // The anchor itself may.
  assert.throws(() => run('an', 'ping', '-c', '1', '-W', '1', HOST!))
  assert.equal(handedToHosts(), before + 1)
})

test("who says that a way is narrow, in the name of the tunnel's datagrams, narrows no route of the anchor", async () => {
  const address = (text: string) => Uint8Array.from(text.split('.').map(Number))
  const sender = new RawSender(NAMES.stranger)
  const tooBig = (port: number) => {
    const sent = udpPacket(
      { address: address(ANCHOR!), port },
      { address: address(FAR!), port: 9 },
      new Uint8Array(8),
    )
    const packet = new Uint8Array(28 + sent.length)
    const view = new DataView(packet.buffer)
    packet.set([0x45, 0, 0, packet.length, 0, 0, 0, 0, 64, 1])
    packet.set(address(STRANGER!), 12)
    packet.set(address(ANCHOR!), 16)
    packet.set([3, 4, 0, 0, 0, 0, 600 >> 8, 600 & 255], 20)
    packet.set(sent, 28)
    view.setUint16(22, checksum(view, 20, packet.length - 20))
    view.setUint16(10, checksum(view, 0, 20))
    assert.ok(sender.send(packet, address(ANCHOR!)))
  }
  const narrow = () => /mtu \d+/.exec(run('an', 'ip', 'route', 'get', FAR!))?.[0]
  try {
    tooBig(51820)
    run('stranger', 'ping', '-c', '1', '-W', '1', ANCHOR!)
    assert.equal(narrow(), undefined)
    // Such a message is believed where a socket is behind it: it was the rule that kept it out.
    await lines(start('an', ['-e', LISTENER])).wait('up')
    tooBig(7007)
    run('stranger', 'ping', '-c', '1', '-W', '1', ANCHOR!)
    assert.equal(narrow(), 'mtu 600')
  } finally {
    sender.close()
  }
})

test('one host does not fill the table of connections that all share, and narrows no route of others', async () => {
  const count = () => inAnchor('/proc/sys/net/netfilter/nf_conntrack_count')
  const invitation = godwit('anchor', 'invite', 'mallory').trim()
  const hostile = start('stranger', [HOSTILE, invitation, STRANGER!, VICTIM!, ANCHOR!, '51820'])
  const told = lines(hostile)
  await told.wait('joined')
  hostile.stdin!.write('flows 20000\n')
  await told.wait('{')
  // What is its own, and no more; a few are the anchor's.
  await until('it has its share', () => count() >= 0.7 * MOST_CONNECTIONS, 10)
  assert.ok(count() <= MOST_BY_CHANCE, `${count()} connections`)
  const far = '203.0.113.250'
  hostile.stdin!.write(`narrow ${ANCHOR} ${far}\n`)
  await until('it has sent it', () => told.text.split('{').length === 3, 10)
  assert.doesNotMatch(run('an', 'ip', 'route', 'get', far), /mtu/)
})

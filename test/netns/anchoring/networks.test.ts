/**
 * Anchoring over networks as they come: the same private address on both accesses, IPv6 outside, and what must pass a
 * tunnel unharmed (service classes, ICMP errors, fragments, flows that only go down).
 */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import type { FlowStatus, PeerStatus } from '../../../src/core/mechanism.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { daemonStatus } from '../../support/daemon.ts'

usesPrograms('curl', 'iperf3', 'ping', 'tcpdump')

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
/** After one datagram: 300 back, numbered, one every 10 ms. */
const TALKER = `const s=require('dgram').createSocket('udp4');s.on('message',(m,r)=>{let n=0;const t=setInterval(()=>{s.send(String(n),r.port,r.address);if(++n===300)clearInterval(t)},10)});s.bind(5006,()=>console.log('up'))`
const LISTENER = `const s=require('dgram').createSocket('udp4');const got=new Set();s.on('message',(m)=>{if(got.size===0)console.log('first');got.add(String(m))});s.send('go',5006,process.argv[1]);setTimeout(()=>{console.log('got '+got.size);process.exit()},4500)`
const WHO = `require('http').createServer((q,r)=>r.end(q.socket.remoteAddress.replace('::ffff:',''))).listen(8080,()=>console.log('up'))`
const REFUSED = `const s=require('dgram').createSocket('udp4');s.connect(9,process.argv[1],()=>{s.on('error',(e)=>{console.log(e.code);process.exit()});setInterval(()=>s.send('x'),50)});setTimeout(()=>process.exit(1),4000)`

interface Status {
  readonly peers: readonly PeerStatus[]
  readonly flows: readonly FlowStatus[]
}

let lab: Lab
let folder: string
let host: Program
let server: string

const state = (name: string) => join(folder, name)
const godwit = (role: string, name: string, ...args: string[]) =>
  lab.programs.run(role, process.execPath, [GODWIT, ...args, '--state', state(name)])
const node = (code: string, ...args: string[]) => ['-e', code, ...args]
const status = () => daemonStatus<Status>(state('mh'))

async function daemon(role: string, name: string, ...args: string[]): Promise<Program> {
  const log = join(folder, `${name}.log`)
  const args2 = [GODWIT, ...args, '--state', state(name)]
  const program = await lab.programs.start(role, process.execPath, args2, { log })
  await program.expect((line) => line.trim() === 'ready', 20_000)
  return program
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 100; i++) {
    if (await holds()) return
    await delay(100)
  }
  assert.fail(`not within ten seconds: ${what}`)
}

const bothPathsUp = async () =>
  (await status()).peers.some(({ paths }) => paths.filter((path) => path.state === 'up').length === 2)

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-networks-'))
  lab = await Lab.build(topologyNamed('upmt-overlap'))
  server = addressOf(lab.spec, 'ch1', 'wan')
  await godwit('an', 'an', 'anchor', 'init', '--endpoint', `${addressOf(lab.spec, 'an', 'wan')}:51820`)
  await daemon('an', 'an', 'anchor', 'up')
  await godwit('mh', 'mh', 'join', (await godwit('an', 'an', 'anchor', 'invite', 'laptop')).trim())
  host = await daemon('mh', 'mh', 'up')
  await until('both paths up', bothPathsUp)
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

test('UP-1, UP-13: one address on both accesses; a transfer at full speed is moved between them', async () => {
  const addresses = ['acc1', 'acc2'].map((name) =>
    lab
      .rtnl('mh')
      .addresses({ link: name })
      .filter(({ family }) => family === 4)
      .map(({ address }) => address)
      .join(),
  )
  assert.equal(addresses[0], addresses[1])
  const far = await lab.programs.start('ch1', 'iperf3', ['-s', '-1', '-p', '5201'])
  await delay(300)
  const done = lab.programs.run('mh', 'iperf3', [
    '-c',
    server,
    '-p',
    '5201',
    '-t',
    '4',
    '-R',
    '-J',
    '-i',
    '0.5',
  ])
  await delay(1500)
  await godwit('mh', 'mh', 'move', 'all', 'acc2')
  await delay(1000)
  await godwit('mh', 'mh', 'move', 'all', 'acc1')
  const report = JSON.parse(await done) as { intervals: { sum: { bytes: number } }[]; error?: string }
  await far.ended
  assert.equal(report.error, undefined)
  assert.ok(
    report.intervals.every(({ sum }) => sum.bytes > 0),
    'no half second without data',
  )
})

test('UP-9, UP-20, UP-32, UP-37, UP-39: the server sees the anchor, the program VIpA_fix; what is not under control goes as ever', async () => {
  const far = await lab.programs.start('ch1', process.execPath, node(WHO))
  await far.expect((line) => line === 'up', 5000)
  const ask = (...args: string[]) =>
    lab.programs.run('mh', 'curl', ['-s', '-4', '-w', ' %{local_ip}', ...args, `http://${server}:8080/`])
  assert.equal(await ask(), `${addressOf(lab.spec, 'an', 'wan')} 198.19.0.1`)
  // A socket bound to an access is left alone: it leaves by that access and its NAT.
  assert.match(await ask('--interface', 'acc2'), /^203\.0\.113\.18 192\.168\.1\.100$/)
  const mtu = lab.rtnl('mh').link('godwit0')!.mtu
  assert.ok(mtu > 1300 && mtu <= 1500 - 28 - 34, `room for the tunnel's own headers: ${mtu}`)
  await far.stop()
})

test('D12, UP-31: a flow that only comes down is moved; nothing of it is lost', async () => {
  const far = await lab.programs.start('ch1', process.execPath, node(TALKER))
  await far.expect((line) => line === 'up', 5000)
  const near = await lab.programs.start('mh', process.execPath, node(LISTENER, server))
  await near.expect((line) => line === 'first', 5000)
  await until('its flow is known', async () =>
    (await status()).flows.some(({ dst }) => dst.endsWith(':5006')),
  )
  const { id } = (await status()).flows.find(({ dst }) => dst.endsWith(':5006'))!
  await godwit('mh', 'mh', 'move', id, 'acc2')
  await delay(200)
  // Whatever still came by the old access would be lost now.
  lab.setLink('acc1', { state: 'blackhole' })
  await near.expect((line) => line === 'got 300', 8000)
  lab.setLink('acc1', { state: 'up' })
  await far.stop()
  await until('both paths up', bothPathsUp)
})

test('UP-21, UP-40: an ICMP error finds the socket that caused it, through both NATs', async () => {
  assert.equal((await lab.programs.run('mh', process.execPath, node(REFUSED, server))).trim(), 'ECONNREFUSED')
})

test('UP-3: service class and congestion bits arrive as sent; what is too large for the tunnel arrives in fragments', async () => {
  const capture = await lab.programs.start('ch1', 'tcpdump', [
    '-n',
    '-l',
    '-v',
    '-i',
    'wan',
    '-c',
    '1',
    'icmp[0] = 8',
  ])
  await delay(500)
  const seen = capture.expect((line) => line.includes('tos 0xba'), 5000)
  await lab.programs.run('mh', 'ping', ['-c', '2', '-i', '0.2', '-Q', '0xba', server])
  await seen
  await lab.programs.run('mh', 'ping', ['-c', '1', '-M', 'dont', '-s', '4000', server])
  // With DF set the sender is told, by its own kernel.
  await assert.rejects(
    lab.programs.run('mh', 'ping', ['-c', '1', '-M', 'do', '-s', '1472', server]),
    /too long/,
  )
})

test('UP-7, UP-12: an anchor reached over IPv6; its pool is used up by one host', async () => {
  host.child.kill('SIGTERM')
  await host.ended
  const endpoint = `[${addressOf(lab.spec, 'an2', 'wan', 6)}]:51820`
  await godwit('an2', 'an2', 'anchor', 'init', '--endpoint', endpoint)
  const config = join(state('an2'), 'godwit.toml')
  const text = readFileSync(config, 'utf8')
  writeFileSync(config, text.replace(/^\[anchor\]$/m, '[anchor]\npool4 = "198.18.0.0/30"'), { mode: 0o600 })
  await daemon('an2', 'an2', 'anchor', 'up')
  const invitation = (await godwit('an2', 'an2', 'anchor', 'invite', 'laptop')).trim()
  await assert.rejects(godwit('an2', 'an2', 'anchor', 'invite', 'second'), /pool/)
  rmSync(state('mh'), { recursive: true })
  await godwit('mh', 'mh', 'join', invitation)
  host = await daemon('mh', 'mh', 'up')
  await until('both paths up', bothPathsUp)
  assert.ok((await status()).peers[0]!.paths.every(({ remote }) => remote.startsWith('[2001:db8:a:2')))
  // The first `ready` after `join`: the anchor has taken the host's own key, and carries.
  const pings = lab.programs.run('mh', 'ping', ['-c', '20', '-i', '0.2', '-W', '1', server])
  await delay(500)
  await godwit('mh', 'mh', 'move', 'all', 'acc2')
  assert.match(await pings, / 0% packet loss/)
})

/** Issue 10 B2: ports of an anchor lead to its hosts, TCP and UDP, IPv4 and IPv6, over moves and restarts. */
import assert from 'node:assert/strict'
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('curl', 'nft', 'socat')
usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
let lab: Lab
let folder: string
const daemons = new Map<string, Program>()
const state = (role: string) => join(folder, role)
const log = (role: string) => join(folder, `${role}.log`)
const run = (role: string, command: string, ...args: string[]) => lab.programs.run(role, command, args)
const godwit = (role: string, ...args: string[]) =>
  run(role, process.execPath, GODWIT, ...args, '--state', state(role))

async function up(role: 'mh' | 'an'): Promise<void> {
  const args = [GODWIT, ...(role === 'an' ? ['anchor'] : []), 'up', '--state', state(role)]
  const program = await lab.programs.start(role, process.execPath, args, { log: log(role) })
  daemons.set(role, program)
  await program.expect((line) => line.trim() === 'ready', 30_000)
}

async function down(role: 'mh' | 'an', signal: NodeJS.Signals): Promise<void> {
  const program = daemons.get(role)!
  program.child.kill(signal)
  await program.ended
}

const client = (family: 4 | 6) => addressOf(lab.spec, 'ch1', 'wan', family)
const anchor = (family: 4 | 6) => {
  const address = addressOf(lab.spec, 'an', 'wan', family)
  return family === 4 ? address : `[${address}]`
}

/** What the host's program answers: the address that it was asked from. */
const overTcp = (family: 4 | 6, port = 8080) =>
  run('ch1', 'curl', '-s', '-m', '5', `http://${anchor(family)}:${port}/`)
async function overUdp(family: 4 | 6): Promise<string> {
  const to = `UDP${family}:${anchor(family)}:8080`
  return (await run('ch1', 'sh', '-c', `echo hello | socat -t 1 - ${to}`)).trim()
}

async function reachable(): Promise<void> {
  for (const family of [4, 6] as const) {
    let seen = ''
    for (let i = 0; i < 20 && seen !== client(family); i++) {
      seen = await overTcp(family).catch(() => '')
      if (seen !== client(family)) await delay(250)
    }
    assert.equal(seen, client(family), `TCP over IPv${family}`)
    assert.equal(await overUdp(family), `hello from ${client(family)}`, `UDP over IPv${family}`)
  }
}

const SERVER = `
const plain = (address) => address.replace('::ffff:', '')
require('http').createServer((q, r) => {
  if (q.url !== '/slow') return r.end(plain(q.socket.remoteAddress))
  let left = 40
  const timer = setInterval(() => { r.write('x'); if (--left === 0) { clearInterval(timer); r.end() } }, 100)
}).listen(80, '::', () => {
  const u = require('dgram').createSocket('udp6')
  u.on('message', (m, from) => u.send(m.toString().trim() + ' from ' + plain(from.address) + '\\n', from.port, from.address))
  u.bind(80, '::', () => console.log('up'))
})`

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-forwards-'))
  lab = await Lab.build(topologyNamed('upmt'))
  for (const role of ['mh', 'an']) {
    const server = await lab.programs.start(
      role,
      process.execPath,
      ['-e', SERVER.replaceAll('80,', role === 'mh' ? '80,' : '22,')],
      { input: true },
    )
    await server.expect((line) => line === 'up', 10_000)
  }
  await godwit('an', 'anchor', 'init', '--endpoint', `${addressOf(lab.spec, 'an', 'wan')}:51820`)
  await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
  await up('an')
  await up('mh')
})

after(async () => {
  for (const role of ['mh', 'an'] as const) await down(role, 'SIGTERM')
  await lab.close()
  rmSync(folder, { recursive: true })
})

describe('a port of the anchor leads to a host', () => {
  test('issue 10 B2: TCP and UDP over both families, with the client’s address, also past a policy that drops', async () => {
    const said = JSON.parse(await godwit('an', 'anchor', 'forward', '8080', 'laptop:80', '--json'))
    assert.deepEqual(
      said.forwards.map(({ protocol }: { protocol: string }) => protocol),
      ['tcp', 'udp'],
    )
    await reachable()
    await run(
      'an',
      'nft',
      'add table inet f; add chain inet f c { type filter hook forward priority 0; policy drop; }',
    )
    await reachable()
    await run('an', 'nft', 'delete', 'table', 'inet', 'f')
  })

  test('issue 10 B2: a download that goes on while the host moves, and after', async () => {
    const download = run('ch1', 'curl', '-s', '-m', '20', `http://${anchor(4)}:8080/slow`)
    await delay(500)
    await godwit('mh', 'move', 'all', 'acc2')
    assert.equal((await download).length, 40)
    await reachable()
  })

  test('issue 10 B2: kept over a kill and a restart of the anchor, and a flush of all rules', async () => {
    await down('an', 'SIGKILL')
    await up('an')
    await reachable()
    await run('an', 'nft', 'flush', 'ruleset')
    await reachable()
  })

  test('issue 10 B2: listed, refused, removed; nothing is left in the kernel', async () => {
    assert.match(await godwit('an', 'anchor', 'forwards'), /8080 +tcp +laptop:80\n8080 +udp +laptop:80/)
    const refused = async (reason: RegExp, ...args: string[]) =>
      assert.rejects(godwit('an', 'anchor', ...args), reason)
    await refused(/no host nobody/, 'forward', '81', 'nobody:80')
    await refused(/listens on TCP port 22/, 'forward', '22', 'laptop:80')
    await refused(/UDP port 51820/, 'forward', '51820', 'laptop:80', '--udp')
    await refused(/is not a port/, 'forward', '0', 'laptop:80')
    await refused(/no port 99/, 'unforward', '99')
    await godwit('an', 'anchor', 'forward', '22', 'laptop:80', '--tcp', '--replace')
    assert.equal(await overTcp(4, 22), client(4))
    await godwit('an', 'anchor', 'unforward', '22')
    await godwit('an', 'anchor', 'unforward', '8080', '--udp')
    assert.match(await godwit('an', 'anchor', 'forwards'), /8080 +tcp/)
    await godwit('an', 'anchor', 'unforward', '8080')
    assert.doesNotMatch(await run('an', 'nft', 'list', 'tables'), /forwards/)
    await assert.rejects(overTcp(4))
  })

  test('issue 10 B2: what listens on the anchor’s loopback alone keeps its port there', async () => {
    const local = `require('http').createServer((q, r) => r.end('local')).listen(8081, '127.0.0.1', () =>
      require('http').createServer((q, r) => r.end('local')).listen(8081, '::1', () => console.log('up')))`
    const server = await lab.programs.start('an', process.execPath, ['-e', local], { input: true })
    await server.expect((line) => line === 'up', 10_000)
    await godwit('an', 'anchor', 'forward', '8081', 'laptop:80', '--tcp')
    for (const to of ['127.0.0.1', '[::1]'])
      assert.equal(await run('an', 'curl', '-s', '-m', '5', `http://${to}:8081/`), 'local')
    assert.equal(await overTcp(4, 8081), client(4))
    assert.notEqual(await run('an', 'curl', '-s', '-m', '5', `http://${anchor(4)}:8081/`), 'local')
    await godwit('an', 'anchor', 'unforward', '8081')
  })

  test('issue 10 B2: a host that controls only some programs answers all the same', async () => {
    await down('mh', 'SIGTERM')
    appendFileSync(join(state('mh'), 'godwit.toml'), '\n[host]\ncontrol = "selected"\n')
    await up('mh')
    await godwit('an', 'anchor', 'forward', '8080', 'laptop:80', '--tcp')
    for (let i = 0; i < 20 && (await overTcp(4).catch(() => '')) !== client(4); i++) await delay(250)
    assert.equal(await overTcp(4), client(4))
    assert.equal(await overTcp(6), client(6))
    assert.doesNotMatch(readFileSync(log('an'), 'utf8'), /fault/)
  })
})

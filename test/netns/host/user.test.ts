/**
 * What a user meets between the README and a first evening, on one bed: joining, testing the way, moving by hand and back,
 * reasons, rotation, leaving (issue 14, points 2, 4, 5, 8).
 */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import type { WayStatus } from '../../../src/core/mechanism.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { daemonStatus } from '../../support/daemon.ts'

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))

let lab: Lab
let folder: string
let anchor: Program
let host: Program
let invitation: string
const state = (role: string) => join(folder, role)
const words = (name: string, args: readonly string[]) => [GODWIT, ...args, '--state', state(name)]
const godwit = (role: string, ...args: string[]) =>
  lab.programs.run(role, process.execPath, words(role, args))

const status = () => daemonStatus(state('mh'))

async function daemon(role: string, ...args: string[]): Promise<Program> {
  const log = join(folder, `${role}.log`)
  const program = await lab.programs.start(role, process.execPath, words(role, args), { log })
  await program.expect((line) => line.trim() === 'ready', 20_000)
  return program
}

async function until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  for (let i = 0; i < 150; i++) {
    if (await holds()) return
    await delay(100)
  }
  assert.fail(`not within 15 seconds: ${what}`)
}

/** Runs a command that is expected to fail, on the state `name`. */
async function fails(role: string, name: string, ...args: string[]) {
  const program = await lab.programs.start(role, process.execPath, words(name, args))
  const code = await program.ended
  return { code, errors: program.errors }
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-user-'))
  lab = await Lab.build(topologyNamed('upmt'))
  await godwit('an', 'anchor', 'init', '--endpoint', `${addressOf(lab.spec, 'an', 'wan')}:51820`)
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

const ways = async (...args: string[]) =>
  (JSON.parse(await godwit('mh', 'ping', '--json', ...args)) as { ways: WayStatus[] }).ways

test('point 2: join, and ping over each access: before the anchor runs, without a daemon, with one', async () => {
  invitation = (await godwit('an', 'anchor', 'invite', 'laptop')).trim()
  const early = await lab.programs.start('mh', process.execPath, words('mh', ['join', invitation]))
  assert.equal(await early.ended, 0)
  assert.match(early.errors, /nothing listens on that port|does not answer; godwit ping tests the way to it/)
  const silent = await fails('mh', 'mh', 'ping')
  assert.equal(silent.code, 1)
  anchor = await daemon('an', 'anchor', 'up')
  for (const running of [false, true]) {
    if (running) {
      host = await daemon('mh', 'up')
      await until('both accesses', async () => (await ways()).every(({ ok }) => ok))
    }
    const found = await ways()
    assert.deepEqual(found.map(({ access, ok }) => [access, ok]).sort(), [
      ['acc1', true],
      ['acc2', true],
    ])
    for (const { rtt_ms, mtu } of found) {
      assert.ok(rtt_ms !== null && rtt_ms > 0)
      if (!running) assert.equal(mtu, 1500)
    }
  }
  lab.setLink('acc2', { state: 'blackhole' })
  await until('ping says which way fails', async () => {
    const bad = (await ways()).find(({ access }) => access === 'acc2')
    return bad?.ok === false && /no answer: UDP port 51820 is blocked/.test(bad.reason ?? '')
  })
  lab.setLink('acc2', { state: 'up' })
  const doctor = await lab.programs.start('mh', 'sh', [
    '-c',
    '"$@" || true',
    'sh',
    process.execPath,
    ...words('mh', ['doctor']),
  ])
  const found = await doctor.expect((line) => line.includes('over acc1'), 20_000)
  await doctor.ended
  assert.match(found, /over acc1 +\d+(\.\d)? ms, packets of \d+ bytes pass/)
})

test('point 2: a used and a removed invitation are told apart: by join, and in the log of the anchor', async () => {
  const used = await fails('mh', 'other', 'join', invitation)
  assert.equal(used.code, 2, used.errors)
  assert.match(
    used.errors,
    /^godwit: the invitation has been used already; get another one, on the anchor: godwit anchor invite NAME$/,
  )
  const second = (await godwit('an', 'anchor', 'invite', 'phone')).trim()
  await godwit('an', 'anchor', 'remove', 'phone')
  const removed = await fails('mh', 'other', 'join', second)
  assert.match(removed.errors, /the anchor has removed this host/)
  const said = readFileSync(join(folder, 'an.log'), 'utf8')
  assert.match(said, /refused a host that was invited as laptop: the invitation has been used already/)
  assert.match(said, /refused a host that was invited as phone: the anchor has removed this host/)
})

test('point 4: moved by hand, shown, given back by hand and by time; a selector that waits says so', async () => {
  const server = `${addressOf(lab.spec, 'ch1', 'wan')}`
  const serve =
    "require('net').createServer((s)=>s.on('data',(d)=>s.write(d))).listen(80,'::',()=>console.log('up'))"
  const talk =
    "const s=require('net').connect(80,process.argv[1]);setInterval(()=>s.write('x'),50);s.once('data',()=>console.log('talks'))"
  const remote = await lab.programs.start('ch1', process.execPath, ['-e', serve])
  await remote.expect((line) => line === 'up', 10_000)
  const client = await lab.programs.start('mh', process.execPath, ['-e', talk, server])
  await client.expect((line) => line === 'talks', 10_000)
  const flow = async () =>
    (await status()).flows.find(({ app, dst }) => app === 'node' && dst.endsWith(':80'))
  await until('it is known whose it is', async () => (await flow()) !== undefined)
  const by = (await flow())!.access
  const other = by === 'acc1' ? 'acc2' : 'acc1'
  assert.equal(await godwit('mh', 'move', 'port:80', other), `1 flow moved to ${other}`)
  assert.deepEqual([(await flow())!.access, (await flow())!.pinned], [other, other])
  const { pins, handovers } = await status()
  assert.deepEqual(pins, [{ what: 'port:80', access: other }])
  assert.deepEqual([handovers.at(-1)!.to, handovers.at(-1)!.cause], [other, 'moved by hand'])
  assert.match(await godwit('mh', 'flows'), new RegExp(`${other} \\(by hand\\)`))
  assert.match(
    await godwit('mh', 'status'),
    new RegExp(`port:80 was moved to ${other} by hand; to undo: godwit move port:80 auto`),
  )
  assert.equal(await godwit('mh', 'move', 'port:80', 'auto'), '1 flow returned to the policy')
  assert.equal((await flow())!.pinned, undefined)
  assert.deepEqual((await status()).pins, [])
  assert.match(
    await godwit('mh', 'move', 'app:nobody', other, '--for', '1h'),
    /^no flow matches app:nobody now; new ones will use acc\d, for 1 h 0 min$/m,
  )
  await godwit('mh', 'move', 'all', other, '--for', '1s')
  assert.equal((await flow())!.access, other)
  await until('its time is over', async () => (await status()).pins.every(({ what }) => what !== 'all'))
  assert.equal((await flow())!.pinned, undefined)
  // Point 5: why the flow is where it is, in words; what is down stays, with its reason; the wrong role is said.
  const why = await godwit('mh', 'why', (await flow())!.id)
  assert.match(why, /^ {2}?because: .+$|^because: .+$/m)
  assert.match(why, /acc\d up for \d+ (ms|s|min), round trip \d+(\.\d)? ms/)
  assert.doesNotMatch(why, /_ms|for_/)
  lab.setLink('acc2', { state: 'down' })
  await until('it is shown', async () => /^acc2 down: no carrier$/m.test(await godwit('mh', 'status')))
  lab.setLink('acc2', { state: 'up' })
  const wrong = await fails('mh', 'mh', 'anchor', 'invite', 'x')
  assert.deepEqual([wrong.code, /is a host, not an anchor/.test(wrong.errors)], [2, true], wrong.errors)
  await client.stop()
  await remote.stop()
})

test('point 2: leave undoes join, not while the daemon runs', async () => {
  const busy = await fails('mh', 'mh', 'leave')
  assert.match(busy.errors, /godwit runs on .*; stop it first/)
  await host.stop()
  assert.match(
    await godwit('mh', 'leave'),
    /^left 198-\S+; removed .*godwit.toml and the host's key$|^left /m,
  )
  assert.ok(!existsSync(join(state('mh'), 'godwit.toml')))
  assert.ok(!existsSync(join(state('mh'), 'private.key')))
  await anchor.stop()
})

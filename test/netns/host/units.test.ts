/**
 * The units of examples/systemd give what their daemons use, and no more: each daemon does its work with the unit's
 * capabilities on a read-only system, and makes no system call and opens no socket that the unit does not let it.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import type { TopologySpec } from '../../../lab/topology.ts'
import type { Status } from '../../../src/host/daemon/daemon.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { findProgram, usesPrograms } from '../../../src/linux/packages.ts'

usePrivateNames()

const UNITS = fileURLToPath(new URL('../../../../examples/systemd/', import.meta.url))
const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const SERVER = '203.0.113.7'
const HOST = 'godwit.service'
const ANCHOR = 'godwit@anchor.service'
const ROUTER = 'godwit@router.service'
const DIME = 'godwit@dime.service'

const spec: TopologySpec = {
  name: 'two-machines',
  summary: 'a host with two accesses, and a machine behind both',
  hosts: {
    mh: {
      routes: [
        { to: 'default', via: '10.1.0.1', dev: 'acc1', metric: 100 },
        { to: 'default', via: '10.2.0.1', dev: 'acc2', metric: 200 },
      ],
    },
    an: {},
  },
  links: [1, 2].map((n) => ({
    name: `acc${n}`,
    ends: [
      { host: 'mh', iface: `acc${n}`, addresses: [`10.${n}.0.2/24`] },
      { host: 'an', iface: `net${n}`, addresses: [`10.${n}.0.1/24`] },
    ],
  })),
}

const SERVE = `require('http').createServer((_, answer) => answer.end('whole')).listen(80, () => console.log('up'))`
/** Holds a connection open, and says when it has had an answer. */
const HOLD = `
  const socket = require('net').connect(80, process.argv[1])
  const ask = () => socket.write('GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
  socket.on('connect', ask).on('data', () => { console.log('answer'); setTimeout(ask, 200) })`

/** The values of a setting in a unit, of all its lines. */
function setting(unit: string, name: string): string[] {
  const text = readFileSync(join(UNITS, unit), 'utf8')
  return [...text.matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].flatMap(([, values]) => values!.split(' '))
}

/** The system calls of a unit's filter, its sets written out. */
function allowedCalls(unit: string): string[] {
  const sets = new Map<string, string[]>()
  let current: string[] = []
  const { stdout } = spawnSync('systemd-analyze', ['syscall-filter', '--no-pager'], { encoding: 'utf8' })
  for (const line of stdout.split('\n')) {
    if (line.startsWith('@')) {
      current = []
      sets.set(line.trim(), current)
    } else if (/^\s+[@a-z]/.test(line)) current.push(line.trim())
  }
  const expand = (name: string): string[] => (name.startsWith('@') ? sets.get(name)!.flatMap(expand) : [name])
  return [...new Set(setting(unit, 'SystemCallFilter').flatMap(expand))]
}

let lab: Lab
let folder: string

/** V8 asks for them once, and goes on without. */
const DISPENSABLE = ['pkey_alloc']
/** Let through by the filter, and looked at here for what they are called with. */
const LOOKED_AT = ['socket', 'setns', 'unshare']

/** Starts a daemon as its unit does; what it must not do is in `folder`/trace.UNIT.*. */
async function start(
  unit: string,
  role: string,
  instance: string,
  args: readonly string[],
): Promise<Program> {
  const rights = setting(unit, 'CapabilityBoundingSet').map((name) => name.toLowerCase().replace('cap_', '+'))
  const calls = [...allowedCalls(unit), ...DISPENSABLE].filter((call) => !LOOKED_AT.includes(call))
  const confine = [
    ...['unshare', '-m', 'sh', '-c'],
    'mount --bind "$0" "$0" && mount --bind / / && mount -o remount,bind,ro / && mount --rbind /proc /proc; exec "$@"',
    folder,
    ...['prlimit', '--core=unlimited'],
    ...['setpriv', '--no-new-privs', `--bounding-set=-all,${rights.join(',')}`],
    ...['strace', '-f', '--seccomp-bpf', '-qq', '-o', join(folder, `trace.${unit}.${instance}`)],
    ...['-e', 'signal=none', '-e', `trace=!${calls.map((call) => `?${call}`).join(',')}`],
  ]
  const [command, ...rest] = [
    ...confine,
    process.execPath,
    GODWIT,
    ...args,
    '--state',
    join(folder, instance),
  ]
  const program = await lab.programs.start(role, command!, rest, { log: join(folder, `${instance}.log`) })
  await program.expect((line) => line.trim() === 'ready', 40_000)
  return program
}

const godwit = (role: string, instance: string, ...args: string[]) =>
  lab.programs.run(role, process.execPath, [GODWIT, ...args, '--state', join(folder, instance)])

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 150; i++) {
    if (await holds()) return
    await delay(100)
  }
  assert.fail(`not within 15 seconds: ${what}`)
}

/** Ends the daemon as systemd does, then reads what it was seen to do and what it said. */
async function end(unit: string, instance: string, program: Program): Promise<void> {
  assert.equal(await program.stop(), 0)
  const families = setting(unit, 'RestrictAddressFamilies')
  const refused = readFileSync(join(folder, `trace.${unit}.${instance}`), 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !/resumed>|\+\+\+/.test(line))
    .filter((line) => !families.includes(/^\d+ +socket\((AF_\w+)/.exec(line)?.[1] ?? ''))
  assert.deepEqual(refused, [], `${unit} does not let it do this`)
  const log = readFileSync(join(folder, `${instance}.log`), 'utf8')
  assert.doesNotMatch(log, /EPERM|EACCES|EROFS|not permitted|^error|read-only/m, log)
}

const needed = usesPrograms('strace', 'systemd-analyze', 'curl')
const absent = needed.filter((program) => findProgram(program) === undefined)
const skip = absent.length > 0 && `needs ${absent.join(', ')}`

describe('units', { skip }, () => {
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-units-'))
    lab = await Lab.build(spec)
    lab.rtnl('an').setLink('lo', { up: true })
    lab.rtnl('an').addAddress('lo', `${SERVER}/32`)
    const server = await lab.programs.start('an', process.execPath, ['-e', SERVE])
    await server.expect((line) => line === 'up', 10_000)
  })
  after(async () => {
    await lab?.close()
    if (folder !== undefined) rmSync(folder, { recursive: true })
  })

  test('each unit is for a daemon that this test runs', () => {
    assert.deepEqual(readdirSync(UNITS).sort(), [HOST, ANCHOR, DIME, ROUTER].sort())
  })

  test('an anchor and a host: join, download, run, move, stop', async () => {
    await godwit('an', 'an', 'anchor', 'init', '--endpoint', `${SERVER}:51820`)
    const anchor = await start(ANCHOR, 'an', 'an', ['anchor', 'up'])
    const invitation = (await godwit('an', 'an', 'anchor', 'invite', 'mh')).trim()
    await godwit('mh', 'mh', 'join', invitation)
    const host = await start(HOST, 'mh', 'mh', ['up'])
    const limits = readFileSync(`/proc/${(await status()).pid}/limits`, 'utf8')
    assert.match(limits, /^Max core file size +1 +1 /m, 'the daemon itself sees to it')
    const run = [GODWIT, 'run', '--state', join(folder, 'mh'), '--access', 'acc2', '--']
    const fetch = ['curl', '-s', `http://${SERVER}/`]
    assert.equal(await lab.programs.run('mh', process.execPath, [...run, ...fetch]), 'whole')
    const holder = await lab.programs.start('mh', process.execPath, ['-e', HOLD, SERVER])
    await holder.expect((line) => line === 'answer', 10_000)
    // That of `godwit run` is listed beside it for a while.
    const flow = async () =>
      (await status()).flows.find(({ dst, app }) => dst === `${SERVER}:80` && app === 'node')
    await until('the flow is known with its program', async () => (await flow()) !== undefined)
    await until('it can move', async () => {
      const { peers } = await status()
      return peers[0]!.paths.filter(({ state }) => state === 'up').length === 2
    })
    await godwit('mh', 'mh', 'move', 'all', 'acc2')
    await until('it moves', async () => (await flow())?.access === 'acc2')
    await holder.expect((line) => line === 'answer', 10_000)
    await end(HOST, 'mh', host)
    await end(ANCHOR, 'an', anchor)
    await holder.stop()
  })

  test('two gateways: links and classes, stop', async () => {
    const init = async (role: string, ...args: string[]) => {
      mkdirSync(join(folder, `router-${role}`))
      const answer = await godwit(role, `router-${role}`, 'router', 'init', '--json', ...args)
      return (JSON.parse(answer) as { card: string }).card
    }
    const home = await init('an', '--endpoint', `${SERVER}:51821`, '--subnet', '10.20.0.0/24')
    const bus = await init('mh', '--access', 'acc1', '--access', 'acc2', '--subnet', '10.30.0.0/24')
    await godwit('an', 'router-an', 'router', 'add', 'bus', bus)
    await godwit('mh', 'router-mh', 'router', 'add', 'home', home)
    const first = await start(ROUTER, 'an', 'router-an', ['router', 'up'])
    const second = await start(ROUTER, 'mh', 'router-mh', ['router', 'up'])
    await godwit('mh', 'router-mh', 'router', 'scheduler', 'rest', 'duplicate')
    await end(ROUTER, 'router-mh', second)
    await end(ROUTER, 'router-an', first)
  })

  test('two hosts with DIME: a connection is known, with its program, and can move; stop', async () => {
    for (const name of ['dime-mh', 'dime-an']) mkdirSync(join(folder, name))
    const first = await start(DIME, 'an', 'dime-an', ['dime', 'up'])
    const second = await start(DIME, 'mh', 'dime-mh', ['dime', 'up'])
    const holder = await lab.programs.start('mh', process.execPath, ['-e', HOLD, '10.1.0.1'])
    await holder.expect((line) => line === 'answer', 10_000)
    await until('the connection is known, and moves', async () => {
      const args = [GODWIT, 'move', 'all', 'acc2', '--state', join(folder, 'dime-mh')]
      return (await (await lab.programs.start('mh', process.execPath, args)).ended) === 0
    })
    await holder.expect((line) => line === 'answer', 10_000)
    await end(DIME, 'dime-mh', second)
    await end(DIME, 'dime-an', first)
    await holder.stop()
  })
})

async function status(): Promise<Status> {
  return JSON.parse(await godwit('mh', 'mh', 'status', '--json')) as Status
}

/**
 * House point 3: rules, routes, tables and qdiscs of others stand beside ours before, during and after, byte for byte, and
 * godwit works; what another program takes away from us is back within a second.
 */
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
import { Ledger, PROTOCOL } from '../../../src/linux/ledger.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { kernelState, NEIGHBOURS, type Neighbour } from './neighbours.ts'

usesPrograms('curl', 'ip', 'nft')
usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const ledger = new Ledger()

let lab: Lab
let folder: string
const state = (role: string) => join(folder, role)
const run = (role: string, command: string, ...args: string[]) => lab.programs.run(role, command, args)
const godwit = (role: string, ...args: string[]) =>
  run(role, process.execPath, GODWIT, ...args, '--state', state(role))
const shell = (role: string, script: string) => {
  const [dev, gateway] = role === 'mh' ? ['acc1', '192.168.1.1'] : ['wan', '192.0.2.1']
  return run(role, 'sh', '-ec', `DEV=${dev}; GATEWAY=${gateway}\n${script}`)
}

async function daemon(role: 'mh' | 'an'): Promise<Program> {
  const args = [GODWIT, ...(role === 'an' ? ['anchor'] : []), 'up', '--state', state(role)]
  const log = join(folder, `${role}.log`)
  const program = await lab.programs.start(role, process.execPath, args, { log })
  await program.expect((line) => line.trim() === 'ready', 30_000)
  return program
}

async function end(program: Program, signal: NodeJS.Signals): Promise<void> {
  program.child.kill(signal)
  await program.ended
}

const allOf = (role: string) => kernelState((command, ...args) => run(role, command, ...args), false)
const othersOf = (role: string) => kernelState((command, ...args) => run(role, command, ...args), true)
const ROLES = ['mh', 'an'] as const

/** Through the tunnel: the address that the anchor masquerades is what the server sees. */
async function works(): Promise<void> {
  const url = `http://${addressOf(lab.spec, 'ch1', 'wan')}/`
  assert.equal(await run('mh', 'curl', '-s', '-m', '10', url), addressOf(lab.spec, 'an', 'wan'))
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-coexistence-'))
  lab = await Lab.build(topologyNamed('upmt'))
  const answer = `require('http').createServer((q,r)=>r.end(q.socket.remoteAddress)).listen(80,'0.0.0.0',()=>console.log('up'))`
  const server = await lab.programs.start('ch1', process.execPath, ['-e', answer], { input: true })
  await server.expect((line) => line === 'up', 10_000)
  await godwit('an', 'anchor', 'init', '--endpoint', `${addressOf(lab.spec, 'an', 'wan')}:51820`)
  await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
  appendFileSync(join(state('mh'), 'godwit.toml'), '\n[dime]\nenabled = true\n')
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

describe('beside a neighbour a host with DIME and an anchor work and touch nothing of it', () => {
  for (const [nth, neighbour] of NEIGHBOURS.entries()) {
    test(`house point 3: ${neighbour.name}`, async () => {
      const clean = await Promise.all(ROLES.map(allOf))
      const roles = neighbour.ofHosts ? (['mh'] as const) : ROLES
      for (const role of roles) await shell(role, neighbour.make)
      try {
        await beside(neighbour, roles, ROLES[nth % 2]!)
      } finally {
        for (const role of roles) await shell(role, neighbour.undo)
      }
      assert.deepEqual(await Promise.all(ROLES.map(allOf)), clean)
    })
  }
})

/** One of the two is killed and `down` cleans up after it, the other stops by itself. */
async function beside(
  { keeps }: Neighbour,
  roles: readonly string[],
  killed: (typeof ROLES)[number],
): Promise<void> {
  const before = await Promise.all(ROLES.map(allOf))
  const beforeOthers = await Promise.all(ROLES.map(othersOf))
  const programs = new Map<string, Program>()
  try {
    for (const role of ['an', 'mh'] as const) programs.set(role, await daemon(role))
    await works()
    if (keeps !== undefined)
      for (const role of roles)
        assert.match(await run(role, 'ip', 'route', 'get', keeps.to), new RegExp(`dev ${keeps.dev} `))
    assert.deepEqual(await Promise.all(ROLES.map(othersOf)), beforeOthers, 'during')
  } finally {
    for (const role of ROLES) {
      const program = programs.get(role)
      if (program) await end(program, role === killed ? 'SIGKILL' : 'SIGTERM')
    }
  }
  await godwit(killed, 'down')
  assert.deepEqual(await Promise.all(ROLES.map(allOf)), before, `after, ${killed} killed`)
}

describe('what another program takes away is put back', () => {
  let host: Program
  let anchor: Program
  before(async () => {
    anchor = await daemon('an')
    host = await daemon('mh')
  })
  after(async () => {
    for (const program of [host, anchor]) await end(program, 'SIGTERM')
  })

  /** Rules, routes, and the device with its addresses; a link-local one is another each time. */
  const ours = () => {
    const rtnl = lab.rtnl('mh')
    return [
      ...rtnl.rules().filter(({ origin }) => origin === PROTOCOL),
      ...rtnl.routes().filter(({ protocol }) => protocol === PROTOCOL),
      ...rtnl.addresses({ link: 'godwit0' }).flatMap((each) => (each.scope === 'link' ? [] : each.address)),
      { up: rtnl.link('godwit0')?.up },
    ]
      .map((each) => JSON.stringify(each))
      .sort()
  }
  const rulesOf = (which: (origin: number | undefined) => boolean) =>
    lab
      .rtnl('mh')
      .rules()
      .filter(({ origin }) => which(origin))

  const cases: [name: string, remove: () => Promise<void> | void][] = [
    [
      'systemd-networkd removes every rule but those of the kernel and its own',
      () => {
        for (const rule of rulesOf((origin) => origin !== 2 && origin !== 4)) lab.rtnl('mh').deleteRule(rule)
      },
    ],
    [
      'routes of our tables are flushed',
      async () => {
        await run('mh', 'ip', 'route', 'flush', 'table', String(ledger.anchoring.table))
        await run('mh', 'ip', 'route', 'flush', 'table', String(ledger.access.first + 1))
      },
    ],
    [
      'the address of godwit0 is flushed',
      async () => void (await run('mh', 'ip', 'address', 'flush', 'dev', 'godwit0')),
    ],
    ['godwit0 is set down', async () => void (await run('mh', 'ip', 'link', 'set', 'godwit0', 'down'))],
    [
      'godwit0 is set down and up again',
      async () => void (await shell('mh', 'ip link set godwit0 down; ip link set godwit0 up')),
    ],
  ]
  for (const [name, remove] of cases) {
    test(`house point 3: ${name}: all is back within a second, and traffic goes through the tunnel`, async () => {
      await works()
      const before = ours()
      await remove()
      await delay(1000)
      assert.deepEqual(ours(), before)
      await works()
    })
  }

  test('restorations are logged once for each part and counted', async () => {
    const metrics = await run(
      'mh',
      'curl',
      '-s',
      '--unix-socket',
      join(state('mh'), 'control.sock'),
      'http://godwit/metrics',
    )
    const count = Number(/^godwit_kernel_restored_total (\d+)$/m.exec(metrics)?.[1])
    assert.ok(count >= 12, `${count}`)
    const log = readFileSync(join(folder, 'mh.log'), 'utf8')
    for (const part of ['anchoring', 'access networks'])
      assert.equal(
        log.match(new RegExp(`${part}: another program( \\(.+\\))? removed`, 'g'))?.length,
        1,
        part,
      )
  })
})

test('`down` names what an older godwit left and leaves it', async () => {
  const old = ['rule', 'add', 'pref', '5200', 'oif', 'acc1', 'lookup', '5201', 'proto', '0']
  await run('mh', 'ip', ...old)
  const program = await lab.programs.start('mh', process.execPath, [GODWIT, 'down', '--state', state('mh')], {
    log: join(folder, 'down.log'),
  })
  assert.equal(await program.ended, 0)
  assert.match(readFileSync(join(folder, 'down.log'), 'utf8'), /to remove them: ip -4 rule del pref 5200/)
  await run('mh', 'ip', 'rule', 'del', 'pref', '5200')
})

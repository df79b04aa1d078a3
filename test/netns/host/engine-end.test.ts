/**
 * House, point 5: the engine of a real daemon ends because its device is taken away. Host, anchor and router do the same:
 * they stop in order, say why in one line, and end with status 1, so that a supervisor starts them anew.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { TopologySpec } from '../../../lab/topology.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))

const spec: TopologySpec = {
  name: 'two-ends',
  summary: 'a host and a machine that it reaches',
  hosts: { mh: { routes: [{ to: 'default', via: '10.1.0.1', dev: 'acc1' }] }, an: {} },
  links: [
    {
      name: 'acc1',
      ends: [
        { host: 'mh', iface: 'acc1', addresses: ['10.1.0.2/24'] },
        { host: 'an', iface: 'net1', addresses: ['10.1.0.1/24'] },
      ],
    },
  ],
}

let lab: Lab
let folder: string

const words = (state: string, args: readonly string[]) => [GODWIT, ...args, '--state', join(folder, state)]
const godwit = (role: string, state: string, ...args: string[]) =>
  lab.programs.run(role, process.execPath, words(state, args))

async function daemon(role: string, state: string, ...args: string[]) {
  const program = await lab.programs.start(role, process.execPath, words(state, args))
  await program.expect((line) => line.trim() === 'ready', 30_000)
  return program
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-engine-end-'))
  lab = await Lab.build(spec)
  await godwit('an', 'an', 'anchor', 'init', '--endpoint', '10.1.0.1:51820')
  await godwit('mh', 'mh', 'join', (await godwit('an', 'an', 'anchor', 'invite', 'laptop')).trim())
  await godwit('an', 'home', 'router', 'init', '--subnet', '10.8.0.0/24', '--endpoint', '10.1.0.1:51821')
  await godwit('mh', 'mobile', 'router', 'init', '--subnet', '10.9.0.0/24', '--access', 'acc1')
  const card = async (role: string, state: string) => (await godwit(role, state, 'router', 'card')).trim()
  await godwit('an', 'home', 'router', 'add', 'mobile', await card('mh', 'mobile'))
  await godwit('mh', 'mobile', 'router', 'add', 'home', await card('an', 'home'))
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

const daemons = [
  ['a mobile host', 'mh', 'mh', ['up'], 'godwit0'],
  ['an anchor', 'an', 'an', ['anchor', 'up'], 'gwan0'],
  ['a router', 'mh', 'mobile', ['router', 'up'], 'gwrt0'],
] as const

for (const [who, role, state, args, device] of daemons) {
  test(`${who} whose engine ends stops in order, says why, and has failed`, async (t) => {
    const other = who === 'a router' ? ['home', 'router', 'up'] : ['an', 'anchor', 'up']
    const far = who === 'an anchor' ? undefined : await daemon('an', other[0]!, ...other.slice(1))
    t.after(() => far?.stop())
    const rules = JSON.stringify(lab.rtnl(role).rules())
    const program = await daemon(role, state, ...args)
    lab.rtnl(role).deleteLink(device)
    assert.equal(await program.ended, 1, program.errors)
    assert.match(program.errors, new RegExp(`interface ${device} is gone`))
    assert.doesNotMatch(program.errors, /^ +at /m, 'no stack trace reaches a user')
    assert.equal(JSON.stringify(lab.rtnl(role).rules()), rules, 'nothing is left')
  })
}

/** The files of a running daemon are removed, as an upgrade does with those of an earlier version. */
import assert from 'node:assert/strict'
import { appendFileSync, cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import { packageFiles } from '../../../scripts/package-files.ts'
import type { PeerStatus } from '../../../src/core/mechanism.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { daemonStatus } from '../../support/daemon.ts'

usesPrograms('ip', 'nft', 'ping')

usePrivateNames()

const root = resolve(import.meta.dirname, '../../../..')
const GODWIT = join(root, 'dist/src/cli/main.js')

let lab: Lab
let folder: string
let anchor: string

const path = (...parts: string[]) => join(folder, ...parts)
const run = (role: string, program: string, ...args: string[]) => lab.programs.run(role, program, args)
const godwit = (role: string, ...args: string[]) =>
  run(role, process.execPath, GODWIT, ...args, '--state', path(role))

async function daemon(role: string, command: string, ...args: string[]): Promise<Program> {
  const program = await lab.programs.start(role, process.execPath, [command, ...args, '--state', path(role)])
  await program.expect((line) => line.trim() === 'ready', 40_000)
  return program
}

/** As npm and dpkg put it on a machine. */
function install(to: string): void {
  for (const name of ['package.json', ...packageFiles(root).filter((each) => /^(bin|dist)\b/.test(each))])
    cpSync(join(root, name), join(to, name), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(to, 'node_modules'))
}

async function way(): Promise<string> {
  const { peers } = await daemonStatus<{ peers: PeerStatus[] }>(path('mh'))
  const up = peers.flatMap(({ paths }) => paths.filter(({ state }) => state === 'up'))
  return up.map(({ carrier = 'UDP' }) => carrier).join()
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-upgrade-'))
  lab = await Lab.build(topologyNamed('upmt'))
  anchor = addressOf(lab.spec, 'an', 'wan')
  lab.setLink('acc2', { state: 'down' })
  for (const role of ['an', 'mh']) await run(role, 'ip', 'link', 'set', 'lo', 'up')
  await godwit('an', 'anchor', 'init', '--endpoint', `${anchor}:51820`)
  const websocket = `\n[anchor.websocket]\nurl = "wss://${anchor}/godwit"\n`
  appendFileSync(path('an', 'godwit.toml'), websocket)
  await daemon('an', GODWIT, 'anchor', 'up')
  await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

test('a host whose program was replaced while it ran takes a WebSocket when UDP is blocked', async () => {
  install(path('installed'))
  const host = await daemon('mh', path('installed/dist/src/cli/main.js'), 'up')
  assert.equal(await way(), 'UDP')
  // The next version has other names of files.
  rmSync(path('installed/dist'), { recursive: true })
  const block = 'add table inet block; add chain inet block forward { type filter hook forward priority 0; }'
  await run('nat1', 'nft', `${block}; add rule inet block forward meta l4proto udp drop`)
  // The silence is noticed sooner.
  const pings = run('mh', 'ping', '-i', '0.2', '-c', '30', '-q', addressOf(lab.spec, 'ch1', 'wan')).catch(
    () => {},
  )
  for (let i = 0; (await way()) !== 'websocket'; i++) {
    assert.ok(i < 400, `not within 40 s: a WebSocket; it is «${await way()}»; ${host.errors}`)
    await delay(100)
  }
  await pings
  assert.equal(await host.stop(), 0, host.errors)
})

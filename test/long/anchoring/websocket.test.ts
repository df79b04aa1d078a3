/** A network that lets no UDP through: the tunnel goes by WebSocket over TLS, and comes back to UDP by itself without loss. */
import assert from 'node:assert/strict'
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs'
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
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('nft', 'ip', 'ping', 'curl', 'openssl')

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const SERVER = `require('http').createServer((q,r)=>r.end(Buffer.alloc(2e6,7))).listen(8080,()=>console.log('up'))`

let lab: Lab
let folder: string
let host: Program
let server: string

const path = (...parts: string[]) => join(folder, ...parts)
const run = (role: string, program: string, ...args: string[]) => lab.programs.run(role, program, args)
const godwit = (role: string, state: string, ...args: string[]) =>
  run(role, process.execPath, GODWIT, ...args, '--state', path(state))

async function daemon(role: string, state: string, ...args: string[]): Promise<Program> {
  const program = await lab.programs.start(
    role,
    process.execPath,
    [GODWIT, ...args, '--state', path(state)],
    {
      log: path(`${state}.log`),
    },
  )
  await program.expect((line) => line.trim() === 'ready', 25_000)
  return program
}

async function paths(state: string): Promise<PathStatus[]> {
  const status = JSON.parse(await godwit('mh', state, 'status', '--json')) as { peers: PeerStatus[] }
  return status.peers.flatMap((peer) => [...peer.paths])
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 25_000
  while (performance.now() < end) {
    if (await holds()) return
    await delay(100)
  }
  assert.fail(`not within 25 s: ${what}; ${host.errors}`)
}

/** How the working paths over acc1 go. */
const carriers = async (state: string) =>
  (await paths(state))
    .filter((each) => each.access === 'acc1' && each.state === 'up')
    .map(({ carrier = 'UDP' }) => carrier)
    .sort()
    .join()

const goesBy = (state: string, wanted: string) => async () => (await carriers(state)) === wanted

/** Whether the first network lets UDP, and TCP to port 443, through. */
async function block(...what: string[]): Promise<void> {
  await run('nat1', 'nft', 'flush chain inet block forward')
  for (const match of what) await run('nat1', 'nft', `add rule inet block forward ${match} drop`)
}

/** 2 MB through the tunnel; the server sees the anchor. */
async function fetches(): Promise<void> {
  const got = await run(
    'mh',
    'curl',
    '-s',
    '-m',
    '20',
    '-o',
    '/dev/null',
    '-w',
    '%{size_download} %{local_ip}',
    `http://${server}:8080/`,
  )
  assert.equal(got, '2000000 198.19.0.1')
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-websocket-'))
  lab = await Lab.build(topologyNamed('upmt'))
  server = addressOf(lab.spec, 'ch1', 'wan')
  // One access is enough, and the other would carry everything.
  lab.setLink('acc2', { state: 'down' })
  for (const role of ['an', 'an2', 'mh', 'nat1']) await run(role, 'ip', 'link', 'set', 'lo', 'up')
  await run(
    'nat1',
    'nft',
    'add table inet block; add chain inet block forward { type filter hook forward priority 0; }',
  )
  const web = await lab.programs.start('ch1', process.execPath, ['-e', SERVER])
  await web.expect((line) => line === 'up', 5000)
  const anchor = addressOf(lab.spec, 'an', 'wan')
  await godwit('an', 'an', 'anchor', 'init', '--endpoint', `${anchor}:51820`)
  appendFileSync(path('an', 'godwit.toml'), `\n[anchor.websocket]\nurl = "wss://${anchor}/godwit"\n`)
  await daemon('an', 'an', 'anchor', 'up')
  await godwit('mh', 'mh', 'join', (await godwit('an', 'an', 'anchor', 'invite', 'laptop')).trim())
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

test('issue 10, A10: where UDP is blocked the tunnel goes by WebSocket, says so, and comes back to UDP without loss', async () => {
  await block('meta l4proto udp')
  host = await daemon('mh', 'mh', 'up')
  assert.equal(await carriers('mh'), 'websocket')
  const [carried] = (await paths('mh')).filter(({ carrier }) => carrier !== undefined)
  assert.equal(carried?.remote, `wss://${addressOf(lab.spec, 'an', 'wan')}/godwit`)
  assert.match(carried?.cost ?? '', /^UDP is blocked/)
  await fetches()
  const pings = lab.programs.run('mh', 'ping', ['-i', '0.05', '-c', '200', '-q', server])
  await block()
  await until('UDP', goesBy('mh', 'UDP'))
  assert.match(await pings, /200 packets transmitted, 200 received, 0% packet loss/)
  await fetches()
})

/**
 * Two applications at once over two accesses: each goes by its own policy, is moved by itself, and what happens to one
 * leaves the other alone.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
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
import type { FlowStatus, HandoverRecord, PeerStatus } from '../../../src/core/mechanism.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { daemonStatus } from '../../support/daemon.ts'

usesPrograms('curl')

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const BYTES = 60_000_000
/** Every block differs, so that whatever is lost, doubled or out of place changes the digest. */
const BLOCK = `const block=(i)=>Buffer.alloc(65536,i%251)`
const SERVER = `${BLOCK};require('http').createServer((q,r)=>{const n=+q.url.slice(1);r.setHeader('content-length',n);let s=0;const w=()=>{while(s<n){const b=block(s/65536|0).subarray(0,n-s);s+=b.length;if(!r.write(b)){r.once('drain',w);return}}r.end()};w()}).listen(80,'::',()=>console.log('up'))`
/** A second program that downloads, about 5 MB/s as curl does here. */
const CLIENT = `require('http').get(process.argv[1],(r)=>{const h=require('crypto').createHash('sha256');r.on('data',(d)=>{h.update(d);r.pause();setTimeout(()=>r.resume(),d.length/5e3)});r.on('end',()=>console.log(h.digest('hex')))})`

function digest(): string {
  const hash = createHash('sha256')
  for (let at = 0; at < BYTES; at += 65536)
    hash.update(Buffer.alloc(Math.min(65536, BYTES - at), (at / 65536) % 251))
  return hash.digest('hex')
}

interface Status {
  readonly peers: readonly PeerStatus[]
  readonly flows: readonly FlowStatus[]
  readonly handovers: readonly HandoverRecord[]
}

let lab: Lab
let folder: string
const state = (role: string) => join(folder, role)
const godwit = (role: string, ...args: string[]) =>
  lab.programs.run(role, process.execPath, [GODWIT, ...args, '--state', state(role)])
const status = () => daemonStatus<Status>(state('mh'))
const received = async (access: string) =>
  (await status()).peers[0]!.paths.find((path) => path.access === access)?.received_bytes ?? 0

async function daemon(role: string, ...args: string[]): Promise<Program> {
  const options = { log: join(folder, `${role}.log`) }
  const program = await lab.programs.start(
    role,
    process.execPath,
    [GODWIT, ...args, '--state', state(role)],
    options,
  )
  await program.expect((line) => line.trim() === 'ready', 20_000)
  return program
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 300; i++) {
    if (await holds()) return
    await delay(100)
  }
  assert.fail(`not within half a minute: ${what}`)
}

/** The access of each program's download; undefined when it has none now. */
async function where(): Promise<{ curl: string | undefined; node: string | undefined }> {
  const { flows } = await status()
  const of = (app: string) => flows.find((flow) => flow.app === app && flow.dst.endsWith(':80'))?.access
  return { curl: of('curl'), node: of('node') }
}

function downloads(): { curl: Promise<string>; node: Promise<string> } {
  const url = `http://${addressOf(lab.spec, 'ch1', 'wan')}/${BYTES}`
  return {
    curl: lab.programs.run('mh', 'sh', ['-c', `curl -s --limit-rate 5M ${url} | sha256sum`]),
    node: lab.programs.run('mh', process.execPath, ['-e', CLIENT, url]),
  }
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-two-'))
  lab = await Lab.build(topologyNamed('upmt'))
  const server = await lab.programs.start('ch1', process.execPath, ['-e', SERVER], { input: true })
  await server.expect((line) => line === 'up', 10_000)
  await godwit('an', 'anchor', 'init', '--endpoint', `${addressOf(lab.spec, 'an', 'wan')}:51820`)
  await daemon('an', 'anchor', 'up')
  await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
  const policy = (name: string, match: string, prefer: string) =>
    `\n[[policy]]\nname = "${name}"\nmatch = ["${match}"]\nprefer = ["${prefer}"]\n`
  appendFileSync(
    join(state('mh'), 'godwit.toml'),
    policy('bulk', 'app:curl', 'acc2') + policy('rest', 'all', 'acc1'),
  )
  await daemon('mh', 'up')
  await until('both paths up', async () =>
    (await status()).peers.some(({ paths }) => paths.filter((path) => path.state === 'up').length === 2),
  )
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

test('UP-1, UP-2: two applications over two accesses: by policy, moved apart, one static, one link lost', async () => {
  const done = downloads()
  await until('each by its policy', async () => {
    const { curl, node } = await where()
    return curl === 'acc2' && node === 'acc1'
  })
  const before = [await received('acc1'), await received('acc2')]
  await until('both accesses carry', async () => {
    const now = [await received('acc1'), await received('acc2')]
    return now[0]! - before[0]! > 1_000_000 && now[1]! - before[1]! > 1_000_000
  })
  await godwit('mh', 'move', 'app:curl', 'acc1')
  assert.deepEqual(await where(), { curl: 'acc1', node: 'acc1' })
  await godwit('mh', 'move', 'app:node', 'acc2', '--static')
  assert.deepEqual(await where(), { curl: 'acc1', node: 'acc2' })
  lab.setLink('acc2', { state: 'down' })
  await until('the lost link gave its flow away', async () => (await where()).node === 'acc1')
  const sum = digest()
  assert.equal((await done.curl).trim().split(' ')[0], sum)
  assert.equal((await done.node).trim(), sum)
  const records = (await status()).handovers
  assert.ok(
    records.some(({ from, to }) => from === 'acc2' && to === 'acc1'),
    JSON.stringify(records),
  )
})

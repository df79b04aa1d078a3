/**
 * A daemon in a container as Docker makes them with `--cap-add NET_ADMIN --device /dev/net/tun`: its default capabilities,
 * /proc/sys and /sys read-only.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('ip', 'ping', 'setpriv', 'unshare')

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const DEFAULT =
  'chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod,audit_write,setfcap'
const RIGHTS = ['-all', ...`${DEFAULT},net_admin`.split(',').map((name) => `+${name}`)].join()
const CONFINE = `for each in /proc/sys /sys; do mount --rbind $each $each; mount -o remount,bind,ro $each; done; exec "$@"`

let lab: Lab
let folder: string
let anchor: string

const path = (...parts: string[]) => join(folder, ...parts)
const run = (role: string, program: string, ...args: string[]) => lab.programs.run(role, program, args)
const godwit = (role: string, ...args: string[]) =>
  run(role, process.execPath, GODWIT, ...args, '--state', path(role))

function contained(role: string, ...args: string[]): Promise<Program> {
  const confine = ['-m', 'sh', '-c', CONFINE, 'sh', 'setpriv', `--bounding-set=${RIGHTS}`]
  const command = [process.execPath, GODWIT, ...args, '--state', path(role)]
  return lab.programs.start(role, 'unshare', [...confine, ...command])
}

const isReady = (program: Program) => program.expect((line) => line.trim() === 'ready', 40_000)

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-containers-'))
  lab = await Lab.build(topologyNamed('upmt'))
  anchor = addressOf(lab.spec, 'an', 'wan')
  for (const role of ['an', 'mh']) await run(role, 'ip', 'link', 'set', 'lo', 'up')
  await godwit('an', 'anchor', 'init', '--endpoint', `${anchor}:51820`)
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

test('an anchor that may not turn forwarding on says how the container gets it', async () => {
  const program = await contained('an', 'anchor', 'up')
  assert.equal(await program.ended, 1)
  assert.match(program.errors, /docker run --sysctl net\.ipv4\.ip_forward=1\)$/m)
  assert.doesNotMatch(program.errors, /run as root/)
})

test('an anchor and a host work where settings cannot be written; the anchor says that IPv6 goes no further', async () => {
  await run('an', 'sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward')
  const server = await contained('an', 'anchor', 'up')
  await isReady(server)
  assert.match(
    server.errors,
    /IPv6 of hosts goes no further.*docker run --sysctl net\.ipv6\.conf\.all\.forwarding=1\)$/m,
  )
  await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
  const host = await contained('mh', 'up')
  await isReady(host)
  const pings = await run(
    'mh',
    'ping',
    '-c',
    '5',
    '-i',
    '0.1',
    '-q',
    '-I',
    'godwit0',
    addressOf(lab.spec, 'ch1', 'wan'),
  )
  assert.match(pings, /5 packets transmitted, 5 received/)
  await godwit('mh', 'move', 'all', 'acc2')
  assert.equal(await host.stop(), 0, host.errors)
  assert.doesNotMatch(host.errors, /run as root/)
  assert.equal(await server.stop(), 0, server.errors)
  // Nothing is left.
  assert.doesNotMatch(await run('mh', 'ip', '-br', 'link'), /godwit0/)
  assert.doesNotMatch(await run('an', 'ip', '-br', 'link'), /gwan0/)
})

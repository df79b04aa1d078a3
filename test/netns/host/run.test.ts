/** `godwit run` with a real daemon, a real control group and a mechanism that only remembers (UP-2, UP-36). */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { Application, Mechanism } from '../../../src/core/mechanism.ts'
import { Daemon } from '../../../src/host/daemon.ts'
import { Log } from '../../../src/host/log.ts'
import { HostRecorder } from '../../../src/host/recorder.ts'
import { State } from '../../../src/host/state.ts'
import { cgroupMount } from '../../../src/linux/cgroup.ts'

const mount = cgroupMount()
const skip = whyNot()
const folder = mkdtempSync(join(tmpdir(), 'godwit-run-'))
const instance = `test-${process.pid}`

function whyNot(): string | false {
  if (mount === undefined) return 'cgroup version 2 is not mounted'
  try {
    accessSync(mount, constants.W_OK)
    return false
  } catch {
    return 'control groups may not be made here: needs real root'
  }
}

const adopted: Application[] = []
const released: string[] = []
const mechanism: Mechanism = {
  name: 'memory',
  start: async () => {},
  stop: async () => {},
  cleanUp: async () => {},
  accesses: () => [],
  peers: () => [],
  flows: () => [],
  move: async () => undefined,
  why: () => undefined,
  adopt: async (application) => {
    adopted.push(application)
  },
  release: async ({ id }) => {
    released.push(id)
  },
}

const daemons: Daemon[] = []

function makeDaemon(): Daemon {
  const recorder = new HostRecorder(new Log('error'))
  const state = new State({ state: folder })
  const made = new Daemon({ role: 'host', version: '1', state, mechanisms: [mechanism], recorder, instance })
  daemons.push(made)
  return made
}

let daemon = makeDaemon()
before(async () => {
  if (!skip) await daemon.start()
})
after(async () => {
  for (const each of daemons) await each.stop()
  rmSync(folder, { recursive: true })
  if (mount !== undefined) assert.ok(!existsSync(join(mount, 'godwit', instance)), 'cgroups are left behind')
})

interface Ended {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs the command; `act` is called with its process id once the first output has come. */
function godwitRun(args: readonly string[], act: (pid: number) => void = () => {}): Promise<Ended> {
  const main = new URL('../../../src/cli/main.js', import.meta.url).pathname
  const child = spawn(process.execPath, [main, 'run', '--state', folder, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => {
    if (stdout === '') act(child.pid!)
    stdout += chunk.toString()
  })
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString()
  })
  return new Promise((done) => child.on('close', (status) => done({ status, stdout, stderr })))
}

test('the program is in its own cgroup from its first instruction, and its exit status is passed on', {
  skip,
}, async () => {
  const { status, stdout } = await godwitRun([
    '--access',
    'wlan0',
    '--',
    'sh',
    '-c',
    'grep ^0: /proc/self/cgroup; exit 42',
  ])
  assert.equal(status, 42)
  const application = adopted.at(-1)!
  assert.equal(application.access, 'wlan0')
  assert.equal(stdout.trim(), `0::/godwit/${instance}/${application.id}`)
  assert.equal(application.cgroup, join(mount!, 'godwit', instance, application.id))
  assert.deepEqual(released, [application.id])
})

test('signals reach the program; its end by a signal is 128 and the number', { skip }, async () => {
  const caught = await godwitRun(
    ['--', 'sh', '-c', 'trap "exit 7" TERM; echo up; while :; do sleep 0.05; done'],
    (pid) => process.kill(pid, 'SIGTERM'),
  )
  assert.equal(caught.status, 7)
  const killed = await godwitRun(['--', 'sh', '-c', 'kill -KILL $$'])
  assert.equal(killed.status, 128 + 9)
})

test('a program that does not exist is 127, as a shell says it', { skip }, async () => {
  const { status, stderr } = await godwitRun(['--', 'no-such-program-here'])
  assert.equal(status, 127)
  assert.match(stderr, /no-such-program-here/)
})

test('what the program left running stays under its policy, also across a daemon that was killed', {
  skip,
}, async () => {
  await godwitRun(['--', 'sh', '-c', 'sleep 30 >/dev/null 2>&1 & echo $! > "$0"', join(folder, 'pid')])
  const application = adopted.at(-1)!
  assert.ok(!released.includes(application.id))
  // The next daemon finds it as a killed one leaves it: recorded, in its cgroup.
  const next = makeDaemon()
  await next.start()
  assert.equal(adopted.at(-1)?.id, application.id)
  await next.stop()
  assert.ok(released.includes(application.id))

  process.kill(Number(readFileSync(join(folder, 'pid'), 'utf8')))
  daemon = makeDaemon()
  await daemon.start()
})

test('without a daemon nothing is started; with --best-effort it is, and said so', { skip }, async () => {
  await daemon.stop()
  const refused = await godwitRun(['--', 'echo', 'started'])
  assert.equal(refused.status, 1)
  assert.equal(refused.stdout, '')
  const plain = await godwitRun(['--best-effort', '--', 'echo', 'started'])
  assert.equal(plain.status, 0)
  assert.equal(plain.stdout, 'started\n')
  assert.match(plain.stderr, /no godwit runs here.*running echo under the general rules/)
})

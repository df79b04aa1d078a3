/** `godwit run` with a real daemon, a real control group and a mechanism that only remembers (UP-2, UP-36). */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { Application, Mechanism } from '../../../src/core/mechanism.ts'
import { Daemon } from '../../../src/host/daemon/daemon.ts'
import { Log } from '../../../src/host/daemon/log.ts'
import { HostRecorder } from '../../../src/host/stores/recorder.ts'
import { State } from '../../../src/host/stores/state.ts'
import { cgroupMount, KernelCgroups } from '../../../src/linux/cgroup.ts'
import { OpenProcess } from '../../../src/linux/proc.ts'

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
  peers: () => [],
  flows: () => [],
  move: async () => undefined,
  why: () => undefined,
  offer: () => ({
    mechanism: 'memory',
    carries: false,
    reason: '',
    cost: { bytes: 0, rtt_ms: null },
    survives: [],
    needs: [],
  }),
  adopt: async (application) => {
    adopted.push(application)
  },
  release: async ({ id }) => {
    released.push(id)
  },
}

const daemons: Daemon[] = []
/** Groups that stand for a user's session. */
const sessions: string[] = []

function makeSession(): string {
  const directory = join(mount!, `session-${process.pid}-${sessions.length}`)
  mkdirSync(directory)
  sessions.push(directory)
  return directory
}

function groupOf(child: ChildProcess): string | undefined {
  const handle = OpenProcess.open(child.pid!)
  try {
    return handle?.cgroup()
  } finally {
    handle?.close()
  }
}

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
  if (mount === undefined) return
  assert.deepEqual(new KernelCgroups(mount, instance).list(), [], 'cgroups are left behind')
  for (const each of sessions) rmdirSync(each)
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
  const own = OpenProcess.open(process.pid)!.cgroup()!
  const expected = join(own, `godwit-${instance}-${application.id}`)
  assert.equal(stdout.trim(), `0::${expected}`, 'below the one of who starts it: its limits keep holding')
  assert.equal(application.cgroup, join(mount!, expected))
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

const NOBODY = '65534'
const DAEMON = '1'

/** A process that sleeps, of a user, in a session of its own. */
async function sleeper(uid: string, session: string): Promise<ChildProcess> {
  const script =
    'echo $$ > "$0/cgroup.procs" && exec setpriv --reuid "$1" --regid "$1" --clear-groups sh -c "echo; exec sleep 60"'
  const child = spawn('sh', ['-c', script, session, uid], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout!, 'data')
  return child
}

/** Asks the daemon as a user who may write to its socket; the answer's status and body. */
async function ask(
  uid: string,
  path: string,
  body: object,
): Promise<{ status: number; body: { id?: string; error?: { code: string } } }> {
  chmodSync(folder, 0o755)
  chmodSync(join(folder, 'control.sock'), 0o666)
  const program = `
    const request = require('node:http').request({ socketPath: process.argv[1], method: 'POST', path: process.argv[2] }, (answer) => {
      let text = ''
      answer.on('data', (chunk) => { text += chunk })
      answer.on('end', () => console.log(JSON.stringify({ status: answer.statusCode, body: JSON.parse(text) })))
    })
    request.end(process.argv[3])`
  const user = ['--reuid', uid, '--regid', uid, '--clear-groups', process.execPath, '-e', program]
  const args = [...user, join(folder, 'control.sock'), path, JSON.stringify(body)]
  const child = spawn('setpriv', args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  for await (const chunk of child.stdout!) text += chunk
  return JSON.parse(text)
}

test('a member of the group puts only processes of their own under control; what root runs stays where it is', {
  skip,
}, async () => {
  const session = makeSession()
  const children = [
    await sleeper('0', session),
    await sleeper(DAEMON, session),
    await sleeper(NOBODY, session),
  ]
  try {
    const before = children.map(groupOf)
    for (const child of children.slice(0, 2)) {
      const refused = await ask(NOBODY, '/v1/run', { pid: child.pid, command: 'x' })
      assert.deepEqual([refused.status, refused.body.error?.code], [409, 'NOT_YOURS'])
    }
    assert.deepEqual(children.map(groupOf), before)

    const own = await ask(NOBODY, '/v1/run', { pid: children[2]!.pid, command: 'x' })
    assert.equal(own.status, 200)
    assert.equal(groupOf(children[2]!), join(before[2]!, `godwit-${instance}-${own.body.id}`))
    const other = await ask(DAEMON, '/v1/run/end', { id: own.body.id })
    assert.deepEqual([other.status, other.body.error?.code], [409, 'NOT_YOURS'])
    const root = await ask('0', '/v1/run', { pid: children[1]!.pid, command: 'x' })
    assert.equal(root.status, 200, 'root acts on all')
  } finally {
    for (const child of children) child.kill('SIGKILL')
    await Promise.all(children.map((child) => child.exitCode ?? child.signalCode ?? once(child, 'exit')))
    await daemon.stop()
    daemon = makeDaemon()
    await daemon.start()
  }
})

test('who is still running at the end is in the group that they came from, also after a daemon that was killed', {
  skip,
}, async () => {
  const [first, second] = [makeSession(), makeSession()]
  const children = [await sleeper(NOBODY, first), await sleeper('0', second)]
  try {
    const before = children.map(groupOf)
    for (const child of children) await ask('0', '/v1/run', { pid: child.pid, command: 'x' })
    assert.notDeepEqual(children.map(groupOf), before)
    // What a killed daemon leaves: its record and its groups. `down` and the next daemon's end go the same way.
    const record = readFileSync(join(folder, 'applications.json'), 'utf8')
    const left = makeDaemon()
    await left.stop()
    assert.deepEqual(children.map(groupOf), before)
    assert.ok(!existsSync(join(folder, 'applications.json')))
    writeFileSync(join(folder, 'applications.json'), record)
    const next = makeDaemon()
    await next.start()
    await next.stop()
    assert.deepEqual(children.map(groupOf), before)
  } finally {
    for (const child of children) child.kill('SIGKILL')
    await Promise.all(children.map((child) => child.exitCode ?? child.signalCode ?? once(child, 'exit')))
    daemon = makeDaemon()
    await daemon.start()
  }
})

test('without a daemon nothing is started; with --best-effort it is, and said so', { skip }, async () => {
  await daemon.stop()
  const refused = await godwitRun(['--', 'echo', 'started'])
  assert.equal(refused.status, 1)
  assert.equal(refused.stdout, '')
  const plain = await godwitRun(['--best-effort', '--', 'echo', 'started'])
  assert.equal(plain.status, 0)
  assert.equal(plain.stdout, 'started\n')
  assert.match(plain.stderr, /godwit is not running.*running echo under the general rules/)
})

/** Nice values of a thread and of a session, as the kernel shows them. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { Worker } from 'node:worker_threads'

const MODULE = new URL('../../../src/linux/scheduling.js', import.meta.url)
const SOURCE = `
  const { parentPort } = require('node:worker_threads')
  import(${JSON.stringify(MODULE.href)}).then(({ runSoon }) => {
    const done = runSoon(5, 0.1)
    parentPort.postMessage({ done, stat: require('node:fs').readFileSync('/proc/thread-self/stat', 'utf8') })
  })
`

/** Field 19 of proc(5)'s stat; the name before it may have spaces. */
const niceOf = (stat: string) => Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16])

test('runSoon changes the calling thread and no other', async () => {
  const before = niceOf(readFileSync('/proc/self/stat', 'utf8'))
  const worker = new Worker(SOURCE, { eval: true })
  const { done, stat } = await new Promise<{ done: boolean; stat: string }>((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  await worker.terminate()
  assert.deepEqual([done, niceOf(stat)], [true, 5])
  assert.equal(niceOf(readFileSync('/proc/self/stat', 'utf8')), before)
})

const ENGINE = new URL('../../../src/tunnel/engine/thread.js', import.meta.url)
const LOOP = 'listen() {}, run() {}, stop() {}, close() {}'
const ENTRY = `import { serveEngine } from ${JSON.stringify(ENGINE.href)}
  serveEngine(() => ({ engine: { ${LOOP} }, onCommand() {} }))`
/** Starts an engine that ends at once, and prints what the session's nice value is then. */
const DAEMON = `
  import(${JSON.stringify(ENGINE.href)}).then(async ({ EngineWorker }) => {
    const entry = new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(ENTRY)}))
    await EngineWorker.start(entry, {}, { onEvent() {}, onEnd() {} })
    console.log(require('node:fs').readFileSync('/proc/self/autogroup', 'utf8'))
  })
`

/** What the command prints, run in a session of its own. */
function inSession(command: string, ...args: string[]): Promise<string> {
  const child = spawn(command, args, { detached: true, stdio: ['ignore', 'pipe', 'inherit'] })
  return text(child.stdout)
}

const enabled = '/proc/sys/kernel/sched_autogroup_enabled'
const skip =
  !existsSync(enabled) || readFileSync(enabled, 'utf8').trim() !== '1' || process.getuid?.() !== 0
    ? 'needs autogroups, and the right to raise one'
    : false

test('an engine raises the session of its daemon, and no session that began with another program', {
  skip,
}, async () => {
  assert.match(await inSession(process.execPath, '-e', DAEMON), /nice -10$/m)
  // The shell of a terminal leads the session of what is started in it.
  assert.match(await inSession('sh', '-c', '"$0" -e "$1"; true', process.execPath, DAEMON), /nice 0$/m)
})

test('delaying optimization prints nothing, whatever the version of Node.js', () => {
  const module = new URL('../../../src/linux/proc.js', import.meta.url).href
  const program = `(await import(${JSON.stringify(module)})).optimizeLate()`
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  })
  assert.deepEqual([status, stderr], [0, ''])
})

/** A daemon that is told to stop, and once more: its packet engine sleeps meanwhile. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'

const source = (path: string) => JSON.stringify(new URL(`../../../src/${path}`, import.meta.url).href)

/** Cleans up for good. Says what it logs, and `ready`. */
const DAEMON = `
import { Worker } from 'node:worker_threads'
import { untilStopped } from ${source('host/daemon/stopping.js')}
const asleep = \`Promise.all([import('node:worker_threads'), import(${source('linux/poller.js')})]).then(
  ([{ parentPort }, { KernelPoller }]) => {
    parentPort.postMessage('')
    new KernelPoller().wait(60_000)
  },
)\`
const stopped = untilStopped({ log: (level, text) => console.log(level, text) })
new Worker(asleep, { eval: true }).once('message', () => console.log('ready'))
await stopped
if (process.argv[1] === 'fault') setInterval(() => { throw new Error('while it stops') }, 10)
`

for (const second of ['signal', 'fault'])
  test(`a second ${second} ends a daemon at once, also while its packet engine sleeps, and what is left is said; one Ctrl-C that arrives twice is one`, async () => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', DAEMON, second], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const ended = once(child, 'exit')
    let output = ''
    child.stdout.on('data', (data) => {
      output += data
    })
    const said = async (text: string) => {
      while (!output.includes(text)) await once(child.stdout, 'data')
    }
    await said('ready')
    child.kill('SIGINT')
    await said('SIGINT: stopping')
    child.kill('SIGINT')
    if (second === 'signal') {
      const again = setInterval(() => child.kill('SIGTERM'), 100)
      await ended
      clearInterval(again)
    }
    assert.deepEqual(await ended, [null, 'SIGKILL'])
    assert.match(output, /`godwit down` removes what is left/)
  })

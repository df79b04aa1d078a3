/** The nice value of a thread, as the kernel shows it. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
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

/** Threads that start when the files of the program are gone. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { ThreadCode } from '../../../src/linux/thread-code.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-thread-code-'))
after(() => rmSync(folder, { recursive: true, force: true }))

const entry = (name: string, text: string): URL => {
  mkdirSync(join(folder, 'src'), { recursive: true })
  writeFileSync(join(folder, 'src', name), text)
  return pathToFileURL(join(folder, 'src', name))
}

async function answer(code: ThreadCode): Promise<unknown> {
  const worker = code.start({ workerData: 20 })
  const [message] = (await once(worker, 'message')) as [unknown]
  assert.deepEqual(await once(worker, 'exit'), [0])
  return message
}

test('a bundled thread starts from what was read, also when its file is another or gone; packages are those beside it', async () => {
  const url = entry('worker.js', "import '../bundle.cjs'\n")
  const text = `const { parentPort, workerData } = require('node:worker_threads')
    parentPort.postMessage([workerData + require('beside'), globalThis.godwitThread])`
  writeFileSync(join(folder, 'bundle.cjs'), text)
  mkdirSync(join(folder, 'node_modules/beside'), { recursive: true })
  writeFileSync(join(folder, 'node_modules/beside/index.js'), 'module.exports = 1')
  const code = new ThreadCode(url)
  const place = pathToFileURL(join(folder, 'bundle.cjs')).href
  assert.deepEqual(await answer(code), [21, place])
  writeFileSync(join(folder, 'bundle.cjs'), 'throw new Error("another version")')
  assert.deepEqual(await answer(code), [21, place])
  rmSync(join(folder, 'bundle.cjs'))
  rmSync(join(folder, 'src'), { recursive: true })
  assert.deepEqual(await answer(code), [21, place])
})

test('where nothing is bundled a thread is read as modules', async () => {
  writeFileSync(join(folder, 'package.json'), '{"type": "module"}')
  const url = entry(
    'module.js',
    `import { parentPort, workerData } from 'node:worker_threads'\nparentPort.postMessage(workerData + 2)\n`,
  )
  assert.equal(await answer(new ThreadCode(url)), 22)
})

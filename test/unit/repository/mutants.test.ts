/** The ways to break a program that `npm run mutants` knows, and how it finds what a test runs (issue 11). */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { AREAS } from '../../../scripts/mutants/areas.ts'
import { cover } from '../../../scripts/mutants/coverage.ts'
import { mutantsOf } from '../../../scripts/mutants/operators.ts'

const root = resolve(fileURLToPath(new URL('../../../../', import.meta.url)))

function broken(text: string): string[] {
  return mutantsOf(text).map(
    ({ from, to, replacement }) => text.slice(0, from) + replacement + text.slice(to),
  )
}

test('a module is broken in one place at a time, and stays a program', () => {
  assert.deepEqual(broken('f(a < 1)'), [';', 'f((a <= 1))', 'f((a >= 1))', 'f(a < 2)'])
  assert.deepEqual(broken('if (!a) b++'), ['if (true) b++', 'if (false) b++', 'if (a) b++', 'if (!a) b--'])
  assert.deepEqual(broken('const f = () => { return x && y }'), [
    'const f = () => { return undefined; }',
    'const f = () => { return (x || y) }',
  ])
  assert.deepEqual(broken('x = a ? true : c'), [
    'x = true ? true : c',
    'x = false ? true : c',
    'x = a ? false : c',
  ])
  assert.deepEqual(broken('a += b'), ['a -= b'])
  assert.deepEqual(broken('const t = 600'), ['const t = 1200'])
})

test('what is said to people is not broken', () => {
  for (const text of [
    "log('info', 1)",
    "throw new Error('a' + 1)",
    ['const t = `', '{1 + 1}`'].join('$'),
    "x = 'a' + b",
  ])
    assert.deepEqual(
      broken(text).filter((each) => each !== ';'),
      [],
      text,
    )
})

test('every area is there', () => {
  for (const { code, tests } of AREAS) {
    for (const path of code) assert.ok(existsSync(join(root, path)), path)
    for (const name of tests) assert.ok(existsSync(join(root, 'test/unit', name)), name)
  }
})

test('which places a test runs is known, and that a test fails', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-mutants-'))
  try {
    const module = join(folder, 'module.mjs')
    const text = 'export function f(x) {\n  if (x) return 1\n  return 2\n}\n'
    writeFileSync(module, text)
    const good = join(folder, 'good.mjs')
    writeFileSync(good, "import { f } from './module.mjs'\nf(true)\n")
    const covered = (await cover(good, process.env, 60_000))!
    const url = pathToFileURL(module).href
    assert.equal(covered.runs(url, text.indexOf('return 1')), true)
    assert.equal(covered.runs(url, text.indexOf('return 2')), false)
    const bad = join(folder, 'bad.mjs')
    writeFileSync(bad, 'process.exit(1)\n')
    assert.equal(await cover(bad, process.env, 60_000), undefined)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

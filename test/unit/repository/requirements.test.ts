/**
 * Every requirement that godwit sets itself has a line in docs/requirements; every file and test that is named there exists.
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../../../', import.meta.url))
const range = (prefix: string, from: number, to: number): string[] =>
  Array.from({ length: to - from + 1 }, (_, i) => `${prefix}-${from + i}`)

interface Row {
  readonly id: string
  readonly where: string
  readonly file: string
  readonly name: string
}

/** Rows `| id | what | \`file\` | \`test file\`: name |`. */
function rowsOf(document: string): Row[] {
  const text = readFileSync(`${root}docs/requirements/${document}`, 'utf8')
  const row = /^\| (\S[^|]*?) \| .+? \| `([^`]+)` \| `([^`]+)`: (.+) \|$/gm
  return [...text.matchAll(row)].map(([, id, where, file, name]) => ({
    id: id!,
    where: where!,
    file: file!,
    name: name!,
  }))
}

const upmt = rowsOf('upmt.md')
const dime = rowsOf('dime.md')
const ohshima = rowsOf('ohshima.md')
const mptcp = rowsOf('mptcp.md')
const ntmobile = rowsOf('ntmobile.md')

test('UPMT: the requirements of the central anchor mode are all there, each once', () => {
  const wanted = [...range('UP', 1, 5), ...range('UP', 7, 13), ...range('UP', 19, 32), ...range('UP', 36, 42)]
  assert.deepEqual(
    upmt.map(({ id }) => id),
    wanted,
  )
})

test('DIME: all requirements are there, each once, and the tables of the paper', () => {
  const subsets = ['DI-9a', 'DI-9b', 'DI-9c', 'DI-9d']
  const wanted = [...range('DI', 1, 9), ...subsets, ...range('DI', 10, 45)]
  const ids = dime.map(({ id }) => id)
  assert.deepEqual(
    ids.filter((id) => id.startsWith('DI-')),
    wanted,
  )
  assert.equal(new Set(ids).size, ids.length)
  assert.equal(ids.filter((id) => id.startsWith('I: ')).length, 4)
})

test('the mobile router: all requirements but the FPGA and the prototype of the authors', () => {
  const parts = ['OH-16a', 'OH-16b', 'OH-17', 'OH-17a', 'OH-17b']
  assert.deepEqual(
    ohshima.map(({ id }) => id),
    [...range('OH', 1, 13), ...range('OH', 15, 16), ...parts, ...range('OH', 18, 28), ...range('OH', 32, 40)],
  )
})

test('the MPTCP proxy: all requirements but what needs nothing of its own (MP-11), what is not done (MP-43), and what a scenario shows (MP-57)', () => {
  assert.deepEqual(
    mptcp.map(({ id }) => id),
    [...range('MP', 1, 10), ...range('MP', 12, 42), ...range('MP', 44, 56)],
  )
})

test('NTMobile: every requirement is met somewhere, or named among what is not there', () => {
  const text = readFileSync(`${root}docs/requirements/ntmobile.md`, 'utf8')
  const missing = text.slice(text.indexOf('## Not there'))
  const met = ntmobile.map(({ id }) => id)
  assert.equal(new Set(met).size, met.length)
  for (const id of range('NT', 1, 52))
    assert.ok(met.includes(id) || new RegExp(`\\b${id}\\b`).test(missing), id)
})

for (const { id, where, file, name } of [...upmt, ...dime, ...ohshima, ...mptcp, ...ntmobile]) {
  test(`${id}: what shows it exists`, () => {
    assert.ok(existsSync(root + where), where)
    const names = [...readFileSync(root + file, 'utf8').matchAll(/\b(?:test|it)\(\s*(['"`])(.*?)\1/g)].map(
      (m) => m[2]!,
    )
    assert.ok(
      names.some((each) => each.startsWith(name)),
      `${file} has no test "${name}"`,
    )
  })
}

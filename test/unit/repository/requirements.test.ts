/** Every requirement of UPMT's central mode has a line in docs/requirements/upmt.md; every file and test it names exists. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../../../', import.meta.url))
const text = readFileSync(`${root}docs/requirements/upmt.md`, 'utf8')
const row = /^\| (UP-\d+) \| .+? \| `([^`]+)` \| `([^`]+)`: (.+) \|$/gm
const rows = [...text.matchAll(row)].map(([, id, where, file, name]) => ({
  id: id!,
  where: where!,
  file: file!,
  name: name!,
}))
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => `UP-${from + i}`)

test('the requirements of the central anchor mode are all there, each once', () => {
  const wanted = [...range(1, 5), ...range(7, 13), ...range(19, 32), ...range(36, 42)]
  assert.deepEqual(
    rows.map(({ id }) => id),
    wanted,
  )
})

for (const { id, where, file, name } of rows) {
  test(`${id}: what shows it exists`, () => {
    assert.ok(existsSync(root + where), where)
    const names = [...readFileSync(root + file, 'utf8').matchAll(/test\(\s*(['"`])(.*?)\1/g)].map(
      (m) => m[2]!,
    )
    assert.ok(
      names.some((each) => each.startsWith(name)),
      `${file} has no test "${name}"`,
    )
  })
}

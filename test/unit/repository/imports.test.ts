/** That biome.json really refuses what ARCHITECTURE.md forbids: import directions, time and randomness in cores. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { after, test } from 'node:test'

const root = resolve(import.meta.dirname, '../../../..')
const folder = mkdtempSync(join(tmpdir(), 'godwit-imports-'))
after(() => rmSync(folder, { recursive: true }))
cpSync(join(root, 'biome.json'), join(folder, 'biome.json'))
cpSync(join(root, 'scripts/lint'), join(folder, 'scripts/lint'), { recursive: true })

/** Lints one file; returns `rule of line` for each error. */
function lint(path: string, lines: readonly string[]): string[] {
  const file = join(folder, path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, `${lines.join('\n')}\n`)
  const biome = join(root, 'node_modules/@biomejs/biome/bin/biome')
  const result = spawnSync(process.execPath, [biome, 'lint', '--reporter=github', path], {
    cwd: folder,
    encoding: 'utf8',
  })
  const errors = result.stdout.matchAll(/^::error title=([^,]+),.*?,line=(\d+)/gm)
  return [...errors].map((match) => `${match[1]!.split('/').at(-1)} of ${lines[Number(match[2]) - 1]}`).sort()
}

const importing = (path: string): string => `export * from '${path}'`
const refused = (path: string): string => `noRestrictedImports of ${importing(path)}`

test('imports against the direction are refused, along it they pass', () => {
  const cases: [file: string, wrong: string[], right: string[]][] = [
    ['src/core/x.ts', ['../linux/libc.ts', '../crypto/keys.ts', 'node:fs'], ['./bytes.ts']],
    ['src/linux/x.ts', ['../tunnel/seam.ts', '../host/config.ts'], ['../core/errors.ts', 'node:fs']],
    ['src/tunnel/protocol/x.ts', ['../../anchoring/index.ts', '../../access/index.ts'], ['../seam.ts']],
    ['src/anchoring/x.ts', ['../routing/index.ts', '../host/config.ts'], ['../tunnel/seam.ts']],
    [
      'src/mechanism/x.ts',
      ['../anchoring/index.ts', '../host/config.ts'],
      ['../access/index.ts', '../tunnel/seam.ts'],
    ],
    ['src/host/x.ts', ['../cli/main.ts', '../../lab/index.ts'], ['../anchoring/index.ts']],
    [
      'src/cli/x.ts',
      ['../linux/libc.ts', '../anchoring/index.ts'],
      ['../host/client.ts', '../../lab/index.ts'],
    ],
    // The package contains them, and no test.
    ['lab/scenarios/x.ts', ['../../test/support/x.ts'], ['../hosts.ts', '../../src/core/errors.ts']],
    ['bench/x.ts', ['../test/support/x.ts'], ['../lab/index.ts']],
  ]
  for (const [file, wrong, right] of cases) {
    assert.deepEqual(lint(file, [...wrong, ...right].map(importing)), wrong.map(refused).sort(), file)
  }
})

test('time, randomness and globals are refused in protocol cores only', () => {
  const lines = [
    'export const a = Date.now()',
    'export const b = Math.random()',
    'export const c = performance.now()',
    'export const d = Buffer.alloc(1)',
  ]
  for (const file of ['src/core/y.ts', 'src/tunnel/protocol/y.ts', 'src/anchoring/wire.ts']) {
    assert.equal(lint(file, lines).length, 4, file)
  }
  assert.deepEqual(lint('src/anchoring/service.ts', lines), [])
})

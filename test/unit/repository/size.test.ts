/** What `npm install -g godwit` puts on a machine: no more than 12 MB, without the library that draws plots. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, test } from 'node:test'
import { packageFiles } from '../../../scripts/package-files.ts'

const root = resolve(import.meta.dirname, '../../../..')
const folder = mkdtempSync(join(tmpdir(), 'godwit-size-'))
after(() => rmSync(folder, { recursive: true }))

interface Locked {
  readonly dev?: boolean
  readonly peer?: boolean
  readonly devOptional?: boolean
}

/** Folders of the packages that a user gets: those of the lock file for this machine that are not for development. */
function production(): string[] {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, Locked>
  }
  return Object.entries(packages)
    .filter(([path, { dev, peer, devOptional }]) => path !== '' && !dev && !peer && !devOptional)
    .map(([path]) => path)
    .filter((path) => existsSync(join(root, path)))
}

/** Bytes on a disk with blocks of 4 kB, as du counts. */
function onDisk(path: string): number {
  const info = lstatSync(path)
  if (!info.isDirectory()) return Math.ceil(info.size / 4096) * 4096
  return readdirSync(path).reduce((sum, name) => sum + onDisk(join(path, name)), 4096)
}

test('the package and what it needs take at most 12 MB', () => {
  const own = packageFiles(root).map((name) => join(root, name))
  const packages = production()
  assert.ok(packages.includes('node_modules/koffi') && !packages.includes('node_modules/zod'))
  assert.ok(!packages.some((path) => /echarts|zrender/.test(path)))
  const total = [...own, ...packages.map((path) => join(root, path))].reduce(
    (bytes, path) => bytes + onDisk(path),
    0,
  )
  assert.ok(total <= 12e6, `${(total / 1e6).toFixed(1)} MB`)
})

test('without the charting library a plot is not drawn, and how to get it is said', () => {
  for (const part of ['dist/lab', 'dist/src', 'package.json'])
    cpSync(join(root, part), join(folder, part), { recursive: true })
  const program = `
    const { drawSvg } = await import(${JSON.stringify(join(folder, 'dist/lab/plot.js'))})
    await drawSvg({ title: 'x', panels: [] }).catch(({ kind, hint }) => console.log(kind, hint))`
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  })
  assert.equal(stdout, 'missing npm install -g echarts@6\n', stderr)
})

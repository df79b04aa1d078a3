/** The bundle (scripts/bundle.ts): it has every entry, and is all that a command needs of godwit and of the packages for development. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { after, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { lateEntriesOf } from '../../../scripts/bundle.ts'
import { entriesOf, packageFiles } from '../../../scripts/package-files.ts'
import { ThreadCode } from '../../../src/linux/thread-code.ts'

const root = resolve(import.meta.dirname, '../../../..')
const folder = mkdtempSync(join(tmpdir(), 'godwit-bundle-'))
after(() => rmSync(folder, { recursive: true }))

const files = packageFiles(root)
const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  readonly dependencies: Record<string, string>
}

const late = lateEntriesOf(entriesOf(files), (name) => readFileSync(join(root, name), 'utf8'))

/** Files of a folder that its other files do not import. */
function programsOf(path: string): string[] {
  const sources = readdirSync(join(root, path)).map((name) => ({
    name: name.replace(/\.ts$/, ''),
    text: readFileSync(join(root, path, name), 'utf8'),
  }))
  return sources
    .filter(({ name }) => !sources.some(({ text }) => text.includes(`from './${name}.ts'`)))
    .map(({ name }) => `${path}/${name}`)
}

test('files in package.json name every file that starts a process or a thread', () => {
  const started = new Set(['src/index', ...programsOf('lab/programs'), ...programsOf('bench/programs')])
  for (const part of ['src', 'lab', 'bench']) {
    for (const name of readdirSync(join(root, part), { recursive: true, encoding: 'utf8' })) {
      if (!name.endsWith('.ts')) continue
      const source = join(part, name)
      const text = readFileSync(join(root, source), 'utf8')
      for (const [, path] of text.matchAll(/new URL\(['`](\.[^'`$]*)\.js['`], import\.meta\.url\)/g))
        started.add(join(dirname(source), path!))
    }
  }
  assert.ok(started.has('src/cli/main') && started.has('src/anchoring/worker'), [...started].join(' '))
  assert.deepEqual(entriesOf(files).sort(), [...started].sort())
  for (const entry of started) {
    const line = late.includes(entry) ? /^import '\S+\.cjs'\n$/ : /^export \* from '\S+'\n$/
    assert.match(readFileSync(join(root, `dist/${entry}.js`), 'utf8'), line, entry)
  }
})

test('a thread that may start late is one file, and starts when that is gone', async () => {
  assert.deepEqual(late, [
    'src/overlay/servers/soft/bus-worker',
    'src/overlay/store/postgres/link-worker',
    'src/tunnel/carrier/worker',
  ])
  for (const entry of late) {
    const text = readFileSync(join(root, `dist/bundle/${entry.replaceAll('/', '-')}.cjs`), 'utf8')
    assert.doesNotMatch(text, /require\("\.|import\("\./, entry)
  }
  const copy = join(folder, 'late')
  cpSync(join(root, 'dist/bundle'), join(copy, 'dist/bundle'), { recursive: true })
  const file = join(copy, 'dist/src/tunnel/carrier/worker.js')
  cpSync(join(root, 'dist/src/tunnel/carrier/worker.js'), file)
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  const code = new ThreadCode(pathToFileURL(file))
  rmSync(join(copy, 'dist'), { recursive: true })
  const worker = code.start({ workerData: { role: 'client' } })
  worker.postMessage({ type: 'stop' })
  assert.deepEqual(await once(worker, 'exit'), [0])
})

test('the bundle has nothing of an earlier build', () => {
  const names = readdirSync(join(root, 'dist/bundle')).filter((name) => name.endsWith('.js'))
  const texts = names.map((name) => readFileSync(join(root, 'dist/bundle', name), 'utf8'))
  const entries = entriesOf(files).map((entry) => `${entry.replaceAll('/', '-')}.js`)
  const unused = names.filter(
    (name) => !entries.includes(name) && !texts.some((text) => text.includes(`"./${name}"`)),
  )
  assert.deepEqual(unused, [])
})

test('commands work with what the package contains and its dependencies alone', () => {
  for (const name of ['package.json', ...files.filter((each) => /^(bin|dist)\b/.test(each))])
    cpSync(join(root, name), join(folder, name), { recursive: true })
  cpSync(join(root, 'node_modules/@koromix'), join(folder, 'node_modules/@koromix'), { recursive: true })
  for (const name of Object.keys(dependencies))
    symlinkSync(join(root, 'node_modules', name), join(folder, 'node_modules', name))
  const state = join(folder, 'state')
  const call = (line: string): string => {
    const args = [...line.split(' '), '--state', state]
    const result = spawnSync(join(folder, 'bin/godwit'), args, { encoding: 'utf8' })
    assert.equal(result.status, 0, `${line}: ${result.stderr}`)
    return result.stdout
  }
  call('anchor init --endpoint 192.0.2.1:51820')
  assert.match(call('config check'), /anchor/)
  assert.match(call('anchor invite phone --wg --qr'), /[█▀▄]/)
  const run = (...args: string[]) =>
    spawnSync(join(folder, 'bin/godwit'), args, { encoding: 'utf8' }).stdout.trim()
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
  assert.equal(run('--version'), version)
  assert.match(run('lab', 'list'), /upmt-swap/)
  assert.match(run('bench', '--help'), /^Usage: godwit bench/)
})

test('the licenses of what is bundled come with it', () => {
  const text = readFileSync(join(root, 'dist/bundle/LICENSES'), 'utf8')
  for (const name of ['commander', 'dns-packet', 'qr', 'toml-eslint-parser', 'ws', 'zod', '@noble/hashes'])
    assert.match(text, new RegExp(`^${name}\n=+\n`, 'm'))
})

test("a TypeScript project that imports 'godwit' gets its types, and only what there is", () => {
  const consumer = mkdtempSync(join(folder, 'consumer-'))
  for (const name of [
    'package.json',
    ...files.filter((each) => each.endsWith('.d.ts') || each.endsWith('index.js')),
  ])
    cpSync(join(root, name), join(consumer, 'node_modules/godwit', name), { recursive: true })
  writeFileSync(join(consumer, 'package.json'), '{ "type": "module" }')
  writeFileSync(
    join(consumer, 'use.ts'),
    `import { type ErrorDetails, type ErrorKind, GodwitError } from 'godwit'
     const details: ErrorDetails = { hint: 'z' }
     export const kind: ErrorKind = new GodwitError('X', 'y', details).kind
     // @ts-expect-error: it is a string
     export const code: number = new GodwitError('X', 'y').code`,
  )
  const args = ['--noEmit', '--strict', '--module', 'nodenext', '--types', '', 'use.ts']
  const { status, stdout } = spawnSync(
    process.execPath,
    [join(root, 'node_modules/typescript/bin/tsc'), ...args],
    { cwd: consumer, encoding: 'utf8' },
  )
  assert.equal(status, 0, stdout)
})

test('links of the README lead somewhere in the package, but for those to tests', () => {
  const text = readFileSync(join(root, 'README.md'), 'utf8')
  const targets = [...text.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, path]) => path!.replace(/\/$/, ''))
  assert.ok(targets.length > 20)
  const packed = (path: string) =>
    existsSync(join(root, path)) &&
    files.some((each) => path === each || path.startsWith(`${each}/`) || path === 'LICENSE')
  assert.deepEqual(
    targets.filter((path) => !path.startsWith('test/') && !packed(path)),
    [],
  )
})

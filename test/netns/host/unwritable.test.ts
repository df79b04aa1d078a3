/** Wrong uses that need a disk of their own: full, read-only, or not ours to read (issue 14, point 7). */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('unshare')

const folder = mkdtempSync(join(tmpdir(), 'godwit-unwritable-'))
chmodSync(folder, 0o755)
after(() => rmSync(folder, { recursive: true }))

interface Row {
  readonly args: readonly string[]
  readonly status: number
  readonly says: RegExp
  /** Not as root. */
  readonly user?: true
}

const init = (at: string) => ['anchor', 'init', '--endpoint', '192.0.2.1:1', '--state', at]
const rows: readonly Row[] = [
  { args: init('full/new'), status: 1, says: /write \S+full\/new\S*: no space left; free some space/ },
  {
    args: ['anchor', 'invite', 'b', '--state', 'full/anchor'],
    status: 1,
    says: /write \S+hosts\.json: no space left; free some space.*nothing was changed/,
  },
  {
    args: ['anchor', 'invite', 'c', '--state', 'good', '--out', 'full/c'],
    status: 1,
    says: /write full\/c: no space left; free some space/,
  },
  {
    args: init('fixed/new'),
    status: 2,
    says: /make \S+fixed\/new: the file system is read-only; choose another place/,
  },
  {
    args: ['anchor', 'invite', 'b', '--state', 'fixed/anchor'],
    status: 2,
    says: /: the file system is read-only; choose another place/,
  },
  {
    args: ['anchor', 'invite', 'd', '--state', 'good', '--out', 'fixed/d'],
    status: 2,
    says: /write fixed\/d: the file system is read-only; /,
  },
  {
    args: ['anchor', 'hosts', '--state', 'good'],
    status: 1,
    says: /permission denied; run it as root \(sudo\)/,
    user: true,
  },
  {
    args: ['config', 'check', 'good/godwit.toml'],
    status: 1,
    says: /permission denied; run it as root \(sudo\)/,
    user: true,
  },
  {
    args: ['status', '--state', 'good'],
    status: 1,
    says: /(no permission for|godwit is not running) .*; (run it as root|start it)/,
    user: true,
  },
]

/** Runs in the mount namespace, in `folder`; one process, so that the modules load once. */
const PROGRAM = `
const { runCommand } = await import(process.argv[1])
const { writeSync } = await import('node:fs')
const { rows, setup } = JSON.parse(process.argv[2])
let text = ''
process.stdout.write = () => true
process.stderr.write = (each) => ((text += each), true)
const run = async (args) => {
  text = ''
  process.exitCode = 0
  return { status: (await runCommand(args)) ?? process.exitCode, text }
}
const { execFileSync } = await import('node:child_process')
for (const each of setup)
  if (Array.isArray(each)) await run(each)
  else execFileSync('sh', ['-c', each])
const results = []
for (const { args, user } of rows) {
  if (user) process.setuid(65534)
  results.push(await run(args))
}
process.exitCode = 0
writeSync(1, JSON.stringify(results))
`

test('a full disk, a read-only one, files of others: each says what, where and how to mend it', () => {
  const command = new URL('../../../src/cli/command.js', import.meta.url).href
  const setup = [
    init('good'),
    'chmod 700 good && chmod 600 good/godwit.toml && mkdir full fixed && mount -t tmpfs -o size=64k none full && mount -t tmpfs none fixed',
    init('full/anchor'),
    init('fixed/anchor'),
    'mount -o remount,ro fixed; dd if=/dev/zero of=full/filler bs=1k 2>/dev/null || true',
  ]
  const given = JSON.stringify({ rows: rows.map(({ args, user }) => ({ args, user })), setup })
  const script = 'cd "$1" && exec "$2" --input-type=module -e "$3" "$4" "$5"'
  const args = ['-m', 'sh', '-c', script, 'sh', folder, process.execPath, PROGRAM, command, given]
  const { stdout, stderr, status } = spawnSync('unshare', args, { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  const results = JSON.parse(stdout) as { status: number; text: string }[]
  const wrong = rows.flatMap(({ args, status: wanted, says }, i) => {
    const { status, text } = results[i]!
    const right = status === wanted && says.test(text) && /^godwit: [^\n]+\n$/.test(text)
    return right && !/\bE[A-Z]{4,}:/.test(text) ? [] : [`${args.join(' ')}: ${status} ${text}`]
  })
  assert.deepEqual(wrong, [])
})

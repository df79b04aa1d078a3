/** Keys, locks and atomic files of a state directory; full disks and wrong permissions (issue: bad days). */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { GodwitError } from '../../../src/core/errors.ts'
import { State } from '../../../src/host/stores/state.ts'
import { readPrivateKey, writeAtomic } from '../../../src/mechanism/files.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-state-'))
after(() => rmSync(folder, { recursive: true }))

test('a private key is made once, 0600, and refused when others can read it', () => {
  const state = new State({ state: join(folder, 'keys') })
  const key = state.ensurePrivateKey()
  assert.equal(statSync(state.keyFile).mode & 0o777, 0o600)
  assert.deepEqual(state.ensurePrivateKey(), key)
  chmodSync(state.keyFile, 0o640)
  assert.throws(() => state.ensurePrivateKey(), {
    code: 'SECRET_EXPOSED',
    kind: 'usage',
    hint: `chmod 600 ${state.keyFile}`,
  })
  writeFileSync(join(folder, 'bad.key'), 'not a key\n', { mode: 0o600 })
  assert.throws(() => readPrivateKey(join(folder, 'bad.key')), { code: 'KEY_INVALID', kind: 'usage' })
  assert.throws(() => readPrivateKey(join(folder, 'no.key')), { code: 'KEY_MISSING', kind: 'usage' })
})

test('a folder that another user can write to is refused before anything in it is touched (issue 8, point 12)', (t) => {
  const path = join(folder, 'open')
  const target = join(folder, 'precious')
  mkdirSync(path)
  writeFileSync(target, 'precious')
  symlinkSync(target, join(path, 'lock'))
  const refused = (hint: RegExp) => {
    const state = new State({ state: path })
    for (const act of [() => state.lock(), () => state.ensurePrivateKey()])
      assert.throws(
        act,
        (error: GodwitError) => error.code === 'STATE_EXPOSED' && hint.test(error.hint ?? ''),
      )
    assert.equal(readFileSync(target, 'utf8'), 'precious')
    assert.ok(!existsSync(state.keyFile))
  }
  chmodSync(path, 0o757)
  refused(/chmod go-w/)
  if (process.getuid?.() !== 0) {
    t.skip('folders of others need root')
    return
  }
  chmodSync(path, 0o770)
  chownSync(path, 0, 65_533)
  refused(/chmod go-w/)
  chmodSync(path, 0o755)
  chownSync(path, 65_533, 0)
  refused(/chown root/)
})

test('a second daemon on the same state is told so, until the first has ended, even when it was killed', async () => {
  const path = join(folder, 'locked')
  const module = JSON.stringify(new URL('../../../src/host/stores/state.js', import.meta.url).href)
  const program = `const { State } = await import(${module})
    new State({ state: process.argv[1] }).lock()
    process.stdout.write('locked\\n')
    setInterval(() => {}, 1000)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await new Promise((done) => child.stdout.once('data', done))
  const state = new State({ state: path })
  assert.ok(state.busy())
  assert.throws(
    () => state.lock(),
    (error: Error & { code?: string; hint?: string }) => {
      assert.equal(error.code, 'STATE_BUSY')
      assert.match(error.message, new RegExp(`process ${child.pid}`))
      return true
    },
  )
  child.kill('SIGKILL')
  await new Promise((done) => child.once('exit', done))
  assert.ok(!state.busy())
  state.lock()
  state.unlock()
})

test('a file is replaced as a whole and nothing else is left beside it', () => {
  const target = join(folder, 'atomic.json')
  writeAtomic(target, 'old')
  writeAtomic(target, 'new', 0o600)
  assert.equal(readFileSync(target, 'utf8'), 'new')
  assert.equal(statSync(target).mode & 0o777, 0o600)
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.includes('.new')),
    [],
  )
  assert.throws(() => new State({ state: join(target, 'below') }).prepare(), {
    code: 'STATE_UNUSABLE',
    kind: 'usage',
  })
})

test('what processes left that were killed as they wrote is removed by the next daemon, what others write now is not', async () => {
  const own = join(folder, 'halves')
  const state = new State({ state: own })
  state.prepare()
  const child = spawn(process.execPath, ['-e', ''])
  await new Promise((done) => child.once('exit', done))
  const names = [`private.key.${child.pid}.new`, `hosts.json.${process.pid}.new`, 'godwit.toml.new']
  for (const name of names) writeFileSync(join(own, name), 'half')
  state.lock()
  assert.deepEqual(readdirSync(own).sort(), ['godwit.toml.new', `hosts.json.${process.pid}.new`, 'lock'])
  state.unlock()
})

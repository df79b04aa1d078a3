/**
 * README promises arm64: unit and sim, and with them the codecs of kernel structures and the calls through koffi, by an arm64
 * Node.js under qemu's emulation of user programs. System calls reach this machine's kernel; packets are not sent.
 */
import assert from 'node:assert/strict'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { capture } from '../../../scripts/capture.ts'
import { nodeBinary, tiersOn } from '../../../scripts/nodes.ts'
import { findProgram, usesPrograms } from '../../../src/linux/packages.ts'

const NEEDED = usesPrograms('qemu-aarch64-static', 'libc6:arm64', 'libstdc++6:arm64', 'libatomic1:arm64')
const LIBRARIES = '/usr/aarch64-linux-gnu'
const root = fileURLToPath(new URL('../../../../', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'godwit-arm64-'))
after(() => rmSync(folder, { recursive: true }))

/** What fails in qemu and not in godwit, by the name of the test. */
const OF_QEMU: Readonly<Record<string, string>> = {
  'a socket carries its mark and keeps to its device': 'qemu does not pass SO_MARK on',
}

/** A copy of the checkout whose koffi finds its arm64 binary, which npm does not install here. */
async function checkout(): Promise<string | undefined> {
  const copy = join(folder, 'checkout')
  const left = new Set(['node_modules', '.git', 'dist.new', 'dist.old'])
  mkdirSync(join(copy, 'node_modules/@koromix'), { recursive: true })
  for (const name of readdirSync(root))
    if (!left.has(name)) cpSync(join(root, name), join(copy, name), { recursive: true })
  for (const name of readdirSync(join(root, 'node_modules')))
    if (name !== 'koffi' && name !== '@koromix')
      symlinkSync(join(root, 'node_modules', name), join(copy, 'node_modules', name))
  cpSync(join(root, 'node_modules/koffi'), join(copy, 'node_modules/koffi'), { recursive: true })
  const { version } = JSON.parse(readFileSync(join(root, 'node_modules/koffi/package.json'), 'utf8'))
  const name = `@koromix/koffi-linux-arm64@${version}`
  const packed = await capture('npm', ['pack', name, '--silent', '--pack-destination', folder], {
    cwd: folder,
  })
  if (packed.status !== 0) return undefined
  const to = join(copy, 'node_modules/@koromix/koffi-linux-arm64')
  mkdirSync(to)
  const file = join(folder, packed.text.trim().split('\n').at(-1)!)
  const { status } = await capture('tar', ['-xzf', file, '-C', to, '--strip-components=1'])
  assert.equal(status, 0)
  return copy
}

/** A `node` that runs the arm64 binary under qemu, and is what tests and workers start as themselves. */
function emulated(binary: string): string {
  const [bin, preload] = [join(folder, 'bin'), join(folder, 'preload.mjs')]
  const node = join(bin, 'node')
  mkdirSync(bin)
  writeFileSync(preload, `process.execPath = ${JSON.stringify(node)}\n`)
  writeFileSync(
    node,
    `#!/bin/sh\nexport NODE_OPTIONS=--import=${preload}\nexec ${findProgram('qemu-aarch64-static')} -L ${LIBRARIES} ${binary} "$@"\n`,
  )
  chmodSync(node, 0o755)
  return node
}

test('arm64: unit and sim pass under qemu', async (t) => {
  const absent = NEEDED.find((name) => findProgram(name) === undefined)
  if (absent !== undefined) return t.skip(`${absent} is not installed`)
  const found = await nodeBinary(22, 'arm64')
  if ('reason' in found) return t.skip(found.reason)
  const copy = await checkout()
  if (copy === undefined) return t.skip('npm could not fetch koffi for arm64')
  const node = emulated(found.path)
  const { text } = await capture(node, ['-p', 'process.arch'])
  assert.equal(text.trim(), 'arm64')
  assert.ok(existsSync(join(copy, 'dist/scripts/test.js')))
  for (const [tier, outcome] of await tiersOn(copy, node, ['unit', 'sim'])) {
    t.diagnostic(`${tier}: ${outcome.passed} passed, ${outcome.failures.length} failed`)
    const ours = outcome.failures.filter(({ name }) => !(name in OF_QEMU))
    assert.deepEqual(
      ours.map(({ name, text }) => `${name}: ${text.split('\n')[0]}`),
      [],
    )
    assert.ok(outcome.passed > 100, `only ${outcome.passed} tests of ${tier} ran`)
  }
})

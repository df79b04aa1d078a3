/**
 * Both commands of README on a fresh machine: a bare Debian (debootstrap, minbase) with Node.js, npm and git, in a mount
 * namespace of its own, from a clean clone. What godwit's own files do not install is not there.
 */
import assert from 'node:assert/strict'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { capture } from '../../../scripts/capture.ts'
import { nodeBinary } from '../../../scripts/nodes.ts'
import { outcomesFromJson } from '../../../scripts/outcome.ts'
import { findProgram, usesPrograms } from '../../../src/linux/packages.ts'
import { enterRoot, makeDebian } from '../../support/debian.ts'

const NEEDED = usesPrograms('debootstrap', 'git')
const root = fileURLToPath(new URL('../../../../', import.meta.url))
/** Not /tmp, which may be a small tmpfs or mounted without devices. */
const folder = mkdtempSync('/var/tmp/godwit-fresh-')
after(() => rmSync(folder, { recursive: true, force: true }))

/** What the commands are given: arguments of `npm test`, to try this test in less time. */
const ARGS = process.env.GODWIT_FRESH_ARGS ?? ''

async function bash(script: string, ...args: string[]): Promise<string> {
  const { status, text } = await capture('bash', ['-c', script, 'bash', ...args])
  assert.equal(status, 0, `${script}\n${text.slice(-4000)}`)
  return text
}

/** npm as npm's package of it, and how this machine reaches its registry. */
async function addNpm(system: string): Promise<void> {
  const packed = await bash('cd "$1" && npm pack npm@10 --silent', folder)
  const home = join(system, 'usr/local/lib/node_modules/npm')
  mkdirSync(home, { recursive: true })
  const file = join(folder, packed.trim().split('\n').at(-1)!)
  await bash('tar -xzf "$1" -C "$2" --strip-components=1', file, home)
  symlinkSync('../lib/node_modules/npm/bin/npm-cli.js', join(system, 'usr/local/bin/npm'))
  chmodSync(join(home, 'bin/npm-cli.js'), 0o755)
  const setting = async (name: string): Promise<string> =>
    (await bash('npm config get "$1"', name)).trim().replace(/^(null|undefined)$/, '')
  const [registry, cafile] = [await setting('registry'), await setting('cafile')]
  const lines = [`registry=${registry}`]
  if (cafile !== '' && existsSync(cafile)) {
    copyFileSync(cafile, join(system, 'root/npm-ca.crt'))
    lines.push('cafile=/root/npm-ca.crt')
  }
  writeFileSync(join(system, 'root/.npmrc'), `${lines.join('\n')}\n`)
}

for (const suite of ['bookworm', 'trixie']) {
  test(`a fresh Debian (${suite}): bin/godwit demo and npm test pass`, async (t) => {
    if (process.getuid?.() !== 0) return t.skip('needs root')
    const absent = NEEDED.find((name) => findProgram(name) === undefined)
    if (absent !== undefined) return t.skip(`${absent} is not installed`)
    const node = await nodeBinary(22)
    if ('reason' in node) return t.skip(node.reason)
    const system = join(folder, suite)
    const made = await makeDebian(suite, system)
    if (made !== undefined) return t.skip(made)
    copyFileSync(node.path, join(system, 'usr/local/bin/node'))
    chmodSync(join(system, 'usr/local/bin/node'), 0o755)
    await addNpm(system)
    await bash('git clone -q --no-hardlinks "$1" "$2"', root, join(system, 'root/godwit'))

    const enter = (command: string) => enterRoot(system, command)
    const demo = await enter('cd /root/godwit && exec bin/godwit demo')
    assert.equal(demo.status, 0, demo.text.slice(-4000))
    const tests = await enter(`cd /root/godwit && GODWIT_TEST_JSON=/root/tests.json npm test -- ${ARGS}`)
    assert.equal(tests.status, 0, tests.text.slice(-8000))
    for (const [tier, { passed, reasons }] of outcomesFromJson(
      readFileSync(join(system, 'root/tests.json'), 'utf8'),
    )) {
      t.diagnostic(`${tier}: ${passed} passed`)
      // NetworkManager is left alone on purpose, and says so in its own words.
      const lacking = [...reasons.keys()].filter((reason) =>
        /^needs (?!root)|^\S+ is not installed( \(|$)/.test(reason),
      )
      assert.deepEqual(lacking, [], `${tier}: what the tests need is installed`)
    }
  })
}

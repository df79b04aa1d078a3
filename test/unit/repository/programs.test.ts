/** Every program that a test, scenario or bench starts is declared where it is started, and has a package. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { declaredIn, programsOfTests, sourcesIn, startedIn } from '../../../scripts/programs.ts'
import { findProgram, installHint, isKnownProgram } from '../../../src/linux/packages.ts'

const root = fileURLToPath(new URL('../../../../', import.meta.url))

/** Also what this machine has by accident: elsewhere it would be missing. */
const isProgram = (word: string): boolean => isKnownProgram(word) || findProgram(word) !== undefined

test('a program is found where it is started: after a role, in a list, over lines, behind a shell', () => {
  const text = `
    await lab.programs.start('ch1', 'tcpdump', ['-n'])
    bed.run(name, 'nft', 'list')
    execFileSync('ip', ['link'])
    bed.spawn(
      'c',
      'iperf3',
    )
    spawnSync('sh', ['-c', 'openssl version && curl x'])
    spawnSync('cat', []); product.run('move', 'all')`
  const known = ['tcpdump', 'nft', 'ip', 'iperf3', 'openssl', 'curl', 'cat']
  assert.deepEqual(
    startedIn(text, (word) => known.includes(word)),
    ['curl', 'ip', 'iperf3', 'nft', 'openssl', 'tcpdump'],
  )
  assert.deepEqual(declaredIn("usesPrograms('curl', 'wg')\nconst skip = missing('ssh')"), [
    'curl',
    'wg',
    'ssh',
  ])
})

test('what is started is declared in the same file, and what is declared is started or has a package', () => {
  const undeclared: string[] = []
  for (const folder of ['test', 'lab', 'bench']) {
    for (const { path, text } of sourcesIn(root, folder)) {
      if (path.endsWith('programs.test.ts') && path.includes('repository')) continue
      const declared = declaredIn(text)
      for (const name of declared) assert.ok(isKnownProgram(name), `${path}: no package is known for ${name}`)
      const missing = startedIn(text, isProgram).filter((name) => !declared.includes(name))
      if (missing.length > 0) undeclared.push(`${path}: ${missing.join(', ')}`)
    }
  }
  assert.deepEqual(undeclared, [], 'say usesPrograms(…) in these files (src/linux/packages.ts)')
})

test('npm test installs tcpdump, which a test of UP-3 starts', () => {
  const programs = programsOfTests(root, ['unit', 'sim', 'nodes', 'netns'])
  assert.ok(programs.includes('tcpdump'), programs.join(' '))
  const unit = programsOfTests(root, ['unit'])
  assert.ok(unit.includes('openssl') && !unit.includes('tcpdump'), unit.join(' '))
  assert.match(installHint(programs), /^sudo apt-get install /)
})

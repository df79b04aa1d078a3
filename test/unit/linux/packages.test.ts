import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { ensurePackages, type InstallSystem, WITHOUT_SERVICES } from '../../../src/linux/packages.ts'

/** A machine with these programs; apt-get brings `nft` and `curl` once its lists are there. */
function machine(
  uid: number,
  programs: readonly string[],
  options: { sudo?: boolean; terminal?: boolean; lists?: boolean; offline?: boolean } = {},
) {
  const there = new Set(programs)
  const ran: string[] = []
  let lists = options.lists ?? true
  const system: InstallSystem = {
    uid,
    terminal: options.terminal ?? false,
    find: (program) => (there.has(program) ? `/bin/${program}` : undefined),
    run: (command, args) => {
      const line = [command, ...args].join(' ')
      ran.push(line)
      if (line.endsWith('true')) return options.sudo === true ? 0 : 1
      if (options.offline === true) return 1
      if (line.includes('update')) lists = true
      else if (!lists) return 1
      else for (const program of ['nft', 'curl']) there.add(program)
      return 0
    },
  }
  return { system, ran }
}

test('nothing is installed, and nothing run, where everything is there', () => {
  const { system, ran } = machine(1000, ['nft'])
  assert.deepEqual(ensurePackages(['nft'], { say: assert.fail, system }), [])
  assert.deepEqual(ran, [])
})

test('what is missing is said before it is installed, with fresh lists where the old ones do not do', () => {
  const { system, ran } = machine(0, ['apt-get'], { lists: false })
  const said: string[] = []
  const say = (line: string) => {
    assert.equal(ran.length, 0, 'said first')
    said.push(line)
  }
  assert.deepEqual(ensurePackages(['nft', 'curl'], { say, system }), ['curl', 'nftables'])
  assert.match(said.join('\n'), /nftables/)
  assert.equal(ran.filter((line) => line.includes('update')).length, 1)
})

test('where it cannot be installed the error names the command', () => {
  const missing = { code: 'MISSING', kind: 'missing', hint: /apt-get install.* nftables/ }
  const say = () => {}
  for (const each of [machine(0, []), machine(1000, ['apt-get']), machine(0, ['apt-get'], { offline: true })])
    assert.throws(() => ensurePackages(['nft'], { say, system: each.system }), missing)
  const user = machine(1000, ['apt-get', 'sudo'], { sudo: true })
  assert.deepEqual(ensurePackages(['nft'], { say, system: user.system }), ['nftables'])
  const typing = machine(1000, ['apt-get', 'sudo'], { terminal: true })
  assert.deepEqual(ensurePackages(['nft'], { say, system: typing.system }), ['nftables'])
})

test('services of what is installed are neither started nor enabled, and what keeps them back is removed', () => {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-packages-'))
  const path = (name: string) => join(folder, name)
  const policy = path('policy-rc.d')
  const program = (name: string, text: string) =>
    writeFileSync(path(name), `#!/bin/sh\n${text}\n`, { mode: 0o755 })
  const install = () =>
    spawnSync('sh', ['-c', WITHOUT_SERVICES, 'godwit', policy, 'apt-get', 'install', 'x'], {
      env: { PATH: `${folder}:${process.env.PATH}` },
      encoding: 'utf8',
    })
  try {
    // What Debian's scripts ask before they start a service, and what apt-get makes of units.
    program('apt-get', `"${policy}"; echo "$? $DEBIAN_FRONTEND $*"; touch "${path('installed')}"; exit 7`)
    program(
      'systemctl',
      `case $1 in
        list-unit-files)
          echo "ssh.service enabled enabled"
          if [ -e "${path('installed')}" ]; then echo "firewalld.service enabled enabled"; fi ;;
        *) echo "$*" >> "${path('said')}" ;;
      esac`,
    )
    const { stdout, status } = install()
    assert.equal(stdout, '101 noninteractive install x\n')
    assert.equal(status, 7, 'the status of apt-get')
    assert.equal(readFileSync(path('said'), 'utf8'), 'disable --quiet firewalld.service\n')
    assert.equal(existsSync(policy), false)
    // Ctrl-C reaches apt-get and the shell; what was set up until then is held back all the same.
    rmSync(path('said'))
    rmSync(path('installed'))
    program('apt-get', `touch "${path('installed')}"; kill -INT $PPID; exit 100`)
    assert.equal(install().status, 130)
    assert.equal(readFileSync(path('said'), 'utf8'), 'disable --quiet firewalld.service\n')
    assert.equal(existsSync(policy), false)
    program('apt-get', `"${policy}"; echo "$? again"`)
    // Of an installation that was killed: it allows everything, and is replaced.
    program('policy-rc.d', '# godwit\n[ ! -d /proc/999999999 ] || exit 101')
    assert.equal(spawnSync(policy).status, 0)
    assert.match(install().stdout, /^101 /)
    // Somebody else's stays.
    program('policy-rc.d', 'exit 104')
    assert.match(install().stdout, /^104 /)
    assert.equal(existsSync(policy), true)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('of an installation the user sees errors, not progress', () => {
  const module = new URL('../../../src/linux/packages.js', import.meta.url).href
  const program = `
    const { realSystem } = await import(${JSON.stringify(module)})
    process.exitCode = realSystem.run('sh', ['-c', 'echo Unpacking; echo E: no such package >&2; exit 7'])`
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  })
  assert.deepEqual([status, stdout, stderr], [7, '', 'E: no such package\n'])
})

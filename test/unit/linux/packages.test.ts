import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ensurePackages, type InstallSystem } from '../../../src/linux/packages.ts'

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

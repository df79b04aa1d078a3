/**
 * Forty wrong uses of the command (issue 14, point 7): each says what, where and how to mend it in one line (a configuration: a
 * line for each fault), ends with the contract's exit status, and shows no stack trace and no raw errno.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, before, test } from 'node:test'
import { CommandHost, type CommandResult } from '../../support/command-host.ts'

const main = resolve(import.meta.dirname, '../../../src/cli/main.js')
const folder = mkdtempSync(join(tmpdir(), 'godwit-wrong-'))
after(() => rmSync(folder, { recursive: true }))
const at = (...parts: string[]) => join(folder, ...parts)

interface Case {
  /** In a process of its own, as a user has it; so is what reads standard input or writes elsewhere. */
  readonly fresh?: true
  readonly args: readonly string[]
  readonly status: number
  readonly says: RegExp
  readonly input?: string
  /** Standard output goes there. */
  readonly to?: string
}

function spawned({ args, input, to }: Omit<Case, 'status' | 'says'>) {
  return new Promise<CommandResult>((done) => {
    const stdout = to === undefined ? 'pipe' : openSync(to, 'w')
    const child = spawn(process.execPath, [main, ...args], { stdio: ['pipe', stdout, 'pipe'] })
    const said = { errors: '', output: '' }
    child.stderr!.on('data', (chunk) => (said.errors += chunk))
    child.stdout?.on('data', (chunk) => (said.output += chunk))
    child.stdin!.on('error', () => {})
    child.stdin!.end(input ?? '')
    child.once('close', (status) => done({ status, ...said }))
  })
}

const config = (name: string, text: string): string => {
  mkdirSync(at(name), { mode: 0o700, recursive: true })
  writeFileSync(at(name, 'godwit.toml'), text, { mode: 0o600 })
  return at(name)
}

const host = new CommandHost()
after(() => host.close())

let invitation = ''
before(async () => {
  await host.run(['anchor', 'init', '--endpoint', '192.0.2.1:1', '--state', at('anchor')])
  invitation = (await host.run(['anchor', 'invite', 'a', '--state', at('anchor')])).output.trim()
  writeFileSync(at('file'), 'x')
  symlinkSync(at('circle'), at('circle'))
  config('expired', '[anchor]\nendpoint = "192.0.2.1:1"\ninvitation_hours = 0.0000001\n')
  config(
    'secret',
    `[[peer]]\nname = "a"\nendpoint = "192.0.2.1:1"\npublic_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="\n`,
  )
  config('key', '[anchor]\nendpoint = "192.0.2.1:1"\n')
  writeFileSync(at('key', 'private.key'), 'nonsense\n', { mode: 0o600 })
  config('exposed', '[anchor]\nendpoint = "192.0.2.1:1"\n')
  writeFileSync(at('exposed', 'private.key'), readFileSync(at('anchor', 'private.key')), { mode: 0o644 })
  config('store', '[anchor]\nendpoint = "192.0.2.1:1"\n')
  writeFileSync(at('store', 'private.key'), readFileSync(at('anchor', 'private.key')), { mode: 0o600 })
  writeFileSync(at('store', 'hosts.json'), '{', { mode: 0o600 })
  config('toml', 'a = \n')
  config('type', '[host]\nprefer = 7\n[[peer]]\nname = "a"\n')
  config('twice', '[kernel]\nbase = 1\nbase = 2\n')
})

const none = () => at('none')
const cases: readonly (() => Case)[] = [
  // misspelt, unknown, missing, of the wrong type
  () => ({
    fresh: true,
    args: ['stauts'],
    status: 2,
    says: /unknown command 'stauts' \(Did you mean status\?\)/,
  }),
  () => ({
    args: ['anchor', 'inviet', 'x'],
    status: 2,
    says: /unknown command 'inviet' \(Did you mean invite\?\)/,
  }),
  () => ({ args: ['status', '--jsn'], status: 2, says: /unknown option '--jsn'.*--json/ }),
  () => ({
    args: ['anchor', 'init', '--endpiont', 'a:1'],
    status: 2,
    says: /unknown option '--endpiont'.*--endpoint/,
  }),
  () => ({ args: ['move', '--fro', '1h'], status: 2, says: /unknown option '--fro'.*--for/ }),
  () => ({ args: ['--state', none(), 'move', '--static', '--fo'], status: 2, says: /unknown option '--fo'/ }),
  () => ({ args: ['anchor', 'init'], status: 2, says: /required option '--endpoint/ }),
  () => ({ args: ['move', 'all'], status: 2, says: /missing required argument 'access'/ }),
  () => ({
    args: ['move', 'all', 'a', '--for', 'soon'],
    status: 2,
    says: /--for.*must be a time: 90s, 30m, 2h/,
  }),
  () => ({ args: ['why'], status: 2, says: /missing required argument 'flow'/ }),
  () => ({ args: ['status', '--watch', 'x'], status: 2, says: /must be a number above 0/ }),
  () => ({ args: ['status', 'more', '--state', none()], status: 2, says: /too many arguments/ }),
  () => ({ args: ['lab', 'run', 'nothing'], status: 2, says: /no scenario nothing; there are upmt-swap/ }),
  () => ({ args: ['lab', 'run', 'upmt-swap', '--seed', '-1'], status: 2, says: /must be a whole number/ }),
  () => ({ args: ['bench', 'nothing'], status: 2, says: /nothing.*; / }),
  () => ({ args: ['completion', 'tcsh'], status: 2, says: /no completion for tcsh; bash, zsh or fish/ }),
  () => ({
    args: ['anchor', 'init', '--endpoint', 'nowhere', '--state', at('n')],
    status: 2,
    says: /not HOST:PORT/,
  }),
  () => ({
    args: ['anchor', 'init', '--endpoint', 'a:99999', '--state', at('n')],
    status: 2,
    says: /--endpoint: /,
  }),
  () => ({
    args: ['anchor', 'init', '--endpoint', 'a:1', '--state', at('anchor')],
    status: 2,
    says: /exists already; edit it/,
  }),
  () => ({
    args: ['anchor', 'invite', 'a/b', '--state', at('anchor')],
    status: 2,
    says: /"a\/b" is not a valid host name; letters/,
  }),
  () => ({
    args: ['anchor', 'invite', 'a', '--state', at('anchor')],
    status: 2,
    says: /a host a exists already; choose another/,
  }),
  () => ({
    args: ['anchor', 'remove', 'zz', '--state', at('anchor')],
    status: 2,
    says: /there is no host zz; `godwit anchor hosts`/,
  }),
  () => ({
    args: ['anchor', 'forward', '0', 'a:80', '--state', at('anchor')],
    status: 2,
    says: /"0" is not a port; ports are 1 to 65535/,
  }),
  () => ({
    args: ['router', 'init', '--subnet', 'x', '--endpoint', 'a:1', '--state', at('n')],
    status: 2,
    says: /--subnet x: /,
  }),
  () => ({
    args: ['router', 'add', 'home', 'card', '--state', at('anchor')],
    status: 2,
    says: /a card starts with "godwit-site1\."/,
  }),
  // roles
  () => ({
    args: ['up', '--state', at('anchor')],
    status: 2,
    says: /this is an anchor, not a host \(.*; start it with `godwit anchor up`/,
  }),
  () => ({
    args: ['anchor', 'invite', 'x', '--state', at('secret')],
    status: 2,
    says: /this is a host, not an anchor \(.*; run it on the anchor/,
  }),
  () => ({
    args: ['join', invitation, '--state', at('anchor')],
    status: 2,
    says: /this is an anchor, not a host \(.*; give the host its own state/,
  }),
  // invitations
  () => ({ args: ['join', '--state', at('n')], status: 2, says: /give an invitation or --wg FILE; / }),
  () => ({
    args: ['join', 'hello', '--state', at('n')],
    status: 2,
    says: /an invitation starts with "godwit1\."; get it again/,
  }),
  () => ({
    args: ['join', '-', '--state', at('n')],
    input: invitation.slice(0, -9),
    status: 2,
    says: /was cut short or changed.*; get it again/,
  }),
  () => ({
    args: ['join', '-', '--state', at('n')],
    input: '',
    status: 2,
    says: /there is no invitation on standard input/,
  }),
  () => ({
    args: ['join', '--wg', at('nothere'), '--state', at('n')],
    status: 2,
    says: /there is no file .*; give the path/,
  }),
  () => ({
    args: ['join', '--wg', folder, '--state', at('n')],
    status: 2,
    says: /it is a folder, not a file/,
  }),
  () => ({
    args: ['join', '--wg', at('file'), '--state', at('n')],
    status: 2,
    says: /line 1: not a WireGuard/,
  }),
  // configuration and files
  () => ({
    args: ['config', 'check', at('nothere')],
    status: 2,
    says: /there is no configuration file .*; create one/,
  }),
  () => ({
    args: ['anchor', 'invite', 'x', '--state', at('n')],
    status: 2,
    says: /no configuration file .*; create one: sudo godwit anchor init --endpoint/,
  }),
  () => ({
    args: ['router', 'card', '--state', at('n')],
    status: 2,
    says: /no configuration file .*; create one: sudo godwit router init/,
  }),
  () => ({ args: ['config', 'check', folder], status: 2, says: /it is a folder, not a file; / }),
  () => ({ args: ['config', 'check', '--state', at('toml')], status: 2, says: /godwit\.toml:\d: / }),
  () => ({
    args: ['config', 'check', '--state', at('type')],
    status: 2,
    says: /godwit\.toml:2: host\.prefer: must be an array/,
  }),
  () => ({ args: ['config', 'check', '--state', at('twice')], status: 2, says: /godwit\.toml:\d: / }),
  () => ({
    args: ['anchor', 'invite', 'b', '--state', at('key')],
    status: 2,
    says: /private\.key: a key is 44 characters.*; godwit keygen makes one/,
  }),
  () => ({
    args: ['anchor', 'invite', 'b', '--state', at('exposed')],
    status: 2,
    says: /others can read it \(mode 0644\); chmod 600/,
  }),
  () => ({
    args: ['anchor', 'hosts', '--state', at('store')],
    status: 2,
    says: /hosts\.json is damaged: .*; restore it/,
  }),
  () => ({ args: ['pubkey'], input: 'x', status: 2, says: /standard input: a key is 44 characters/ }),
  () => ({
    args: ['anchor', 'init', '--endpoint', 'a:1', '--state', at('file', 'x')],
    status: 2,
    says: /is a file, not a folder; choose another place/,
  }),
  () => ({
    args: ['anchor', 'init', '--endpoint', 'a:1', '--state', at('circle')],
    status: 2,
    says: /; choose another place/,
  }),
  () => ({
    args: ['anchor', 'init', '--endpoint', 'a:1', '--state', '/proc/godwit'],
    status: 2,
    says: /files cannot be created there; choose another place/,
  }),
  () => ({
    args: ['status', '--state', at('x'.repeat(120))],
    status: 2,
    says: /too long for a Unix socket.*; choose a shorter/,
  }),
  // nobody there, no room
  () => ({
    args: ['--state', none(), 'status'],
    status: 1,
    says: /godwit is not running .*none\/control\.sock\); start it with/,
  }),
  () => ({
    args: ['anchor', '--state', none(), 'hosts'],
    status: 2,
    says: /there is no configuration .*none/,
  }),
  () => ({ args: ['run', '--state', none(), '--', 'true'], status: 1, says: /godwit is not running/ }),
  () => ({
    args: ['keygen'],
    to: '/dev/full',
    status: 1,
    says: /standard output cannot be written: no space left on device; free some space/,
  }),
  () => ({ args: ['--help'], to: '/dev/full', status: 1, says: /standard output cannot be written/ }),
  () => ({
    args: ['config', 'schema'],
    to: '/dev/full',
    status: 1,
    says: /standard output cannot be written/,
  }),
]

test('issue 14, point 7: every wrong use says what, where and how to mend it, with the contract’s exit status', async () => {
  assert.ok(cases.length >= 40)
  const wrong: string[] = []
  const check = ({ status, says, args }: Case, found: CommandResult): void => {
    const shown = `godwit ${args.join(' ')}\n${found.errors}`
    const oneLine = /^godwit: [^\n]+\n([^\n]+:\d+: [^\n]+\n)*$/
    const raw = /\n {4}at |\bE[A-Z]{4,}:/
    const right = found.status === status && says.test(found.errors) && oneLine.test(found.errors)
    if (!right || raw.test(found.errors))
      wrong.push(`${shown}status ${found.status}, wanted ${status} ${says}`)
  }
  const made = cases.map((make) => make())
  const alone = ({ fresh, input, to }: Case) => fresh === true || input !== undefined || to !== undefined
  const inTurn = async (all: readonly Case[], run: (each: Case) => Promise<CommandResult>) => {
    for (const each of all) check(each, await run(each))
  }
  await Promise.all([
    inTurn(
      made.filter((each) => !alone(each)),
      ({ args }) => host.run(args),
    ),
    inTurn(made.filter(alone), spawned),
  ])
  assert.deepEqual(wrong, [])
})

test('a reader that has seen enough is no error', async () => {
  const child = spawn('/bin/sh', ['-c', `"$0" "$1" config schema | head -c 1`, process.execPath, main])
  let errors = ''
  child.stderr.on('data', (chunk) => (errors += chunk))
  await new Promise((done) => child.once('close', done))
  assert.equal(errors, '')
})

/** The command as users and scripts meet it: exit statuses, one line of error, one object of JSON, help, completion. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, test } from 'node:test'
import decodeQR from 'qr/decode.js'
import { commandExamples, forEachCommand } from '../../../src/cli/definition.ts'
import { buildProgram } from '../../../src/cli/program.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('zsh', 'fish')

const root = resolve(import.meta.dirname, '../../../..')
const folder = mkdtempSync(join(tmpdir(), 'godwit-cli-'))
after(() => rmSync(folder, { recursive: true }))

function godwit(args: readonly string[], input = '') {
  const main = join(root, 'dist/src/cli/main.js')
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { input, encoding: 'utf8' })
  return { status, stdout, stderr }
}

/** A failure is one line on stderr that says how to mend it, with this exit status, and no stack trace. */
function fails(status: number, pattern: RegExp, ...args: string[]): void {
  const result = godwit(args)
  assert.equal(result.status, status, `${args.join(' ')}: ${result.stderr}`)
  assert.equal(result.stdout, '')
  assert.match(result.stderr, /^godwit: [^\n]+\n$/)
  assert.match(result.stderr, pattern)
}

function succeeds(...args: string[]): void {
  const { status, stderr } = godwit(args)
  assert.equal(status, 0, `${args.join(' ')}: ${stderr}`)
}

test('exit status 2: the call was wrong; one line says what and how to mend it', () => {
  fails(2, /unknown command 'stauts' \(Did you mean status\?\); see --help/, 'stauts')
  fails(2, /missing required argument 'access'/, 'move', 'all')
  fails(2, /unknown option '--colour'/, 'status', '--colour')
  fails(2, /--seed.*must be a whole number/, 'lab', 'run', 'upmt-swap', '--seed', 'x')
  fails(2, /not HOST:PORT/, 'anchor', 'init', '--endpoint', 'nowhere', '--state', join(folder, 'a'))
  fails(2, /give an invitation or --wg FILE/, 'join', '--state', join(folder, 'a'))
  fails(
    2,
    /there is no configuration file .*; create one: `godwit join/,
    'up',
    '--state',
    join(folder, 'none'),
  )
})

test('an invitation comes from standard input, up to the first line break; what is wrong with it is said', () => {
  const state = join(folder, 'invited')
  const anchor = join(folder, 'inviting')
  succeeds('anchor', 'init', '--endpoint', '192.0.2.1:1', '--state', anchor)
  const invitation = godwit(['anchor', 'invite', 'laptop', '--state', anchor]).stdout
  const empty = godwit(['join', '-', '--state', state], '\n \n')
  assert.deepEqual([empty.status, empty.stderr], [2, 'godwit: there is no invitation on standard input\n'])
  assert.equal(godwit(['join', '-', '--state', state], 'godwit1.short\n').status, 2)
  const joined = godwit(['join', '-', '--state', state], `\n${invitation}what comes after\n`)
  assert.equal(joined.status, 0, joined.stderr)
  assert.match(joined.stdout, /^joined anchor as /)
  const help = godwit(['join', '--help']).stdout
  assert.match(help, /sudo godwit join -$/m)
  assert.match(help, /the secret\nis visible in the list of processes/)
})

test('an invitation for a phone as a QR code: a camera reads the whole configuration (issue 14, point 8)', () => {
  const state = join(folder, 'qr')
  succeeds('anchor', 'init', '--endpoint', '192.0.2.1:1', '--state', state)
  const file = join(folder, 'qr.conf')
  const shown = godwit(['anchor', 'invite', '--wg', 'phone', '--qr', '--out', file, '--state', state])
  assert.equal(shown.status, 0, shown.stderr)
  const lines = shown.stdout.split('\n').filter((line) => /^[█▀▄ ]+$/.test(line))
  assert.ok(lines[0]!.length <= 80)
  // What a camera would see: four pixels for each module.
  const scale = 4
  const width = lines[0]!.length * scale
  const data = new Uint8Array(width * lines.length * 2 * scale * 4).fill(255)
  for (let y = 0; y < lines.length * 2 * scale; y++)
    for (let x = 0; x < width; x++) {
      const sign = lines[Math.floor(y / scale / 2)]![Math.floor(x / scale)]!
      const light = sign === '█' || sign === (Math.floor(y / scale) % 2 === 0 ? '▀' : '▄')
      data.fill(light ? 255 : 0, (y * width + x) * 4, (y * width + x) * 4 + 3)
    }
  const read = decodeQR({ width, height: lines.length * 2 * scale, data })
  assert.equal(read, readFileSync(file, 'utf8'))
  assert.match(read, /^PrivateKey = /m)
  fails(2, /--qr needs --wg/, 'anchor', 'invite', 'b', '--qr', '--state', state)
})

test('an invitation goes to a file for its owner alone, with name servers for a stock client (issue 14, point 8)', () => {
  const state = join(folder, 'out')
  succeeds('anchor', 'init', '--endpoint', '192.0.2.1:1', '--state', state)
  const file = join(folder, 'phone.conf')
  const wg = [
    'anchor',
    'invite',
    'phone',
    '--wg',
    '--dns',
    '9.9.9.9',
    '--dns',
    '2620:fe::fe',
    '--state',
    state,
  ]
  const made = godwit([...wg, '--out', file])
  assert.equal(made.status, 0, made.stderr)
  assert.equal(statSync(file).mode & 0o777, 0o600)
  assert.match(readFileSync(file, 'utf8'), /^DNS = 9\.9\.9\.9, 2620:fe::fe$/m)
  assert.doesNotMatch(made.stdout, /PrivateKey/)
  fails(
    2,
    /phone\.conf exists already; name another file/,
    'anchor',
    'invite',
    'b',
    '--out',
    file,
    '--state',
    state,
  )
  fails(2, /--dns needs --wg/, 'anchor', 'invite', 'b', '--dns', '9.9.9.9', '--state', state)
  assert.match(godwit(['anchor', 'hosts', '--state', state]).stdout, /^phone /m)
  assert.doesNotMatch(godwit(['anchor', 'hosts', '--state', state]).stdout, /^b /m)
})

test('exit status 2: a malformed configuration is told with file, line, reason', () => {
  const file = join(folder, 'bad.toml')
  writeFileSync(file, '[log]\n\nlevel = "loud"\n')
  fails(2, new RegExp(`${file}:3: log.level: must be one of`), 'config', 'check', file)
})

test('exit status 2: a private key that others can read is refused', () => {
  const state = join(folder, 'exposed')
  succeeds('anchor', 'init', '--endpoint', '192.0.2.1:1', '--state', state)
  chmodSync(join(state, 'private.key'), 0o644)
  fails(2, /others can read it \(mode 0644\); chmod 600 /, 'anchor', 'invite', 'x', '--state', state)
})

test('exit status 1: no daemon runs; a stack trace only with --debug', () => {
  fails(1, /godwit is not running/, 'status', '--state', join(folder, 'none'))
  assert.match(godwit(['status', '--debug', '--state', join(folder, 'none')]).stderr, /\n {4}at /)
})

test('with --json a failure is one object too', () => {
  const { status, stdout } = godwit(['flows', '--json', '--state', join(folder, 'none')])
  assert.equal(status, 1)
  assert.equal(JSON.parse(stdout).error.code, 'NOT_RUNNING')
})

test('keygen and pubkey speak the base64 of WireGuard', () => {
  const { stdout } = godwit(['keygen'])
  assert.match(stdout, /^[A-Za-z0-9+/]{43}=\n$/)
  // The pair of RFC 7748 section 6.1 (Alice).
  const known = godwit(['pubkey'], 'dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n')
  assert.equal(known.stdout, 'hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n')
  assert.equal(godwit(['pubkey'], 'nonsense').status, 2)
})

test('every command answers --help with an example, and every printing one knows --json and --state', () => {
  const program = buildProgram()
  forEachCommand(program, (command) => {
    if (command.commands.length > 0) return
    assert.ok(commandExamples(command).length > 0, command.name())
    assert.match(command.helpInformation(), /Usage: godwit /)
  })
  const help = godwit(['move', '--help'])
  assert.equal(help.status, 0)
  assert.match(help.stdout, /Examples:\n {2}godwit move all wwan0/)
  assert.match(help.stdout, /--json[\s\S]*--debug/)
})

test('names that others chose reach no terminal as commands: tables, JSON, errors (issue 8, point 12)', async () => {
  const state = join(folder, 'hostile')
  mkdirSync(state, { mode: 0o700 })
  const name = '/tmp/\u001b]0;owned\u0007\u009b2J\u202excod'
  const flow = {
    id: 'f1',
    proto: 'tcp',
    src: 's',
    dst: 'd',
    app: name,
    mechanism: 'm',
    peer: 'p',
    access: 'a',
  }
  const status = { flows: [flow], peers: [], accesses: [], handovers: [] }
  const error = { code: 'NO_FLOW', message: `nothing is ${name}`, kind: 'failed' }
  const server = createServer((request, response) => {
    const known = request.url === '/v1/status'
    response.writeHead(known ? 200 : 409).end(JSON.stringify(known ? status : { error }))
  })
  await new Promise<void>((done) => server.listen(join(state, 'control.sock'), done))
  const output = async (...args: string[]): Promise<string> => {
    const main = join(root, 'dist/src/cli/main.js')
    const child = spawn(process.execPath, [main, ...args, '--state', state])
    let text = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (text += chunk))
    await once(child, 'close')
    return text
  }
  try {
    const table = await output('flows')
    assert.match(table, /\\x1b\]0;owned\\x07\\x9b2J\\u202excod/)
    // The line for people, and the object for programs.
    const refused = await output('move', 'app:x', 'a', '--json')
    assert.match(refused, /godwit: nothing is \/tmp\/\\x1b/)
    assert.match(refused, /"message":"nothing is \/tmp\/\\u001b/)
    for (const text of [table, refused]) assert.match(text, /^[ -~\n]*$/)
  } finally {
    server.close()
  }
})

test('examples call commands and options that exist', () => {
  const program = buildProgram()
  forEachCommand(program, (command) => {
    for (const example of commandExamples(command)) {
      const words = example.replace(/^.*?godwit /, '').split(/\s+/)
      let at = program
      for (const word of words) at = at.commands.find((child) => child.name() === word) ?? at
      assert.equal(at, command, example)
      const own = words.includes('--') ? words.slice(0, words.indexOf('--')) : words
      for (const word of own.filter((part) => part.startsWith('--'))) {
        assert.ok(
          command.options.some((option) => option.long === word),
          `${example}: ${word}`,
        )
      }
    }
  })
})

test('bin/godwit works through symbolic links, and installed without its sources', () => {
  const installed = join(folder, 'lib/godwit')
  mkdirSync(join(installed, 'bin'), { recursive: true })
  for (const name of ['dist', 'node_modules', 'package.json'])
    symlinkSync(join(root, name), join(installed, name))
  writeFileSync(join(installed, 'bin/godwit'), readFileSync(join(root, 'bin/godwit')), { mode: 0o755 })
  const link = join(folder, 'link')
  symlinkSync(join(installed, 'bin/godwit'), link)
  symlinkSync('link', join(folder, 'godwit'))
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
  const called = spawnSync(join(folder, 'godwit'), ['--version'], { encoding: 'utf8' })
  assert.equal(called.stdout, `${version}\n`, called.stderr)
})

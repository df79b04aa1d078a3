/** TAB in real shells on a terminal: commands, options, and values of a daemon that the test plays. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { completion } from '../../../src/cli/complete.ts'
import { buildProgram } from '../../../src/cli/program.ts'
import { State } from '../../../src/host/stores/state.ts'
import { findProgram, usesPrograms } from '../../../src/linux/packages.ts'

usesPrograms('zsh', 'fish', 'script')

const root = fileURLToPath(new URL('../../../../', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'godwit-tab-'))
const state = join(folder, 's')
let daemon: Server

before(async () => {
  mkdirSync(state)
  const access = (name: string) => ({ name, state: 'up', addresses: ['192.0.2.7'] })
  const flow = { id: 'f12', app: 'curl', dst: '203.0.113.7:443', access: 'wlan0' }
  const status = { accesses: [access('wlan0'), access('wwan0')], flows: [flow], peers: [], classes: [] }
  daemon = createServer((_, response) => response.end(JSON.stringify(status)))
  await new Promise<void>((done) => daemon.listen(new State({ state }).socket, done))
})
after(() => {
  daemon.close()
  rmSync(folder, { recursive: true, force: true })
})

test('what may come next: commands, options that are not there yet, the kind of a value', () => {
  const program = buildProgram()
  const next = (...words: string[]) => {
    const { commands, value } = completion(program, words)
    return value ?? commands.map((each) => each.value)
  }
  assert.ok((next('') as string[]).includes('anchor'))
  assert.deepEqual(next('move', 'all', ''), 'place')
  assert.deepEqual(next('move', '--json', ''), 'what')
  assert.deepEqual(next('run', '--access', ''), 'access')
  assert.deepEqual(next('run', '--access', 'wlan0', '--policy', ''), 'policy')
  assert.deepEqual(next('run', '--', ''), [])
  assert.deepEqual(next('anchor', 'remove', ''), 'host')
  assert.deepEqual(next('bench', 'tunnel-tcp', ''), 'bench')
  assert.ok(!(next('status', '--json', '-') as string[]).includes('--json'))
  assert.deepEqual(next('anchor', 'init', '--endpoint', ''), [])
})

/** How a shell on a terminal gets to read godwit's script. */
interface Shell {
  readonly args: (rc: string) => readonly string[]
  /** Name of the file that it reads at its start, in its home. */
  readonly start: string
  readonly setup: (script: string) => readonly string[]
}

const SHELLS: Readonly<Record<string, Shell>> = {
  bash: {
    args: (rc) => ['--noprofile', '--rcfile', rc],
    start: 'rc',
    setup: (script) => [`. ${script}`, "PS1='GODWIT> '"],
  },
  zsh: {
    args: () => [],
    start: '.zshrc',
    setup: (script) => ['autoload -Uz compinit', 'compinit -u', `. ${script}`, "PS1='GODWIT> '"],
  },
  fish: {
    args: (rc) => ['--no-config', '-C', `"source ${rc}"`],
    start: 'rc.fish',
    setup: (script) => [`source ${script}`, "function fish_prompt; echo -n 'GODWIT> '; end"],
  },
}

/** Types each line and a TAB, in one shell; throws when the terminal does not show what is wanted. */
async function typed(
  shell: string,
  lines: readonly (readonly [line: string, wanted: RegExp])[],
): Promise<void> {
  const { args, start, setup } = SHELLS[shell]!
  const home = mkdtempSync(join(folder, 'home-'))
  const script = join(home, 'completion')
  const made = spawnSync(process.execPath, [join(root, 'dist/src/cli/main.js'), 'completion', shell])
  writeFileSync(script, made.stdout)
  const rc = join(home, start)
  writeFileSync(rc, `${setup(script).join('\n')}\n`)
  const command = [shell, ...args(rc), '-i'].join(' ')
  const PATH = `${join(root, 'bin')}:${process.env.PATH}`
  const child = spawn('script', ['-qefc', command, '/dev/null'], {
    cwd: home,
    env: { HOME: home, ZDOTDIR: home, PATH, TERM: 'dumb', LC_ALL: 'C.UTF-8' },
    stdio: ['pipe', 'pipe', 'ignore'],
    detached: true,
  })
  let screen = ''
  let seen = () => {}
  child.stdout.on('data', (text: Buffer) => {
    screen += text.toString()
    seen()
  })
  const shows = (wanted: RegExp) =>
    new Promise<void>((done, fail) => {
      const timer = setTimeout(() => fail(new Error(`${shell} shows ${JSON.stringify(screen)}`)), 60_000)
      seen = () => {
        if (!wanted.test(screen)) return
        clearTimeout(timer)
        seen = () => {}
        done()
      }
      seen()
    })
  try {
    await shows(/GODWIT> /)
    for (const [line, wanted] of lines) {
      screen = ''
      child.stdin.write(`${line}\t`)
      await shows(wanted)
      child.stdin.write('\x15') // forget the line
    }
  } finally {
    process.kill(-child.pid!, 'SIGKILL')
  }
}

for (const shell of Object.keys(SHELLS)) {
  test(`${shell}: TAB completes commands, applications, accesses`, async (t) => {
    if (findProgram(shell) === undefined) return t.skip(`${shell} is not installed`)
    const at = `--state ${state}`
    await typed(shell, [
      ['godwit anchor inv', /anchor invite /],
      [`godwit move ${at} app:c`, /app:curl /],
      [`godwit move ${at} all wl`, /all wlan0 /],
    ])
  })
}

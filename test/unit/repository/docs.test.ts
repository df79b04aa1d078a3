/** That the documents say what is so: generated pages are current, error codes are listed, commands in them work. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { after, test } from 'node:test'
import { generatedFiles } from '../../../scripts/docs.ts'
import { chooseAccess } from '../../../src/access/policy.ts'
import { buildProgram } from '../../../src/cli/program.ts'
import { matchesPattern } from '../../../src/core/pattern.ts'
import { parseConfig } from '../../../src/host/configuration/config.ts'

const root = resolve(import.meta.dirname, '../../../..')
const read = (name: string): string => readFileSync(join(root, name), 'utf8')
const folder = mkdtempSync(join(tmpdir(), 'godwit-docs-'))
after(() => rmSync(folder, { recursive: true }))

const documents = ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.md', 'ARCHITECTURE.md'].concat(
  readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
)

/** The lines of a document's shell examples. */
function shellLines(text: string): string[] {
  return [...text.matchAll(/```sh\n([\s\S]*?)```/g)].flatMap((match) => match[1]!.trim().split('\n'))
}

test('generated documents are what the code says (npm run docs)', () => {
  for (const [name, text] of generatedFiles()) assert.equal(read(name), text, `${name}: run npm run docs`)
})

test('docs/errors.md lists every code of the sources and no other', () => {
  const codes = new Set<string>()
  for (const folderName of ['src', 'lab', 'bench']) {
    for (const name of readdirSync(join(root, folderName), { recursive: true, encoding: 'utf8' })) {
      if (!name.endsWith('.ts')) continue
      for (const match of read(`${folderName}/${name}`).matchAll(/new (?:Godwit|Bus)Error\(\s*'([A-Z_]+)'/g))
        codes.add(match[1]!)
    }
  }
  for (const code of ['INTERNAL', 'USAGE', 'MISSING']) codes.add(code)
  const listed = [...read('docs/errors.md').matchAll(/^\| `([A-Z_]+)` \| [123] \|/gm)].map(
    (match) => match[1]!,
  )
  assert.deepEqual(listed, [...codes].sort())
})

test('every dependency has its line in docs/dependencies.md', () => {
  const { dependencies, devDependencies } = JSON.parse(read('package.json')) as Record<
    string,
    Record<string, string>
  >
  const text = read('docs/dependencies.md')
  for (const name of Object.keys({ ...dependencies, ...devDependencies }))
    assert.ok(text.includes(name), name)
})

test('links between documents lead somewhere', () => {
  for (const document of documents) {
    for (const match of read(document).matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)) {
      assert.ok(existsSync(resolve(root, dirname(document), match[1]!)), `${document}: ${match[1]}`)
    }
  }
})

test('docs/testing.md names tests that are there', () => {
  const rows = read('docs/testing.md').match(/^\|.*\]\(.*$/gm) ?? []
  assert.ok(rows.length > 20)
  for (const row of rows) {
    const [, ...parts] = row.split('](')
    for (const part of parts) {
      const file = part.slice(0, part.indexOf(')'))
      const text = read(join('docs', file)).replaceAll('\\', '')
      const names = [...part.matchAll(/"([^"]+)"/g)].map((match) => match[1]!)
      assert.ok(names.length > 0, `${file}: no test named`)
      for (const name of names) assert.ok(text.includes(name), `${file}: ${name}`)
    }
  }
})

test('each claim of docs/security.md and SECURITY.md names a test that is there (issue 8, point 12)', () => {
  const quoted = /`([^`]+)`/g
  let claims = 0
  const named = (where: string, text: string) => {
    let file: string | undefined
    for (const [, words] of text.matchAll(quoted)) {
      if (/^test\/\S+\.ts$/.test(words!)) file = read(words!).replaceAll('\\', '')
      else if (/^test\/|^GODWIT_/.test(words!)) assert.fail(`${where}: ${words}`)
      else {
        assert.ok(file !== undefined, `${where}: no file before ${words}`)
        for (const part of words!.split('…')) assert.ok(file.includes(part), `${where}: ${words}`)
        claims++
      }
    }
  }
  const page = read('docs/security.md')
  let shown = false
  for (const line of page.split('\n')) {
    if (!line.startsWith('|')) {
      shown = false
      continue
    }
    const cells = line.split('|').slice(1, -1)
    const last = cells.at(-1)!.replace(/\(`GODWIT_[^)]*\)/, '')
    if (last.trim() === 'shown by') shown = true
    else if (shown && !/^ *-+ *$/.test(last)) {
      assert.match(last, /`test\/\S+`: `/, `no test is named: ${line}`)
      named(cells[0]!.trim(), last)
    }
  }
  assert.ok(claims > 60, `${claims} claims`)
  for (const text of [page, read('SECURITY.md')])
    for (const [, found] of text.matchAll(
      /((?:`test\/[^`]+\.ts`(?:: `[^`]+`(?:, `[^`]+`)*)?(?:[;,]\s+)?)+)/g,
    ))
      named('text', found!)
})

test('commands in the documents are commands with options that exist', () => {
  const program = buildProgram()
  const commands = documents.flatMap((document) =>
    shellLines(read(document)).filter((line) => /^(sudo )?(bin\/)?godwit /.test(line)),
  )
  assert.ok(commands.length >= 10)
  for (const command of commands) {
    const words = command.replace(/^.*?godwit /, '').split(/\s+/)
    let at = program
    for (const word of words) at = at.commands.find((child) => child.name() === word) ?? at
    assert.notEqual(at, program, command)
    assert.equal(at.commands.length, 0, command)
    const own = words.slice(0, words.includes('--') ? words.indexOf('--') : undefined)
    for (const word of own.filter((part) => part.startsWith('--'))) {
      assert.ok(
        at.options.some((option) => option.long === word),
        `${command}: ${word}`,
      )
    }
  }
})

test('npm test and .ci/run are the same, and the command of the README', () => {
  assert.match(read('.ci/run'), /^exec npm test$/m)
  assert.ok(shellLines(read('README.md')).includes('npm test'))
})

test("the README's way from an anchor to a laptop works as it is written, up to the daemons", () => {
  const lines = shellLines(read('README.md'))
  const main = join(root, 'dist/src/cli/main.js')
  const call = (start: string, state: string, input = ''): string => {
    const line = lines.find((candidate) => candidate.startsWith(`sudo bin/godwit ${start}`))
    assert.ok(line, start)
    const args = line.replace('sudo bin/godwit ', '').replace(/ >.*/, '').split(' ')
    const result = spawnSync(process.execPath, [main, ...args, '--state', join(folder, state)], {
      encoding: 'utf8',
      cwd: folder,
      input,
    })
    assert.equal(result.status, 0, `${line}: ${result.stderr}`)
    return result.stdout
  }
  call('anchor init', 'anchor')
  const invitation = call('anchor invite laptop', 'anchor')
  assert.match(invitation, /^godwit1\.\S+\n$/)
  call('join -', 'laptop', invitation)
  call('anchor invite --wg', 'anchor')
  assert.match(readFileSync(join(folder, 'phone.conf'), 'utf8'), /^\[Interface\]\n/)
})

/** The TOML examples of the documents, with the file that each is in. */
function tomlExamples(): { document: string; text: string }[] {
  return documents.flatMap((document) =>
    [...read(document).matchAll(/```toml\n([\s\S]*?)```/g)].map((match) => ({ document, text: match[1]! })),
  )
}

/** What a section needs beside what an example shows of it. */
const REST: Readonly<Record<string, string>> = {
  anchor: '[anchor]\nendpoint = "a.example:51820"\n',
  router: '[router]\naccesses = ["wlan0", "wwan0"]\nsubnets = ["10.1.0.0/24"]\n',
}

test('issue 14, point 3: every configuration in the documents is one that godwit takes', () => {
  const examples = tomlExamples()
  assert.ok(examples.length >= 8, `${examples.length} examples`)
  for (const { document, text } of examples) {
    const role = /^\[+anchor/m.test(text)
      ? 'anchor'
      : /^\[+router/m.test(text) || /router/.test(document)
        ? 'router'
        : ''
    const rest = REST[role] ?? ''
    const whole = text.includes('[anchor]')
      ? text.replace('[anchor]\n', rest)
      : text.includes('[router]')
        ? text
        : rest + text
    const parsed = parseConfig(/^(\w+ = )/.test(text) ? `[host]\n${text}` : whole)
    assert.ok('config' in parsed, `${document}:\n${text}\n${JSON.stringify(parsed)}`)
  }
})

test('issue 14, point 3: the first example of docs/configuration.md does what its sentence says', () => {
  const page = read('docs/configuration.md')
  assert.match(page, /mobile data is a backup for everything but calls, which prefer it/)
  const first = tomlExamples().find(({ document }) => document === 'docs/configuration.md')!
  const parsed = parseConfig(first.text)
  assert.ok('config' in parsed)
  const { access, policy, host } = parsed.config
  const candidates = ['wlan0', 'wwan0'].map((name) => ({
    access: name,
    health: 'up' as const,
    since: 0,
    rttMs: 10,
    use: Object.entries(access).some(
      ([pattern, { use }]) => use === 'backup' && matchesPattern(pattern, name),
    )
      ? ('backup' as const)
      : ('normal' as const),
  }))
  const taken = (prefer: readonly string[]) =>
    chooseAccess(candidates, undefined, { prefer, fallback: 'any', moveUp: true }, 60_000).access
  assert.equal(taken(policy.find(({ name }) => name === 'calls')!.prefer), 'wwan0')
  assert.equal(taken(host.prefer), 'wlan0')
})

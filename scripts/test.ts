/**
 * Runs the tiers of the tests that this machine can run, and says at the end what ran, what was skipped and why. Exit
 * status: 0 nothing failed, 1 something did, 2 wrong call.
 *
 * check (formatting, lint, import directions, purity), unit and sim run side by side; nodes runs unit, sim and the demo on
 * the other versions of Node.js (nodes.ts); netns needs root, or a kernel that allows user namespaces, and runs apart; long,
 * one file after the other, only when asked for.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { run } from 'node:test'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import type { GodwitError } from '../src/core/errors.ts'
import { ensurePackages } from '../src/linux/packages.ts'
import { Rtnetlink } from '../src/linux/rtnetlink/index.ts'
import { userNamespaceObstacle } from '../src/linux/userns.ts'
import { mayChangeNetwork } from '../src/mechanism/needs.ts'
import { capture } from './capture.ts'
import { fetchNodes, testOnNodes } from './nodes.ts'
import {
  empty,
  failedOutcome,
  type Outcome,
  outcomesFromJson,
  outcomesToJson,
  skip,
  skipped,
  slowest,
  withFlaky,
} from './outcome.ts'
import { programsOfTests } from './programs.ts'

const TIERS = ['check', 'unit', 'sim', 'nodes', 'netns', 'long'] as const
type TierName = (typeof TIERS)[number]

/** Installs what is missing. One package that cannot be had keeps the others from nobody: its tests will skip. */
function installPrograms(tiers: readonly TierName[]): void {
  const programs = programsOfTests(root, tiers)
  const say = (line: string): void => void process.stderr.write(`test: ${line}\n`)
  try {
    ensurePackages(programs, { say })
  } catch {
    for (const program of programs) {
      try {
        ensurePackages([program], { say })
      } catch (error) {
        say(`going on without ${program}: ${(error as Error).message} (${(error as GodwitError).hint})`)
      }
    }
  }
}

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..')

function testFiles(tier: TierName): string[] {
  const folder = join(root, 'dist/test', tier)
  if (!existsSync(folder)) return []
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => TEST_FILE.test(name))
    .sort((a, b) => Number(LONG.test(b)) - Number(LONG.test(a)) || (a < b ? -1 : 1))
    .map((name) => join(folder, name))
}

const TEST_FILE = /\.test\.js$/

/** Files of netns that take a minute begin first: the last to begin would run on alone. */
const LONG =
  /^(tunnel\/paths|anchoring\/anchoring|host\/bad-days|translation\/networks|overlay\/reports)\.test\.js$/

/** What Node says of a test that ended. */
interface TestDone {
  readonly nesting: number
  readonly file?: string | undefined
  readonly details: { readonly duration_ms: number }
}

/** How a compiled test file is called in the sources. */
function testName(file: string): string {
  return relative(join(root, 'dist'), file).replace(/js$/, 'ts')
}

/** Runs test files in processes of their own, at most `concurrency` at a time. `count`: of how many files it tells its progress. */
async function runFiles(
  tier: string,
  files: readonly string[],
  concurrency: number,
  timeout: number,
  count: number = files.length,
): Promise<Outcome> {
  const outcome = empty()
  if (files.length === 0) return outcome
  const started = performance.now()
  const stream = run({ files: [...files], concurrency, timeout })
  const took = ({ nesting, file, details }: TestDone): void => {
    if (nesting > 0 || file === undefined) return
    outcome.files.set(file, (outcome.files.get(file) ?? 0) + details.duration_ms)
  }
  // A suite only repeats what its tests say; a file without any is an error that Node reports as a failed test.
  stream.on('test:pass', (event) => {
    took(event)
    if (event.details.type === 'suite') return
    const reason = event.skip ?? event.todo
    if (reason !== undefined) {
      skip(outcome, typeof reason === 'string' ? reason : `${event.name} (no reason given)`)
    } else {
      outcome.passed++
    }
  })
  stream.on('test:fail', (event) => {
    took(event)
    const error = event.details.error as Error & { failureType?: string; cause?: unknown }
    if (event.details.type === 'suite' && error.failureType === 'subtestsFailed') return
    if (error.failureType === 'subtestsFailed') return
    outcome.failed++
    const cause = error.cause instanceof Error ? (error.cause.stack ?? error.cause.message) : error.message
    outcome.failures.push({ name: event.name, file: event.file ?? '', text: String(cause) })
  })
  stream.on('test:stderr', (event) => process.stderr.write(event.message))
  const progress = setInterval(() => {
    const { passed, failed, files: begun } = outcome
    // Tests that several files share are in a file of their own.
    const tests = [...begun.keys()].filter((file) => TEST_FILE.test(file))
    process.stderr.write(
      `${tier}: ${passed} passed, ${failed} failed so far, in ${tests.length} of ${count} files\n`,
    )
  }, PROGRESS_MS)
  await new Promise<void>((done, fail) => {
    stream.once('end', done)
    stream.once('error', fail)
    stream.resume()
  }).finally(() => clearInterval(progress))
  outcome.milliseconds = performance.now() - started
  return outcome
}

/**
 * Runs test files in a few processes, as many at a time as there are cores: loading a file is quick, starting a process for
 * each of them is not. Those that measure their process have it for themselves.
 */
async function runTogether(
  tier: string,
  files: readonly string[],
  cores: number,
  timeout: number,
): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-test-'))
  try {
    const shared = files.filter((file) => !MEASURE_THEIR_PROCESS.test(file))
    const parts = Math.min(PARTS_A_CORE * cores, shared.length)
    const entries = Array.from({ length: parts }, (_, part) => {
      const entry = join(folder, `${tier}-${part}.test.mjs`)
      const imports = shared.filter((_, at) => at % parts === part).map((file) => pathToFileURL(file).href)
      writeFileSync(
        entry,
        `${TELL_AT_ONCE}${imports.map((url) => `import ${JSON.stringify(url)}\n`).join('')}`,
      )
      return entry
    })
    const alone = files.filter((file) => MEASURE_THEIR_PROCESS.test(file))
    return await runFiles(tier, [...entries, ...alone], cores, timeout, files.length)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A turn of the loop before each test, so that the results of those before it are out. Captured here: tests mock timers. */
const TELL_AT_ONCE = `import { beforeEach } from 'node:test'
const turn = globalThis.setImmediate
beforeEach(() => new Promise((done) => turn(done)))
`

/** Some files take a hundred times as long as others: with one part a core, one would run on alone. */
const PARTS_A_CORE = 4

const MEASURE_THEIR_PROCESS = /\/mptcp\/memory\.test\.js$/

/** How often a tier says how far it is. */
const PROGRESS_MS = 20_000

/** Of what a file says that runs once more: it may say nothing then. */
const MOST_LINES = 500

/** Files of netns that run at a time: their namespaces are their own, and they mostly wait. */
const MOST_BESIDE = 4

/**
 * Real packets on a machine that others use too: a file with a failure runs once more, alone, to tell what is flaky from what
 * is broken. What passed the second time is named as flaky, and has failed with --strict.
 */
async function runTwice(
  tier: string,
  files: readonly string[],
  beside: number,
  timeout: number,
): Promise<Outcome> {
  const outcome = await runFiles(tier, files, beside, timeout)
  const again = new Set(outcome.failures.map(({ file }) => file))
  if (again.size === 0 || again.has('')) return outcome
  process.stderr.write(
    `once more, alone: ${[...again].map((file) => relative(root, file)).join(', ')}\n${outcome.failures
      .map(({ name, text }) => `  ${name}: ${text.split('\n').slice(0, MOST_LINES).join('\n    ')}\n`)
      .join('')}`,
  )
  return withFlaky(outcome, await runFiles(tier, [...again], 1, timeout), process.argv.includes('--strict'))
}

/** Formatting, lint with import directions, and that protocol cores compile without Node's types. */
async function check(): Promise<Outcome> {
  const started = performance.now()
  const commands: [string, string[]][] = [
    ['biome check', ['node_modules/@biomejs/biome/bin/biome', 'check', '.']],
    ['tsc: protocol cores are pure', ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.pure.json']],
  ]
  const outcome = empty()
  for (const [name, args] of commands) {
    const { status, text } = await capture(process.execPath, args, { cwd: root })
    if (status === 0) outcome.passed++
    else {
      outcome.failed++
      outcome.failures.push({ name, file: '', text })
    }
  }
  outcome.milliseconds = performance.now() - started
  return outcome
}

/** With root here; else once more in a user namespace of its own; else the reason. */
async function privileged(tier: TierName, files: readonly string[], timeout: number): Promise<Outcome> {
  if (files.length === 0) return empty()
  if (process.getuid?.() === 0) return await runTwice(tier, files, besideIn(tier), timeout)
  const probe = spawnSync('unshare', ['-Urnm', 'true'], { encoding: 'utf8' })
  if (probe.status !== 0) {
    const why = probe.error ? 'unshare is not installed' : probe.stderr.trim() || 'not permitted'
    return skipped(`needs root, and user namespaces do not work here (${why}); run: sudo npm test`)
  }
  const names = files.map((file) => relative(root, file))
  const args = [
    '-Urnm',
    process.execPath,
    fileURLToPath(import.meta.url),
    '--inner',
    tier,
    ...(process.argv.includes('--strict') ? ['--strict'] : []),
    ...names,
  ]
  const { status, text } = await capture('unshare', args, { cwd: root, echoErrors: true })
  const line = text.split('\n').find((part) => part.startsWith(INNER))
  if (line === undefined) return failedOutcome(`${tier} in a user namespace (status ${status})`, text)
  return outcomesFromJson(line.slice(INNER.length)).get(tier)!
}

/** The longest that a process of tests may take, in milliseconds: all of a tier in unit and sim, one file in the others. */
const TIMEOUT: Readonly<Record<Exclude<TierName, 'nodes'>, number>> = {
  check: 120_000,
  unit: 600_000,
  sim: 600_000,
  netns: 240_000,
  long: 3_600_000,
}

function besideIn(tier: string): number {
  return tier === 'netns' ? Math.min(MOST_BESIDE, availableParallelism() + 1) : 1
}

const INNER = 'godwit-test-outcome '

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`
}

function report(outcomes: ReadonlyMap<TierName, Outcome>): boolean {
  const lines: string[] = []
  let [passed, failed, omitted] = [0, 0, 0]
  for (const [tier, outcome] of outcomes) {
    for (const failure of outcome.failures) {
      const where = failure.file && ` (${testName(failure.file)})`
      lines.push(`✖ ${tier}: ${failure.name}${where}`, ...failure.text.split('\n').map((l) => `    ${l}`), '')
    }
  }
  lines.push('tier     passed  failed  skipped     time')
  for (const tier of TIERS) {
    const outcome = outcomes.get(tier)
    if (!outcome) continue
    passed += outcome.passed
    failed += outcome.failed
    omitted += outcome.skipped
    const columns = [outcome.passed, outcome.failed, outcome.skipped].map((n) => String(n).padStart(8))
    lines.push(`${tier.padEnd(7)}${columns.join('')} ${seconds(outcome.milliseconds).padStart(9)}`)
    for (const name of outcome.flaky) lines.push(`         FLAKY (failed, then passed alone): ${name}`)
    for (const [reason, count] of outcome.reasons) lines.push(`         skipped ${count}: ${reason}`)
    const slow = slowest(outcome, 5).map(([file, took]) => `${testName(file)} ${seconds(took)}`)
    if (tier !== 'unit' && slow.length > 1) lines.push(`         slowest: ${slow.join(', ')}`)
  }
  lines.push('', `${passed} passed, ${failed} failed, ${omitted} skipped`)
  process.stdout.write(`${lines.join('\n')}\n`)
  return failed === 0
}

/** A network namespace that was just made (`unshare -n`, a user namespace) has its loopback down. */
function loopbackUp(): void {
  if (!mayChangeNetwork()) return
  const rtnl = new Rtnetlink()
  if (rtnl.link('lo')?.up === false) rtnl.setLink('lo', { up: true })
  rtnl.close()
}

/** Why the demo cannot run here, when it cannot. */
function demoObstacle(): string | undefined {
  if (process.getuid?.() === 0) return undefined
  const obstacle = userNamespaceObstacle()
  return obstacle && `needs root, or user namespaces: ${obstacle.reason}`
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      long: { type: 'boolean', default: false },
      tier: { type: 'string', multiple: true },
      'no-install': { type: 'boolean', default: false },
      strict: { type: 'boolean', default: false },
      inner: { type: 'string' },
    },
  })
  const named = positionals.map((path) =>
    resolve(root, path.startsWith('dist/') ? '' : 'dist', relative(root, resolve(path))).replace(
      /\.ts$/,
      '.js',
    ),
  )
  const missing = named.find((file) => !existsSync(file))
  if (missing !== undefined) throw new Error(`no such test file: ${missing}`)
  loopbackUp()
  if (values.inner !== undefined) {
    const outcome = await runTwice(
      values.inner,
      named,
      besideIn(values.inner),
      TIMEOUT[values.inner as keyof typeof TIMEOUT],
    )
    process.stdout.write(`\n${INNER}${outcomesToJson([[values.inner, outcome]]).replaceAll('\n', '')}\n`)
    return
  }
  const unknown = values.tier?.find((name) => !TIERS.includes(name as TierName))
  if (unknown !== undefined) throw new Error(`no tier ${unknown}; there are ${TIERS.join(', ')}`)
  const wanted = (tier: TierName): boolean => {
    if (values.tier) return values.tier.includes(tier)
    return named.length > 0 ? tier !== 'check' && tier !== 'nodes' : tier !== 'long' || values.long
  }
  const files = (tier: TierName): string[] =>
    testFiles(tier).filter((file) => named.length === 0 || named.includes(file))

  const binaries = wanted('nodes') ? fetchNodes(!values['no-install']) : undefined
  if (!values['no-install'])
    installPrograms(TIERS.filter((tier) => wanted(tier) && (tier === 'nodes' || files(tier).length > 0)))

  const outcomes = new Map<TierName, Outcome>()
  const cores = availableParallelism()
  const note = (tier: TierName, outcome: Outcome): void => {
    outcomes.set(tier, outcome)
    process.stderr.write(`${tier}: ${outcome.passed} passed, ${outcome.failed} failed\n`)
  }
  await Promise.all([
    wanted('check') ? check().then((outcome) => note('check', outcome)) : undefined,
    wanted('unit')
      ? runTogether('unit', files('unit'), cores, TIMEOUT.unit).then((outcome) => note('unit', outcome))
      : undefined,
    wanted('sim')
      ? runTogether('sim', files('sim'), cores, TIMEOUT.sim).then((outcome) => note('sim', outcome))
      : undefined,
  ])
  if (binaries !== undefined)
    note('nodes', await testOnNodes({ root, binaries, demoObstacle: demoObstacle() }))
  if (wanted('netns')) note('netns', await privileged('netns', files('netns'), TIMEOUT.netns))
  if (wanted('long')) note('long', await privileged('long', files('long'), TIMEOUT.long))
  else if (named.length === 0 && !values.tier && files('long').length > 0) {
    outcomes.set('long', skipped('takes long; run: npm test -- --long'))
  }
  process.exitCode = report(outcomes) ? 0 : 1
  // For those who read results by machine; the same numbers.
  if (process.env.GODWIT_TEST_JSON) {
    writeFileSync(process.env.GODWIT_TEST_JSON, outcomesToJson(outcomes))
  }
}

main().catch((error: Error) => {
  process.stderr.write(`test: ${error.message}\n`)
  process.exitCode = 2
})

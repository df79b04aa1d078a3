/**
 * Every version of Node.js that godwit is tested on: the binaries, which npm has as packages without an install script,
 * and what runs on each: unit and sim but for what no version changes, and the demo, which is a real move.
 *
 * Binaries lie in `$XDG_CACHE_HOME/godwit/nodes/<package>/<major>/bin/node` (default ~/.cache). To renew one, remove it.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { TESTED_NODES } from '../src/host/daemon/doctor.ts'
import { usesPrograms } from '../src/linux/packages.ts'
import { type Captured, type CaptureOptions, capture } from './capture.ts'
import { addOutcome, empty, failedOutcome, type Outcome, outcomesFromJson, skip, skipped } from './outcome.ts'

/** `reason` says why there is none. */
export type NodeBinary = { readonly path: string } | { readonly reason: string }

export interface Fetching {
  readonly cache: string
  /** False: only what is in the cache. */
  readonly mayFetch: boolean
  run(command: string, args: readonly string[], options?: CaptureOptions): Promise<Captured>
}

usesPrograms('libatomic1')

const FETCH_TIMEOUT_MS = 240_000
const PROGRAM_TIMEOUT_MS = 600_000

function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'godwit/nodes')
}

/** The newest Node of a major version for an architecture (`x64`, `arm64`), from the cache or from npm. */
export async function nodeBinary(
  major: number,
  arch: string = process.arch,
  { cache, mayFetch, run }: Fetching = { cache: cacheFolder(), mayFetch: true, run: capture },
): Promise<NodeBinary> {
  const name = `node-linux-${arch}`
  const folder = join(cache, name, String(major))
  const path = join(folder, 'bin/node')
  if (existsSync(path)) return { path }
  if (!mayFetch)
    return { reason: `Node ${major} is not in ${cache}, and nothing is fetched with --no-install` }
  mkdirSync(dirname(folder), { recursive: true })
  // Beside its place, so that what is there is whole, whoever else fetches it now.
  const scratch = mkdtempSync(`${folder}.`)
  try {
    const pack = ['pack', `${name}@${major}`, '--silent', '--fetch-retries=1', '--pack-destination', scratch]
    const packed = await run('npm', pack, { cwd: scratch, timeout: FETCH_TIMEOUT_MS })
    if (packed.status !== 0) return { reason: `npm could not fetch ${name}@${major}${lastLine(packed.text)}` }
    const file = packed.text.trim().split('\n').at(-1)!
    const unpack = ['-xzf', join(scratch, file), '-C', scratch, '--no-same-owner', 'package/bin/node']
    const unpacked = await run('tar', unpack)
    if (unpacked.status !== 0) return { reason: `tar could not unpack ${file}${lastLine(unpacked.text)}` }
    rmSync(folder, { recursive: true, force: true })
    renameSync(join(scratch, 'package'), folder)
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
  return { path }
}

function lastLine(text: string): string {
  const line = text.trim().split('\n').at(-1)
  return line ? `: ${line}` : ''
}

/** The tested versions that this process is not. */
export function otherNodes(current: string = process.versions.node): number[] {
  const own = Number(current.split('.')[0])
  return TESTED_NODES.filter((major) => major !== own)
}

export interface NodesTier {
  readonly root: string
  readonly binaries: ReadonlyMap<number, Promise<NodeBinary>>
  /** Whether the demo may change the network here, directly or in a user namespace; else why not. */
  readonly demoObstacle: string | undefined
}

/** Starts fetching; what runs meanwhile need not wait. */
export function fetchNodes(mayFetch: boolean): Map<number, Promise<NodeBinary>> {
  const fetching = { cache: cacheFolder(), mayFetch, run: capture }
  return new Map(
    otherNodes().map((major) => [
      major,
      nodeBinary(major, process.arch, fetching).catch((error: Error) => ({ reason: error.message })),
    ]),
  )
}

/** Those files of unit and sim, and the demo, on every other version, one version after the other. */
export async function testOnNodes({ root, binaries, demoObstacle }: NodesTier): Promise<Outcome> {
  const whole = empty()
  const started = performance.now()
  for (const [major, binary] of binaries) {
    const found = await binary
    if ('reason' in found) {
      skip(whole, `Node ${major}: ${found.reason}`)
      continue
    }
    const version = await capture(found.path, ['--version'])
    if (version.status !== 0) {
      skip(whole, `Node ${major}: ${found.path} does not run here${lastLine(version.text)}`)
      continue
    }
    const label = `Node ${version.text.trim()}`
    const begun = performance.now()
    const outcomes = await tiersOn(root, found.path, ['unit', 'sim'], filesOnAll(root))
    for (const [tier, outcome] of outcomes) addOutcome(whole, outcome, `${label}, ${tier}`)
    addOutcome(whole, await demoOn(root, found.path, demoObstacle), `${label}, demo`)
    process.stderr.write(
      `${label}: ${((performance.now() - begun) / 1000).toFixed(0)} s, a tenth of the seeds\n`,
    )
  }
  whole.milliseconds = performance.now() - started
  return whole
}

/** About this repository, shells, and texts of single commands: the same whatever Node runs it, and slow. */
const ON_ONE = /^test\/unit\/(repository\/|cli\/(command|completion|top|wrong-uses)\.)/

/** Unit and sim tests that run on every version. */
export function filesOnAll(root: string): string[] {
  return ['unit', 'sim'].flatMap((tier) =>
    readdirSync(join(root, 'dist/test', tier), { recursive: true, encoding: 'utf8' })
      .map((name) => `test/${tier}/${name}`)
      .filter((name) => name.endsWith('.test.js') && !ON_ONE.test(name))
      .sort(),
  )
}

/** The tiers by another Node, perhaps behind an emulator (`command` before it). Children find that Node on PATH. */
export async function tiersOn(
  root: string,
  node: string,
  tiers: readonly string[],
  files: readonly string[] = [],
): Promise<Map<string, Outcome>> {
  const scratch = mkdtempSync(join(tmpdir(), 'godwit-nodes-'))
  try {
    const json = join(scratch, 'outcome.json')
    const args = [
      join(root, 'dist/scripts/test.js'),
      '--no-install',
      ...tiers.flatMap((tier) => ['--tier', tier]),
      ...files,
    ]
    const { text } = await capture(node, args, {
      cwd: root,
      env: { ...environment(node), GODWIT_TEST_JSON: json, GODWIT_TEST_BRIEF: '1' },
    })
    if (!existsSync(json)) return new Map([[tiers.join(' '), failedOutcome('the tests did not end', text)]])
    return outcomesFromJson(readFileSync(json, 'utf8'))
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

async function demoOn(root: string, node: string, obstacle: string | undefined): Promise<Outcome> {
  if (obstacle !== undefined) return skipped(obstacle)
  const out = mkdtempSync(join(tmpdir(), 'godwit-nodes-'))
  try {
    const args = [join(root, 'dist/src/cli/main.js'), 'demo', '--out', out]
    const { status, text } = await capture(node, args, {
      cwd: root,
      env: environment(node),
      timeout: PROGRAM_TIMEOUT_MS,
    })
    if (status === 0) return { ...empty(), passed: 1 }
    if (status === 3) return skipped(`this machine lacks something${lastLine(text)}`)
    return failedOutcome(`status ${status}`, text)
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
}

/** With this Node as `node`: bin/godwit takes it from PATH. The outer test runner's own variables stay outside. */
function environment(node: string): NodeJS.ProcessEnv {
  const { NODE_TEST_CONTEXT: _, ...rest } = process.env
  return { ...rest, PATH: `${dirname(node)}:${process.env.PATH}` }
}

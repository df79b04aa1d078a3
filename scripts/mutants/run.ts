/**
 * Breaks the compiled program in one place at a time and looks whether a test of unit or sim falls. A copy is broken, never
 * the checkout. Of each area a sample is drawn, the same for the same seed; each mutant is met by the test files that run
 * its place, the quickest first, until one fails.
 */
import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { SourceMap } from 'node:module'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { pathToFileURL } from 'node:url'
import { capture } from '../capture.ts'
import { AREAS, type Area } from './areas.ts'
import { type Covered, cover } from './coverage.ts'
import { type Mutant, mutantsOf } from './operators.ts'

export interface Survivor {
  /** File and line of the source. */
  readonly where: string
  readonly what: string
  /** No test of the area runs the place. */
  readonly unseen: boolean
}

export interface Score {
  readonly area: string
  /** All that the operators find. */
  readonly mutants: number
  readonly tried: number
  readonly killed: number
  readonly survivors: readonly Survivor[]
}

export interface MutationOptions {
  readonly root: string
  readonly areas: readonly string[]
  /** Mutants of each area. */
  readonly sample: number
  readonly seed: number
  readonly say: (line: string) => void
}

/** One test may take this many times what it took unbroken, and a while. */
const PATIENCE = 4
const PATIENCE_MS = 5_000
const FIRST_MS = 300_000

interface Place {
  /** Below the copy, compiled. */
  readonly file: string
  readonly text: string
  readonly mutant: Mutant
}

export async function measureAreas(options: MutationOptions): Promise<Score[]> {
  const copy = mkdtempSync(join(tmpdir(), 'godwit-mutants-'))
  try {
    for (const part of ['dist', 'docs', 'package.json', 'README.md']) {
      const from = join(options.root, part)
      cpSync(from, join(copy, part), { recursive: true })
    }
    symlinkSync(join(options.root, 'node_modules'), join(copy, 'node_modules'))
    const scores: Score[] = []
    for (const area of AREAS) {
      if (options.areas.length > 0 && !options.areas.includes(area.name)) continue
      scores.push(await measure(area, copy, options))
    }
    return scores
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

async function measure(area: Area, copy: string, { sample, seed, say }: MutationOptions): Promise<Score> {
  const places = area.code.flatMap((path) => modulesIn(join(copy, 'dist', path))).flatMap(placesIn)
  const drawn = draw(places, sample, seed)
  const tests: Covered[] = []
  for (const test of testsOf(area, copy)) {
    const covered = await cover(test, environment(), FIRST_MS)
    if (covered === undefined) say(`${area.name}: ${relative(copy, test)} fails unbroken, and is left out`)
    else tests.push(covered)
  }
  tests.sort((a, b) => a.milliseconds - b.milliseconds)
  let killed = 0
  const survivors: Survivor[] = []
  for (const [n, place] of drawn.entries()) {
    const url = pathToFileURL(place.file).href
    const meeting = tests.filter((test) => test.runs(url, place.mutant.from))
    if (await isKilled(place, meeting)) killed++
    else {
      const survivor = { where: sourceOf(place, copy), what: place.mutant.what, unseen: meeting.length === 0 }
      survivors.push(survivor)
      say(`  survives${survivor.unseen ? ', not run' : ''}: ${survivor.where}: ${survivor.what}`)
    }
    if ((n + 1) % 10 === 0) say(`${area.name}: ${killed} of ${n + 1} killed`)
  }
  return { area: area.name, mutants: places.length, tried: drawn.length, killed, survivors }
}

async function isKilled({ file, text, mutant }: Place, tests: readonly Covered[]): Promise<boolean> {
  writeFileSync(file, text.slice(0, mutant.from) + mutant.replacement + text.slice(mutant.to))
  try {
    for (const { test, milliseconds } of tests) {
      const timeout = Math.round(PATIENCE * milliseconds + PATIENCE_MS)
      const { status } = await capture(process.execPath, [test], { env: environment(), timeout })
      if (status !== 0) return true
    }
    return false
  } finally {
    writeFileSync(file, text)
  }
}

function environment(): NodeJS.ProcessEnv {
  const { NODE_TEST_CONTEXT: _, NODE_V8_COVERAGE: __, ...rest } = process.env
  return { ...rest, GODWIT_TEST_BRIEF: '1' }
}

function modulesIn(path: string): string[] {
  const compiled = path.replace(/\.ts$/, '.js')
  if (compiled !== path) return [compiled]
  return readdirSync(path, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.js'))
    .sort()
    .map((name) => join(path, name))
}

function placesIn(file: string): Place[] {
  const text = readFileSync(file, 'utf8')
  return mutantsOf(text).map((mutant) => ({ file, text, mutant }))
}

function testsOf(area: Area, copy: string): string[] {
  return area.tests.flatMap((name) =>
    ['unit', 'sim'].flatMap((tier) => {
      const folder = join(copy, 'dist/test', tier, name)
      if (statSync(folder, { throwIfNoEntry: false }) === undefined) return []
      return readdirSync(folder)
        .filter((file) => file.endsWith('.test.js'))
        .map((file) => join(folder, file))
    }),
  )
}

/** `count` of them, chosen by the seed alone (xorshift). */
function draw(places: readonly Place[], count: number, seed: number): Place[] {
  const rest = [...places]
  const drawn: Place[] = []
  let state = (seed ^ 0x9e3779b9) >>> 0 || 1
  while (drawn.length < count && rest.length > 0) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    drawn.push(...rest.splice((state >>> 0) % rest.length, 1))
  }
  return drawn
}

function sourceOf({ file, text, mutant }: Place, copy: string): string {
  const before = text.slice(0, mutant.from).split('\n')
  const map = new SourceMap(JSON.parse(readFileSync(`${file}.map`, 'utf8')))
  const entry = map.findEntry(before.length - 1, before.at(-1)!.length) as { readonly originalLine?: number }
  return `${relative(join(copy, 'dist'), file).replace(/js$/, 'ts')}:${(entry.originalLine ?? 0) + 1}`
}

/** Which places of a program a test file runs, from V8's block coverage. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { capture } from '../capture.ts'

interface Range {
  readonly startOffset: number
  readonly endOffset: number
  readonly count: number
}

interface Report {
  readonly result: readonly {
    readonly url: string
    readonly functions: readonly { readonly ranges: readonly Range[] }[]
  }[]
}

/** A test file that passed, how long it took, and what it ran. */
export interface Covered {
  readonly test: string
  readonly milliseconds: number
  /** Whether an offset of a module (its `file:` URL) was run. */
  runs(url: string, offset: number): boolean
}

/** Runs a test file; undefined when it fails. */
export async function cover(
  test: string,
  env: NodeJS.ProcessEnv,
  timeout: number,
): Promise<Covered | undefined> {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-coverage-'))
  try {
    const started = performance.now()
    const { status } = await capture(process.execPath, [test], {
      env: { ...env, NODE_V8_COVERAGE: folder },
      timeout,
    })
    const milliseconds = performance.now() - started
    if (status !== 0) return undefined
    const ranges = new Map<string, Range[]>()
    for (const name of existsSync(folder) ? readdirSync(folder) : []) {
      const { result } = JSON.parse(readFileSync(join(folder, name), 'utf8')) as Report
      for (const { url, functions } of result) {
        const known = ranges.get(url) ?? []
        ranges.set(url, known)
        for (const each of functions) known.push(...each.ranges)
      }
    }
    return { test, milliseconds, runs: (url, offset) => innermost(ranges.get(url) ?? [], offset) > 0 }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Blocks nest: what counts is the smallest around the place, and of several runs the one that got there. */
function innermost(ranges: readonly Range[], offset: number): number {
  let smallest = Number.POSITIVE_INFINITY
  let count = 0
  for (const range of ranges) {
    if (offset < range.startOffset || offset >= range.endOffset) continue
    const size = range.endOffset - range.startOffset
    if (size > smallest) continue
    count = size === smallest ? Math.max(count, range.count) : range.count
    smallest = size
  }
  return count
}

/**
 * Measurements beside what a user would pick instead, in the same run: `godwit bench [name…]`. Ratios are ours ÷ theirs;
 * docs/benchmarks.md quotes them with the command that reproduces each.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { usageError } from '../src/core/errors.ts'
import { makeOut } from './bed.ts'
import { dime } from './dime.ts'
import { handover } from './handover.ts'
import type { Bench, BenchResult } from './harness.ts'
import { memory } from './memory.ts'
import { mptcp } from './mptcp.ts'
import { mptcpHandover } from './mptcp-handover.ts'
import { mptcpMemory } from './mptcp-memory.ts'
import { overlay } from './overlay.ts'
import { overlayCoordinators } from './overlay-coordinators.ts'
import { overlayRegistrations } from './overlay-registrations.ts'
import { paft } from './paft.ts'
import { router } from './router.ts'
import { routerPaths } from './router-paths.ts'
import { tunnelLatency } from './tunnel-latency.ts'
import { tunnelPps } from './tunnel-pps.ts'
import { tunnelNat, tunnelStock, tunnelTcp } from './tunnel-tcp.ts'

export type { BenchResult } from './harness.ts'

const benches: readonly Bench[] = [
  tunnelTcp,
  tunnelNat,
  tunnelStock,
  tunnelPps,
  tunnelLatency,
  paft,
  dime,
  memory,
  mptcp,
  mptcpHandover,
  mptcpMemory,
  overlay,
  overlayCoordinators,
  overlayRegistrations,
  handover,
  routerPaths,
  router,
]

export interface BenchOptions {
  readonly out?: string
  readonly rounds?: number
  readonly seconds?: number
  readonly seed?: number
  readonly signal?: AbortSignal
  /** Progress, a line at a time. Default: standard error. */
  readonly log?: (line: string) => void
}

/** Name and one line of each. */
export function listBenches(): { name: string; summary: string }[] {
  return benches.map(({ name, summary }) => ({ name, summary }))
}

/** Runs the named benches (all of them when none is named), one after another; each result is also written to `out`. */
export async function runBenches(
  names: readonly string[],
  options: BenchOptions = {},
): Promise<BenchResult[]> {
  const chosen = names.length === 0 ? benches : names.map(find)
  const out = await makeOut(options.out)
  const results: BenchResult[] = []
  for (const bench of chosen) {
    const result = await bench.run({
      out,
      rounds: options.rounds ?? 3,
      seconds: options.seconds ?? 4,
      seed: options.seed ?? 1,
      signal: options.signal ?? new AbortController().signal,
      progress: options.log ?? ((line) => process.stderr.write(`${bench.name}: ${line}\n`)),
    })
    await writeFile(join(out, `${bench.name}.json`), `${JSON.stringify(result, null, 2)}\n`)
    results.push(result)
  }
  return results
}

function find(name: string): Bench {
  const bench = benches.find((candidate) => candidate.name === name)
  if (bench === undefined) {
    throw usageError(`no benchmark ${name}`, {
      hint: `one of: ${benches.map((each) => each.name).join(', ')}`,
    })
  }
  return bench
}

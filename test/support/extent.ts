/**
 * How many of `n` seeds, repetitions or milliseconds of virtual time a test runs: all of them, and on the other versions of
 * Node.js (scripts/nodes.ts) a tenth. What differs there is the engine, which each seed exercises alike.
 */
export function extent(n: number): number {
  return isBrief() ? Math.ceil(n / 10) : n
}

/** Of variants of one test: all, and on the other versions of Node.js a tenth, the first of them. */
export function some<T>(all: readonly T[]): readonly T[] {
  return all.slice(0, extent(all.length))
}

/** The step through a range of which a test tries every place: as given, and on the other versions of Node.js ten times that. */
export function stride(step: number): number {
  return isBrief() ? 10 * step : step
}

function isBrief(): boolean {
  return process.env.GODWIT_TEST_BRIEF !== undefined
}

/**
 * How many of `n` seeds or repetitions a test runs: all of them, and on the other versions of Node.js (scripts/nodes.ts) a
 * tenth. What differs there is the engine, which each seed exercises alike.
 */
export function extent(n: number): number {
  return process.env.GODWIT_TEST_BRIEF === undefined ? n : Math.ceil(n / 10)
}

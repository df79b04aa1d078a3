/** `bench`: hands over to bench/, which is loaded here and nowhere else. */

import type { CommonOptions } from '../definition.ts'
import { printJson, printLines, table } from '../output.ts'

interface BenchCommandOptions extends CommonOptions {
  readonly list?: boolean
  readonly out?: string
  readonly rounds?: number
  readonly seconds?: number
  readonly seed?: number
}

export async function bench(names: readonly string[], options: BenchCommandOptions): Promise<void> {
  const { listBenches, runBenches } = await import('../../../bench/index.ts')
  if (options.list) {
    const list = listBenches()
    if (options.json) printJson({ benches: list })
    else
      printLines(
        table(
          ['NAME', 'WHAT'],
          list.map(({ name, summary }) => [name, summary]),
        ),
      )
    return
  }
  const controller = new AbortController()
  const stop = (): void => controller.abort(new Error('stopped'))
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
  const { out, rounds, seconds, seed } = options
  const results = await runBenches(names, {
    signal: controller.signal,
    ...(out === undefined ? {} : { out }),
    ...(rounds === undefined ? {} : { rounds }),
    ...(seconds === undefined ? {} : { seconds }),
    ...(seed === undefined ? {} : { seed }),
  })
  if (options.json) {
    // One object, as the contract has it; several benches side by side under one key.
    printJson(results.length === 1 ? results[0] : { benches: results })
    return
  }
  for (const result of results) {
    const rows = result.runs.map((run) => [run.name, run.subject, `${run.median}`, run.unit])
    printLines([result.bench, ...table(['MEASURE', 'SUBJECT', 'MEDIAN', 'UNIT'], rows), ''])
    const ratios = Object.entries(result.ratios).map(([name, value]) => [name, value.toFixed(2)])
    if (ratios.length > 0) printLines([...table(['RATIO (ours / theirs)', 'VALUE'], ratios), ''])
    printLines(Object.entries(result.skipped).map(([subject, reason]) => `without ${subject}: ${reason}`))
  }
}

/** `demo` and `lab …`: hand over to lab/, which is loaded here and nowhere else. */
import type { LabOptions, ScenarioResult } from '../../../lab/types.ts'
import { GodwitError } from '../../core/errors.ts'
import type { CommonOptions } from '../definition.ts'
import { EXIT } from '../errors.ts'
import { printJson, printLines, table } from '../output.ts'

interface LabCommandOptions extends CommonOptions {
  readonly out?: string
  readonly seed?: number
  readonly full?: boolean
  readonly handovers?: number
  readonly only?: string
  readonly paperTime?: boolean
  readonly link?: readonly string[]
}

const load = () => import('../../../lab/index.ts')

export async function list(options: CommonOptions): Promise<void> {
  const lab = await load()
  const [scenarios, topologies] = [lab.listScenarios(), lab.listTopologies()]
  if (options.json) {
    printJson({ scenarios, topologies })
    return
  }
  const rows = [
    ...scenarios.map(({ name, summary }) => ['scenario', name, summary]),
    ...topologies.map(({ name, summary }) => ['topology', name, summary]),
  ]
  printLines(table(['KIND', 'NAME', 'WHAT'], rows))
}

export async function runOne(scenario: string, options: LabCommandOptions): Promise<void> {
  const lab = await load()
  const elsewhere = await lab.enterLab('scenario', lab.programsOf(scenario))
  if (elsewhere !== undefined) {
    process.exitCode = elsewhere
    return
  }
  const result = await withSignals((signal) => lab.runScenario(scenario, labOptions(lab, options, signal)))
  finish(result, options)
}

export async function demo(options: LabCommandOptions): Promise<void> {
  const lab = await load()
  const elsewhere = await lab.enterLab('scenario')
  if (elsewhere !== undefined) {
    process.exitCode = elsewhere
    return
  }
  const screen = options.json ? process.stderr : process.stdout
  const result = await withSignals((signal) => lab.runDemo({ ...labOptions(lab, options, signal), screen }))
  if (options.json) printJson(result)
  if (!result.passed) process.exitCode = EXIT.failed
}

export async function up(topology: string, options: LabCommandOptions): Promise<void> {
  const lab = await load()
  const elsewhere = await lab.enterLab('topology')
  if (elsewhere !== undefined) {
    process.exitCode = elsewhere
    return
  }
  await withSignals(async (signal) => {
    const running = await lab.upTopology(topology, labOptions(lab, options, signal))
    try {
      if (options.json) printJson(running.description)
      else printLines(['ready'])
      if (!signal.aborted) await new Promise<void>((done) => signal.addEventListener('abort', () => done()))
    } finally {
      await running.close()
    }
  })
}

/** Changes links of the lab that is up. */
export async function link(changes: readonly string[]): Promise<void> {
  const lab = await load()
  for (const change of changes) await lab.changeLink(change)
}

type Lab = Awaited<ReturnType<typeof load>>

function labOptions(lab: Lab, options: LabCommandOptions, signal: AbortSignal): LabOptions {
  const links = Object.fromEntries(
    (options.link ?? []).map((text) => {
      const { name, change } = lab.parseLink(text)
      return [name, change]
    }),
  )
  const { out, seed, full, handovers, only, paperTime } = options
  return {
    signal,
    links,
    ...(out === undefined ? {} : { out }),
    ...(seed === undefined ? {} : { seed }),
    ...(full === undefined ? {} : { full }),
    ...(handovers === undefined ? {} : { handovers }),
    ...(only === undefined ? {} : { only: only.split(',').map((word) => word.trim()) }),
    ...(paperTime === undefined ? {} : { paperTime }),
  }
}

/** Runs with a signal that SIGINT, SIGTERM and SIGHUP abort, so that everything is removed before the end. */
async function withSignals<T>(action: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  const stop = (signal: NodeJS.Signals): void =>
    controller.abort(new GodwitError('STOPPED', `stopped by ${signal}; the lab is removed`))
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const signal of signals) process.on(signal, stop)
  try {
    return await action(controller.signal)
  } finally {
    for (const signal of signals) process.off(signal, stop)
  }
}

function finish(result: ScenarioResult, options: CommonOptions): void {
  if (options.json) printJson(result)
  else {
    const rows = result.checks.map(({ name, ok, value, want }) => [
      ok ? 'ok' : 'FAILED',
      name,
      String(value),
      want,
    ])
    printLines([
      ...table(['CHECK', 'WHAT', 'VALUE', 'WANTED'], rows),
      '',
      `plot: ${result.plot ?? 'none; npm install -g echarts@6 draws it'}`,
      `${result.scenario} ${result.passed ? 'passed' : 'FAILED'} (seed ${result.seed})`,
    ])
  }
  if (!result.passed) process.exitCode = EXIT.failed
}

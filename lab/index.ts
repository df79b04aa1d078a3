/**
 * The lab: hosts as network namespaces, links and NATs between them, and the papers' experiments on top. Everything it
 * makes is named `gw-…` and goes when it ends; what a killed lab left is removed by the next one.
 *
 * It needs root, or a kernel that allows user namespaces: see `enterLab`.
 */
import { usageError } from '../src/core/errors.ts'
import type { Program } from '../src/linux/packages.ts'
import { Lab } from './build.ts'
import { serveLinks } from './remote.ts'
import { observeScenario } from './run.ts'
import { type Scenario, timelineLine } from './scenario.ts'
import { scenarios } from './scenarios/index.ts'
import { topologies, topologyNamed } from './topologies/index.ts'
import type { LabOptions, RunningLab, ScenarioResult } from './types.ts'

export { enterLab } from './enter.ts'
export { parseLink } from './links/conditions.ts'
export { changeLink } from './remote.ts'
export type * from './types.ts'

/** Name and one line of each scenario, in the order to read them. */
export function listScenarios(): { name: string; summary: string; topology: string }[] {
  return scenarios.map(({ name, summary, topology }) => ({ name, summary, topology }))
}

/** Name and one line of each topology. */
export function listTopologies(): { name: string; summary: string }[] {
  return topologies.map(({ name, summary }) => ({ name, summary }))
}

/**
 * Runs a scenario; resolves with its result, checks failed or not. Rejects with a `GodwitError` (usage: no such
 * scenario or link; missing: the machine lacks something) or the reason of `signal`.
 */
export async function runScenario(name: string, options: LabOptions = {}): Promise<ScenarioResult> {
  const scenario = scenarioNamed(name)
  const log = options.log ?? ((line: string) => process.stderr.write(`${line}\n`))
  return observeScenario(scenario, options, { event: (entry) => log(timelineLine(entry)) })
}

/**
 * Builds a topology and starts nothing on it. `changeLink` in another process changes its links; `close()` removes all
 * of it.
 */
export async function upTopology(name: string, options: LabOptions = {}): Promise<RunningLab> {
  const lab = await Lab.build(topologyNamed(name), {
    ...(options.seed === undefined ? {} : { seed: options.seed }),
    ...(options.links === undefined ? {} : { links: options.links }),
  })
  const server = await serveLinks(lab).catch(async (error: unknown) => {
    await lab.close()
    throw error
  })
  return {
    description: lab.description,
    setLink: (...change) => lab.setLink(...change),
    close: async () => {
      server.close()
      await lab.close()
    },
  }
}

/** Runs `upmt-swap` and shows it live on `screen` (a terminal, or plain lines), then the verdict. */
export async function runDemo(
  options: LabOptions & { screen?: NodeJS.WriteStream } = {},
): Promise<ScenarioResult> {
  const { showDemo } = await import('./demo.ts')
  return showDemo(scenarioNamed('upmt-swap'), options, options.screen ?? process.stdout)
}

/** What a scenario starts beside curl and rsync: for `enterLab`. */
export function programsOf(name: string): readonly Program[] {
  return scenarioNamed(name).programs ?? []
}

function scenarioNamed(name: string): Scenario {
  const found = scenarios.find((scenario) => scenario.name === name)
  if (found === undefined)
    throw usageError(`no scenario ${name}; there are ${scenarios.map((s) => s.name).join(', ')}`)
  return found
}

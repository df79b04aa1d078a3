/** Runs one scenario from an empty machine to its files. */
import { mkdirSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Lab } from './build.ts'
import { type Observer, partsOf, type Scenario, ScenarioContext } from './scenario.ts'
import { topologyNamed } from './topologies/index.ts'
import type { LabOptions, ScenarioResult } from './types.ts'

/** Builds the topology, runs the scenario, removes everything, writes the result; someone may watch. */
export async function observeScenario(
  scenario: Scenario,
  options: LabOptions,
  observer: Observer,
): Promise<ScenarioResult> {
  const parts = partsOf(scenario, options.only)
  const seed = options.seed ?? Math.floor(Math.random() * 2 ** 31)
  const out = outputFolder(scenario.name, options.out)
  const links: Record<string, object> = { ...scenario.links }
  for (const [link, change] of Object.entries(options.links ?? {}))
    links[link] = { ...links[link], ...change }
  const lab = await Lab.build(topologyNamed(scenario.topology), { seed, links })
  let context: ScenarioContext
  try {
    options.signal?.throwIfAborted()
    context = new ScenarioContext(lab, out, seed, options, observer, parts)
    await scenario.run(context)
  } finally {
    await lab.close()
  }
  return context.finish(scenario)
}

function outputFolder(name: string, wanted: string | undefined): string {
  if (wanted === undefined) return mkdtempSync(join(tmpdir(), `godwit-${name}-`))
  const folder = resolve(wanted)
  mkdirSync(folder, { recursive: true })
  return folder
}

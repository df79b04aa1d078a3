/** The demo: a scenario with a live view. */
import { observeScenario } from './run.ts'
import { type Scenario, timelineLine } from './scenario.ts'
import type { LabOptions, ScenarioResult } from './types.ts'

export async function showDemo(
  scenario: Scenario,
  options: LabOptions,
  screen: NodeJS.WriteStream,
): Promise<ScenarioResult> {
  return observeScenario(scenario, options, { event: (entry) => screen.write(`${timelineLine(entry)}\n`) })
}

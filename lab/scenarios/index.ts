/** The catalogue of scenarios. */
import type { Scenario } from '../scenario.ts'

export const scenarios: readonly Scenario[] = []

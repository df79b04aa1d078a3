/**
 * The lab: hosts as network namespaces, links and NATs between them, and the papers' experiments on top. Everything it
 * makes is named `gw-…`, and goes when it ends; what a killed lab left is removed by the next one.
 *
 * It needs root, or a kernel that allows user namespaces: see `enterLab`.
 */
import { GodwitError } from '../src/core/errors.ts'
import type { LabOptions, RunningLab, ScenarioResult } from './types.ts'

export type * from './types.ts'

/** Name and one line of each scenario, in the order to read them. */
export function listScenarios(): { name: string; summary: string; topology: string }[] {
  return []
}

/** Name and one line of each topology. */
export function listTopologies(): { name: string; summary: string }[] {
  return []
}

/**
 * Runs a scenario; resolves with its result, checks failed or not. Rejects with a `GodwitError` (usage: no such
 * scenario; missing: the machine lacks something).
 */
export async function runScenario(name: string, _options: LabOptions = {}): Promise<ScenarioResult> {
  throw new GodwitError('LAB_UNKNOWN', `no scenario ${name}`, { kind: 'usage' })
}

/** Builds a topology and starts nothing on it. `close()` removes all of it. */
export async function upTopology(name: string, _options: LabOptions = {}): Promise<RunningLab> {
  throw new GodwitError('LAB_UNKNOWN', `no topology ${name}`, { kind: 'usage' })
}

/** Runs `upmt-swap` and shows it live on `screen` (a terminal, or plain lines), then the verdict. */
export async function runDemo(
  options: LabOptions & { screen?: NodeJS.WriteStream } = {},
): Promise<ScenarioResult> {
  return runScenario('upmt-swap', options)
}

/**
 * Gives this process the rights that the lab needs. Root: undefined, go on here. Otherwise the same command runs again
 * in a user namespace of its own; resolves with its exit status once it has ended. Rejects with kind `missing` where
 * the kernel does not allow that.
 */
export async function enterLab(): Promise<number | undefined> {
  return undefined
}

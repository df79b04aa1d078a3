/** Which mechanisms a configuration and a command ask for: the sum of its sections, not a role. */
import { existsSync, readFileSync } from 'node:fs'
import { GodwitError } from '../../core/errors.ts'
import type { MechanismDescriptor } from '../../mechanism/descriptor.ts'
import { MECHANISMS } from '../mechanisms.ts'
import type { State } from '../stores/state.ts'
import { loadConfig, parseConfig } from './config.ts'
import type { Config } from './schema.ts'

export type MechanismList = readonly MechanismDescriptor[]

/** The mechanism that a file is of before all others. */
export function claimantOf(config: Config, list: MechanismList = MECHANISMS): MechanismDescriptor {
  const claims = (wanted: true | 'otherwise') => list.find((each) => each.claims(config) === wanted)
  const found = claims(true) ?? claims('otherwise')
  if (found === undefined) throw new GodwitError('INTERNAL', 'no mechanism claims the configuration')
  return found
}

/** The mechanism whose commands have this role. */
export function descriptorOf(role: string, list: MechanismList = MECHANISMS): MechanismDescriptor {
  const found = list.find((each) => each.role === role)
  if (found === undefined) throw new GodwitError('INTERNAL', `there is no mechanism ${role}`)
  return found
}

/** A configuration that this mechanism's own commands can use; `whole`: also to run. Throws the mechanism's refusal. */
export function loadConfigOf(
  descriptor: MechanismDescriptor,
  state: State,
  options: { readonly whole?: boolean; readonly list?: MechanismList } = {},
): Config {
  const { whole = false, list = MECHANISMS } = options
  const config =
    descriptor.needsNoFile && !existsSync(state.configFile)
      ? emptyConfig(list)
      : loadConfig(state.configFile, list, descriptor.begin)
  const origin = { file: state.configFile, role: claimantOf(config, list).role }
  const refusal = descriptor.refusal?.(config, origin, whole)
  if (refusal === undefined) return config
  // What is in no file of another mechanism is a host's.
  const isOthers = descriptor.claims(config) !== 'otherwise'
  throw isOthers && isBlank(state.configFile) ? emptied(state.configFile, refusal) : refusal
}

/** As a disk that was full, or a machine that lost power, leaves it. */
function isBlank(file: string): boolean {
  return existsSync(file) && readFileSync(file, 'utf8').trim() === ''
}

function emptied(file: string, { hint }: GodwitError): GodwitError {
  return new GodwitError('CONFIG_EMPTY', `${file} is empty`, {
    kind: 'usage',
    hint: `put it back from a copy; to begin anew, remove it: ${hint}`,
  })
}

export function emptyConfig(list: MechanismList): Config {
  const parsed = parseConfig('', list)
  if ('config' in parsed) return parsed.config
  throw new GodwitError('INTERNAL', 'an empty configuration is not valid')
}

/** The mechanisms that a command runs: its own first, then those that the configuration adds. */
export function mechanismsFor(
  descriptor: MechanismDescriptor,
  config: Config,
  list: MechanismList = MECHANISMS,
): MechanismDescriptor[] {
  if (descriptor.alone) return [descriptor]
  return [descriptor, ...list.filter((each) => each !== descriptor && each.runsBeside(config))]
}

/** The mechanisms that may have left state in the kernel, including those that ran before the configuration changed. */
export function mechanismsToClean(
  descriptor: MechanismDescriptor,
  config: Config,
  list: MechanismList = MECHANISMS,
): MechanismDescriptor[] {
  const beside = list.filter((each) => each !== descriptor && (each.needsNoFile || each.runsBeside(config)))
  return [descriptor, ...beside]
}

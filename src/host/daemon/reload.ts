/**
 * `godwit reload` and SIGHUP: reads the configuration again. Changes that do not lose a flow take effect; those that need
 * a restart are listed and not applied. A file with an error changes nothing.
 */
import type { LogLevel, Mechanism } from '../../core/mechanism.ts'
import type { MechanismDescriptor } from '../../mechanism/descriptor.ts'
import { changedKeys, takeKeys } from '../configuration/changes.ts'
import { loadConfigOf, type MechanismList, mechanismsFor } from '../configuration/plan.ts'
import type { Config } from '../configuration/schema.ts'
import type { State } from '../stores/state.ts'

export interface Reloaded {
  /** Keys in effect from now on, `section.key` or `section`. */
  readonly applied: readonly string[]
  /** Keys that a restart is needed for. */
  readonly restart: readonly string[]
}

export interface Running {
  readonly descriptor: MechanismDescriptor
  readonly mechanism: Mechanism
}

export interface ReloaderInit {
  readonly state: State
  /** The first is the one that the command named. */
  readonly running: readonly Running[]
  readonly list: MechanismList
  readonly config: Config
  readonly setLogLevel: (level: LogLevel) => void
  /** Applies settings of the services themselves. */
  readonly setServices: (config: Config) => void
  readonly log: (level: LogLevel, message: string) => void
}

/** Keys that every daemon can apply. */
const SHARED = ['log.level']
/** Keys used by several mechanisms: applied only if all running mechanisms can. */
const OF_ALL = ['access', 'interface', 'kernel']

export class Reloader {
  readonly #init: ReloaderInit
  /** The configuration in effect. */
  #config: Config
  /** One after the other: each begins with what the one before has put in effect. */
  #last: Promise<unknown> = Promise.resolve()

  constructor(init: ReloaderInit) {
    this.#init = init
    this.#config = init.config
  }

  /**
   * Throws the errors of the file; the configuration then stays unchanged. If a mechanism fails to apply a change, the
   * next reload tries it again.
   */
  reload(): Promise<Reloaded> {
    const reloaded = this.#last.then(() => this.#read())
    this.#last = reloaded.catch(() => {})
    return reloaded
  }

  async #read(): Promise<Reloaded> {
    const { state, running, list, log } = this.#init
    const named = running[0]!.descriptor
    const wanted = loadConfigOf(named, state, { whole: true, list })
    const changed = changedKeys(this.#config, wanted)
    const applied = changed.filter((key) => this.#isLive(key))
    const restart = changed.filter((key) => !applied.includes(key) && this.#matters(key, wanted))
    const config = takeKeys(this.#config, wanted, applied)
    for (const { descriptor, mechanism } of running) {
      const keys = applied.filter((key) => descriptor.live?.keys.includes(key))
      if (keys.length > 0) await this.#apply({ descriptor, mechanism }, config)
    }
    if (applied.includes('access')) this.#init.setServices(config)
    this.#init.setLogLevel(config.log.level)
    this.#config = config
    log('info', `configuration read again: ${summary({ applied, restart })}`)
    return { applied, restart }
  }

  async #apply({ descriptor, mechanism }: Running, config: Config): Promise<void> {
    try {
      await descriptor.live?.apply(mechanism, config)
    } catch (error) {
      const { role } = descriptor
      this.#init.log('warn', `${role}: only part of the new configuration is in effect; reload again`)
      throw error
    }
  }

  #isLive(key: string): boolean {
    if (SHARED.includes(key)) return true
    const [section] = key.split('.')
    const { running } = this.#init
    const takes = ({ descriptor }: Running) => descriptor.live?.keys.includes(key) === true
    return OF_ALL.includes(section!) ? running.every(takes) : running.some(takes)
  }

  /** Whether anything that runs, or that the file now wants to run, reads the key. */
  #matters(key: string, wanted: Config): boolean {
    const { running, list } = this.#init
    const [section] = key.split('.')
    const descriptors = mechanismsFor(running[0]!.descriptor, wanted, list)
    return (
      OF_ALL.includes(section!) ||
      [...running.map(({ descriptor }) => descriptor), ...descriptors].some(({ sections }) =>
        Object.hasOwn(sections, section!),
      )
    )
  }
}

export function summary({ applied, restart }: Reloaded): string {
  const parts = [
    ...(applied.length > 0 ? [`in effect: ${applied.join(', ')}`] : []),
    ...(restart.length > 0 ? [`after a restart: ${restart.join(', ')}`] : []),
  ]
  return parts.length === 0 ? 'nothing has changed' : parts.join('; ')
}

/**
 * The descriptor of a mechanism, in its own folder: configuration, composition, clean-up, needs. The daemon, the schema,
 * `doctor`, `down`, the documentation and the command line walk the list in host/mechanisms.ts; a new mechanism is one
 * line there and a command file. CONTRIBUTING.md explains it step by step.
 */
import type * as z from 'zod'
import type { GodwitError } from '../core/errors.ts'
import type { LogLevel, Mechanism } from '../core/mechanism.ts'
import type { Need } from './needs.ts'
import type { Issue } from './schema.ts'
import type { Services } from './services.ts'

/** Keys of the configuration with their schemas. */
export type Sections = Readonly<Record<string, z.ZodType>>

/** The sections that every mechanism may read. */
export interface SharedConfig {
  readonly log: { readonly level: LogLevel }
  readonly kernel: { readonly instance: string; readonly base: number }
  readonly interface: {
    readonly name?: string | undefined
    readonly private_key_file?: string | undefined
    readonly mtu?: number | undefined
  }
  readonly access: Readonly<Record<string, AccessRule>>
}

export interface AccessRule {
  readonly use: 'normal' | 'backup' | 'never'
  readonly cost: number
  readonly weight: number
  readonly cap?: string | undefined
  readonly cap_day: number
  readonly metered: boolean
  readonly probe_s: number
}

/** A configuration as the mechanism with these sections sees it. */
export type ConfigWith<S extends Sections> = SharedConfig & { readonly [K in keyof S]: z.output<S[K]> }

/** Where a configuration comes from, for messages. */
export interface Origin {
  readonly file: string
  /** Role of the mechanism that the file is of. */
  readonly role: string
}

export interface MechanismDescriptor<S extends Sections = Sections> {
  /** Its name in status, records and metrics: `Mechanism.name`. */
  readonly name: string
  /** Name of its commands (`godwit ROLE up`; the host's are `godwit up`), and `role` in status. */
  readonly role: string
  /** One sentence for the documentation: what it does. */
  readonly summary: string
  readonly sections: S
  /** Reports values that are valid by themselves but not together. */
  check?(config: ConfigWith<S>, issue: Issue): void
  /**
   * Whether the configuration file belongs to this mechanism; at most one mechanism returns true. `otherwise`: if it
   * belongs to no other.
   */
  claims(config: ConfigWith<S>): boolean | 'otherwise'
  /** Whether it runs beside the mechanism that a command names. */
  runsBeside(config: ConfigWith<S>): boolean
  /** Works without a configuration file. */
  readonly needsNoFile?: boolean
  /** What to do when there is no configuration file, said to those who start it. */
  readonly begin?: string
  /** Nothing runs beside it when its own command starts it, and the daemon may save memory for it. */
  readonly alone?: boolean
  /** Whether the file may be read by its owner alone. */
  holdsSecrets?(config: ConfigWith<S>): boolean
  /** Why its own command cannot run with this configuration; `whole`: it must be enough to run, not only to clean up. */
  refusal?(config: ConfigWith<S>, origin: Origin, whole: boolean): GodwitError | undefined
  /** For `config check`: what is in the file, after its role. */
  describe?(config: ConfigWith<S>): string
  /** Patterns of interfaces that are accesses whatever they are, beside those of [access.NAME]. */
  accesses?(config: ConfigWith<S>): readonly string[]
  /** Devices that it makes. */
  devices?(config: ConfigWith<S>): readonly string[]
  /** Built, not started; it cleans up after itself (`stop`) and after a run that was killed (`cleanUp`). */
  compose(config: ConfigWith<S>, services: Services): Mechanism
  /**
   * What a reload applies while it runs (`godwit reload`): keys, `section.key`, or `section` for a list or the accesses,
   * and the function that applies them. All other keys need a restart.
   */
  readonly live?: {
    readonly keys: readonly string[]
    apply(mechanism: Mechanism, config: ConfigWith<S>): void | Promise<void>
  }
  /** What it needs of the machine. */
  readonly needs: readonly Need[]
}

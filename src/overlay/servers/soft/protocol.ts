/** Between the process of a coordinator and its thread that talks to NATS. */
import type { SoftInput, SoftOutput } from '../../machine/fellows.ts'
import type { SoftSettings } from './settings.ts'

export interface BusSetup {
  readonly settings: SoftSettings
  readonly zone: string
}

export type BusCommand = SoftOutput | { readonly type: 'close' }
export type BusEvent =
  | SoftInput
  | { readonly type: 'log'; readonly level: 'info' | 'warn'; readonly message: string }
  /** What waiting does not mend: credentials, files. */
  | { readonly type: 'closed' }

/** Builds the mechanisms that a configuration asks for: the one place where the daemon knows them by name. */
import { missingError } from '../core/errors.ts'
import type { ControlRoute, Mechanism } from '../core/mechanism.ts'
import type { HostRecorder } from './recorder.ts'
import type { Config } from './schema.ts'
import type { AnchorConfig } from './setup.ts'
import type { State } from './state.ts'

export interface Composition {
  /** In the order to start them. */
  readonly mechanisms: readonly Mechanism[]
  readonly routes: readonly ControlRoute[]
}

export function composeHost(_config: Config, _state: State, _recorder: HostRecorder): Composition {
  throw missingError('this version carries no mechanism for hosts yet', 'update godwit')
}

export function composeAnchor(_config: AnchorConfig, _state: State, _recorder: HostRecorder): Composition {
  throw missingError('this version carries no mechanism for anchors yet', 'update godwit')
}

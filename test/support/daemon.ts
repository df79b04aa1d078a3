/** What commands of `godwit` ask a daemon, without starting a program: a test may ask ten times a second. */
import { join } from 'node:path'
import { ControlClient } from '../../src/host/control/client.ts'
import type { Status } from '../../src/host/daemon/daemon.ts'

/** Of the daemon whose state is in this folder. */
export function daemonAt(state: string): ControlClient {
  return new ControlClient(join(state, 'control.sock'))
}

/** What `godwit status --json` prints. */
export function daemonStatus<S = Status>(state: string): Promise<S> {
  return daemonAt(state).get<S>('/v1/status')
}

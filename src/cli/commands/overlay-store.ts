/** `overlay store …`. */
import {
  type MoveOptions,
  moveStore,
  type ShownStore,
  showStore,
} from '../../host/provisioning/overlay-store.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines } from '../output.ts'

export function show(options: CommonOptions): void {
  const shown = showStore(new State(options))
  if (options.json) printJson(shown)
  else printLines(linesOf(shown))
}

export function move(url: string, options: CommonOptions & MoveOptions): void {
  const shown = moveStore(new State(options), url, options)
  if (options.json) printJson(shown)
  else printLines(['moved; what was overlay.db is overlay.db.moved now', ...linesOf(shown)])
}

function linesOf({ file, server, risks }: ShownStore): string[] {
  if (server === null) return [`SQLite: ${file}`]
  const { synchronous_standby_names: names, synchronous_standbys: standbys, held_by: by } = server
  const connected = standbys === null ? 'this role may not see which are connected' : `${standbys} connected`
  return [
    `PostgreSQL ${server.version} at ${server.host}, ${server.tls ? 'TLS' : 'without TLS'}; working copy: ${file}`,
    `commits wait for: synchronous_commit ${server.synchronous_commit}, standbys ${names === '' ? 'none' : `${names} (${connected})`}`,
    `${server.commits} commits; ${by === null ? 'no coordinator runs' : `coordinator: ${by}`}`,
    ...risks.map((risk) => `warning: ${risk}`),
  ]
}

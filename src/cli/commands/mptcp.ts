/** `mptcp …`: the MPTCP proxy by itself. */
import { ControlClient } from '../../host/control/client.ts'
import { cleanUp, serve } from '../../host/daemon/serve.ts'
import type { ConnectionView } from '../../host/provisioning/mptcp.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines, showBytes, showMs, table } from '../output.ts'
import { plotConnection } from './mptcp-plot.ts'

export function up(options: CommonOptions): Promise<void> {
  return serve('mptcp', new State(options))
}

export async function down(options: CommonOptions): Promise<void> {
  await cleanUp(new State(options), 'mptcp')
  if (options.json) printJson({ clean: true })
  else printLines(['removed everything of godwit mptcp from the kernel'])
}

export interface ConnectionsOptions extends CommonOptions {
  readonly plot?: string
  readonly seconds: number
  readonly connection?: string
}

export async function connections(options: ConnectionsOptions): Promise<void> {
  const { plot: file } = options
  if (file !== undefined) {
    const id = await plotConnection(client(options), { ...options, file })
    done(options, { connection: id, plot: file }, `${file} shows the subflows of ${id}`)
    return
  }
  const answer = await client(options).get<{ connections: ConnectionView[] }>('/v1/mptcp/connections')
  if (options.json) printJson(answer)
  else printLines(connectionLines(answer.connections))
}

export function connectionLines(connections: readonly ConnectionView[]): string[] {
  const rows = connections.flatMap((each) =>
    each.subflows.map((subflow, i) => [
      i === 0 ? each.id : '',
      i === 0 ? `${each.local} → ${each.remote}` : '',
      i === 0 ? each.app || '-' : '',
      i === 0 ? each.path : '',
      `${subflow.id}${subflow.id === each.active ? '*' : ''}`,
      subflow.access || '-',
      subflow.local,
      subflow.backup || subflow.remote_backup ? `${subflow.state}, backup` : subflow.state,
      showMs(subflow.rtt_ms),
      showBytes(subflow.sent_bytes),
      showBytes(subflow.received_bytes),
    ]),
  )
  if (rows.length === 0) return ['no connections']
  return table(
    ['ID', 'CONNECTION', 'APP', 'PATH', 'SUBFLOW', 'ACCESS', 'FROM', 'STATE', 'RTT', 'SENT', 'RECEIVED'],
    rows,
  )
}

export async function handover(connection: string, access: string, options: CommonOptions): Promise<void> {
  await client(options).post('/v1/mptcp/handover', { connection, access })
  done(options, { moved: true }, `${connection} goes over ${access}`)
}

export async function addSubflow(connection: string, access: string, options: CommonOptions): Promise<void> {
  await client(options).post('/v1/mptcp/subflow/add', { connection, access })
  done(options, { begun: true }, `${connection} begins a subflow on ${access}`)
}

export async function removeSubflow(
  connection: string,
  subflow: number,
  options: CommonOptions,
): Promise<void> {
  await client(options).post('/v1/mptcp/subflow/remove', { connection, subflow })
  done(options, { closed: true }, `subflow ${subflow} of ${connection} is closed`)
}

function client(options: CommonOptions): ControlClient {
  return new ControlClient(new State(options).socket)
}

function done(options: CommonOptions, answer: object, line: string): void {
  if (options.json) printJson(answer)
  else printLines([line])
}

/** `router …`: a gateway of a site, mobile or at home. */
import { ControlClient } from '../../host/client.ts'
import { cleanUpRouter, serve } from '../../host/serve.ts'
import { State } from '../../host/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines, table } from '../output.ts'

export function up(options: CommonOptions): Promise<void> {
  return serve('router', new State(options))
}

export async function down(options: CommonOptions): Promise<void> {
  await cleanUpRouter(new State(options))
  if (options.json) printJson({ clean: true })
  else printLines(['nothing of godwit router is left in the kernel'])
}

interface ClassView {
  readonly peer: string
  readonly name: string
  readonly mode: string
  readonly carriers: readonly string[]
  readonly copies: readonly string[]
  readonly reason: string
}

export async function classes(options: CommonOptions): Promise<void> {
  const client = new ControlClient(new State(options).socket)
  const answer = await client.get<{ classes: ClassView[] }>('/v1/router')
  if (options.json) {
    printJson(answer)
    return
  }
  const rows = answer.classes.map((each) => [
    each.name,
    each.peer,
    each.mode,
    each.carriers.join(' ') || '-',
    each.copies.join(' ') || '-',
    each.reason,
  ])
  printLines(table(['CLASS', 'SITE', 'SCHEDULER', 'ON', 'COPIES ON', 'WHY'], rows))
}

export async function scheduler(name: string, mode: string, options: CommonOptions): Promise<void> {
  const client = new ControlClient(new State(options).socket)
  const answer = await client.post<object>('/v1/router/scheduler', { name, scheduler: mode })
  if (options.json) printJson(answer)
  else printLines([`${name} takes ${mode} from now on`])
}

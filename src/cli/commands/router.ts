/** `router …`: a gateway of a site, mobile or at home. */
import { ControlClient } from '../../host/control/client.ts'
import { cleanUp, serve } from '../../host/daemon/serve.ts'
import { addSite, initRouter, routerCard } from '../../host/provisioning/routing.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines, table } from '../output.ts'

interface InitOptions extends CommonOptions {
  readonly endpoint?: string
  readonly subnet?: readonly string[]
  readonly access?: readonly string[]
}

export async function init(options: InitOptions): Promise<void> {
  const { endpoint, subnet = [], access = [] } = options
  const written = initRouter(new State(options), {
    subnets: subnet,
    accesses: access,
    ...(endpoint !== undefined && { endpoint }),
  })
  if (options.json) {
    printJson(written)
    return
  }
  const flag = options.state === undefined ? '' : ` --state ${options.state}`
  printLines([
    `wrote ${written.config}; this gateway's card:`,
    '',
    written.card,
    '',
    `next: on the other gateway, sudo godwit router add NAME CARD with this card; here, with its card,`,
    `      sudo godwit router add${flag} NAME CARD, then sudo godwit router up${flag}`,
  ])
}

export async function card(options: CommonOptions): Promise<void> {
  const text = routerCard(new State(options))
  if (options.json) printJson({ card: text })
  else printLines([text])
}

export async function add(
  name: string,
  text: string,
  options: CommonOptions & { readonly via?: readonly string[] },
): Promise<void> {
  const state = new State(options)
  const added = addSite(state, name, text, options.via)
  if (options.json) {
    printJson(added)
    return
  }
  const restart = state.busy() ? '; restart `godwit router up` to use it' : ''
  printLines([`${name}, with ${added.subnets.join(', ')}, is in ${added.config}${restart}`])
}

export function up(options: CommonOptions): Promise<void> {
  return serve('router', new State(options))
}

export async function down(options: CommonOptions): Promise<void> {
  await cleanUp(new State(options), 'router')
  if (options.json) printJson({ clean: true })
  else printLines(['removed everything of godwit router from the kernel'])
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
  else printLines([`${name} now uses ${mode}`])
}

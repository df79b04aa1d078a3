/** `overlay init`, `serve`, `account …`, `allow`: the servers of a zone. */
import { basename } from 'node:path'
import { usageError } from '../../core/errors.ts'
import {
  addAccount,
  addServer,
  distributeAll,
  forgetZone,
  type InitOptions,
  initOverlay,
  listAccounts,
  listNodes,
  listServers,
  type PushOptions,
  ROLES,
  type Role,
  removeAccount,
  removeServer,
  revokeLogin,
  type ServerOptions,
  setAccess,
  setPushServices,
} from '../../host/provisioning/overlay-server.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines, table } from '../output.ts'

export async function init(options: CommonOptions & InitOptions): Promise<void> {
  const state = new State(options)
  const settings = await initOverlay(state, options)
  if (options.json) {
    const { zone, host, port, addresses, prefix6, block4 } = settings
    printJson({ zone, host, port, addresses, prefix6, block4 })
    return
  }
  const flag = options.state === undefined ? '' : ` --state ${options.state}`
  const { zone, addresses } = settings
  printLines([
    `wrote the settings of ${zone}; nodes get addresses of ${settings.prefix6}${settings.block4 === null ? '' : ` and ${settings.block4}`}`,
    ...(settings.dns_port === 0
      ? []
      : [
          `to delegate, add to the parent zone: ${zone}. NS dc.${zone}. and dc.${zone}. ${[...new Set(addresses)].join(' ')}`,
        ]),
    `next: sudo godwit overlay serve${flag}, and for each person: sudo godwit overlay account add${flag} NAME`,
  ])
}

export async function serve(
  options: CommonOptions & { readonly roles?: string; readonly settings?: string },
): Promise<void> {
  const roles = options.roles?.split(',')
  const wrong = roles?.find((role) => !(ROLES as readonly string[]).includes(role))
  if (wrong !== undefined)
    throw usageError(`--roles: "${options.roles}" is not a list of ${ROLES.join(', ')}`)
  const { serveOverlay } = await import('../../host/daemon/serve-overlay.ts')
  await serveOverlay(new State(options), { roles: roles as Role[] | undefined, settings: options.settings })
}

export async function server(name: string, options: CommonOptions & ServerOptions): Promise<void> {
  const added = await addServer(new State(options), name, options)
  if (options.json) {
    printJson(added)
    return
  }
  printLines([
    `wrote ${added.file}: the settings and the key of ${name} (${added.roles.join()}); only its host may have them`,
    `next: copy it there, and: sudo godwit overlay serve --settings ${basename(added.file)}`,
    ...(added.roles.some((role) => role !== 'rs')
      ? ['then start `godwit overlay serve` here again: it leaves these roles to that host']
      : []),
  ])
}

export function servers(options: CommonOptions): void {
  const list = listServers(new State(options))
  if (options.json) printJson({ servers: list })
  else if (list.length === 0) printLines(['all roles run here'])
  else
    printLines(
      table(
        ['SERVER', 'ROLES'],
        list.map(({ name, roles }) => [name, roles.join()]),
      ),
    )
}

export function unserve(name: string, options: CommonOptions): void {
  removeServer(new State(options), name)
  if (options.json) printJson({ removed: name })
  else printLines([`${name} is no server of this zone any more`])
}

export function distribute(options: CommonOptions): void {
  const nodes = distributeAll(new State(options))
  if (options.json) printJson({ nodes })
  else printLines([`${nodes} nodes are told to the coordinator as soon as the account server runs`])
}

export async function account(
  name: string,
  options: CommonOptions & { readonly passwordStdin?: boolean; readonly replace?: boolean },
): Promise<void> {
  const password = options.passwordStdin === true ? await firstLine() : undefined
  const added = await addAccount(new State(options), name, { password, replace: options.replace })
  if (options.json) {
    printJson(added)
    return
  }
  printLines([
    ...(added.password === undefined ? [] : [`password: ${added.password}`]),
    `on the node: sudo godwit overlay login ${name} --server ${added.server} --pin ${added.pin} --name NODE`,
  ])
}

async function firstLine(): Promise<string> {
  const parts: Buffer[] = []
  for await (const part of process.stdin) parts.push(part as Buffer)
  return Buffer.concat(parts).toString().split('\n')[0]!
}

export function accounts(options: CommonOptions): void {
  const list = listAccounts(new State(options))
  if (options.json) printJson({ accounts: list })
  else if (list.length === 0) printLines(['no accounts yet: godwit overlay account add NAME'])
  else {
    const rows = list.map((each) => [each.account, each.created.slice(0, 10), each.nodes.join(' ')])
    printLines(table(['ACCOUNT', 'SINCE', 'NODES'], rows))
  }
}

export function nodes(account: string | undefined, options: CommonOptions): void {
  const list = listNodes(new State(options), account)
  if (options.json) printJson({ nodes: list })
  else if (list.length === 0) printLines(['no nodes yet: godwit overlay login ACCOUNT, on the node'])
  else {
    const rows = list.map((each) => [
      each.node,
      each.account,
      each.revoked ? 'revoked' : (each.expires?.slice(0, 10) ?? 'does not end'),
      each.addresses.join(' '),
    ])
    printLines(table(['NODE', 'ACCOUNT', 'LOGIN ENDS', 'VIRTUAL ADDRESSES'], rows))
  }
}

export function revoke(node: string, options: CommonOptions): void {
  const revoked = revokeLogin(new State(options), node)
  if (options.json) printJson({ revoked })
  else printLines([`the login of ${revoked} has ended; its name and addresses stay its own`])
}

export function remove(name: string, options: CommonOptions): void {
  removeAccount(new State(options), name)
  if (options.json) printJson({ removed: name })
  else printLines([`${name} and its nodes are removed; their addresses are never assigned to other nodes`])
}

export function forget(zone: string, options: CommonOptions): void {
  forgetZone(new State(options), zone)
  if (options.json) printJson({ forgotten: zone })
  else printLines([`${zone}: the keys that its DNS shows next are taken`])
}

export function pushServices(options: CommonOptions & PushOptions): void {
  const services = setPushServices(new State(options), options)
  if (options.json) {
    printJson(services)
    return
  }
  const { web, apns, fcm } = services
  printLines([
    `web   to public addresses${web.allowed.map((prefix) => ` and ${prefix}`).join('')}; contact ${web.contact}; key ${web.key}`,
    `apns  ${apns === null ? 'not set' : `topic ${apns.topic}, team ${apns.team}, key ${apns.key_id}`}`,
    `fcm   ${fcm === null ? 'not set' : `project ${fcm.project}, ${fcm.account}`}`,
  ])
}

export function allow(node: string, patterns: readonly string[], options: CommonOptions): void {
  const allowed = setAccess(new State(options), node, patterns)
  if (options.json) printJson({ node, allowed })
  else
    printLines([
      allowed.length === 0
        ? `${node}: the default of the zone`
        : `${node}: nodes of its account, and ${allowed.join(', ')}`,
    ])
}

/**
 * Selectors of policies and of `godwit move`: everything, one flow, or the flows of an application, port, user or
 * destination, or of several of these at once (`app:curl+port:443`). The text form is the same in the configuration, on
 * the command line and in records.
 */
import { contains, formatPrefix, type Prefix, parsePrefix } from './address.ts'
import { protocolName, protocolNumber } from './flow.ts'
import { type Decoded, decoded, malformed } from './result.ts'

export type Selector =
  | { readonly kind: 'all' }
  | { readonly kind: 'flow'; readonly id: string }
  | Criterion
  /** All of them hold; at least two. */
  | { readonly kind: 'every'; readonly of: readonly Criterion[] }

/** One property of a flow. */
export type Criterion =
  /** Base name or absolute path of the executable. */
  | { readonly kind: 'app'; readonly name: string }
  /** Destination port, inclusive range. */
  | { readonly kind: 'port'; readonly first: number; readonly last: number }
  /** Name or number. */
  | { readonly kind: 'user'; readonly user: string }
  /** Destination. */
  | { readonly kind: 'to'; readonly prefix: Prefix }
  /** Path below the cgroup v2 root, e.g. `user.slice/user-1000.slice`; what is below it belongs to it. */
  | { readonly kind: 'cgroup'; readonly path: string }
  /** Transport protocol, IANA number. */
  | { readonly kind: 'proto'; readonly protocol: number }
  /** Service class in the packet's header (RFC 2474), 0 to 63: of a router's classes. */
  | { readonly kind: 'dscp'; readonly dscp: number }

export const SELECTOR_FORMS =
  'all, a flow id, app:NAME, port:N or port:N-M, user:NAME, to:ADDRESS/LENGTH, cgroup:PATH, proto:NAME, dscp:NAME or dscp:N, or several joined by +'

/** What is known about a flow; a criterion about something unknown does not match. */
export interface FlowFacts {
  readonly id?: string | undefined
  readonly proto?: number | undefined
  readonly dst?: Uint8Array | undefined
  readonly dstPort?: number | undefined
  /** Absolute path of the executable, or only its base name if the path is unknown. */
  readonly executable?: string | undefined
  readonly uid?: number | undefined
  readonly user?: string | undefined
  /** Path below the cgroup v2 root. */
  readonly cgroup?: string | undefined
}

/** Names of service classes: IANA's DSCP registry (RFC 2474, 2597, 3246, 5865, 8622). */
const DSCP: Readonly<Record<string, number>> = {
  ...{ cs0: 0, cs1: 8, cs2: 16, cs3: 24, cs4: 32, cs5: 40, cs6: 48, cs7: 56 },
  ...{ af11: 10, af12: 12, af13: 14, af21: 18, af22: 20, af23: 22 },
  ...{ af31: 26, af32: 28, af33: 30, af41: 34, af42: 36, af43: 38 },
  ...{ ef: 46, va: 44, le: 1 },
}

/** Whether the flow is one of those that the selector names. */
export function matches(selector: Selector, flow: FlowFacts): boolean {
  switch (selector.kind) {
    case 'all':
      return true
    case 'flow':
      return selector.id === flow.id
    case 'every':
      return selector.of.every((criterion) => matches(criterion, flow))
    case 'app':
      return flow.executable !== undefined && sameProgram(selector.name, flow.executable)
    case 'port':
      return flow.dstPort !== undefined && flow.dstPort >= selector.first && flow.dstPort <= selector.last
    case 'user':
      return selector.user === flow.user || selector.user === String(flow.uid)
    case 'to':
      return flow.dst !== undefined && contains(selector.prefix, flow.dst)
    case 'cgroup': {
      const cgroup = flow.cgroup?.replace(/^\/+|\/+$/g, '')
      return cgroup !== undefined && (selector.path === '' || `${cgroup}/`.startsWith(`${selector.path}/`))
    }
    case 'proto':
      return selector.protocol === flow.proto
    case 'dscp':
      return false // it is of packets, not of flows
  }
}

/** Paths have to be equal; if either side has only a base name, base names are compared. */
function sameProgram(wanted: string, executable: string): boolean {
  if (wanted.includes('/') && executable.includes('/')) return wanted === executable
  return wanted.slice(wanted.lastIndexOf('/') + 1) === executable.slice(executable.lastIndexOf('/') + 1)
}

/** Parses the text form. Names are checked for shape only; whether such a user or flow exists is asked later. */
export function parseSelector(text: string): Decoded<Selector> {
  if (text === 'all') return decoded({ kind: 'all' })
  if (/^[A-Za-z0-9._-]+$/.test(text)) return decoded({ kind: 'flow', id: text })
  // Program names may hold + and commas themselves: only those before another criterion separate.
  const parts = text.split(/[+,](?=(?:app|port|user|to|cgroup|proto|dscp):)/)
  const of: Criterion[] = []
  for (const part of parts) {
    const criterion = parseCriterion(part)
    if (!criterion.ok) return criterion
    of.push(criterion.value)
  }
  return decoded(of.length === 1 ? of[0]! : { kind: 'every', of })
}

function parseCriterion(text: string): Decoded<Criterion> {
  const colon = text.indexOf(':')
  if (colon < 0) return malformed(`"${text}" is not one of: ${SELECTOR_FORMS}`)
  const kind = text.slice(0, colon)
  const value = text.slice(colon + 1)
  if (value === '') return malformed(`"${text}" has nothing after the colon`)
  switch (kind) {
    case 'app':
      return value.includes('/') && !value.startsWith('/')
        ? malformed(`"${text}": give the program's name or its absolute path`)
        : decoded({ kind, name: value })
    case 'port':
      return parsePorts(value, text)
    case 'user':
      return /^[A-Za-z0-9._][A-Za-z0-9._$-]*$/.test(value)
        ? decoded({ kind, user: value })
        : malformed(`"${text}": not a user name or number`)
    case 'to': {
      const prefix = parsePrefix(value)
      return prefix.ok ? decoded({ kind, prefix: prefix.value }) : malformed(`"${text}": ${prefix.reason}`)
    }
    case 'cgroup':
      return value.split('/').includes('..')
        ? malformed(`"${text}": ".." is not allowed`)
        : decoded({ kind, path: value.replace(/^\/+|\/+$/g, '') })
    case 'proto': {
      const protocol = protocolNumber(value)
      return protocol === undefined
        ? malformed(`"${text}": not a protocol; use tcp, udp, icmp or a number`)
        : decoded({ kind, protocol })
    }
    case 'dscp': {
      const dscp = DSCP[value] ?? (/^\d{1,2}$/.test(value) ? Number(value) : 64)
      return dscp < 64
        ? decoded({ kind, dscp })
        : malformed(`"${text}": not a DSCP; use ef, af41, cs1 … or 0 to 63`)
    }
    default:
      return malformed(`"${text}" is not one of: ${SELECTOR_FORMS}`)
  }
}

/** The text form; `parseSelector` of it gives the same selector. */
export function formatSelector(selector: Selector): string {
  switch (selector.kind) {
    case 'all':
      return 'all'
    case 'flow':
      return selector.id
    case 'app':
      return `app:${selector.name}`
    case 'port':
      return selector.first === selector.last
        ? `port:${selector.first}`
        : `port:${selector.first}-${selector.last}`
    case 'user':
      return `user:${selector.user}`
    case 'to':
      return `to:${formatPrefix(selector.prefix)}`
    case 'cgroup':
      return `cgroup:${selector.path}`
    case 'proto':
      return `proto:${protocolName(selector.protocol)}`
    case 'dscp':
      return `dscp:${Object.keys(DSCP).find((name) => DSCP[name] === selector.dscp) ?? selector.dscp}`
    case 'every':
      return selector.of.map(formatSelector).join('+')
  }
}

function parsePorts(value: string, text: string): Decoded<Criterion> {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(value)
  if (!match) return malformed(`"${text}": not a port or a range of ports`)
  const first = Number(match[1])
  const last = match[2] === undefined ? first : Number(match[2])
  if (first < 1 || last > 65535 || first > last) return malformed(`"${text}": ports are 1 to 65535, low-high`)
  return decoded({ kind: 'port', first, last })
}

/**
 * What a policy or `godwit move` is about: everything, one flow, or the flows of an application, port, user or
 * destination. The text form is the same in the configuration, on the command line and in the records.
 */
import { formatPrefix, type Prefix, parsePrefix } from './address.ts'
import { type Decoded, decoded, malformed } from './result.ts'

export type Selector =
  | { readonly kind: 'all' }
  | { readonly kind: 'flow'; readonly id: string }
  /** Base name or absolute path of the executable. */
  | { readonly kind: 'app'; readonly name: string }
  /** Destination port, inclusive range. */
  | { readonly kind: 'port'; readonly first: number; readonly last: number }
  /** Name or number. */
  | { readonly kind: 'user'; readonly user: string }
  /** Destination. */
  | { readonly kind: 'to'; readonly prefix: Prefix }
  /** Path below the cgroup v2 root, e.g. `user.slice/user-1000.slice`. */
  | { readonly kind: 'cgroup'; readonly path: string }

export const SELECTOR_FORMS =
  'all, a flow id, app:NAME, port:N or port:N-M, user:NAME, to:ADDRESS/LENGTH, cgroup:PATH'

/** Parses the text form. Names are checked for shape only; whether such a user or flow exists is asked later. */
export function parseSelector(text: string): Decoded<Selector> {
  if (text === 'all') return decoded({ kind: 'all' })
  const colon = text.indexOf(':')
  if (colon < 0) {
    return /^[A-Za-z0-9._-]+$/.test(text)
      ? decoded({ kind: 'flow', id: text })
      : malformed(`"${text}" is not one of: ${SELECTOR_FORMS}`)
  }
  const kind = text.slice(0, colon)
  const value = text.slice(colon + 1)
  if (value === '') return malformed(`"${text}" names nothing after the colon`)
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
  }
}

function parsePorts(value: string, text: string): Decoded<Selector> {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(value)
  if (!match) return malformed(`"${text}": not a port or a range of ports`)
  const first = Number(match[1])
  const last = match[2] === undefined ? first : Number(match[2])
  if (first < 1 || last > 65535 || first > last) return malformed(`"${text}": ports are 1 to 65535, low-high`)
  return decoded({ kind: 'port', first, last })
}

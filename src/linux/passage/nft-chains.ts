/** Base chains of the forward hook as `nft -j` prints them (libnftables-json(5)). */
import { formatPrefix, parsePrefix } from '../../core/address.ts'
import type { NftFamily, NftObject } from '../nft.ts'
import {
  type Accept,
  type FilterRule,
  type ForwardChain,
  isFrom,
  namedAs,
  type ProbePacket,
  type Verdict,
} from './chains.ts'

export interface NftForwardChain extends ForwardChain {
  readonly family: 'ip' | 'ip6' | 'inet'
  readonly table: string
  readonly name: string
}

export interface NftChainName {
  readonly family: 'ip' | 'ip6' | 'inet'
  readonly table: string
  readonly name: string
}

/** The base chains of the forward hook in `nft -j list chains`. */
export function forwardChainsIn(objects: readonly NftObject[]): NftChainName[] {
  return objects.flatMap(({ chain }) => {
    const family = chain?.family as NftFamily | undefined
    const routed = family === 'ip' || family === 'ip6' || family === 'inet'
    if (chain?.hook !== 'forward' || !routed || chain.type !== 'filter') return []
    return [{ family, table: String(chain.table), name: String(chain.name) }]
  })
}

/** A base chain, with the others of its table; undefined when the table has it no more. */
export function readNftChain(
  { family, table, name }: NftChainName,
  objects: readonly NftObject[],
): NftForwardChain | undefined {
  const chains = new Map<string, { policy: 'accept' | 'drop'; rules: FilterRule[] }>()
  for (const { chain, rule } of objects) {
    if (chain !== undefined)
      chains.set(String(chain.name), { policy: chain.policy === 'drop' ? 'drop' : 'accept', rules: [] })
    else if (rule !== undefined) chains.get(String(rule.chain))?.rules.push(readRule(rule))
  }
  const base = chains.get(name)
  return base === undefined ? undefined : { ...base, others: chains, family, table, name }
}

/** Adds an accept before the rule with a handle, or at the end of the chain. */
export function acceptScript(
  { family, table, name }: NftChainName,
  before: string | undefined,
  accept: Accept,
  comment: string,
): string {
  const { iif, oif, state, source } = accept
  const place = `${family} ${table} ${name}`
  const matches = [
    ...(source === undefined
      ? []
      : [`${source.address.length === 4 ? 'ip' : 'ip6'} saddr ${formatPrefix(source)}`]),
    ...(iif === undefined ? [] : [`iifname "${iif}"`]),
    ...(oif === undefined ? [] : [`oifname "${oif}"`]),
    ...(state === undefined ? [] : [state === 'dnat' ? 'ct status dnat' : 'ct state established,related']),
  ]
  const rule = `${matches.join(' ')} counter accept comment "${comment}"`
  return before === undefined
    ? `add rule ${place} ${rule}\n`
    : `insert rule ${place} position ${before} ${rule}\n`
}

type Json = Readonly<Record<string, unknown>>

function readRule(rule: Json): FilterRule {
  const expressions = (rule.expr ?? []) as readonly Json[]
  return {
    comment: rule.comment as string | undefined,
    handle: String(rule.handle),
    apply: (packet) => {
      for (const each of expressions) {
        const verdict = applyExpression(each, packet)
        if (verdict === 'no match') return 'continue'
        if (verdict !== undefined) return verdict
      }
      return 'continue'
    },
  }
}

/** Statements that let a packet continue. */
const HARMLESS = new Set(['counter', 'log', 'ct helper', 'mangle', 'notrack', 'meter', 'set'])

function applyExpression(expression: Json, packet: ProbePacket): Verdict | 'no match' | undefined {
  const kind = Object.keys(expression)[0] ?? ''
  const body = expression[kind]
  switch (kind) {
    case 'match':
      return holds(body as Json, packet) === true ? undefined : 'no match'
    case 'vmap':
      return mapped(body as Json, packet) ?? 'no match'
    case 'xt':
      return foreignMatch(body as Json)
    default:
      return verdictOf(expression) ?? (HARMLESS.has(kind) ? undefined : 'no match')
  }
}

/** Matches that iptables stores in its own form. */
function foreignMatch({ type, name }: Json): Verdict | 'no match' | undefined {
  if (type === 'target') return name === 'REJECT' || name === 'DROP' ? 'drop' : undefined
  return name === 'comment' ? undefined : 'no match'
}

function verdictOf(expression: Json): Verdict | undefined {
  if ('accept' in expression) return 'accept'
  if ('drop' in expression || 'reject' in expression) return 'drop'
  if ('return' in expression) return 'return'
  for (const kind of ['jump', 'goto'] as const)
    if (kind in expression) return { chain: String((expression[kind] as Json).target), back: kind === 'jump' }
  return undefined
}

function holds({ op, left, right }: Json, packet: ProbePacket): boolean | undefined {
  const found = isOneOf(left as Json, right, packet)
  if (found === undefined) return undefined
  if (op === '==' || op === 'in') return found
  return op === '!=' ? !found : undefined
}

/** Whether the left value is one of the values on the right; undefined when unknown. */
function isOneOf(left: Json, right: unknown, packet: ProbePacket): boolean | undefined {
  const values = valuesOf(right)
  if (values === undefined) return undefined
  const { meta, ct, payload } = left as Readonly<Record<string, { key?: string; field?: string }>>
  const named = (name: string) => values.some((value) => namedAs(String(value), name, '*'))
  if (meta?.key === 'iifname' || meta?.key === 'iif') return named(packet.iif)
  if (meta?.key === 'oifname' || meta?.key === 'oif') return named(packet.oif)
  if (meta?.key === 'nfproto') return values.includes(packet.family === 4 ? 'ipv4' : 'ipv6')
  if (ct?.key === 'state' || ct?.key === 'status')
    return packet.states.some((state) => values.includes(state))
  if (payload?.field === 'saddr') {
    const prefix = parsePrefix(textOf(values[0]))
    return values.length === 1 && prefix.ok ? isFrom(packet, prefix.value) : undefined
  }
  return undefined
}

function textOf(value: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value)
  const { prefix } = value as { prefix?: { addr?: string; len?: number } }
  return prefix === undefined ? '' : `${prefix.addr}/${prefix.len}`
}

/** Values of a single value, a list or an anonymous set; a named set is not looked up. */
function valuesOf(right: unknown): readonly unknown[] | undefined {
  if (Array.isArray(right)) return right
  if (typeof right === 'string') return right.startsWith('@') ? undefined : [right]
  const { set } = (right ?? {}) as { set?: unknown }
  if (set !== undefined) return Array.isArray(set) ? set : [set]
  return [right]
}

function mapped({ key, data }: Json, packet: ProbePacket): Verdict | undefined {
  const { set } = (data ?? {}) as { set?: readonly (readonly [unknown, Json])[] }
  for (const [value, verdict] of set ?? [])
    if (isOneOf(key as Json, value, packet) === true) return verdictOf(verdict)
  return undefined
}

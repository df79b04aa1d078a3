/**
 * The verdict of other programs' packet filters on a forwarded packet, computed from their rules: all base chains of the
 * forward hook (iptables, nft, firewalld, ufw, Docker). A verdict is used only when it is certain: a rule with an unknown
 * match is assumed not to match.
 *
 * In nf_tables a packet has to pass every base chain of a hook: an accept ends one chain, a drop ends the packet. So
 * packets have to be accepted in each chain that would drop them.
 */
import { contains, type Prefix } from '../../core/address.ts'

/** A packet that is asked about. */
export interface ProbePacket {
  readonly family: 4 | 6
  readonly iif: string
  readonly oif: string
  /** `new` or `established`, and `dnat` for a connection whose destination was rewritten. */
  readonly states: readonly string[]
  /** Undefined: any. */
  readonly source?: Uint8Array | undefined
}

/** Effect of a rule on a packet; `continue`: it does not match, or only counts and logs. */
export type Verdict =
  | 'accept'
  | 'drop'
  | 'return'
  | 'continue'
  | { readonly chain: string; readonly back: boolean }

export interface FilterRule {
  apply(packet: ProbePacket): Verdict
  /** The comment that it carries. */
  readonly comment: string | undefined
  /** Identifies the rule to the program that deletes it. */
  readonly handle: string
}

export interface FilterChain {
  readonly policy: 'accept' | 'drop'
  readonly rules: readonly FilterRule[]
}

/** A base chain of the forward hook and the chains that it can reach. */
export interface ForwardChain extends FilterChain {
  readonly others: ReadonlyMap<string, FilterChain>
}

/** A loop of jumps cannot be loaded; this bounds what a listing that changed underway could make. */
const MAX_DEPTH = 64

/** The index of the base chain's rule by which the packet is dropped, `rules.length` for the policy; undefined: it passes. */
export function droppedAt(chain: ForwardChain, packet: ProbePacket): number | undefined {
  for (const [index, rule] of chain.rules.entries()) {
    const verdict = rule.apply(packet)
    if (verdict === 'accept') return undefined
    if (verdict === 'drop') return index
    if (verdict === 'return') break
    if (verdict === 'continue') continue
    const end = walk(chain, verdict.chain, packet, 1)
    if (end === 'accept') return undefined
    if (end === 'drop') return index
    if (!verdict.back) break
  }
  return chain.policy === 'drop' ? chain.rules.length : undefined
}

function walk(
  base: ForwardChain,
  name: string,
  packet: ProbePacket,
  depth: number,
): 'accept' | 'drop' | 'through' {
  if (depth > MAX_DEPTH) return 'through'
  for (const rule of base.others.get(name)?.rules ?? []) {
    const verdict = rule.apply(packet)
    if (verdict === 'continue') continue
    if (verdict === 'return') return 'through'
    if (verdict === 'accept' || verdict === 'drop') return verdict
    const end = walk(base, verdict.chain, packet, depth + 1)
    if (end !== 'through' || !verdict.back) return end
  }
  return 'through'
}

/** A path of our packets through this machine that filters should accept. */
export interface Accept {
  readonly iif?: string
  readonly oif?: string
  /** Only connections in this state; absent: all. */
  readonly state?: 'established' | 'dnat'
  /** Only from here. */
  readonly source?: Prefix
}

/** A packet that the accept is for; `other` is the device at the other end. */
export function probeOf(accept: Accept, family: 4 | 6, other: string): ProbePacket {
  const { iif, oif, state, source } = accept
  return {
    family,
    iif: iif ?? other,
    oif: oif ?? other,
    states: state === 'established' ? ['established'] : state === 'dnat' ? ['new', 'dnat'] : ['new'],
    ...(source !== undefined && { source: source.address }),
  }
}

/** Whether packets of the family can be what the accept is for. */
export function concernsFamily({ source }: Accept, family: 4 | 6): boolean {
  return source === undefined || source.address.length === (family === 4 ? 4 : 16)
}

/** Whether a name matches the filter's pattern; `suffix` stands for any end: `+` in iptables, `*` in nft. */
export function namedAs(pattern: string, name: string, suffix: '+' | '*'): boolean {
  return pattern.endsWith(suffix) ? name.startsWith(pattern.slice(0, -1)) : pattern === name
}

/** Whether the packet's source is in the prefix; undefined when that is not known. */
export function isFrom(packet: ProbePacket, prefix: Prefix): boolean | undefined {
  if (prefix.length === 0) return true
  if (packet.source === undefined) return undefined
  return packet.source.length === prefix.address.length && contains(prefix, packet.source)
}

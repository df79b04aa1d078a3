/**
 * Decisions of IHMP that need no state of their own: how likely an address is reachable, which addresses a host tells
 * to whom, which pair a host sends on.
 */
import { contains, kindOf, maskAddress } from '../core/address.ts'
import { bytesOf, familyOf, type Ip, type Pair, samePair } from './tables.ts'

/** An own address as the kernel has it. */
export interface LocalAddress {
  readonly ip: Ip
  /** Length of its subnet's prefix. */
  readonly prefixLength: number
  readonly device: string
  /** It may be used, and should not where another one works (RFC 4862 §5.5.4). */
  readonly deprecated?: boolean
}

export type Reachability = 'reachable' | 'unreachable' | 'potential'

/**
 * DI-25, DI-28: whether `foreign` can be reached from `local`. Same subnet, same private block or both link-local: maybe
 * (the same numbers may be another network). A global address: yes, as far as one can know. Else no.
 */
export function classify(local: LocalAddress, foreign: Ip): Reachability {
  if (familyOf(local.ip) !== familyOf(foreign)) return 'unreachable'
  const own = bytesOf(local.ip)
  const other = bytesOf(foreign)
  const subnet = { address: maskAddress(own, local.prefixLength), length: local.prefixLength }
  if (contains(subnet, other)) return 'potential'
  switch (kindOf(other)) {
    case 'global':
    case 'documentation':
    case 'benchmarking':
      return kindOf(own) === 'link-local' ? 'unreachable' : 'reachable'
    case 'private':
    case 'shared':
    case 'unique-local':
      return sameBlock(own, other) ? 'potential' : 'unreachable'
    default:
      return 'unreachable'
  }
}

/** Both in one of the ranges of RFC 1918, RFC 6598 or RFC 4193. */
function sameBlock(a: Uint8Array, b: Uint8Array): boolean {
  if (kindOf(a) !== kindOf(b)) return false
  if (a.length === 16) return true
  // 10/8, 172.16/12, 192.168/16 and 100.64/10 differ in their first byte.
  return a[0] === b[0]
}

/**
 * Addresses to advertise to a host that is reached by `pair`: those of the same scope as the path, so that a public server
 * does not learn a private network; `all` tells everything (the paper's behaviour). The address in use comes first.
 */
export function advertised(
  own: readonly LocalAddress[],
  pair: Pair,
  what: 'scope' | 'all',
  most: number,
): Ip[] {
  const wanted = own.filter(
    (a) =>
      a.ip === pair.local || (a.deprecated !== true && (what === 'all' || inScope(a.ip, [pair.foreign]))),
  )
  const rest = wanted.map((a) => a.ip).filter((ip) => ip !== pair.local)
  return [pair.local, ...rest].slice(0, most)
}

/** Whether a host that is reachable at one of `foreign` may learn of this own address: a private one is for private paths. */
export function inScope(own: Ip, foreign: Iterable<Ip>): boolean {
  if (!isPrivate(own)) return true
  for (const ip of foreign) if (isPrivate(ip)) return true
  return false
}

function isPrivate(ip: Ip): boolean {
  const kind = kindOf(bytesOf(ip))
  return kind === 'private' || kind === 'shared' || kind === 'unique-local' || kind === 'link-local'
}

/** More than all wishes together. */
const DEPRECATED = 16

/** A pair that could be sent on. */
export interface Candidate {
  readonly pair: Pair
  /** Milliseconds; when the foreign end last answered on it. */
  readonly confirmedAt: number
  /** Of its own address. */
  readonly deprecated?: boolean | undefined
}

export interface Choice {
  readonly pair: Pair
  readonly reason: string
}

/**
 * Which pair to send on (D13). A deprecated own address only where there is no other. What the user asked for, then where the foreign host wants to be reached, then what this
 * host's own routes prefer, then the pair in use; among equals the one confirmed last. There is no hysteresis to tune: a
 * pair in use loses only to a stated wish or when it is no longer a candidate.
 */
export function choosePair(
  candidates: readonly Candidate[],
  wishes: {
    readonly pinned?: Ip | undefined
    readonly foreign?: Ip | undefined
    readonly local?: ((foreign: Ip) => Ip | undefined) | undefined
    readonly current?: Pair | undefined
  },
): Choice | undefined {
  // Of one there is nothing to choose: the routes need not be asked.
  const preferred = candidates.length > 1 ? wishes.local : undefined
  let best: { score: number; candidate: Candidate; reason: string } | undefined
  for (const candidate of candidates) {
    const { pair } = candidate
    let score = 0
    let reason = candidates.length > 1 ? 'the pair confirmed last' : 'no other pair works'
    if (samePair(pair, wishes.current)) {
      score += 1
      reason = 'the pair in use still works'
    }
    if (preferred?.(pair.foreign) === pair.local) {
      score += 2
      reason = `the routes of this host prefer ${pair.local}`
    }
    if (wishes.foreign === pair.foreign) {
      score += 4
      reason = `the other host asked to be reached at ${pair.foreign}`
    }
    if (wishes.pinned === pair.local) {
      score += 8
      reason = `moved to ${pair.local} by hand`
    }
    if (candidate.deprecated === true) score -= DEPRECATED
    if (
      best === undefined ||
      score > best.score ||
      (score === best.score && candidate.confirmedAt > best.candidate.confirmedAt)
    )
      best = { score, candidate, reason }
  }
  return best === undefined ? undefined : { pair: best.candidate.pair, reason: best.reason }
}

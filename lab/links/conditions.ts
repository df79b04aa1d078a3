/** Conditions of links: defaults, and the text form of the command line (`acc1:delay=20ms,rate=30mbit,loss=1%`). */
import { usageError } from '../../src/core/errors.ts'
import type { LinkConditions } from '../types.ts'

/** A link that does nothing to its packets. */
export const CLEAR: LinkConditions = {
  delayMs: 0,
  jitterMs: 0,
  loss: 0,
  reorder: 0,
  duplicate: 0,
  rateMbps: 0,
  queueMs: 100,
  state: 'up',
}

/** Whether every packet may pass at once and whole: then super-packets need not be cut into what a wire carries. */
export function isClear(conditions: LinkConditions): boolean {
  return (
    conditions.loss === 0 &&
    conditions.reorder === 0 &&
    conditions.duplicate === 0 &&
    conditions.rateMbps === 0 &&
    conditions.jitterMs === 0
  )
}

/** Applies a change and refuses values that mean nothing. */
export function changed(conditions: LinkConditions, change: Partial<LinkConditions>): LinkConditions {
  const next = { ...conditions, ...change }
  for (const name of ['delayMs', 'jitterMs', 'rateMbps', 'queueMs'] as const) {
    if (!(next[name] >= 0 && next[name] < 1e7))
      throw usageError(`link ${name} must not be negative: ${next[name]}`)
  }
  for (const name of ['loss', 'reorder', 'duplicate'] as const) {
    if (!(next[name] >= 0 && next[name] <= 1)) throw usageError(`link ${name} must be 0 to 1: ${next[name]}`)
  }
  if (!['up', 'down', 'blackhole'].includes(next.state))
    throw usageError(`link state must be up, down or blackhole: ${next.state}`)
  return next
}

type Numeric = Exclude<keyof LinkConditions, 'state'>

const KEYS: Readonly<Record<string, { field: Numeric; units: Readonly<Record<string, number>> }>> = {
  delay: { field: 'delayMs', units: { '': 1, ms: 1, s: 1000, us: 0.001 } },
  jitter: { field: 'jitterMs', units: { '': 1, ms: 1, s: 1000, us: 0.001 } },
  queue: { field: 'queueMs', units: { '': 1, ms: 1, s: 1000 } },
  rate: { field: 'rateMbps', units: { '': 1, kbit: 0.001, mbit: 1, gbit: 1000 } },
  loss: { field: 'loss', units: { '': 1, '%': 0.01 } },
  reorder: { field: 'reorder', units: { '': 1, '%': 0.01 } },
  duplicate: { field: 'duplicate', units: { '': 1, '%': 0.01 } },
}

/**
 * Reads `NAME:key=value,…`, keys delay, jitter, queue, rate, loss, reorder, duplicate, state.
 * Throws a usage error that names what is wrong.
 */
export function parseLink(text: string): { name: string; change: Partial<LinkConditions> } {
  const [, name, rest] = /^([^:]+):(.+)$/.exec(text) ?? []
  if (name === undefined || rest === undefined)
    throw usageError(`link ${text}: write NAME:key=value,…, for example acc1:delay=20ms,rate=30mbit`)
  const change: { -readonly [K in keyof LinkConditions]?: LinkConditions[K] } = {}
  for (const part of rest.split(',')) {
    const [key = '', value = ''] = part.split('=')
    if (key === 'state') {
      change.state = value as LinkConditions['state']
      continue
    }
    const known = KEYS[key]
    const [, digits, unit = ''] = /^([\d.]+)(\D*)$/.exec(value) ?? []
    const scale = known?.units[unit]
    if (known === undefined || digits === undefined || scale === undefined)
      throw usageError(
        `link ${name}: ${part} is not understood; keys are ${Object.keys(KEYS).join(', ')}, state`,
      )
    change[known.field] = Number(digits) * scale
  }
  changed(CLEAR, change)
  return { name, change }
}

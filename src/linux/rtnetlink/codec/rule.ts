/** Routing policy rules (linux/fib_rules.h). */
import { formatAddress } from '../../../core/address.ts'
import { viewOf } from '../../../core/bytes.ts'
import { usageError } from '../../../core/errors.ts'
import { Attributes, type NetlinkMessage } from '../../netlink.ts'
import type { RuleSpec } from '../types.ts'
import { familyNumber, familyOf, maskedPrefix, prefixText } from './common.ts'

const Fra = {
  DST: 1,
  SRC: 2,
  IIF: 3,
  PRIORITY: 6,
  MARK: 10,
  SUPPRESS_PREFIX_LENGTH: 14,
  TABLE: 15,
  MASK: 16,
  OIF: 17,
  UID_RANGE: 20,
  PROTOCOL: 21,
  IP_PROTO: 22,
  SPORT_RANGE: 23,
  DPORT_RANGE: 24,
} as const
const RULE_LOOKUP = 1
const RULE_INVERT = 2
const RULE_ACTIONS = { blackhole: 6, unreachable: 7, prohibit: 8 } as const

/** fib_rule_hdr: family, destination length, source length, tos, table, 2 reserved, action (u8 each), flags u32. */
export function writeRule(message: NetlinkMessage, rule: RuleSpec): void {
  const from = rule.from === undefined ? undefined : maskedPrefix(rule.from)
  const to = rule.to === undefined ? undefined : maskedPrefix(rule.to)
  const bytes = rule.family === 4 ? 4 : 16
  for (const prefix of [from, to])
    if (prefix !== undefined && prefix.address.length !== bytes)
      throw usageError(`a rule of IPv${rule.family} cannot match ${formatAddress(prefix.address)}`)
  const action = rule.action === undefined ? RULE_LOOKUP : RULE_ACTIONS[rule.action]
  if (action === RULE_LOOKUP && rule.table === undefined)
    throw usageError('a rule needs a table or an action')
  message
    .u8(familyNumber(rule.family))
    .u8(to?.length ?? 0)
    .u8(from?.length ?? 0)
    .u8(0)
    .u8(rule.table !== undefined && rule.table < 256 ? rule.table : 0)
    .u16(0)
    .u8(action)
    .u32(rule.invert === true ? RULE_INVERT : 0)
  message.attributeU32(Fra.PRIORITY, rule.priority)
  if (rule.table !== undefined) message.attributeU32(Fra.TABLE, rule.table)
  if (to !== undefined && to.length > 0) message.attribute(Fra.DST, to.address)
  if (from !== undefined && from.length > 0) message.attribute(Fra.SRC, from.address)
  if (rule.mark !== undefined) {
    message.attributeU32(Fra.MARK, rule.mark)
    message.attributeU32(Fra.MASK, rule.mask ?? 0xffffffff)
  }
  if (rule.oif !== undefined) message.attributeString(Fra.OIF, rule.oif)
  if (rule.iif !== undefined) message.attributeString(Fra.IIF, rule.iif)
  if (rule.uids !== undefined) {
    const [first, last] = rule.uids
    message.structure(Fra.UID_RANGE, () => message.u32(first).u32(last))
  }
  if (rule.origin !== undefined) message.attributeU8(Fra.PROTOCOL, rule.origin)
  if (rule.protocol !== undefined) message.attributeU8(Fra.IP_PROTO, rule.protocol)
  writePorts(message, Fra.SPORT_RANGE, rule.sourcePorts)
  writePorts(message, Fra.DPORT_RANGE, rule.destinationPorts)
  if (rule.suppressPrefixLength !== undefined)
    message.attributeU32(Fra.SUPPRESS_PREFIX_LENGTH, rule.suppressPrefixLength)
}

function writePorts(
  message: NetlinkMessage,
  type: number,
  ports: readonly [number, number] | undefined,
): void {
  if (ports !== undefined) message.structure(type, () => message.u16(ports[0]).u16(ports[1]))
}

/** Undefined for rules of other families (multicast routing) and actions godwit does not use (goto, nop). */
export function readRule(body: Uint8Array): RuleSpec | undefined {
  const family = familyOf(body[0] ?? 0)
  if (body.length < 12 || family === undefined) return undefined
  const number = body[7]!
  const action = (Object.keys(RULE_ACTIONS) as (keyof typeof RULE_ACTIONS)[]).find(
    (name) => RULE_ACTIONS[name] === number,
  )
  if (number !== RULE_LOOKUP && action === undefined) return undefined
  const attributes = new Attributes(body, 12)
  const mark = attributes.u32(Fra.MARK)
  const mask = attributes.u32(Fra.MASK) ?? 0
  const oif = attributes.string(Fra.OIF)
  const iif = attributes.string(Fra.IIF)
  const uids = readPair(attributes.bytes(Fra.UID_RANGE), 4)
  const origin = attributes.u8(Fra.PROTOCOL)
  const protocol = attributes.u8(Fra.IP_PROTO)
  const sourcePorts = readPair(attributes.bytes(Fra.SPORT_RANGE), 2)
  const destinationPorts = readPair(attributes.bytes(Fra.DPORT_RANGE), 2)
  const suppress = attributes.u32(Fra.SUPPRESS_PREFIX_LENGTH)
  return {
    family,
    priority: attributes.u32(Fra.PRIORITY) ?? 0,
    ...(action === undefined ? { table: attributes.u32(Fra.TABLE) ?? body[4]! } : { action }),
    ...(mask !== 0 && { mark: mark ?? 0, ...(mask !== 0xffffffff && { mask }) }),
    ...(oif !== undefined && { oif }),
    ...(iif !== undefined && { iif }),
    ...(uids !== undefined && { uids }),
    ...(origin !== undefined && origin !== 0 && { origin }),
    ...(protocol !== undefined && protocol !== 0 && { protocol }),
    ...(sourcePorts !== undefined && { sourcePorts }),
    ...(destinationPorts !== undefined && { destinationPorts }),
    ...(body[2]! > 0 && { from: prefixText(attributes.bytes(Fra.SRC), body[2]!, family) }),
    ...(body[1]! > 0 && { to: prefixText(attributes.bytes(Fra.DST), body[1]!, family) }),
    ...(suppress !== undefined && suppress !== 0xffffffff && { suppressPrefixLength: suppress }),
    ...((viewOf(body).getUint32(8, true) & RULE_INVERT) !== 0 && { invert: true }),
  }
}

function readPair(value: Uint8Array | undefined, size: 2 | 4): readonly [number, number] | undefined {
  if (value === undefined || value.length < 2 * size) return undefined
  const view = viewOf(value)
  return size === 2
    ? [view.getUint16(0, true), view.getUint16(2, true)]
    : [view.getUint32(0, true), view.getUint32(4, true)]
}

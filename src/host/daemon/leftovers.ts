/**
 * State of killed versions of godwit from before the ledger: rules and routes of base 5200 without our mark. They cannot
 * be identified for certain, so `godwit down` lists them with the commands that remove them, and removes nothing.
 */
import { MAIN_TABLE, PROTOCOL } from '../../linux/ledger.ts'
import type { Rtnl, RuleSpec } from '../../linux/rtnetlink/types.ts'

const FIRST = 5200
const LAST = 5399
const MARKS = [0x6700_28a0, 0x6700_28a1]

/** Commands for a shell, one each; empty when there is nothing. */
export function leftovers(rtnl: Rtnl): string[] {
  const tables = new Set(
    rtnl
      .routes({ protocol: PROTOCOL })
      .map(({ table }) => table)
      .filter((table) => table >= FIRST && table <= LAST),
  )
  const rules = rtnl.rules().filter(isOld)
  return [
    ...rules.map(({ family, priority }) => `ip -${family} rule del pref ${priority}`),
    ...[...tables].flatMap((table) => [4, 6].map((family) => `ip -${family} route flush table ${table}`)),
  ]
}

function isOld({ origin, priority, table = 0, mark, suppressPrefixLength }: RuleSpec): boolean {
  if (origin !== undefined || priority < FIRST || priority > LAST) return false
  if (table >= FIRST && table <= LAST) return true
  return table === MAIN_TABLE && (suppressPrefixLength === 0 || (mark !== undefined && MARKS.includes(mark)))
}

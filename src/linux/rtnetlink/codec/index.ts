/**
 * rtnetlink messages from and to the types of ../types.ts. Pure apart from `Names`, which the caller supplies to turn
 * interface indexes into names.
 */
export * from './address.ts'
export { addressBytes, familyNumber, Group, Message, type Names, prefixOf, TABLE_MAIN } from './common.ts'
export * from './link.ts'
export * from './neighbour.ts'
export * from './qdisc.ts'
export * from './route.ts'
export * from './rule.ts'

/**
 * Access networks: which ones this host has, their state and quality, which of them traffic takes, and the routing that
 * lets sockets use one by name (UPMT §6.1: a table per interface; digest OH-21 to OH-28). Never touches the main table,
 * addresses or links: network managers own those.
 */
export * from './machine.ts'
export { MeteredLinks } from './metered.ts'
export * from './policy.ts'
export { AccessRouting } from './routing.ts'
export * from './service.ts'

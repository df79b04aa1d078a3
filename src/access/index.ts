/**
 * Access networks of this host: their state and quality, the choice of access for traffic, and the routing that lets
 * sockets use an access by name (UPMT §6.1: a table per interface; digest OH-21 to OH-28). Never touches the main table,
 * addresses or links, which network managers own.
 */
export * from './machine.ts'
export { MeteredLinks } from './metered.ts'
export * from './policy.ts'
export { AccessRouting } from './routing.ts'
export * from './service.ts'

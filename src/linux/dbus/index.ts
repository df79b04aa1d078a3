/** D-Bus, as a client: drivers of what other daemons look after. */
export * from './bus.ts'
export type { Message, Value, Variant } from './wire.ts'

/** Names as each access resolves them, and the name servers of this host. */
export type { AskServer } from './query.ts'
export * from './resolver.ts'
export * from './servers.ts'

/** Names as each access resolves them, and the name servers of this host. */
export * from './resolver.ts'
export * from './servers.ts'

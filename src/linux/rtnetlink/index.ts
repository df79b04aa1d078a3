/** The kernel's links, addresses, routes, rules, neighbours and their changes (rtnetlink(7)). */

export { FakeNetwork, FakeRtnl } from './fake.ts'
export { Rtnetlink } from './rtnetlink.ts'
export type * from './types.ts'

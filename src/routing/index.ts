/**
 * The mobile router (Ohshima et al., digest OH-): two gateways, one tunnel, many links. Terminals on either side know
 * nothing of it.
 */
export { RouterPlumbing } from './plumbing.ts'
export type { ClassSetup } from './protocol.ts'
export { RadioKeeper } from './radios.ts'
export { type RouterComponents, type RouterInit, RouterService, type Site } from './service.ts'

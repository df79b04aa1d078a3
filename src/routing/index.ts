/**
 * The mobile router (Ohshima et al., digest OH-): two gateways, one tunnel, many links. Terminals on either side know
 * nothing of it.
 */
export { routerDescriptor } from './descriptor.ts'

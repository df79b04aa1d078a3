/**
 * Anchoring: UPMT's central anchor mode (seed 004, digest UP-1 to UP-32). A mobile host sends each application's flows
 * through one of its tunnels to an anchor, which answers on the tunnel that the flow last used; changing the tunnel is
 * the handover. This folder uses tunnels and accesses only through their interfaces and never changes network managers'
 * state.
 */
export { anchorDescriptor, hostDescriptor } from './descriptor.ts'

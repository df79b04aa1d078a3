/** The MPTCP proxy as the daemon composes it. */
import type { ConfigWith, MechanismDescriptor } from '../mechanism/descriptor.ts'
import { NETWORK_ADMIN } from '../mechanism/needs.ts'
import type { Services } from '../mechanism/services.ts'
import { mptcpSections } from './config.ts'
import { MptcpMechanism } from './mechanism.ts'
import { FAST_PATH, PACKET_QUEUE } from './needs.ts'

export const mptcpDescriptor: MechanismDescriptor<typeof mptcpSections> = {
  name: 'mptcp',
  role: 'mptcp',
  summary: 'TCP connections with servers that speak Multipath TCP move by subflows, without a tunnel.',
  sections: mptcpSections,
  claims: () => false,
  runsBeside: ({ mptcp }) => mptcp.enabled,
  needsNoFile: true,
  alone: true,
  compose: composeMptcp,
  needs: [NETWORK_ADMIN, PACKET_QUEUE, FAST_PATH],
}

function composeMptcp(
  { mptcp, access }: ConfigWith<typeof mptcpSections>,
  services: Services,
): MptcpMechanism {
  return new MptcpMechanism(
    {
      connections: mptcp.connections,
      perSource: Math.max(1, mptcp.connections >> 4),
      perHost: Math.max(1, mptcp.connections >> 2),
      subflows: mptcp.subflows,
      standby: mptcp.standby,
      multipath: mptcp.multipath,
      serve: mptcp.serve,
      forward: mptcp.forward,
      kernel: mptcp.kernel,
      ports: mptcp.ports,
      rules: Object.entries(access).map(([pattern, rule]) => ({ pattern, ...rule })),
    },
    services,
  )
}

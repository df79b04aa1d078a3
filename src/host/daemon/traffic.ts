/** Traffic of accesses and flows, for `godwit top`. */
import { formatEndpoint } from '../../core/flow.ts'
import type { AccessStatus, FlowStatus } from '../../core/mechanism.ts'
import type { Rtnl } from '../../linux/rtnetlink/types.ts'
import type { SockDiag } from '../../linux/sockdiag.ts'

/** Accesses with the counters of their interfaces. */
export function withLinkCounters(
  accesses: readonly AccessStatus[],
  rtnl: Pick<Rtnl, 'link'>,
): AccessStatus[] {
  return accesses.map((access) => {
    const link = rtnl.link(access.name)
    return link === undefined ? access : { ...access, sent_bytes: link.txBytes, received_bytes: link.rxBytes }
  })
}

/** Flows whose mechanism counts no bytes with those that the kernel has counted for their sockets: TCP only. */
export function withSocketCounters(
  flows: readonly FlowStatus[],
  sockets: Pick<SockDiag, 'eachTraffic'>,
): FlowStatus[] {
  const lacks = (flow: FlowStatus) => flow.proto === 'tcp' && flow.sent_bytes === undefined
  const wanted = flows.filter(lacks)
  if (wanted.length === 0) return [...flows]
  // A machine may have a hundred thousand other connections: of those only the ports are looked at.
  const ports = new Set(wanted.map(({ src, dst }) => portsOf(portIn(src), portIn(dst))))
  const counted = new Map<string, Pick<FlowStatus, 'sent_bytes' | 'received_bytes'>>()
  sockets.eachTraffic((each) => {
    if (!ports.has(portsOf(each.localPort, each.remotePort))) return
    const { localAddress, localPort, remoteAddress, remotePort, sent, received } = each
    const ends = `${formatEndpoint(localAddress, localPort)} ${formatEndpoint(remoteAddress, remotePort)}`
    counted.set(ends, { sent_bytes: sent, received_bytes: received })
  })
  return flows.map((flow) => (lacks(flow) ? { ...flow, ...counted.get(`${flow.src} ${flow.dst}`) } : flow))
}

function portIn(endpoint: string): number {
  return Number(endpoint.slice(endpoint.lastIndexOf(':') + 1))
}

function portsOf(local: number, remote: number): number {
  return local * 0x10000 + remote
}

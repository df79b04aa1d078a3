/**
 * TCP through real daemons, both ways, beside the bare link: how much of the machine a tunnel leaves. Three benches: on
 * one wire; with a NAT between, over IPv4 and IPv6; and a stock WireGuard client at an anchor, beside the same client at a
 * stock server.
 */
import { compareSubjects, type Measuring } from './compare.ts'
import type { Bench, BenchContext } from './harness.ts'
import { tcpThroughput } from './iperf.ts'
import { main } from './subjects/index.ts'
import { stockAtGodwit, stockAtStock } from './subjects/wireguard-go.ts'
import { translated } from './topologies.ts'

const WAYS = ['up', 'down'] as const

/** One way after the other for each number of flows: `tcp-1-up`, `tcp-1-down`, … */
function measure(context: BenchContext, flowNumbers: readonly number[]) {
  return async ({ bed, running, record }: Measuring): Promise<void> => {
    for (const flows of flowNumbers)
      for (const way of WAYS) {
        const mbps = await tcpThroughput(bed, running.target, { flows, seconds: context.seconds, way })
        record(`tcp-${flows}-${way}`, 'mbps', mbps)
      }
  }
}

export const tunnelTcp: Bench = {
  name: 'tunnel-tcp',
  summary: 'TCP both ways, one and eight flows: godwit, bare veth, wireguard-go, OpenVPN, nebula',
  run(context) {
    return compareSubjects(this.name, context, { measure: measure(context, [1, 8]), downByUp: true })
  },
}

export const tunnelNat: Bench = {
  name: 'tunnel-nat',
  summary: 'TCP both ways with a NAT between, IPv4 and IPv6: godwit, bare veth, wireguard-go with offloads',
  run(context) {
    return compareSubjects(this.name, context, {
      measure: measure(context, [1, 8]),
      subjects: main,
      topology: translated,
      families: [4, 6],
      downByUp: true,
    })
  },
}

export const tunnelStock: Bench = {
  name: 'tunnel-stock',
  summary: 'TCP both ways of a stock WireGuard client: at a godwit anchor, and at a stock server',
  run(context) {
    return compareSubjects(this.name, context, {
      measure: measure(context, [1, 8]),
      subjects: [stockAtGodwit, stockAtStock],
      ours: stockAtGodwit.name,
    })
  },
}

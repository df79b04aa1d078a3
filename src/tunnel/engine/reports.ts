/** Paths as an engine worker reports them, and how that is shown. */
import { formatEndpoint } from '../../core/flow.ts'
import type { PeerStatus } from '../../core/mechanism.ts'
import type { Datapath } from '../datapath/datapath.ts'
import type { TunnelMachine } from '../protocol/machine.ts'
import type { PathReport } from './events.ts'

export interface ReportParts {
  readonly machine: TunnelMachine
  readonly datapath: Datapath
  /** Names of peers and their indices. */
  readonly peers: Iterable<readonly [string, number]>
}

/**
 * Reports of the paths of all peers, each with the fields that `more` adds. Stops after the peer with which `most` is
 * reached.
 */
export function pathReports<More extends Pick<PathReport, 'access'>>(
  { machine, datapath, peers }: ReportParts,
  more: (slot: number) => More,
  most = Number.POSITIVE_INFINITY,
): (PathReport & More)[] {
  const reports: (PathReport & More)[] = []
  for (const [peer, index] of peers) {
    if (reports.length >= most) break
    for (const view of machine.peer(index)?.paths ?? []) {
      const { sentBytes, receivedBytes, lastReceivedAt } = datapath.counters(view.slot)
      reports.push({
        peer,
        id: view.pathId,
        remote: formatEndpoint(view.remote.address, view.remote.port),
        state: view.state.name,
        rttMs: view.rttMs,
        loss: view.loss,
        mtu: view.mtu,
        sentBytes,
        receivedBytes,
        lastReceivedAt,
        ...more(view.slot),
      })
    }
  }
  return reports
}

/** Whether packets may take a path in that state. */
export function isUsable(state: PathReport['state']): boolean {
  return state === 'up' || state === 'degrading' || state === 'suspect'
}

/** For people: what a path by WebSocket costs against one by UDP. */
const CARRIER_COST =
  'UDP is blocked: packets are about 50 bytes longer, and a lost packet delays those behind it'

/** A path as `status` and `paths` show it. */
export function pathStatus(path: PathReport): PeerStatus['paths'][number] {
  return {
    id: path.id,
    access: path.access,
    remote: path.remote,
    state: path.state,
    rtt_ms: finite(path.rttMs),
    loss: finite(path.loss),
    sent_bytes: path.sentBytes,
    received_bytes: path.receivedBytes,
    mtu: path.mtu,
    ...(path.carrier !== undefined && { carrier: path.carrier, cost: CARRIER_COST }),
  }
}

/** Rounded to thousandths; null for what is not known. */
export function finite(value: number): number | null {
  return Number.isFinite(value) ? Math.round(value * 1000) / 1000 : null
}

/** What the worker reports of its machine. */
import type { MptcpEngine } from './engine.ts'
import type { MptcpReport } from './protocol.ts'

export function reportOf(engine: MptcpEngine): MptcpReport {
  const { machine, counts } = engine
  machine.refresh()
  const { overruns, refused } = engine.queueCounts
  return {
    counts: { ...machine.counts, ...counts, overruns, refused_verdicts: refused },
    connections: machine.connections.map((each) => ({
      id: each.id,
      state: each.state,
      role: each.role,
      forwarded: each.forwarded,
      ...each.tuple,
      acknowledged: each.dataUna - 1,
      received: each.tan - 1,
      active: each.active?.id,
      fast: each.fast !== undefined,
      subflows: each.subflows.map((subflow) => ({
        id: subflow.id,
        state: subflow.state,
        access: subflow.access,
        local: subflow.tuple.local,
        localPort: subflow.tuple.localPort,
        backup: subflow.backup,
        remoteBackup: subflow.remoteBackup,
        srtt: subflow.srtt,
        sentBytes: subflow.sentBytes,
        receivedBytes: subflow.receivedBytes,
      })),
    })),
  }
}

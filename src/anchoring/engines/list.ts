/** The flows of an engine's PAFT, as they are listed. */
import type { FlowList, FlowReport } from '../protocol.ts'
import type { Paft } from '../tables/paft.ts'

/** `limit` flows at most, each with what `more` says of its row; `total` is how many there are. */
export function listFlows(
  paft: Paft,
  limit: number,
  more: (row: number) => Omit<FlowReport, 'id' | 'flow' | 'app'>,
): FlowList {
  paft.settle()
  const flows: FlowReport[] = []
  for (let row = 0; row < paft.slots && flows.length < limit; row++) {
    if (!paft.occupied(row)) continue
    const { id, flow, app } = paft.rowAt(row)
    flows.push({ id, flow, app, ...more(row) })
  }
  return { flows, total: paft.size }
}

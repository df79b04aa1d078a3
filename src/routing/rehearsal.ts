/** What a router's engine rehearses with (tunnel/engine/rehearsal.ts): a forwarder with one class, and one peer with one path. */
import type { Rehearsal } from '../tunnel/engine/rehearsal.ts'
import { RoutingForwarder } from './forwarder.ts'

const ADDRESS4 = Uint8Array.of(10, 0, 0, 1)
const ADDRESS6 = Uint8Array.of(0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
/** Bytes a millisecond: nothing waits for the path. */
const UNLIMITED = 1e9

export function routerRehearsal(): Rehearsal {
  const forwarder = new RoutingForwarder()
  forwarder.addPeer(0, [
    { address: ADDRESS4, length: 32 },
    { address: ADDRESS6, length: 128 },
  ])
  forwarder.setClasses([{ name: '', match: [], mode: 'failover', cap: 0, unordered: false }])
  return {
    forwarder,
    open: (slot) => {
      forwarder.lanes.set(slot, UNLIMITED, 0)
      forwarder.scheduler(0, 0)?.follow('failover', {
        carriers: [slot],
        copies: [],
        probes: [],
        refuge: -1,
        atRisk: false,
        ordered: false,
        reason: '',
      })
    },
    from4: ADDRESS4,
    to4: ADDRESS4,
    from6: ADDRESS6,
    to6: ADDRESS6,
  }
}

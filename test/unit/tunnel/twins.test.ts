/** Two paths with one source: each counts what names it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TwoPaths } from '../../support/two-paths.ts'

test('NT-46: of two paths between the same sockets, a datagram counts for the one that it names', () => {
  const two = new TwoPaths()
  const open = (end: typeof two.a, other: typeof two.a) =>
    end.machine.seam.paths.open({ peer: 0, pathId: 128, socket: 0, remote: other.at[0]!, mtu: 1500 })
  const twins = [open(two.a, two.b), open(two.b, two.a)] as const
  two.a.slots.push(twins[0])
  const counted = () =>
    [two.b.slots[0]!, twins[1]].map((slot) => two.b.datapath.counters(slot).receivedPackets)
  for (let n = 0; n < 5; n++) two.send(n, 0, [], false)
  for (let n = 5; n < 8; n++) two.send(n, 2, [], false)
  for (const line of two.lines) two.arrive(line)
  assert.deepEqual(counted(), [5, 3])
  assert.equal(two.out().length, 8)
})

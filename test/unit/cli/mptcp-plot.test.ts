/** The table of connections, and the picture of one's subflows. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connectionLines } from '../../../src/cli/commands/mptcp.ts'
import { chartOf } from '../../../src/cli/commands/mptcp-plot.ts'
import type { ConnectionView } from '../../../src/host/provisioning/mptcp.ts'

function connection(active: number, received: readonly number[]): ConnectionView {
  return {
    id: 'm0',
    state: 'established',
    role: 'client',
    forwarded: false,
    local: '10.1.0.2:4000',
    remote: '10.3.0.2:80',
    app: 'curl',
    acknowledged_bytes: 0,
    received_bytes: received.reduce((sum, each) => sum + each, 0),
    path: 'user space',
    active,
    subflows: received.map((bytes, id) => ({
      id,
      state: 'active',
      access: `acc${id + 1}`,
      local: '10.1.0.2:4000',
      backup: false,
      remote_backup: false,
      rtt_ms: id === 0 ? 20 : null,
      sent_bytes: 1000,
      received_bytes: bytes,
    })),
  }
}

test('issue 14: `mptcp connections` says in which unit it counts', () => {
  const [head, first, second] = connectionLines([connection(0, [1_250_000, 12])])
  assert.match(head!, /SENT +RECEIVED$/)
  assert.match(first!, / 1\.0 kB +1\.3 MB$/)
  assert.match(second!, / 1\.0 kB +12 B$/)
})

test('12, 8: rates and round trips by subflow, and a mark where another begins to carry', () => {
  const { title, panels, marks } = chartOf([
    { at: 0, connection: connection(0, [0]) },
    { at: 0.5, connection: connection(0, [1_250_000, 0]) },
    { at: 1, connection: connection(1, [1_250_000, 625_000]) },
  ])
  assert.equal(title, 'm0: 10.1.0.2:4000 → 10.3.0.2:80')
  assert.deepEqual(panels[0]!.series, [
    {
      name: '0 acc1',
      points: [
        [0.5, 20],
        [1, 0],
      ],
    },
    { name: '1 acc2', points: [[1, 10]] },
  ])
  assert.deepEqual(panels[1]!.series, [
    {
      name: '0 acc1',
      points: [
        [0, 20],
        [0.5, 20],
        [1, 20],
      ],
    },
  ])
  assert.deepEqual(marks, [{ at: 1, label: 'to acc2' }])
})

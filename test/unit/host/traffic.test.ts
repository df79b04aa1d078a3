/** What flows have carried, by the counters of the kernel's sockets (issue 14, point 9). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { FlowStatus } from '../../../src/core/mechanism.ts'
import { withSocketCounters } from '../../../src/host/daemon/traffic.ts'
import type { SocketTraffic } from '../../../src/linux/sockdiag.ts'

const flow = (src: string, dst: string, more: Partial<FlowStatus> = {}): FlowStatus => ({
  ...{ id: src, proto: 'tcp', src, dst, app: '', mechanism: 'translation', peer: '', access: '' },
  ...more,
})

function traffic(localPort: number, remotePort: number, sent: number): SocketTraffic {
  const address = (last: number) => Uint8Array.of(192, 0, 2, last)
  return { localAddress: address(1), localPort, remoteAddress: address(2), remotePort, sent, received: 7 }
}

test('flows without bytes of their own have those of their sockets; of other connections only ports are looked at', () => {
  const flows = [
    flow('192.0.2.1:5000', '192.0.2.2:443'),
    flow('192.0.2.1:5001', '192.0.2.3:443'),
    flow('192.0.2.1:5002', '192.0.2.2:443', { sent_bytes: 1, received_bytes: 2 }),
    flow('192.0.2.1:5003', '192.0.2.2:53', { proto: 'udp' }),
  ]
  const other = {
    ...traffic(443, 5000, 0),
    get localAddress(): Uint8Array {
      return assert.fail('of ten thousand connections each look at an address counts')
    },
  }
  const counted = withSocketCounters(flows, {
    eachTraffic: (visit) => {
      for (const each of [traffic(5000, 443, 100), traffic(5001, 443, 200), other]) visit(each)
    },
  })
  assert.deepEqual(
    counted.map(({ sent_bytes, received_bytes }) => [sent_bytes, received_bytes]),
    [
      [100, 7],
      [undefined, undefined],
      [1, 2],
      [undefined, undefined],
    ],
  )
})

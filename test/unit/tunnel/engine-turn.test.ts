import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MessageChannel } from 'node:worker_threads'
import { POLLIN, type Poller } from '../../../src/linux/poller.ts'
import { Engine } from '../../../src/tunnel/engine/engine.ts'
import { DatapathPair, type End } from '../../support/datapath-pair.ts'
import { udp } from '../../support/packets.ts'

/** Its device has packets, and a command waits. */
function readyPoller({ tun }: End): Poller {
  return {
    wakeFd: 0,
    add: () => {},
    remove: () => {},
    wait: () => 2,
    ready: (fd) => (fd === tun.fd ? POLLIN : 0),
    woken: () => true,
    close: () => {},
  }
}

/** Path 2 beside path 1, and `count` packets in the device. */
function waiting(count: number) {
  const { a, b } = new DatapathPair()
  const second = a.machine.seam.paths.open({ peer: 0, pathId: 2, socket: 1, remote: b.at[1]!, mtu: 1500 })
  for (let n = 0; n < count; n++) a.tun.inject(udp({ version: 4, payload: Uint8Array.of(n) }))
  const sent = () => a.machine.seam.paths.counters(second).sentPackets
  return { a, second, sent }
}

test('UP-29: packets that wait while a command closes their path go out on the next path', () => {
  const { a, second, sent } = waiting(4)
  const { port1, port2 } = new MessageChannel()
  let closed = false
  const engine = new Engine({
    datapath: a.datapath,
    tun: a.tun,
    poller: readyPoller(a),
    now: () => 1000,
    onTurn: () => {
      if (closed) a.forwarder.slot = second
    },
  })
  engine.listen(port1, () => {
    closed = true
    a.machine.seam.paths.close(a.machine.slot)
  })
  port2.postMessage('remove the path')
  engine.turn(false)
  assert.equal(a.datapath.outbound.counts.dropped, 0)
  assert.equal(sent(), 4)
  port1.close()
})

test('UP-29: a packet whose path has closed waits for the next one', () => {
  const { a, second, sent } = waiting(1)
  a.machine.seam.paths.close(a.machine.slot)
  a.datapath.outbound.read(1, 1000)
  assert.deepEqual(a.datapath.outbound.counts, { packets: 1, dropped: 0, tooBig: 0, parked: 1, recut: 0 })
  a.forwarder.slot = second
  a.datapath.outbound.retryParked(1000)
  assert.equal(sent(), 1)
})

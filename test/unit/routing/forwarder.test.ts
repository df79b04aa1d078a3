/** What a traffic class asks for reaches its packets: the share of copies, and whether order is restored. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { parsePrefix } from '../../../src/core/address.ts'
import { parseSelector } from '../../../src/core/selector.ts'
import { RoutingForwarder } from '../../../src/routing/forwarder.ts'
import type { ClassSetup } from '../../../src/routing/protocol.ts'
import type { Mode, Plan } from '../../../src/tunnel/scheduling/schedulers.ts'
import { udpPacket } from '../../support/udp-packet.ts'

const FROM = { address: Uint8Array.of(10, 1, 0, 2), port: 40_000 }

function trafficClass(name: string, match: string, more: Partial<ClassSetup>): ClassSetup {
  const selector = parseSelector(match)
  assert.ok(selector.ok)
  return { name, match: [selector.value], mode: 'failover', cap: 0.05, unordered: false, ...more }
}

function router(classes: readonly ClassSetup[], mode: Mode, plan: Partial<Plan>, peerFirst: boolean) {
  const forwarder = new RoutingForwarder()
  const everything = parsePrefix('0.0.0.0/0')
  assert.ok(everything.ok)
  if (peerFirst) forwarder.addPeer(0, [everything.value])
  forwarder.setClasses(classes)
  if (!peerFirst) forwarder.addPeer(0, [everything.value])
  const whole = {
    carriers: [0],
    copies: [],
    probes: [],
    refuge: -1,
    atRisk: false,
    ordered: false,
    reason: '',
  }
  for (const index of classes.keys()) forwarder.scheduler(0, index)!.follow(mode, { ...whole, ...plan })
  return {
    /** Sends a datagram to this port; whether its order is kept, and how many copies it gets. */
    send(port: number): { ordered: boolean; copies: number } {
      const packet = udpPacket(FROM, { address: Uint8Array.of(10, 2, 0, 2), port }, new Uint8Array(972))
      const view = new DataView(packet.buffer)
      assert.ok(forwarder.outbound(packet, view, 0, packet.length, false, 1000) >= 0)
      return { ordered: forwarder.spread.ordered, copies: forwarder.spread.copies }
    },
  }
}

describe('routing forwarder', () => {
  for (const peerFirst of [true, false])
    test(`OH-16b: each class copies its own share of the bytes (peer ${peerFirst ? 'before' : 'after'} the classes)`, () => {
      const classes = [
        trafficClass('voice', 'port:5060', { mode: 'budget', cap: 0.2 }),
        trafficClass('rest', 'all', { mode: 'budget', cap: 0.01 }),
      ]
      const { send } = router(classes, 'budget', { refuge: 1, atRisk: true }, peerFirst)
      const copies = (port: number) => {
        let sum = 0
        for (let n = 0; n < 1000; n++) sum += send(port).copies
        return sum
      }
      assert.equal(copies(5060), 200)
      assert.equal(copies(80), 10)
    })

  test('OH-17a: order is restored for a spread class, and not for one that asked for none', () => {
    const classes = [
      trafficClass('voice', 'port:5060', { mode: 'round-robin', unordered: true }),
      trafficClass('rest', 'all', { mode: 'round-robin' }),
    ]
    const { send } = router(classes, 'round-robin', { carriers: [0, 1], ordered: true }, true)
    assert.equal(send(5060).ordered, false)
    assert.equal(send(80).ordered, true)
  })
})

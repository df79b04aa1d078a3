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
  test('issue 10 D9: a class by DSCP, over IPv4 and IPv6; outer packets have the DSCP of the inner, and no ECN', () => {
    const classes = [trafficClass('voice', 'dscp:ef', {}), trafficClass('rest', 'all', {})]
    const slotOf = (six: boolean, byte: number, carry: boolean) => {
      const forwarder = new RoutingForwarder([], carry)
      for (const text of ['0.0.0.0/0', '::/0']) {
        const all = parsePrefix(text)
        assert.ok(all.ok)
        forwarder.addPeer(0, [all.value])
      }
      forwarder.setClasses(classes)
      const plan = { copies: [], probes: [], refuge: -1, atRisk: false, ordered: false, reason: '' }
      for (const index of [0, 1])
        forwarder.scheduler(0, index)!.follow('failover', { ...plan, carriers: [index] })
      const packet = six ? new Uint8Array(148) : udpPacket(FROM, { ...FROM, port: 9 }, new Uint8Array(100))
      const view = new DataView(packet.buffer)
      if (six) {
        view.setUint16(0, 0x6000 | (byte << 4))
        view.setUint16(4, 108)
        packet.set([17, 64], 6)
      } else packet[1] = byte
      const slot = forwarder.outbound(packet, view, 0, packet.length, false, 1000)
      return [slot, forwarder.spread.trafficClass]
    }
    for (const six of [false, true]) {
      assert.deepEqual(slotOf(six, 0xb8, true), [0, 0xb8], 'EF')
      assert.deepEqual(slotOf(six, 0xbb, true), [0, 0xb8], 'EF, congestion experienced')
      assert.deepEqual(slotOf(six, 0x28, true), [1, 0x28], 'AF11')
      assert.deepEqual(slotOf(six, 0xb8, false), [0, 0], 'not carried')
    }
  })

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
    for (const [port, ordered] of [
      [5060, false],
      [80, true],
    ] as const) {
      const all = Array.from({ length: 100 }, () => send(port).ordered)
      assert.equal(all.at(-1), ordered)
      assert.equal(all[0], false, 'the first packets of a flow pass what waits')
    }
  })
})

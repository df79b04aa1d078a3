/** The window that the peer is offered over a handover, as a peer reads it: the edge up to which it may send, by what is acknowledged. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Segment } from '../../../src/mptcp/machine/segment.ts'
import { some } from '../../support/extent.ts'
import { Pair } from './network.ts'

/** Window scale of the TCP model. */
const UNIT = 128
const BUFFER = 1 << 20

interface Offer {
  readonly path: number
  readonly acked: number
  readonly window: number
}

/** A download of the client, whose first access is lost after a while: what it offers on each path. */
function offers(kernel: boolean): Offer[] {
  const offers: Offer[] = []
  const segment = new Segment()
  let first: number | undefined
  const pair: Pair = new Pair({
    seed: 5,
    bytes: [0, 6_000_000],
    tcp: { buffer: BUFFER },
    ...(kernel && { kernel: ['client', 'server'] as const }),
    middlebox: (packet, path, toServer) => {
      if (toServer) {
        segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, true)
        const ack = segment.option('dss')?.ack
        if (ack !== undefined && (segment.flags & 2) === 0) {
          first ??= ack.low
          offers.push({ path, acked: (ack.low - first) | 0, window: segment.window * UNIT })
        }
      }
      return [packet]
    },
  })
  pair.client.tcp!.connect(0)
  pair.at(1000, () => {
    pair.paths[0]!.works = false
    pair.setAccesses(new Set([1]))
    pair.client.flush()
  })
  assert.ok(pair.run(() => pair.done || pair.problem !== ''))
  assert.equal(pair.problem, '')
  return offers
}

for (const kernel of some([false, true]))
  test(`MP-56: after a break what the peer was offered is not taken back, and each acknowledgement offers more${kernel ? ', from the kernel’s path' : ''}`, () => {
    const all = offers(kernel)
    const broken = all.findLastIndex(({ path }) => path === 0)
    const after = all
      .slice(broken + 1)
      .filter(({ acked }, index, them) => acked > (them[index - 1]?.acked ?? -1))
    const edge = ({ acked, window }: Offer) => acked + window
    let last = Math.max(...all.slice(0, broken + 1).map(edge))
    assert.ok(all[broken]!.acked > 100_000 && after.length > 100, 'data came before and after')
    let acked = all[broken]!.acked
    for (const offer of after) {
      // The first says again what was said, and windows are counted in units.
      const more = Math.max(0, offer.acked - acked) / 2
      assert.ok(edge(offer) >= last + more - UNIT, `${edge(offer)} after ${last}, ${more} expected`)
      last = Math.max(last, edge(offer))
      acked = offer.acked
    }
    if (!kernel) assert.equal(after.at(-1)!.window, after[0]!.window / 2, 'in the end half the window')
  })

test('ADR 0456: a TCP without SACK has no more under way than the path takes in two round trips, and loses nothing in the queue before it', () => {
  for (const sack of [false, true]) {
    let most = 0
    const pair = new Pair({
      ...{ seed: 5, bytes: [0, 9_000_000], sack, tcp: { flight: 1000 } },
      // 150 KB a round trip, and as much again in the queue.
      conditions: { delay: 30, rate: 2500, queue: 80 },
    })
    pair.client.tcp!.connect(0)
    const look = () => {
      const [connection] = pair.server.machine.connections
      if (connection !== undefined) most = Math.max(most, connection.sndMax - connection.dataUna)
      if (!pair.done) pair.at(pair.now + 1, look)
    }
    look()
    assert.ok(pair.run(() => pair.done || pair.problem !== ''))
    assert.equal(pair.problem, '')
    if (sack) assert.ok(most > 700_000, `${most}`)
    else assert.ok(most > 200_000 && most < 350_000, `${most}`)
    assert.equal(pair.server.tcp!.retransmissions === 0, !sack)
    if (!sack) assert.ok(pair.now < 5000, `${pair.now} ms`)
  }
})

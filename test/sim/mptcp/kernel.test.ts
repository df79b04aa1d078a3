/** Connections that the kernel takes and gives back (ADR 0230): its programs run here, instruction by instruction. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { leaveFast } from '../../../src/mptcp/machine/fast.ts'
import { OptionWriter, type OutSegment, Segment } from '../../../src/mptcp/machine/segment.ts'
import { offsetOfDsn } from '../../../src/mptcp/machine/sequence.ts'
import { packetOf } from '../../../src/mptcp/packets.ts'
import type { Dsn } from '../../../src/mptcp/wire.ts'
import { eager, finishes, type Kinds, nothingLeft, randomRun } from './kernel-runs.ts'
import { Pair, type PairInit } from './network.ts'

const KERNELS = [['client'], ['server'], ['client', 'server']] as const
const BOTH = KERNELS[2]

function begin(init: Partial<PairInit>): Pair {
  const pair = new Pair({ seed: 1, bytes: [2_000_000, 2_000_000], kernel: BOTH, queue: 1, ...init })
  pair.client.tcp!.connect(0)
  return pair
}

for (const kernel of KERNELS)
  test(`issue 12, part 3: the bulk goes through the kernel of ${kernel.join(' and ')}, both ways, and the connection ends`, () => {
    const pair = begin({ kernel })
    finishes(pair, 'bulk')
    for (const name of kernel) {
      const { out, in: came } = pair[name].kernel!.counts
      assert.ok(out > 1000 && came > 1000, `${name}: ${out} sent, ${came} received`)
    }
  })

const RUNS: readonly (readonly [string, Kinds])[] = [
  ['loss, reordering and packets that come twice', {}],
  ['moves by hand, accesses that come, go and go silent, subflows that are removed', { moves: true }],
  ['programs that stop to read: windows shut, probed and opened', { stalls: true }],
  ['proxies that are killed, and taken over from', { kills: true }],
  ['all of it', { moves: true, stalls: true, kills: true }],
]

for (const [what, kinds] of RUNS)
  test(`issue 12, part 3: ${what}: every byte arrives once and in order, both ends close, nothing is left in any table`, () => {
    for (let seed = 1; seed <= 20; seed++) finishes(randomRun(seed, kinds), `seed ${seed}`)
  })

for (const [seed, kinds, what] of [
  [
    354,
    { moves: true, stalls: true, kills: true },
    'taken over when both ends are done, with no subflow that it can use',
  ],
  [319, { kills: true }, 'resets that answer what a subflow sends behind its FIN'],
  [302, { moves: true }, 'FINs that nobody answers, after long round trips'],
  [375, { moves: true }, 'no access left when both ends are done: the peer has to hear it'],
  [
    175,
    { moves: true, stalls: true, kills: true },
    'an answer to the SYN without MPTCP that comes after one with it',
  ],
] as const)
  test(`issue 12, part 3: what kept a connection from ending once: ${what}`, () => {
    finishes(randomRun(seed, kinds), `seed ${seed}`)
  })

test('issue 12, part 3: streams that end while the kernel takes them, at every place', () => {
  for (let n = 0; n < 40; n++) {
    const pair = begin({ seed: n, bytes: [20_000 + 997 * n, 61_000 - 1401 * n], queue: 3 })
    eager(pair)
    finishes(pair, `${n}`)
  }
})

for (const name of ['client', 'server'] as const)
  test(`issue 12, part 3: the program of the ${name} closes its connection at once, whatever its kernel does: the other end hears of it, and nothing is left`, () => {
    for (let at = 40; at < 900; at += 37) {
      const conditions = { loss: 0.01, jitter: 5 }
      const pair = begin({ seed: at, bytes: [9_000_000, 9_000_000], queue: 5, conditions })
      eager(pair)
      pair.at(at, () => pair[name].tcp!.abort())
      const other = name === 'client' ? pair.server : pair.client
      assert.ok(
        pair.run(() => other.tcp!.state === 'reset' || other.tcp!.state === 'closed'),
        `at ${at}: ${other.tcp!.state}`,
      )
      assert.equal(pair.problem, '')
      nothingLeft(pair, `at ${at}`)
    }
  })

test('a slot that a connection left is found by none of its packets: another connection may have it', () => {
  const pair = begin({})
  const [client] = [pair.client]
  pair.run(() => client.machine.connections[0]?.fast !== undefined)
  assert.deepEqual(client.kernel!.used, { slots: 1, tuples: 1 })
  leaveFast(client.machine.connections[0]!, pair.now)
  assert.deepEqual(client.kernel!.used, { slots: 0, tuples: 0 })
  finishes(pair, 'afterwards')
})

/**
 * What a native peer does that no proxy does: its subflow acknowledges bytes before its connection does, so that the DATA_ACK is behind; and its numbers
 * are short. Each packet to the client says what the one before it did of the data, and an acknowledgement with the news follows.
 */
function lateDataAcks(): NonNullable<PairInit['middlebox']> {
  const segment = new Segment()
  let before: Dsn | undefined
  return (packet, _path, toServer) => {
    if (toServer) return [packet]
    segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, true)
    const { tuple, seq, ack, flags, window, sack, payloadAt, payloadLength, mptcp } = segment
    const dss = segment.option('dss')
    const plain = (flags & (TcpFlag.SYN | TcpFlag.RST | TcpFlag.FIN)) === 0 && mptcp.length === 1
    if (!plain || dss?.ack === undefined || dss.dataFin) return [packet]
    const short = { low: dss.ack.low }
    const old = before
    before = short
    if (old === undefined) return [packet]
    const blocks = sack.flatMap((left, i) => (i % 2 === 0 ? [{ left, right: sack[i + 1]! }] : []))
    const built = (dataAck: Dsn, map: typeof dss.map, length: number) => {
      const writer = new OptionWriter()
      writer.mptcp({ type: 'dss', dataFin: false, ack: dataAck, ...(map !== undefined && { map }) })
      writer.sack(blocks, (edge) => edge)
      const payload = length > 0 ? packet.subarray(payloadAt) : undefined
      const common = {
        to: 'wire',
        tuple,
        seq: (seq + payloadLength - length) >>> 0,
        ack,
        flags,
        window,
      } as const
      const out: OutSegment = {
        ...common,
        options: writer.finish(),
        payload,
        access: undefined,
        segmentSize: 0xffff,
      }
      return packetOf(out, packet).slice()
    }
    const map = dss.map && { ...dss.map, dsn: { low: dss.map.dsn.low } }
    return [built(old, map, payloadLength), built(short, undefined, 0)]
  }
}

test('MP-42: behind a peer whose DATA_ACKs come after its acknowledgements the TCP hears of no byte before its DATA_ACK', () => {
  let lowered = 0
  let passed = 0
  for (let seed = 0; seed < 12; seed++) {
    const conditions = { loss: [0, 0.01][seed % 2]!, jitter: [0, 5, 15][seed % 3]! }
    const init = { seed, conditions, paths: 1, kernel: ['client'] as const, middlebox: lateDataAcks() }
    const pair = begin({ ...init, bytes: [800_000, 800_000], tcp: { burst: 1 + seed } })
    const segment = new Segment()
    const read = (packet: Uint8Array) =>
      segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, false)
    // The highest DATA_ACK that came.
    let heard = 1
    const { client } = pair
    const come = client.in.bind(client)
    const deliver = pair.toTcp.bind(pair)
    client.in = (packet) => {
      read(packet)
      const [connection] = client.machine.connections
      const dataAck = segment.option('dss')?.ack
      if (connection !== undefined && dataAck !== undefined) {
        const offset = offsetOfDsn(connection.localKey, dataAck, heard)!
        heard = Math.max(heard, offset)
        if (offset < connection.offsetOfSeq(segment.ack)) lowered++
      }
      come(packet)
    }
    pair.toTcp = (name, packet) => {
      const [connection] = client.machine.connections
      if (name === 'client' && connection !== undefined) {
        read(packet)
        const offset = connection.offsetOfSeq(segment.ack)
        assert.ok(offset <= heard, `seed ${seed}: ${offset} acknowledged, of which ${heard} arrived`)
      }
      deliver(name, packet)
    }
    finishes(pair, `seed ${seed}`)
    passed += client.kernel!.counts.in
  }
  assert.ok(passed > 3000 && lowered > 500, `${passed} passed, ${lowered} were behind`)
})

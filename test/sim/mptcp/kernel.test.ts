/** Connections that the kernel takes and gives back (ADR 0230): its programs run here, instruction by instruction. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { leaveFast } from '../../../src/mptcp/machine/fast.ts'
import { switchTo } from '../../../src/mptcp/machine/lifecycle.ts'
import { sendMapped } from '../../../src/mptcp/machine/outgoing.ts'
import { OptionWriter, type OutSegment, Segment } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt, offsetOfDsn } from '../../../src/mptcp/machine/sequence.ts'
import type { Dsn } from '../../../src/mptcp/wire.ts'
import { extent, some, stride } from '../../support/extent.ts'
import { back } from './alone.ts'
import { seal } from './kernel-path.ts'
import { eager, finishes, type Kinds, nothingLeft, randomRun } from './kernel-runs.ts'
import { Pair, type PairInit } from './network.ts'
import { forge, packetOf } from './packets.ts'

const BOTH = ['client', 'server'] as const
const KERNELS = some([BOTH, ['client'], ['server']] as const)

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

/** A second subflow works, at both ends. */
function standsBy({ client, server }: Pair): boolean {
  return [client, server].every(({ machine }) => machine.connections[0]?.subflows[1]?.usable)
}

const RUNS: readonly (readonly [string, Kinds])[] = [
  ['loss, reordering and packets that come twice', {}],
  ['moves by hand, accesses that come, go and go silent, subflows that are removed', { moves: true }],
  ['programs that stop to read: windows shut, probed and opened', { stalls: true }],
  ['proxies that are killed, and taken over from', { kills: true }],
  ['all of it', { moves: true, stalls: true, kills: true }],
]

for (const [what, kinds] of RUNS)
  test(`issue 12, part 3: ${what}: every byte arrives once and in order, both ends close, nothing is left in any table`, () => {
    for (let seed = 1; seed <= extent(20); seed++) finishes(randomRun(seed, kinds), `seed ${seed}`)
  })

for (const [seed, kinds, what] of some([
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
  [
    501_054,
    { stalls: true },
    'first data that were acknowledged on the subflow alone, since selective acknowledgements left no room for a DATA_ACK',
  ],
] as const))
  test(`issue 12, part 3: what went wrong once: ${what}`, () => {
    finishes(randomRun(seed, kinds), `seed ${seed}`)
  })

test('issue 12, part 3: streams that end while the kernel takes them, at every place', () => {
  for (let n = 0; n < 40; n += stride(1)) {
    const pair = begin({ seed: n, bytes: [20_000 + 997 * n, 61_000 - 1401 * n], queue: 3 })
    eager(pair)
    finishes(pair, `${n}`)
  }
})

for (const name of ['client', 'server'] as const)
  test(`issue 12, part 3: the program of the ${name} closes its connection at once, whatever its kernel does: the other end hears of it, and nothing is left`, () => {
    for (let at = 40; at < 900; at += stride(37)) {
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

for (const kernel of KERNELS)
  test(`issue 12, part 3: after a handover the kernel of ${kernel.join(' and ')} has it again over the other subflow, and after the way back, and after a break`, () => {
    const pair = begin({ kernel, bytes: [9_000_000, 9_000_000] })
    eager(pair)
    const hasIt = (path: number) =>
      kernel.every((name) => {
        const [connection] = pair[name].machine.connections
        return connection?.fastWay?.subflow.tuple[name === 'client' ? 'local' : 'remote'][1] === path
      })
    const until = (path: number, what: string) =>
      assert.ok(
        pair.run(() => hasIt(path), 20_000),
        what,
      )
    until(1, 'the first')
    assert.ok(pair.run(() => standsBy(pair)))
    pair.client.machine.handover(0, 'acc2', pair.now)
    pair.client.flush()
    until(2, 'the second')
    pair.client.machine.handover(0, 'acc1', pair.now)
    pair.client.flush()
    until(1, 'back')
    pair.paths[0]!.works = false
    pair.setAccesses(new Set([1]))
    until(2, 'after a break')
    finishes(pair, 'moved')
    for (const name of kernel) {
      const { away, given } = pair[name].kernel!.counts
      assert.ok(away > 500 && given > 500, `${name}: ${away} sent, ${given} received`)
    }
  })

test('issue 12, part 3: a connection whose peer used a backup for a while returns to the kernel, with other numbers on the first subflow', () => {
  const pair = begin({ bytes: [9_000_000, 9_000_000] })
  const { client, server } = pair
  const inKernel = () => client.machine.connections[0]?.fastWay
  assert.ok(pair.run(() => inKernel() !== undefined && standsBy(pair)))
  const use = (id: number) => {
    const [connection] = server.machine.connections
    switchTo(connection!, connection!.subflows.find((each) => each.id === id)!, 'as it likes', pair.now, true)
    server.flush()
  }
  use(1)
  assert.ok(pair.run(() => inKernel() === undefined, 1000))
  use(0)
  assert.ok(pair.run(() => inKernel() !== undefined, 10_000))
  const { subflow, in: into } = inKernel()!
  assert.equal(subflow.id, 0)
  assert.ok(into < 0, `${into}`)
  finishes(pair, 'backup')
  assert.ok(client.kernel!.counts.away > 300, `${client.kernel!.counts.away}`)
})

/** As Linux asks for a window that is shut (`mptcp_sendmsg_frag`): the newest byte that is acknowledged, with a number of its own on the subflow. */
function probeWindow({ server, now }: Pair): void {
  const [connection] = server.machine.connections
  const { active, dataUna } = connection!
  const run = active!.allocate(dataUna - 1, 1, now)
  sendMapped(connection!, active!, run, dataUna - 1, new Uint8Array(1), TcpFlag.ACK)
  server.flush()
}

test('issue 12, part 3: window probes of a native peer, which move the numbers of its subflow by one each, keep no connection from the kernel', () => {
  for (const moved of some([true, false])) {
    const pair = begin({ kernel: ['client'], bytes: [4_000_000, 4_000_000] })
    const { client } = pair
    const connection = () => client.machine.connections[0]!
    assert.ok(pair.run(() => connection()?.fast !== undefined && standsBy(pair)))
    if (moved) {
      client.machine.handover(0, 'acc2', pair.now)
      client.flush()
      assert.ok(pair.run(() => connection().active?.id === 1 && connection().fast !== undefined))
    }
    for (let probes = 0; probes < 10; probes++) {
      const since = pair.now
      assert.ok(pair.run(() => pair.now > since + 15 && connection().fast !== undefined))
      probeWindow(pair)
      const before = connection().fastSince
      const isBack = () => connection().fast !== undefined && connection().fastSince > before
      assert.ok(pair.run(isBack, 100), `probe ${probes}`)
    }
    finishes(pair, 'probed')
    assert.ok(client.kernel!.counts.in > 1000, `${client.kernel!.counts.in}`)
  }
})

test('window probes without end: the kernel takes the connection again after more and more data, as after anything else, and no thread is busy with that', () => {
  const pair = begin({ kernel: ['client'], bytes: [4_000_000, 4_000_000] })
  const { client, server } = pair
  assert.ok(pair.run(() => client.machine.connections[0]?.fast !== undefined))
  const before = client.machine.counts.fast
  const until = pair.now + 200
  const probe = () => {
    if (server.machine.connections[0]?.active === undefined || pair.now > until) return
    probeWindow(pair)
    pair.at(pair.now + 1, probe)
  }
  probe()
  assert.ok(pair.run(() => pair.now > until))

  assert.ok(client.machine.counts.fast - before < 20, `${client.machine.counts.fast - before} times`)
  finishes(pair, 'probed')
})

test('a peer that counts its windows otherwise on a further subflow keeps the connection from the kernel there: it leaves windows as they are', () => {
  const pair = begin({
    kernel: ['client'],
    bytes: [4_000_000, 4_000_000],
    middlebox: (packet, path, toServer) => {
      const isAnswer = !toServer && path === 1 && (packet[33]! & TcpFlag.SYN) !== 0
      if (!isAnswer) return [packet]
      const out = packet.slice()
      // The option of three bytes behind one that pads.
      const scale = out.findIndex((byte, i) => i >= 40 && byte === 1 && out[i + 1] === 3 && out[i + 2] === 3)
      assert.equal(out[scale + 3], 7)
      out[scale + 3] = 6
      seal(out, 20)
      return [out]
    },
  })
  const { client } = pair
  eager(pair)
  assert.ok(pair.run(() => client.machine.connections[0]?.fast !== undefined && standsBy(pair)))
  client.machine.handover(0, 'acc2', pair.now)
  client.flush()
  const [connection] = client.machine.connections
  let again = 0
  const ok = pair.run(() => {
    if (connection!.active?.id === 1 && connection!.fast !== undefined) again++
    return pair.done || pair.problem !== ''
  })
  assert.ok(ok)
  assert.deepEqual([pair.problem, again], ['', 0])
})

test('a packet with the mark that finds no connection, or has a mapping of other constants, is dropped', () => {
  const pair = begin({})
  const { client } = pair
  pair.client.tcp!.connect(0)
  pair.run(() => client.machine.connections[0]?.fast !== undefined && standsBy(pair))
  client.machine.handover(0, 'acc2', pair.now)
  client.flush()
  pair.run(() => client.machine.connections[0]?.fastWay?.subflow.id === 1)
  const [connection] = client.machine.connections
  const { out } = connection!.fastWay!
  const packet = (ssn: number, localPort = 40_000) => {
    const writer = new OptionWriter()
    const dsn = { low: dsnAt(connection!.localKey, connection!.sndMax).low }
    const ack = { low: dsnAt(connection!.remoteKey!, connection!.tan).low }
    writer.mptcp({ type: 'dss', dataFin: false, ack, map: { dsn, ssn, length: 10 } })
    return packetOf({
      ...{ to: 'wire', tuple: { ...connection!.tuple, localPort }, seq: 1, ack: 1, flags: 16, window: 1 },
      ...{ options: writer.finish(), payload: new Uint8Array(10), access: undefined, segmentSize: 1000 },
    })
  }
  const ssn = (connection!.sndMax + out) >>> 0
  assert.notEqual(client.kernel!.away(packet(ssn)), undefined)
  assert.equal(client.kernel!.away(packet(ssn + 1)), undefined)
  assert.equal(client.kernel!.away(packet(ssn, 40_001)), undefined)
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
      return packetOf(out, packet)
    }
    const map = dss.map && { ...dss.map, dsn: { low: dss.map.dsn.low } }
    return [built(old, map, payloadLength), built(short, undefined, 0)]
  }
}

test('MP-42: behind a peer whose DATA_ACKs come after its acknowledgements the TCP hears of no byte before its DATA_ACK', () => {
  let lowered = 0
  let passed = 0
  for (let seed = 0; seed < extent(12); seed++) {
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
  assert.ok(passed > extent(3000) && lowered > extent(500), `${passed} passed, ${lowered} were behind`)
})

test('an acknowledgement that the kernel leaves to user space has the number of what the kernel sent meanwhile', () => {
  const pair = begin({ kernel: ['client'] })
  const { client } = pair
  eager(pair)
  const connection = () => client.machine.connections[0]!
  // User space has seen nothing of it.
  const ahead = () => (connection()?.fast?.read().sndMax ?? 0) - connection()?.sndMax
  assert.ok(pair.run(() => ahead() > 10_000))
  const { tuple, tcpIsn, peerIsn, tan, fast } = connection()
  const seq = (tcpIsn + fast!.read().sndMax) >>> 0
  const packet = forge({ tuple: back(tuple), seq, ack: (peerIsn + tan) >>> 0, window: 0 })
  const segment = new Segment()
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
  assert.ok(segment.read(view, packet, 0, packet.length, true))
  assert.equal(client.machine.handleOutgoing(segment, pair.now), true)
  const out = client.machine.poll()!
  assert.equal(out.seq, connection().first!.seqAt(fast!.read().sndMax))
  finishes(pair, 'acknowledgement')
})

/** Proxy against proxy in virtual time: handshake, data both ways, handovers of every kind, closing. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { viewOf } from '../../../src/core/bytes.ts'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { retryAfter } from '../../../src/mptcp/machine/joins.ts'
import { probe } from '../../../src/mptcp/machine/lifecycle.ts'
import { Segment } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt, offsetOfDsn, sequenceAt } from '../../../src/mptcp/machine/sequence.ts'
import { extent, some } from '../../support/extent.ts'
import { back } from './alone.ts'
import { type Host, Pair } from './network.ts'
import { forge } from './packets.ts'
import { randomHandovers } from './random-handovers.ts'
import { byteAt } from './tcp-model.ts'

function finish(pair: Pair): void {
  const ok = pair.run(() => pair.done || pair.problem !== '')
  assert.equal(pair.problem, '')
  const { client, server } = pair
  assert.ok(
    ok,
    `at ${pair.now.toFixed(0)} ms: ${client.tcp!.acknowledged} up, ${client.tcp!.received} down, ${client.tcp!.state}/${server.tcp!.state}`,
  )
}

test('MP-8, MP-15, MP-16: both ends speak plain TCP, and MPTCP is between them; it closes in order', () => {
  const pair = new Pair({ seed: 1, bytes: [200_000, 300_000] })
  pair.client.tcp!.connect(0)
  finish(pair)
  assert.equal(pair.client.machine.counts.established, 1)
  assert.equal(pair.server.machine.counts.established, 1)
  assert.equal(pair.client.machine.counts.joins > 0, true, 'a subflow stood by on the other access')
  pair.run(() => false, 20_000)
  assert.equal(pair.client.machine.connections.length, 0, 'nothing is left of it')
  assert.equal(pair.server.machine.connections.length, 0)
})

for (const loss of some([0.02, 0, 0.1]))
  test(`MP-16: both proxies end in order soon after their TCPs, whichever closes first, with ${100 * loss} % loss`, () => {
    const isOver = ({ machine }: Host) => machine.connections.every(({ state }) => state === 'closed')
    for (const bytes of [
      [0, 100_000],
      [100_000, 0],
      [100_000, 100_000],
      [20, 30],
    ] as const)
      for (let seed = 1; seed <= extent(15); seed++) {
        const what = `seed ${seed}, ${bytes} bytes`
        const pair = new Pair({ seed, bytes, conditions: { loss, jitter: 10 } })
        const hosts = [pair.client, pair.server]
        pair.client.tcp!.connect(0)
        finish(pair)
        const longest = loss === 0 ? 4 * 25 : 13_000
        assert.ok(
          pair.run(() => hosts.every(isOver), longest),
          what,
        )
        assert.equal(pair.problem, '')
        for (const { events } of hosts)
          assert.deepEqual(
            events.flatMap((event) => (event.type === 'ended' ? [event.reason] : [])),
            ['closed'],
            what,
          )
        assert.ok(
          hosts.reduce((sum, { tcp }) => sum + tcp!.resets, 0) < 40,
          `${what}: two ends answer each other`,
        )
      }
  })

for (const sack of some([true, false]))
  test(`MP-55: 100 seamless handovers in one transfer lose nothing and stop nothing${sack ? '' : ', without SACK'}`, () => {
    const pair = new Pair({ seed: 2, bytes: [6_000_000, 6_000_000], sack })
    pair.client.tcp!.connect(0)
    let moved = 0
    let longest = 0
    let last = 0
    let received = 0
    for (let i = 0; i < 100; i++)
      pair.at(200 + 18 * i, () => {
        const name = `acc${1 + ((i + 1) % 2)}`
        if (pair.client.machine.handover(0, name, pair.now)) moved++
        pair.client.flush()
      })
    pair.run(() => {
      if (pair.client.tcp!.received > received) {
        if (received > 0 && pair.client.tcp!.received < 6_000_000)
          longest = Math.max(longest, pair.now - last)
        received = pair.client.tcp!.received
        last = pair.now
      }
      return pair.done || pair.problem !== ''
    })
    assert.equal(pair.problem, '')
    assert.ok(pair.done)
    assert.equal(moved, 100)
    assert.equal(pair.client.tcp!.retransmissions + pair.server.tcp!.retransmissions, 0)
    assert.ok(longest <= 60, `${longest} ms without data, of a round trip of 30`)
  })

test('MP-6, MP-55: the peer hears at once of the new path, and of leaving the old one when the new one carries data', () => {
  const pair = new Pair({ seed: 15, bytes: [0, 20_000_000] })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 400)
  const [client] = pair.client.machine.connections
  const [server] = pair.server.machine.connections
  for (const name of ['acc2', 'acc1', 'acc2']) {
    const moved = pair.now
    pair.client.machine.handover(0, name, moved)
    pair.client.flush()
    const [old, target] = [
      client!.subflows.find(({ access }) => access !== name)!,
      client!.subflows.find(({ access }) => access === name)!,
    ]
    const atPeer = (id: number) => server!.subflows.find((each) => each.id === id)!
    pair.run(() => pair.now > moved + 20)
    assert.deepEqual([atPeer(target.id).remoteBackup, atPeer(old.id).remoteBackup], [false, false])
    pair.run(() => pair.now > moved + 500)
    assert.deepEqual([atPeer(target.id).remoteBackup, atPeer(old.id).remoteBackup], [false, true])
    assert.equal(server!.active!.id, target.id)
  }
  finish(pair)
  assert.equal(pair.server.tcp!.retransmissions, 0)
})

test('MP-50: without SACK, what lies beyond a hole is acknowledged on its subflow, so that the peer can send what fills it', () => {
  const pair = new Pair({ seed: 16, bytes: [0, 50_000_000], sack: false })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 400)
  const connection = pair.client.machine.connections[0]!
  const standby = connection.subflows[1]!
  // Nothing of the other subflow comes any more: its data have to come here, after these.
  pair.paths[0]!.works = false
  const { tan } = connection
  const came = pair.now
  const dsn = connection.rcvMax + 50_000
  const payload = new Uint8Array(1000).map((_, i) => byteAt(2, dsn + i))
  const map = { dsn: dsnAt(connection.remoteKey!, dsn), ssn: standby.high, length: payload.length }
  pair.client.in(
    forge({
      tuple: standby.tuple,
      seq: standby.ackAt(standby.high),
      ack: standby.seqAt(standby.next),
      options: [{ type: 'dss', dataFin: false, map }],
      payload,
    }),
  )
  pair.run(() => pair.now > came + 1)
  assert.equal(standby.acked, standby.high)
  assert.equal(connection.tan >= tan && connection.tan < dsn, true, 'no DATA_ACK of it')
})

test('MP-56: with nothing left the peer hears of the lost path with the third packet of the new one, and the gap is counted from the break', () => {
  const pair = new Pair({ seed: 17, bytes: [0, 20_000_000], init: { standby: false } })
  pair.client.tcp!.connect(0)
  const gone = () => pair.server.machine.connections[0]?.subflows.at(-2)?.state === 'dead'
  for (const [at, access] of [
    [400, 1],
    [3000, 0],
  ] as const) {
    pair.run(() => pair.now > at)
    const broken = pair.now
    pair.setAccesses(new Set([access]))
    pair.run(gone)
    // SYN, SYN/ACK, and what follows it, 15 ms each.
    assert.ok(pair.now <= broken + 46, `${pair.now - broken} ms`)
    pair.run(() => pair.now > broken + 500)
    const moved = pair.client.events.findLast(({ type }) => type === 'moved')
    assert.ok(moved?.type === 'moved' && moved.gap < 100, JSON.stringify(moved))
  }
})

for (const [up, down] of [
  [0, 20_000_000],
  [20_000_000, 0],
] as const)
  test(`MP-56: all accesses are silent, and one answers again: the ${down > 0 ? 'download' : 'upload'} goes on soon after, and gaps are counted from the break`, () => {
    const pair = new Pair({ seed: 18, bytes: [up, down] })
    pair.client.tcp!.connect(0)
    pair.run(() => pair.now > 3000)
    const before = pair.client.events.length
    const received = () => pair.client.tcp!.received + pair.server.tcp!.received
    for (const path of pair.paths) path.works = false
    pair.at(3400, () => {
      pair.paths[0]!.works = true
    })
    pair.run(() => pair.now > 3390)
    const arrived = received()
    pair.run(() => received() > arrived)
    assert.ok(pair.now < 4000, `after ${pair.now - 3400} ms`)
    const gaps = pair.client.events.slice(before).flatMap((each) => (each.type === 'moved' ? [each.gap] : []))
    assert.ok(gaps.length >= 2, 'to the standby, and away from it')
    for (const gap of gaps) assert.ok(gap <= pair.now - 2900, `${gap} ms`)
  })

for (const sack of some([true, false]))
  test(`MP-56: a break loses nothing, and data go on soon after it${sack ? '' : ', without SACK'}`, () => {
    for (const [up, down] of some([
      [3_000_000, 3_000_000],
      [3_000_000, 0],
      [0, 3_000_000],
    ] as const)) {
      const pair = new Pair({ seed: 3, bytes: [up, down], sack, init: { standby: false } })
      pair.client.tcp!.connect(0)
      const progress: number[] = []
      let total = 0
      pair.at(300, () => {
        pair.paths[0]!.works = false
        pair.setAccesses(new Set([1]))
      })
      const seen = () => pair.client.tcp!.received + pair.server.tcp!.received
      pair.run(() => {
        if (seen() > total) {
          total = seen()
          progress.push(pair.now)
        }
        return pair.done || pair.problem !== ''
      })
      assert.equal(pair.problem, '')
      assert.ok(pair.done, `${pair.client.tcp!.state} ${pair.server.tcp!.state}`)
      let gap = 0
      for (let i = 1; i < progress.length; i++)
        if (progress[i]! > 300 && progress[i - 1]! < 1000)
          gap = Math.max(gap, progress[i]! - progress[i - 1]!)
      assert.ok(gap < (sack ? 250 : 1000), `${up}/${down}: ${gap} ms`)
    }
  })

test('an access that goes silent is left though nobody says that it is gone', () => {
  for (const bytes of [
    [3_000_000, 0],
    [0, 3_000_000],
  ] as const) {
    const pair = new Pair({ seed: 4, bytes })
    pair.client.tcp!.connect(0)
    pair.at(300, () => {
      pair.paths[0]!.works = false
    })
    finish(pair)
    assert.equal(pair.client.machine.counts.blackHoles + pair.server.machine.counts.blackHoles, 1)
    assert.ok(pair.now < 2500, `${bytes}: ${pair.now} ms`)
  }
})

test('an access that is a backup is left as soon as a subflow works on another', () => {
  const pair = new Pair({ seed: 4, bytes: [3_000_000, 3_000_000], backups: [0] })
  pair.setAccesses(new Set([0]))
  pair.client.tcp!.connect(0)
  pair.at(300, () => pair.setAccesses(new Set([0, 1])))
  assert.ok(pair.run(() => pair.client.machine.connections[0]?.active?.access === 'acc2', 1000))
  const moves = pair.client.events.flatMap((event) => (event.type === 'moved' ? [event.cause] : []))
  assert.deepEqual(moves, ['acc1 is a backup'])
  finish(pair)
})

test('MP-56: with SACK the local TCP sends what was lost in the moment in which another subflow takes over, not when its peer has said so', () => {
  const segment = new Segment()
  // From the break on: when the oldest byte that is not acknowledged goes over the other path.
  let [lost, oldest, again] = [Number.POSITIVE_INFINITY, 0, Number.POSITIVE_INFINITY]
  // And when the newest does, of which the peer then says that it has it.
  let [newest, kicked] = [0, Number.POSITIVE_INFINITY]
  const pair = new Pair({
    seed: 4,
    bytes: [9_000_000, 0],
    conditions: { delay: 30, rate: 2500 },
    middlebox: (packet, path, toServer) => {
      segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, true)
      const map = segment.option('dss')?.map
      const [connection] = pair.client.machine.connections
      if (toServer && path === 1 && map !== undefined && segment.payloadLength > 0) {
        const at = offsetOfDsn(connection!.localKey, map.dsn, oldest)!
        if (at <= oldest && at + map.length > oldest) again = Math.min(again, pair.now)
        if (at + map.length === newest) kicked = Math.min(kicked, pair.now)
      }
      return [packet]
    },
  })
  pair.client.tcp!.connect(0)
  pair.at(500, () => {
    pair.paths[0]!.works = false
  })
  pair.at(520, () => {
    lost = pair.now
    const [connection] = pair.client.machine.connections
    oldest = connection!.dataUna
    newest = connection!.sndMax
    pair.setAccesses(new Set([1]))
  })
  assert.ok(pair.run(() => Number.isFinite(again), 2000))
  assert.ok(again - lost < 1, `${again - lost} ms`)
  assert.ok(kicked - lost < 1, `${kicked - lost} ms`)
  finish(pair)
})

test('MP-56: the newest segment, first on a new subflow and lost there, is sent again by the proxy: the local TCP was told that it is there', () => {
  const segment = new Segment()
  let newest = () => Number.POSITIVE_INFINITY
  let lost = 0
  const pair = new Pair({
    seed: 4,
    bytes: [9_000_000, 0],
    init: { standby: false },
    conditions: { delay: 15, rate: 2500 },
    middlebox: (packet, path, toServer) => {
      const [connection] = pair.client.machine.connections
      segment.read(viewOf(packet), packet, 0, packet.length, true)
      const map = segment.option('dss')?.map
      if (!toServer || path !== 1 || lost > 0 || map === undefined || segment.payloadLength === 0)
        return [packet]
      assert.equal(offsetOfDsn(connection!.localKey, map.dsn, newest())! + map.length, newest())
      lost = pair.now
      pair.paths[1]!.works = false
      pair.at(pair.now, () => {
        pair.paths[1]!.works = true
      })
      return [packet]
    },
  })
  pair.client.tcp!.connect(0)
  newest = pair.breaks(500)
  assert.ok(pair.run(() => lost > 0, 1000))
  assert.ok(pair.run(() => pair.server.tcp!.received >= newest(), 1000))
  // What comes behind it is acknowledged a round trip later, and it is sent again then.
  assert.ok(pair.now - lost < 120, `${pair.now - lost} ms`)
  finish(pair)
})

test('ADR 0455: a subflow on which a native peer waits for what the local TCP does not send is left after some timeouts, and the transfer goes on over another', () => {
  for (const standby of [false, true]) {
    let lost = 0
    const segment = new Segment()
    const pair = new Pair({
      ...{ seed: 4, bytes: [9_000_000, 0], inOrder: true, init: { standby } },
      conditions: { delay: 15, rate: 2500 },
      middlebox: (packet, path, toServer) => {
        segment.read(viewOf(packet), packet, 0, packet.length, true)
        if (!toServer || path !== 1 || lost > 0 || segment.payloadLength === 0) return [packet]
        lost = pair.now
        pair.paths[1]!.works = false
        pair.at(pair.now, () => {
          pair.paths[1]!.works = true
          // Nobody has it any more, and the local TCP was told that it has arrived.
          const [connection] = pair.client.machine.connections
          assert.ok(connection!.kicked !== undefined)
          connection!.kicked = undefined
        })
        return [packet]
      },
    })
    pair.client.tcp!.connect(0)
    const newest = pair.breaks(500)
    assert.ok(pair.run(() => lost > 0, 1000))
    assert.ok(pair.run(() => pair.server.tcp!.received >= newest(), 60_000))
    assert.ok(pair.now - lost < 4000, `${pair.now - lost} ms`)
    finish(pair)
    assert.equal(pair.client.machine.counts.stuck, 1)
  }
})

for (const sack of [true, false])
  test(`MP-31: after a break new data ${sack ? 'wait until the local TCP sends again what was lost' : 'of a TCP without SACK go at once, and it hears of no duplicate; where they are lost the transfer goes on over another subflow'}`, () => {
    const segment = new Segment()
    // Of the other access: where its packets begin. The first is the newest segment.
    const sent: number[] = []
    let [unsent, duplicates] = [0, 0]
    const pair = new Pair({
      seed: 4,
      bytes: [9_000_000, 0],
      ...{ sack, inOrder: true },
      init: { standby: false },
      conditions: { delay: 15, rate: 2500 },
      middlebox: (packet, path, toServer) => {
        if (!toServer || path !== 1) return [packet]
        segment.read(viewOf(packet), packet, 0, packet.length, true)
        const map = segment.option('dss')?.map
        if (map === undefined || segment.payloadLength === 0) return [packet]
        sent.push(offsetOfDsn(pair.client.machine.connections[0]!.localKey, map.dsn, unsent)!)
        if (sent.length === 1 && sack) sendNew()
        if (sent.at(-1) !== unsent || sent.indexOf(unsent) < sent.length - 1) return [packet]
        pair.paths[1]!.works = false
        pair.at(pair.now, () => {
          pair.paths[1]!.works = true
        })
        return [packet]
      },
    })
    const sendNew = () => {
      const { peerIsn, tcpIsn, tan, tuple, window } = pair.client.machine.connections[0]!
      const numbers = { seq: sequenceAt(tcpIsn, unsent), ack: sequenceAt(peerIsn, tan), window }
      pair.client.out(forge({ tuple: back(tuple), ...numbers, payload: new Uint8Array(1000) }))
    }
    const { tcp } = pair.client
    tcp!.connect(0)
    pair.at(500, () => {
      unsent = pair.client.machine.connections[0]!.sndMax
      pair.paths[0]!.works = false
      pair.setAccesses(new Set([1]))
      const handle = tcp!.handle.bind(tcp)
      tcp!.handle = (packet, now) => {
        const before = tcp!.acknowledged
        handle(packet, now)
        if (tcp!.acknowledged === before) duplicates++
      }
    })
    assert.ok(pair.run(() => sent.at(-1)! < sent[0]!, 2000))
    assert.equal(Math.max(...sent) < unsent, sack, `${sent}: the first new one is ${unsent}`)
    if (!sack) assert.equal(duplicates, 0)
    finish(pair)
    assert.equal(pair.client.machine.counts.stuck, sack ? 0 : 1)
  })

test('MP-16: the end of a stream goes over another subflow when its own is silent, though no data do', () => {
  const segment = new Segment()
  let lost = 0
  const pair = new Pair({
    seed: 4,
    bytes: [20_000, 30],
    middlebox: (packet, _path, toServer) => {
      segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, true)
      return toServer && segment.option('dss')?.dataFin === true && lost++ === 0 ? [] : [packet]
    },
  })
  pair.client.tcp!.connect(0)
  assert.ok(pair.run(() => pair.client.tcp!.acknowledged === 20_000 && lost > 0))
  pair.paths[0]!.works = false
  assert.ok(
    pair.run(() => pair.client.tcp!.acknowledged === 20_001, 1500),
    'the server has heard it',
  )
  assert.equal(pair.client.machine.counts.blackHoles, 1)
  finish(pair)
})

test('MP-56: a connection that began before its address was known for that of an access leaves it when it is lost', () => {
  const pair = new Pair({ seed: 4, bytes: [3_000_000, 0] })
  pair.setAccesses(new Set())
  pair.client.tcp!.connect(0)
  pair.at(200, () => pair.setAccesses(new Set([0, 1])))
  pair.at(400, () => {
    const [connection] = pair.client.machine.connections
    assert.equal(connection!.subflows.find(({ id }) => id === 0)!.access, 'acc1')
    assert.equal(connection!.subflows.filter(({ access }) => access === 'acc1').length, 1)
    pair.paths[0]!.works = false
    pair.setAccesses(new Set([1]))
  })
  finish(pair)
  assert.equal(pair.client.machine.counts.blackHoles, 0, 'it was told')
})

test('60 random handovers with loss, reordering, breaks and black holes change, lose and reorder nothing', () => {
  randomHandovers(extent(60), 1)
})

test('an access that was silent when a join was tried gets its subflow once it works, though nothing says that it does', () => {
  const pair = new Pair({ seed: 11, bytes: [100_000, 100_000_000] })
  pair.paths[1]!.works = false
  pair.client.tcp!.connect(0)
  const standby = () =>
    pair.client.machine.connections[0]?.subflows.some(
      ({ access, state }) => access === 'acc2' && state === 'active',
    ) ?? false
  pair.at(20_000, () => {
    pair.paths[1]!.works = true
  })
  assert.ok(pair.run(standby, 60_000), 'a subflow on acc2')
  assert.ok(pair.now > 20_000)
})

test('the round trip of a subflow is known after its handshake, though its first SYN was lost', () => {
  const pair = new Pair({ seed: 12, bytes: [10_000, 10_000_000] })
  pair.paths[1]!.works = false
  pair.client.tcp!.connect(0)
  pair.at(150, () => {
    pair.paths[1]!.works = true
  })
  const standby = () => pair.client.machine.connections[0]?.subflows.find(({ id }) => id === 1)
  assert.ok(pair.run(() => standby()?.state === 'active', 5000))
  assert.equal(Math.round(standby()!.srtt), 30)
})

test('P10: a probe is answered where it asks, and is no duplicate acknowledgement to anybody', () => {
  const answers: number[] = []
  const pair = new Pair({
    seed: 13,
    bytes: [0, 5_000_000],
    sack: false,
    middlebox: (packet, path, toServer) => {
      if (path === 1 && !toServer) answers.push(packet.length)
      return [packet]
    },
  })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 400)
  const standby = pair.server.machine.connections[0]!.subflows[1]!
  answers.length = 0
  const probe = {
    tuple: standby.tuple,
    seq: standby.ackAt(standby.high - 1),
    ack: standby.seqAt(standby.next),
  }
  for (let i = 0; i < 4; i++) pair.server.in(forge(probe))
  assert.deepEqual(
    answers.map((length) => length <= 60),
    [true, true, true, true],
  )
  finish(pair)
  assert.equal(pair.server.tcp!.retransmissions, 0)
})

test('a path that went silent while the window was shut is found out once it opens', () => {
  const pair = new Pair({ seed: 14, bytes: [0, 50_000_000] })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 400)
  for (const path of pair.paths) path.works = false
  const connection = pair.client.machine.connections[0]!
  const { tuple, active } = connection
  // What came before the window was shut was asked after and answered.
  active!.burst = 0
  const toPeer = {
    local: tuple.remote,
    localPort: tuple.remotePort,
    remote: tuple.local,
    remotePort: tuple.localPort,
  }
  const at = { seq: connection.tcpIsn + connection.sndMax, ack: connection.peerIsn + connection.tan }
  const opened = { tuple: toPeer, seq: at.seq >>> 0, ack: at.ack >>> 0, window: connection.window + 5000 }
  pair.client.out(forge(opened))
  pair.run(() => pair.now > 700)
  assert.equal(pair.client.machine.counts.blackHoles, 1)
})

for (const [what, act] of [
  [
    'the peer asks',
    (pair: Pair) => {
      const server = pair.server.machine.connections[0]!
      probe(server, server.active!, pair.now)
      pair.server.flush()
    },
  ],
  ['its access is lost, and another subflow stands by', (pair: Pair) => pair.setAccesses(new Set([1]))],
  ['the next proxy takes over', (pair: Pair) => pair.killed('client', 100)],
] as const)
  test(`a window that opened while what the TCP sends was lost is heard of when ${what}`, () => {
    let bare = false
    const segment = new Segment()
    const pair = new Pair({
      seed: 14,
      bytes: [0, 50_000_000],
      keep: true,
      middlebox: (packet, _path, toServer) => {
        segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, toServer)
        return bare && segment.payloadLength > 0 ? [] : [packet]
      },
    })
    pair.client.tcp!.connect(0)
    pair.run(() => pair.now > 400)
    // No data any more that the TCP would answer.
    bare = true
    pair.run(() => pair.now > 450)
    const { tuple, peerIsn, tan, tcpIsn, sndMax } = pair.client.machine.connections[0]!
    const { local, localPort, remote, remotePort } = tuple
    const sender = { local: remote, localPort: remotePort, remote: local, remotePort: localPort }
    const at = { seq: (tcpIsn + sndMax) >>> 0, ack: (peerIsn + tan) >>> 0 }
    pair.client.out(forge({ tuple: sender, ...at, window: 0 }))
    pair.run(() => pair.now > 480)
    const server = pair.server.machine.connections[0]!
    assert.equal(server.remoteWindow, 0)
    act(pair)
    assert.ok(pair.run(() => server.remoteWindow > 0, 1000))
  })

test('an end whose accesses all went as the other was done joins again and hears that it is', () => {
  for (const seed of [17, 237]) randomHandovers(1, seed)
})

test('MP-56: where a subflow stands by, REMOVE_ADDR of the lost one is the first that the peer hears, without MP_PRIO', () => {
  const heard: string[][] = []
  const segment = new Segment()
  const pair = new Pair({
    seed: 23,
    bytes: [0, 20_000_000],
    middlebox: (packet, path, toServer) => {
      if (toServer && path === 1) {
        segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, true)
        heard.push(segment.mptcp.map(({ type }) => type))
      }
      return [packet]
    },
  })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 400)
  heard.length = 0
  pair.setAccesses(new Set([1]))
  pair.run(() => heard.some((types) => types.includes('prio')))
  assert.deepEqual(heard[0], ['dss', 'remove-addr'])
  assert.deepEqual(
    heard.find((types) => types.includes('prio')),
    ['dss', 'remove-addr', 'prio'],
  )
})

test('a subflow that is ready only when both ends are done is closed, and nothing is left of the connection', () => {
  const pair = new Pair({ seed: 5, bytes: [10_000, 10_000] })
  pair.client.tcp!.connect(0)
  finish(pair)
  pair.run(() => false, 20_000)
  assert.deepEqual([pair.client.machine.connections, pair.server.machine.connections], [[], []])
})

test('a reset behind a FIN that is acknowledged ends the subflow; it is not answered there, or two hosts would answer each other without end', () => {
  let answers = 0
  let joins = 0
  const segment = new Segment()
  const pair = new Pair({
    seed: 6,
    bytes: [10_000, 10_000],
    paths: 1,
    middlebox: (packet, _path, toServer) => {
      segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, toServer)
      if (toServer && segment.option('join') !== undefined) joins++
      else if (toServer) answers++
      // Its own FIN is lost each time.
      return toServer && (segment.flags & TcpFlag.FIN) !== 0 ? [] : [packet]
    },
  })
  pair.client.tcp!.connect(0)
  const connection = () => pair.client.machine.connections[0]!
  const known = () =>
    connection()?.state === 'closing' && connection().first!.acked > connection().first!.high
  assert.ok(pair.run(known))
  const { first } = connection()
  answers = 0
  const at = { tuple: first!.tuple, seq: first!.ackAt(first!.acked), ack: first!.seqAt(first!.next) }
  pair.client.in(forge({ ...at, flags: TcpFlag.RST }))
  assert.deepEqual([first!.state, answers], ['dead', 0])
  // Another subflow asks whether the peer knows that both are done.
  assert.ok(pair.run(() => joins === 1, 3000))
})

test('RFC 8684 §3.7: an answer to the SYN without the option that comes after one with it, when data are under way, changes nothing', () => {
  const pair = new Pair({ seed: 8, bytes: [300_000, 300_000] })
  pair.client.tcp!.connect(0)
  const connection = () => pair.client.machine.connections[0]
  assert.ok(pair.run(() => connection()?.state === 'pre-established' && connection()!.window > 0))
  const { tuple, peerIsn, tcpIsn } = connection()!
  pair.client.in(
    forge({ tuple, seq: peerIsn, ack: (tcpIsn + 1) >>> 0, flags: TcpFlag.SYN | TcpFlag.ACK, options: [] }),
  )
  finish(pair)
  const { fallbacks, established } = pair.client.machine.counts
  assert.deepEqual({ fallbacks, established }, { fallbacks: 0, established: 1 })
})

test('what nobody answers is sent again after 10 s at the latest, however long round trips were', () => {
  const pair = new Pair({ seed: 9, bytes: [10_000, 10_000_000] })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 400)
  const [connection] = pair.client.machine.connections
  assert.ok(retryAfter(connection!, 0) < 1000)
  connection!.first!.srtt = 8000
  assert.deepEqual([retryAfter(connection!, 0), retryAfter(connection!, 5)], [10_000, 10_000])
})

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { fixedKeys } from '../../../bench/fixed-machine.ts'
import { Verdict } from '../../../src/tunnel/seam.ts'
import { DatapathPair, newArenas } from '../../support/datapath-pair.ts'
import { ipv4HeaderSum, readWritten, type TcpSpec, tcp, udp } from '../../support/packets.ts'

const arenas = newArenas()

function bytes(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * 7 + seed) & 255)
}

/** The TCP payloads of one flow that came out, put together by sequence number. */
function stream(written: readonly Uint8Array[], start: number): Uint8Array {
  const parts: { seq: number; data: Uint8Array }[] = []
  for (const one of written) {
    const { packet, checksumHolds } = readWritten(one)
    assert.ok(checksumHolds, 'checksum')
    const view = new DataView(packet.buffer)
    const ip = packet[0]! >> 4 === 4 ? 20 : 40
    assert.equal(ip === 20 ? view.getUint16(2) : 40 + view.getUint16(4), packet.length, 'length field')
    const header = ip + (packet[ip + 12]! >> 4) * 4
    parts.push({ seq: (view.getUint32(ip + 4) - start) >>> 0, data: packet.subarray(header) })
  }
  const out = new Uint8Array(parts.reduce((n, part) => n + part.data.length, 0))
  for (const part of parts) out.set(part.data, part.seq)
  return out
}

const tcpSpec: fc.Arbitrary<TcpSpec> = fc.record({
  version: fc.constantFrom(4 as const, 6 as const),
  payload: fc.integer({ min: 1, max: 60_000 }).map((n) => bytes(n, n)),
  seq: fc.oneof(fc.integer({ min: 0, max: 0xffffffff }), fc.constant(0xfffffff0)),
  flags: fc.constantFrom(0x10, 0x18, 0x11, 0x90),
  timestamps: fc.boolean(),
  gso: fc.integer({ min: 1, max: 3000 }),
})

describe('datapath: TCP super-packets', () => {
  for (const form of ['godwit', 'stock'] as const)
    test(`${form}: a super-packet arrives with every byte, right lengths and checksums`, () => {
      fc.assert(
        fc.property(tcpSpec, fc.integer({ min: 1280, max: 1500 }), (drawn, mtu) => {
          const spec = { ...drawn, gso: Math.max(drawn.gso!, 40 + (drawn.payload.length >> 8)) }
          const pair = new DatapathPair(form, mtu, arenasAgain())
          pair.send(pair.a, tcp(spec))
          pair.receive(pair.b)
          assert.deepEqual(stream(pair.b.tun.written, spec.seq!), spec.payload)
          const flags = pair.b.tun.written.map((one) => one[10 + (spec.version === 4 ? 20 : 40) + 13]! & ~8)
          assert.equal(
            flags.filter((f) => (f & 1) !== 0).length,
            spec.flags! & 1,
            'FIN is on exactly one segment',
          )
          assert.equal(
            flags.filter((f) => (f & 0x80) !== 0).length,
            (spec.flags! & 0x80) >> 7,
            'CWR likewise',
          )
        }),
        { numRuns: 60 },
      )
    })

  test('segments of one flow merge into one packet; nothing else does', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    pair.send(pair.a, tcp({ version: 4, payload: bytes(20_000), gso: 1300, seq: 5 }))
    pair.receive(pair.b)
    assert.equal(pair.b.tun.written.length, 1)
    assert.equal(readWritten(pair.b.tun.written[0]!).gso, 1300)
    assert.equal(pair.a.sockets[0]!.sends, 1)
    pair.b.tun.written.length = 0
    // Another acknowledgement, other ports, a gap, PSH in between: each begins a packet of its own.
    pair.send(
      pair.a,
      tcp({ version: 4, payload: bytes(100), seq: 100 }),
      tcp({ version: 4, payload: bytes(100), seq: 200, ack: 78 }),
      tcp({ version: 4, payload: bytes(100), seq: 300, ack: 78, ports: [1, 2] }),
      tcp({ version: 4, payload: bytes(100), seq: 500, ack: 78, ports: [1, 2] }),
      tcp({ version: 4, payload: bytes(100), seq: 600, ack: 78, ports: [1, 2], flags: 0x18 }),
      tcp({ version: 4, payload: bytes(100), seq: 700, ack: 78, ports: [1, 2] }),
    )
    pair.receive(pair.b)
    assert.deepEqual(
      pair.b.tun.written.map((one) => one.length - 50),
      [100, 100, 100, 200, 100],
    )
  })

  test('a corrupted inner checksum is neither merged nor mended', () => {
    const pair = new DatapathPair('stock', 1500, arenasAgain())
    const bad = tcp({ version: 4, payload: bytes(100), seq: 200 })
    bad[bad.length - 1]! ^= 1
    pair.send(pair.a, tcp({ version: 4, payload: bytes(100), seq: 100 }), bad)
    pair.receive(pair.b)
    assert.deepEqual(
      pair.b.tun.written.map((one) => readWritten(one).checksumHolds),
      [true, false],
    )
  })

  test('MSS of a SYN is clamped on both ends', () => {
    for (const version of [4, 6] as const) {
      const pair = new DatapathPair('godwit', 1400, arenasAgain())
      pair.send(pair.a, tcp({ version, payload: new Uint8Array(0), flags: 2, mss: 1460 }))
      pair.receive(pair.b)
      const { packet, checksumHolds } = readWritten(pair.b.tun.written[0]!)
      const ip = version === 4 ? 20 : 40
      assert.ok(checksumHolds)
      assert.equal(new DataView(packet.buffer).getUint16(ip + 22), 1400 - 28 - 32 - 2 - ip - 20)
    }
  })
})

describe('datapath: UDP and packets too large', () => {
  for (const form of ['godwit', 'stock'] as const)
    test(`${form}: a UDP super-packet arrives as one, byte for byte`, () => {
      for (const version of [4, 6] as const) {
        const pair = new DatapathPair(form, 1500, arenasAgain())
        pair.send(pair.a, udp({ version, payload: bytes(2500), gso: 1000 }))
        pair.receive(pair.b)
        const got = pair.b.tun.written.map(readWritten)
        assert.ok(got.every((one) => one.checksumHolds))
        const header = (version === 4 ? 20 : 40) + 8
        assert.deepEqual(
          got.map((one) => [one.packet.length - header, one.gso]),
          [[2500, 1000]],
        )
        assert.equal(new DataView(got[0]!.packet.buffer).getUint16(header - 4), 2508)
        assert.deepEqual(
          Buffer.concat(got.map((one) => one.packet.subarray(header))),
          Buffer.from(bytes(2500)),
        )
      }
    })

  test('what may not be fragmented is answered with the path’s MTU', () => {
    for (const version of [4, 6] as const) {
      const pair = new DatapathPair('godwit', 1400, arenasAgain())
      pair.send(pair.a, udp({ version, payload: bytes(1390) }))
      pair.receive(pair.b)
      assert.equal(pair.b.tun.written.length, 0)
      const { packet } = readWritten(pair.a.tun.written[0]!)
      const view = new DataView(packet.buffer)
      if (version === 4) {
        assert.deepEqual([packet[20], packet[21], view.getUint16(26)], [3, 4, 1400 - 62])
      } else assert.deepEqual([packet[40], view.getUint32(44)], [2, 1400 - 62])
    }
  })

  test('IPv4 without DF goes out in fragments', () => {
    const pair = new DatapathPair('godwit', 1400, arenasAgain())
    const data = bytes(3000)
    pair.send(pair.a, udp({ version: 4, payload: data, dontFragment: false }))
    pair.receive(pair.b)
    const out = new Uint8Array(3008)
    let seen = 0
    for (const one of pair.b.tun.written) {
      const packet = one.subarray(10)
      const word = (packet[6]! << 8) | packet[7]!
      out.set(packet.subarray(20), (word & 0x1fff) * 8)
      seen += packet.length - 20
    }
    assert.equal(seen, 3008)
    assert.deepEqual(out.subarray(8), data)
  })
})

describe('datapath: sessions and paths', () => {
  test('what arrives twice is dropped, forged and unknown too', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    const seen: Uint8Array[] = []
    pair.network.filter = (_from, _to, datagram) => {
      seen.push(datagram)
      return true
    }
    pair.send(pair.a, udp({ version: 4, payload: bytes(50) }))
    pair.receive(pair.b)
    const [sealed] = seen
    const forged = sealed!.slice()
    forged[8] = 9
    const unknown = sealed!.slice()
    unknown[4] = 1
    pair.network.deliver(pair.a.at[0]!, pair.b.at[0]!, [sealed!, forged, unknown, sealed!.slice(0, 20)])
    pair.receive(pair.b)
    assert.equal(pair.b.tun.written.length, 1)
    const { replayed, forged: bad, unknownSession, malformed } = pair.b.datapath.inbound.counts
    assert.deepEqual([replayed, bad, unknownSession, malformed], [1, 1, 1, 1])
  })

  test('a hard handover loses nothing: the lost part of the ring goes out again elsewhere', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    const { a, b } = pair
    const second = (end: typeof a, remote: typeof b) =>
      end.datapath.open({ peer: 0, pathId: 2, socket: 1, remote: remote.at[1]!, mtu: 1500 })
    const slot = second(a, b)
    second(b, a)
    let n = 0
    // The first path dies in the middle of the transfer.
    pair.network.filter = (from) => from.address[1] === 1 || n++ < 20
    const data = bytes(100_000)
    for (let at = 0; at < data.length; at += 10_000)
      pair.send(
        a,
        tcp({ version: 4, payload: data.subarray(at, at + 10_000), seq: at, gso: 1300, flags: 0x18 }),
      )
    pair.receive(b)
    assert.ok(stream(b.tun.written, 0).length < data.length)
    const highest = b.datapath.counters(b.machine.slot).highestCounter
    pair.now += 300
    a.datapath.now = pair.now
    const again = a.datapath.resend(a.machine.slot, slot, highest - 3, 1000)
    pair.receive(b)
    assert.deepEqual(stream(b.tun.written, 0), data)
    assert.equal(b.datapath.inbound.counts.replayed, 3)
    assert.ok(again > 3)
    assert.equal(
      a.datapath.counters(slot).sentPackets,
      0,
      'what had arrived is not taken for a loss of this path',
    )
    assert.equal(a.datapath.resend(a.machine.slot, slot, highest - 3, 1000), 0, 'moved to the other path')
  })

  test('an inner IPv6 packet of 1,280 bytes goes over a path of 1,280, fragmented outside; larger ones are told so', () => {
    for (const form of ['godwit', 'stock'] as const) {
      const pair = new DatapathPair(form, 1280, arenasAgain())
      const { a, b } = pair
      for (const end of [a, b]) for (const socket of end.sockets) socket.largest = 1252
      pair.send(a, udp({ version: 6, payload: bytes(1280 - 48) }))
      pair.receive(b)
      assert.equal(b.tun.written.length, 1)
      assert.equal(a.datapath.sender.fragmented, 1)
      pair.send(a, udp({ version: 6, payload: bytes(1281 - 48) }))
      const answer = a.tun.written[0]!.subarray(10)
      assert.equal(answer[40], 2, 'packet too big')
      assert.equal(new DataView(answer.buffer, answer.byteOffset).getUint32(44), 1280)
      assert.deepEqual(
        a.machine.events.filter((event) => event.startsWith('error')),
        [],
      )
    }
  })

  test('what was sealed for a large path is sent again on a small one', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    const { a, b } = pair
    const open = (end: typeof a, remote: typeof b) =>
      end.datapath.open({ peer: 0, pathId: 2, socket: 1, remote: remote.at[1]!, mtu: 1280 })
    const slot = open(a, b)
    open(b, a)
    a.sockets[1]!.largest = 1252
    pair.network.filter = (from) => from.address[1] === 1
    pair.send(a, udp({ version: 4, payload: bytes(1400) }))
    assert.equal(a.datapath.resend(a.machine.slot, slot, -1, 1000), 1)
    pair.receive(b)
    assert.equal(b.tun.written.length, 1)
  })

  test('what has arrived on a path is told for the session in use: counters of another mean nothing in it', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    const { a, b } = pair
    const highest = () => b.datapath.counters(b.machine.slot).highestCounter
    const packet = () => pair.send(a, udp({ version: 4, payload: bytes(50) }))
    assert.equal(highest(), -1)
    for (let n = 0; n < 5; n++) packet()
    pair.receive(b)
    assert.equal(highest(), 4)
    packet() // under way while both ends go over to another session
    for (const [end, which] of [a, b].entries()) {
      const { sessions } = which.machine.seam
      const index = sessions.newIndex()
      sessions.install(fixedKeys(0, index, index, end as 0 | 1))
      sessions.useForSending(index)
    }
    assert.equal(highest(), -1)
    pair.receive(b)
    assert.equal(highest(), -1, 'the old session does not count any more')
    packet()
    pair.receive(b)
    assert.equal(highest(), 0)
  })

  test('an unknown source is roaming when newest, and only then', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    const held: Uint8Array[] = []
    pair.network.filter = (_from, _to, datagram) => {
      held.push(datagram)
      return false
    }
    pair.send(pair.a, udp({ version: 4, payload: bytes(50) }))
    pair.send(pair.a, udp({ version: 4, payload: bytes(51) }))
    pair.network.filter = () => true
    const nat = { address: Uint8Array.of(192, 0, 2, 1), port: 99 }
    pair.network.deliver(nat, pair.b.at[0]!, [held[1]!])
    pair.receive(pair.b)
    pair.network.deliver(nat, pair.b.at[0]!, [held[0]!])
    pair.receive(pair.b)
    assert.deepEqual(
      pair.b.machine.events.filter((event) => event.startsWith('roaming')),
      ['roaming 0 1 192.0.2.1:99'],
    )
    assert.equal(pair.b.tun.written.length, 2)
  })

  test('what one datagram makes throw is reported with its peer; the next ones, and the thread, go on', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    const { forwarder, machine, tun } = pair.b
    let calls = 0
    forwarder.inbound = () => {
      if (++calls === 2) throw new Error('injected')
      return true
    }
    for (let n = 0; n < 3; n++) {
      pair.send(pair.a, udp({ version: 4, payload: bytes(50 + n) }))
      pair.receive(pair.b)
    }
    assert.deepEqual(
      machine.events.filter((event) => event.startsWith('fault')),
      ['fault 0 injected'],
    )
    assert.equal(tun.written.length, 2)
  })

  test('control payloads reach the machine in both forms; keepalives are nothing', () => {
    for (const form of ['godwit', 'stock'] as const) {
      const pair = new DatapathPair(form, 1500, arenasAgain())
      const { machine, datapath } = pair.a
      assert.equal(datapath.control(machine.slot, Uint8Array.of(1, 2, 3)), 0)
      assert.equal(datapath.control(machine.slot, new Uint8Array(0)), 1)
      pair.receive(pair.b)
      assert.equal(pair.b.machine.controls.length, 1)
      const [control] = pair.b.machine.controls
      assert.deepEqual([control!.pathId, control!.slot, control!.counter], [1, pair.b.machine.slot, 0])
      assert.deepEqual(control!.body.subarray(0, 3), Uint8Array.of(1, 2, 3))
      assert.equal(pair.b.tun.written.length, 0)
    }
  })

  test('while no path is usable the newest packet of each TCP flow is kept, then sent', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    pair.a.forwarder.slot = Verdict.PARK
    pair.send(
      pair.a,
      tcp({ version: 4, payload: bytes(100, 1), seq: 1 }),
      tcp({ version: 4, payload: bytes(5000, 2), seq: 101, gso: 1000 }),
      tcp({ version: 6, payload: bytes(70, 3), seq: 9 }),
    )
    assert.equal(pair.a.datapath.parking.size, 2)
    pair.a.forwarder.slot = pair.a.machine.slot
    pair.a.datapath.outbound.retryParked(pair.now)
    pair.receive(pair.b)
    const got = pair.b.tun.written.map(readWritten)
    assert.deepEqual(
      got.map((one) => one.packet.length),
      [20 + 20 + 1000, 40 + 20 + 70],
    )
    assert.ok(got.every((one) => one.checksumHolds))
  })

  test('of other flows the newest 64 wait, in order, and after a second the newest alone', () => {
    const sent = (away: number) => {
      const pair = new DatapathPair('godwit', 1500, arenasAgain())
      const { datapath, forwarder, machine } = pair.a
      forwarder.slot = Verdict.PARK
      for (let n = 0; n < 70; n++) pair.send(pair.a, udp({ version: 4, payload: bytes(100 + n) }))
      pair.send(pair.a, udp({ version: 6, payload: bytes(70) }))
      // Asked again in vain, they keep their order and their age.
      datapath.outbound.retryParked(pair.now + away / 2)
      forwarder.slot = machine.slot
      datapath.outbound.retryParked(pair.now + away)
      pair.receive(pair.b)
      return pair.b.tun.written.map((each) => readWritten(each).packet.length)
    }
    const lengths = Array.from({ length: 64 }, (_, n) => 20 + 8 + 106 + n)
    assert.deepEqual(sent(900), [...lengths, 40 + 8 + 70])
    assert.deepEqual(sent(1100), [20 + 8 + 169, 40 + 8 + 70])
  })

  test('issue 13: what was sent to a process that has ended goes out once more, to the next one: what it cannot have read', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    const { a, b } = pair
    const { sessions } = a.machine.seam
    const lengths = () => b.tun.written.splice(0).map((each) => readWritten(each).packet.length - 28)
    const send = (size: number) => pair.send(a, udp({ version: 4, payload: bytes(size) }))
    const after = (ms: number) => {
      pair.now += ms
      a.datapath.now = pair.now
    }
    sessions.heardIn(a.machine.localIndex)
    after(100)
    send(101)
    pair.receive(b)
    // It answers: this one was read, and what follows at once is not kept.
    pair.send(b, udp({ version: 4, payload: bytes(70) }))
    pair.receive(a)
    send(102)
    after(300)
    send(103)
    after(300)
    send(104)
    pair.receive(b)
    assert.deepEqual(lengths(), [101, 102, 103, 104])
    sessions.unread(0)
    assert.equal(a.datapath.parking.size, 2)
    a.datapath.outbound.retryParked(pair.now)
    pair.receive(b)
    assert.deepEqual(lengths(), [103, 104])
    // Each once, but those that are sent again are kept again; none after five seconds.
    after(6_000)
    sessions.unread(0)
    assert.equal(a.datapath.parking.size, 0)
    // Where a round trip ago it was there for sure, what left since may be unread although something came.
    after(100)
    send(105)
    pair.receive(b)
    pair.send(b, udp({ version: 4, payload: bytes(70) }))
    pair.receive(a)
    sessions.unread(0, 30)
    a.datapath.outbound.retryParked(pair.now)
    pair.receive(b)
    assert.deepEqual(lengths(), [105, 105])
  })

  test('few flows with many packets do not take the last packet of another', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    pair.a.forwarder.slot = Verdict.PARK
    pair.send(pair.a, tcp({ version: 4, payload: bytes(70), seq: 1 }))
    for (let n = 0; n < 600; n++)
      pair.send(pair.a, udp({ version: 4, sourcePort: 1000 + (n % 6), payload: bytes(100) }))
    assert.equal(pair.a.datapath.parking.size, 256)
    pair.a.forwarder.slot = pair.a.machine.slot
    pair.a.datapath.outbound.retryParked(pair.now)
    pair.receive(pair.b)
    const lengths = pair.b.tun.written.map((each) => readWritten(each).packet.length)
    assert.equal(lengths.filter((length) => length === 20 + 20 + 70).length, 1)
  })

  test('the oldest packet gives way when 256 wait', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    pair.a.forwarder.slot = Verdict.PARK
    for (let n = 0; n < 300; n++)
      pair.send(pair.a, udp({ version: 4, sourcePort: 1000 + n, payload: bytes(100 + n) }))
    assert.equal(pair.a.datapath.parking.size, 256)
    pair.a.forwarder.slot = pair.a.machine.slot
    pair.a.datapath.outbound.retryParked(pair.now)
    pair.receive(pair.b)
    const got = pair.b.tun.written.map((each) => readWritten(each).packet.length)
    assert.deepEqual([got.length, got[0], got.at(-1)], [256, 28 + 144, 28 + 399])
  })

  test('a refused send is told to the machine with its errno, and the next one works', () => {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    pair.a.sockets[0]!.failWith = 101
    pair.send(pair.a, udp({ version: 4, payload: bytes(50) }))
    assert.ok(pair.a.machine.events.includes(`error ${pair.a.machine.slot} 101`))
    pair.a.sockets[0]!.failWith = 0
    pair.send(pair.a, udp({ version: 4, payload: bytes(50) }))
    pair.receive(pair.b)
    assert.equal(pair.b.tun.written.length, 1)
  })
})

/** Arenas are never unmapped: a pool of a few, used again from the start. */
function arenasAgain(): ReturnType<typeof newArenas> {
  for (const arena of arenas) arena.reset()
  return arenas
}

describe('datapath: marks of full queues (issue 10 D9, RFC 6040)', () => {
  const CAPABLE = 2
  const CONGESTED = 3
  const withEcn = (packet: Uint8Array, ecn: number) => {
    const at = 10
    if (packet[at]! >> 4 === 4) {
      packet[at + 1] = ecn
      packet.set([0, 0], at + 10)
      const sum = ~ipv4HeaderSum(packet.subarray(at)) & 0xffff
      packet.set([sum >> 8, sum & 255], at + 10)
    } else packet[at + 1] = (packet[at + 1]! & ~0x30) | (ecn << 4)
    return packet
  }
  const fieldOf = (packet: Uint8Array) => (packet[0]! >> 4 === 4 ? packet[1]! & 3 : (packet[1]! >> 4) & 3)
  /** Packets with these fields go over a network that turns each class into another; what came out, and what was on the way. */
  function carry(knowsMarks: boolean, version: 4 | 6, ecn: number, mark: (outer: number) => number) {
    const pair = new DatapathPair('godwit', 1500, arenasAgain())
    pair.a.machine.seam.sessions.setForm(0, 'godwit', knowsMarks)
    const outer: number[] = []
    pair.network.mark = (trafficClass) => {
      outer.push(trafficClass)
      return mark(trafficClass)
    }
    pair.send(pair.a, withEcn(tcp({ version, payload: bytes(5000), gso: 1200, seq: 9 }), ecn))
    pair.receive(pair.b)
    const written = pair.b.tun.written.map((one) => readWritten(one))
    assert.ok(written.every(({ checksumHolds }) => checksumHolds))
    const { congested } = pair.b.datapath.inbound.counts
    return { outer: [...new Set(outer)], fields: written.map(({ packet }) => fieldOf(packet)), congested }
  }

  for (const version of [4, 6] as const)
    test(`IPv${version}: the outer packet is capable as the inner one is, and a mark on it comes out on the inner`, () => {
      const untouched = (outer: number) => outer
      assert.deepEqual(carry(true, version, CAPABLE, untouched), {
        ...{ outer: [CAPABLE], fields: [CAPABLE], congested: 0 },
      })
      assert.deepEqual(
        carry(true, version, CAPABLE, () => CONGESTED),
        { outer: [CAPABLE], fields: [CONGESTED], congested: 0 },
      )
      assert.deepEqual(carry(true, version, 0, untouched), { outer: [0], fields: [0], congested: 0 })
      assert.deepEqual(
        carry(true, version, 0, () => CONGESTED),
        { outer: [0], fields: [], congested: 5 },
        'who knows no marks is told by a loss',
      )
      assert.deepEqual(
        carry(false, version, CAPABLE, untouched),
        { outer: [0], fields: [CAPABLE], congested: 0 },
        'to a peer that would lose the mark nothing is capable',
      )
    })
})

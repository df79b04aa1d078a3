/** The forwarder of a mobile host, packet by packet: both families, wherever they lie in memory, and what it notes of them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HostForwarder, REPORTED } from '../../../src/anchoring/forwarders/host.ts'
import { Rewrite, rewrite4, rewrite6 } from '../../../src/anchoring/forwarders/nat.ts'
import { Paft } from '../../../src/anchoring/tables/paft.ts'
import { NOWHERE, TunnelTable } from '../../../src/anchoring/tables/tunnels.ts'
import { checksum, pseudoSum } from '../../../src/core/checksum.ts'
import { Verdict } from '../../../src/tunnel/seam.ts'
import { packet, tcp, udp, viewOf } from '../../support/full-packets.ts'

const FIX4 = Uint8Array.of(198, 19, 0, 1)
const FIX6 = Uint8Array.from({ length: 16 }, (_, i) => 0xa0 + i)
const VIPA4 = Uint8Array.of(198, 18, 0, 2)
const VIPA6 = Uint8Array.from({ length: 16 }, (_, i) => 0xc0 + i)
const FAR4 = Uint8Array.of(203, 0, 113, 7)
const FAR6 = Uint8Array.from({ length: 16 }, (_, i) => i + 1)
const PEER = 3
const [FIN, SYN, RST, ACK] = [1, 2, 4, 0x10]

function bed(slots: readonly number[] = [0, 1]) {
  const paft = new Paft({ allocate: (bytes) => new ArrayBuffer(bytes), rows: 64 })
  const tunnels = new TunnelTable()
  const secret = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)
  const host = new HostForwarder({ paft, tunnels, fix4: FIX4, fix6: FIX6, secret })
  const tids = slots.map(
    (slot) =>
      tunnels.open({
        ...{ slot, peer: PEER, vipNat: {}, unTid: slot + 1 },
        localTun: { interface: 'eth0', index: 1 },
        remoteTun: { endPoint: 'an', index: 2 },
      }).localTid,
  )
  host.associate(PEER, VIPA4, VIPA6)
  host.defaultTid = tids[0]!
  /** As the datapath calls: the packet lies somewhere in a large memory. */
  const lying = <T>(bytes: Uint8Array, at: number, call: (memory: Uint8Array, view: DataView) => T): T => {
    const memory = new Uint8Array(at + bytes.length + 64).fill(0x5a)
    memory.set(bytes, at)
    const result = call(memory, viewOf(memory))
    bytes.set(memory.subarray(at, at + bytes.length))
    assert.ok(
      memory.subarray(0, at).every((byte) => byte === 0x5a),
      'nothing before it is touched',
    )
    assert.ok(
      memory.subarray(at + bytes.length).every((byte) => byte === 0x5a),
      'nor behind it',
    )
    return result
  }
  const out = (bytes: Uint8Array, now = 0, partial = false) =>
    lying(bytes, 36, (memory, view) => host.outbound(memory, view, 36, bytes.length, partial, now))
  const into = (bytes: Uint8Array, slot = 0, now = 0, peer = PEER) =>
    lying(bytes, 36, (memory, view) =>
      host.inbound(memory, view, 36, bytes.length, false, peer, slot, 1, now),
    )
  return { paft, tunnels, host, tids, out, into }
}

test('UP-21: out with the VIpA, in with VIpA_fix, over both families: the packets that the other address would have sent', () => {
  const { out, into, host, paft } = bed()
  for (const [fix, vipa, far] of [
    [FIX4, VIPA4, FAR4],
    [FIX6, VIPA6, FAR6],
  ] as const)
    for (const [protocol, body, back] of [
      [6, tcp(4000, 80, [1, 2, 3]), tcp(80, 4000, [4])],
      [17, udp(4000, 53, [1, 2]), udp(53, 4000, [9, 9, 9])],
    ] as const) {
      const sent = packet(fix, far, protocol, body)
      assert.equal(out(sent), 0)
      assert.deepEqual(sent, packet(vipa, far, protocol, body))
      const answer = packet(far, vipa, protocol, back)
      assert.equal(into(answer), true)
      assert.deepEqual(answer, packet(far, fix, protocol, back))
    }
  assert.equal(paft.size, 4, 'an answer is of the flow that it answers')
  assert.deepEqual([host.dropped, host.misaddressed], [0, 0])
})

test('what is from another source is dropped, and what is for another address than the one given, by any of its words', () => {
  const { out, into, host, paft } = bed()
  for (const [fix, vipa, far] of [
    [FIX4, VIPA4, FAR4],
    [FIX6, VIPA6, FAR6],
  ] as const)
    for (let byte = 3; byte < fix.length; byte += 4) {
      const changed = (address: Uint8Array) => address.map((value, i) => (i === byte ? value ^ 1 : value))
      assert.equal(out(packet(changed(fix), far, 17, udp(1, 2))), Verdict.DROP)
      assert.equal(into(packet(far, changed(vipa), 17, udp(2, 1))), false)
    }
  assert.deepEqual([host.dropped, host.misaddressed], [5, 5])
  assert.equal(into(new Uint8Array(20)), false)
  assert.equal(host.dropped, 6)
  // Of a peer that has given nothing, nothing is taken.
  for (const [vipa, far] of [
    [VIPA4, FAR4],
    [VIPA6, FAR6],
  ] as const)
    assert.equal(into(packet(far, vipa, 17, udp(2, 1)), 0, 0, PEER + 1), false)
  host.associate(PEER, VIPA4, undefined)
  assert.equal(out(packet(FIX6, FAR6, 17, udp(1, 2))), Verdict.PARK)
  assert.equal(into(packet(FAR6, VIPA6, 17, udp(2, 1))), false)
  assert.equal(host.misaddressed, 8)
  host.associate(PEER, undefined, VIPA6)
  assert.equal(out(packet(FIX4, FAR4, 17, udp(1, 2))), Verdict.PARK)
  assert.equal(paft.size, 2)
})

test('RFC 5508: an ICMP error names the address twice; one that quotes another packet, or too little, is left as it is', () => {
  for (const [from, to, other, icmp, kind, rewrite] of [
    [FIX4, VIPA4, FAR4, 1, 3, rewrite4],
    [FIX6, VIPA6, FAR6, 58, 1, rewrite6],
  ] as const) {
    const header = from.length === 4 ? 20 : 40
    const quoted = (address: Uint8Array) => packet(other, address, 17, udp(53, 1000, [1, 2]))
    const error = (address: Uint8Array, quote: Uint8Array, type: number = kind) =>
      packet(address, other, icmp, [type, 4, 0, 0, 0, 0, 0, 0, ...quote])
    const rewritten = (bytes: Uint8Array) => {
      const memory = new Uint8Array(bytes.length + 40)
      memory.set(bytes, 40)
      rewrite(viewOf(memory), 40, bytes.length, new Rewrite(from, to), true, icmp, header, false)
      const result = memory.slice(40)
      const pseudo = icmp === 1 ? 0 : pseudoSum(viewOf(result), 0, icmp, result.length - header)
      assert.equal(checksum(viewOf(result), header, result.length - header, pseudo), 0, 'a correct checksum')
      return result.subarray(header + 8)
    }
    const place = from.length === 4 ? 16 : 24
    const quote = rewritten(error(from, quoted(from)))
    assert.deepEqual(quote.slice(place, place + from.length), to)
    if (icmp === 1) assert.equal(checksum(viewOf(quote), 0, 20), 0, "and of the quote's header")
    // Another packet of the same host, by any word.
    for (let byte = 3; byte < from.length; byte += 4) {
      const quote = quoted(from.map((value, i) => (i === byte ? value ^ 1 : value)))
      assert.deepEqual(rewritten(error(from, quote)), quote)
    }
    // Cut short; another version; no error at all.
    for (const quote of [
      quoted(from).subarray(0, header - 2),
      quoted(from).map((b, i) => (i === 0 ? 0x10 : b)),
    ])
      assert.deepEqual(rewritten(error(from, quote)), Uint8Array.from(quote))
    const echo = icmp === 1 ? 8 : 128
    assert.deepEqual(rewritten(error(from, quoted(from), echo)), quoted(from))
  }
})

test('of a connection that both ends have closed, or one has reset, the row is over soon; flags are read where they stand', () => {
  const later = (end: (bed: ReturnType<typeof makeConnection>) => void): number => {
    const made = makeConnection()
    end(made)
    const idle = { tcp: 7_440_000, udp: 180_000, other: 60_000 }
    for (let i = 0; i < 20; i++) made.paft.sweep(1000, idle, 60_000)
    return made.paft.size
  }
  function makeConnection() {
    const { out, into, paft } = bed()
    const up = (flags: number) => out(packet(FIX4, FAR4, 6, tcp(4000, 80, [], flags)))
    const down = (flags: number) => into(packet(FAR4, VIPA4, 6, tcp(80, 4000, [], flags)))
    up(SYN)
    down(SYN | ACK)
    return { up, down, paft, out, into }
  }
  assert.equal(
    later(() => {}),
    1,
  )
  assert.equal(
    later(({ up }) => up(FIN | ACK)),
    1,
    'half closed',
  )
  assert.equal(
    later(({ down }) => down(FIN | ACK)),
    1,
    'half closed by the other end',
  )
  assert.equal(
    later(({ up, down }) => {
      up(FIN)
      down(FIN)
    }),
    0,
  )
  assert.equal(
    later(({ down }) => down(RST)),
    0,
  )
  assert.equal(
    later(({ up, down }) => {
      up(RST)
      down(SYN)
    }),
    1,
    'begun anew',
  )
  // A header that is cut before its flags says nothing, nor does a datagram.
  assert.equal(
    later(({ out }) => out(packet(FIX4, FAR4, 6, tcp(4000, 80, [], RST)).slice(0, 33))),
    1,
  )
  assert.equal(
    later(({ into }) => into(packet(FAR4, VIPA4, 17, [...udp(80, 4000), 0, 0, 0, 0, 0, RST, 0, 0]))),
    1,
  )
})

test('UP-10: a flow is reported once, and again until it has an owner only if the report found no room', () => {
  const { out, host, paft } = bed()
  for (let i = 0; i < 3; i++) out(packet(FIX4, FAR4, 17, udp(4000, 53)))
  const ids = host.takeNewFlows()
  assert.equal(ids.length, 1)
  assert.deepEqual([host.hasNewFlows, host.takeNewFlows()], [false, []])
  assert.equal(paft.groupAt(paft.findId(ids[0]!)), REPORTED)
  assert.equal(paft.appAt(paft.findId(ids[0]!)), 0)
  for (let i = 0; i < 600; i++) out(packet(FIX4, FAR4, 17, udp(5000 + i, 53)))
  assert.equal(host.takeNewFlows().length, 512, 'not more at once')
  for (let i = 0; i < 600; i++) out(packet(FIX4, FAR4, 17, udp(5000 + i, 53)))
  assert.equal(host.takeNewFlows().length, 88, 'the rest')
  assert.equal(
    host.rowOf({ protocol: 17, local: FIX4, remote: FAR4, localPort: 4000, remotePort: 53 }),
    paft.findId(ids[0]!),
  )
})

test('UP-10: the gap of a flow is from its last packet elsewhere to its first on the new path, of that flow alone', () => {
  const { out, into, host, paft } = bed([0, 1, 200])
  for (const port of [4000, 5000]) out(packet(FIX4, FAR4, 17, udp(port, 53)))
  const [id] = host.takeNewFlows()
  const down = (port: number, slot: number, now: number, peer = PEER) =>
    into(packet(FAR4, VIPA4, 17, udp(53, port)), slot, now, peer)
  down(4000, 0, 1000)
  const one = host.watch(paft.findId(id!), PEER, 0, 200)
  const all = host.watch(-1, PEER, 0, 200)
  const blind = host.watch(-1, PEER, -1, 200)
  assert.deepEqual([host.gap(one), host.gap(all)], [undefined, undefined])
  down(5000, 200, 1050)
  assert.deepEqual([host.gap(one), host.gap(all), host.gap(blind)], [undefined, 50, undefined])
  down(4000, 0, 1100) // still on its way
  down(4000, 200, 1130)
  down(4000, 0, 1140)
  down(4000, 200, 1150)
  assert.deepEqual([host.gap(one), host.gap(all)], [30, 50], 'of the first one')
  host.unwatch(one)
  host.unwatch(one)
  // What arrives on a slot beyond any before is known for the next watch, and so is what arrived on others.
  assert.equal(
    [host.watch(-1, PEER, 200, 1), host.watch(-1, PEER, 0, 1)].map((watch) => {
      down(5000, 1, 1200)
      return host.gap(watch)
    })[0],
    50,
  )
  const another = host.watch(-1, PEER + 1, 0, 1)
  down(5000, 1, 1300)
  assert.equal(host.gap(another), undefined, 'of another peer')
})

test('bytes of both ways are counted while somebody watches, and packets of no path are taken too', () => {
  const { out, into, host, paft } = bed()
  out(packet(FIX4, FAR4, 6, tcp(4000, 80)))
  const row = paft.findId(host.takeNewFlows()[0]!)
  paft.counting = true
  out(packet(FIX4, FAR4, 6, tcp(4000, 80, [1, 2])))
  assert.equal(into(packet(FAR4, VIPA4, 6, tcp(80, 4000, [1])), -1), true)
  assert.deepEqual(paft.bytesAt(row), { sent: 42, received: 41 })
  paft.counting = false
  out(packet(FIX4, FAR4, 6, tcp(4000, 80)))
  assert.equal(paft.bytesAt(row), undefined)
})

test('flows of groups that are no more take the default tunnel; of a tunnel that rests they wait', () => {
  const { out, host, paft, tunnels, tids } = bed()
  const send = () => out(packet(FIX4, FAR4, 17, udp(4000, 53)))
  send()
  const row = paft.findId(host.takeNewFlows()[0]!)
  paft.setGroup(row, 5)
  assert.equal(send(), Verdict.PARK, 'nobody has bound it')
  host.bindOthers(tids[1]!, 5)
  assert.deepEqual([send(), host.defaultTid, host.tidOf(row)], [1, tids[1], tids[1]])
  host.bind(5, tids[0]!)
  assert.equal(send(), 0)
  tunnels.setUsable(tids[0]!, false)
  assert.equal(send(), Verdict.PARK)
  host.bind(5, NOWHERE)
  assert.equal(send(), Verdict.PARK)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { AnchorForwarder } from '../../../src/anchoring/forwarders/anchor.ts'
import { HostForwarder } from '../../../src/anchoring/forwarders/host.ts'
import { Rewrite, rewrite4, rewrite6 } from '../../../src/anchoring/forwarders/nat.ts'
import { Groups, MOST_GROUPS } from '../../../src/anchoring/tables/groups.ts'
import { Paft } from '../../../src/anchoring/tables/paft.ts'
import { BLOCKED, NOWHERE, TunnelTable } from '../../../src/anchoring/tables/tunnels.ts'
import { checksum, pseudoSum } from '../../../src/core/checksum.ts'
import { Verdict } from '../../../src/tunnel/seam.ts'
import { packet, tcp, udp, viewOf } from '../../support/full-packets.ts'

const allocate = (bytes: number) => new ArrayBuffer(bytes)
const secret = Uint8Array.of(8, 7, 6, 5, 4, 3, 2, 1)
const FIX4 = Uint8Array.of(1, 2, 3, 4)
const FIX6 = Uint8Array.from([0xfd, 0x67, 0x6f, 0x64, 0x77, 0x69, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
const CH = Uint8Array.of(204, 152, 191, 37)

const address = (n: number) => fc.uint8Array({ minLength: n, maxLength: n })
const payload = fc.array(fc.nat(255), { maxLength: 60 })

test('UP-21: a rewritten packet is the packet the other address would have sent, checksums and all', () => {
  for (const size of [4, 16]) {
    fc.assert(
      fc.property(address(size), address(size), address(size), payload, (from, to, other, data) => {
        for (const [protocol, body] of [
          [6, tcp(4876, 80, data)],
          [17, udp(53, 5353, data)],
        ] as const) {
          for (const source of [true, false]) {
            const bytes = source ? packet(from, other, protocol, body) : packet(other, from, protocol, body)
            const want = source ? packet(to, other, protocol, body) : packet(other, to, protocol, body)
            const rewrite = size === 4 ? rewrite4 : rewrite6
            const header = size === 4 ? 20 : 40
            rewrite(viewOf(bytes), 0, bytes.length, new Rewrite(from, to), source, protocol, header, false)
            // 0 and 0xffff are the same sum: compare what a receiver would find, then all else byte by byte.
            const view = viewOf(bytes)
            assert.equal(checksum(view, header, body.length, pseudoSum(view, 0, protocol, body.length)), 0)
            if (size === 4) assert.equal(checksum(view, 0, 20), 0)
            const field = header + (protocol === 6 ? 16 : 6)
            for (const p of [bytes, want]) p.fill(0, field, field + 2)
            for (const p of [bytes, want]) if (size === 4) p.fill(0, 10, 12)
            assert.deepEqual(bytes, want)
          }
        }
      }),
      { numRuns: 60 },
    )
  }
})

test('UP-21: a UDP checksum of zero stays zero; a partial one is left to the datapath', () => {
  const bytes = packet(FIX4, CH, 17, udp(1000, 53, [1, 2, 3]))
  bytes.fill(0, 26, 28)
  const to = Uint8Array.of(5, 0, 0, 1)
  rewrite4(viewOf(bytes), 0, bytes.length, new Rewrite(FIX4, to), true, 17, 20, false)
  assert.deepEqual([...bytes.subarray(26, 28)], [0, 0])
  const partial = packet(FIX4, CH, 6, tcp(1, 2))
  const before = [...partial.subarray(36, 38)]
  rewrite4(viewOf(partial), 0, partial.length, new Rewrite(FIX4, to), true, 6, 20, true)
  assert.deepEqual([...partial.subarray(36, 38)], before)
})

test('UP-21: the packet quoted in an ICMP error is rewritten with it', () => {
  const to = Uint8Array.of(5, 0, 0, 1)
  for (const [from, target, other, icmp] of [
    [FIX4, to, CH, 1],
    [FIX6, Uint8Array.from({ length: 16 }, (_, i) => i + 1), Uint8Array.from({ length: 16 }, () => 9), 58],
  ] as const) {
    const header = from.length === 4 ? 20 : 40
    const rewrite = from.length === 4 ? rewrite4 : rewrite6
    const error = (address: Uint8Array) =>
      packet(address, other, icmp, [
        icmp === 1 ? 3 : 1,
        icmp === 1 ? 3 : 4,
        ...[0, 0, 0, 0, 0, 0],
        ...packet(other, address, 17, udp(53, 1000, [1, 2, 3, 4])),
      ])
    const bytes = error(from)
    rewrite(viewOf(bytes), 0, bytes.length, new Rewrite(from, target), true, icmp, header, false)
    const view = viewOf(bytes)
    const pseudo = icmp === 1 ? 0 : pseudoSum(view, 0, icmp, bytes.length - header)
    assert.equal(checksum(view, header, bytes.length - header, pseudo), 0)
    const quoted = bytes.subarray(header + 8)
    const at = from.length === 4 ? 16 : 24
    assert.deepEqual(quoted.slice(at, at + from.length), target)
    if (icmp === 1) assert.equal(checksum(view, header + 8, 20), 0)
  }
})

test('UP-26, Table 1: flow1 → tid1 (AN1, 5.0.0.1), flow2 → tid2 (AN2, 7.0.0.1), and back', () => {
  const paft = new Paft({ allocate })
  const tunnels = new TunnelTable()
  const host = new HostForwarder({ paft, tunnels, fix4: FIX4, fix6: FIX6, secret })
  const vipa1 = Uint8Array.of(5, 0, 0, 1)
  const vipa2 = Uint8Array.of(7, 0, 0, 1)
  const tid1 = tunnels.open({
    slot: 0,
    peer: 0,
    localTun: { interface: 'eth0', index: 2000 },
    remoteTun: { endPoint: 'AN1', index: 1001 },
    vipNat: { v4: vipa1 },
    unTid: 1,
  }).localTid
  const tid2 = tunnels.open({
    slot: 1,
    peer: 1,
    localTun: { interface: 'eth0', index: 3000 },
    remoteTun: { endPoint: 'AN2', index: 1002 },
    vipNat: { v4: vipa2 },
    unTid: 2,
  }).localTid
  host.associate(0, vipa1, undefined)
  host.associate(1, vipa2, undefined)
  host.defaultTid = tid1

  const send = (bytes: Uint8Array) => host.outbound(bytes, viewOf(bytes), 0, bytes.length, false, 0)
  const flow1 = packet(FIX4, CH, 6, tcp(4876, 80))
  const flow2 = packet(FIX4, CH, 6, tcp(4900, 21))
  assert.equal(send(flow1), 0)
  assert.deepEqual(flow1.slice(12, 16), vipa1)
  send(packet(FIX4, CH, 6, tcp(4900, 21)))
  const [, second] = host.takeNewFlows()
  host.bind(5, tid2)
  paft.setGroup(paft.findId(second!), 5)
  assert.equal(send(flow2), 1)
  assert.deepEqual(flow2.slice(12, 16), vipa2)

  for (const [vipa, peer, ports] of [
    [vipa1, 0, tcp(80, 4876)],
    [vipa2, 1, tcp(21, 4900)],
  ] as const) {
    const back = packet(CH, vipa, 6, ports)
    assert.ok(host.inbound(back, viewOf(back), 0, back.length, false, peer, peer, 1, 0))
    assert.deepEqual(back.slice(16, 20), FIX4)
    assert.equal(checksum(viewOf(back), 20, 20, pseudoSum(viewOf(back), 0, 6, 20)), 0)
  }
  const stray = packet(CH, vipa2, 6, tcp(80, 4876))
  assert.equal(host.inbound(stray, viewOf(stray), 0, stray.length, false, 0, 0, 1, 0), false)
})

/** A host with two tunnels to one anchor, and a way to send flow after flow. */
function twoTunnels() {
  const paft = new Paft({ allocate })
  const tunnels = new TunnelTable()
  const host = new HostForwarder({ paft, tunnels, fix4: FIX4, fix6: FIX6, secret })
  const open = (slot: number) =>
    tunnels.open({
      slot,
      peer: 0,
      localTun: { interface: `eth${slot}`, index: 2000 + slot },
      remoteTun: { endPoint: 'AN', index: 1001 },
      vipNat: {},
      unTid: slot + 1,
    }).localTid
  const tids = [open(0), open(1)] as const
  host.associate(0, vipa(2), undefined)
  host.defaultTid = tids[0]
  return { paft, tunnels, host, tids }
}

test('UP-25: what becomes of a tunnel is written in the Tunnel Table alone; rows of the PAFT name it and stay', () => {
  const { paft, tunnels, host, tids } = twoTunnels()
  const send = (port: number) => {
    const bytes = packet(FIX4, CH, 6, tcp(port, 80))
    return host.outbound(bytes, viewOf(bytes), 0, bytes.length, false, 0)
  }
  const ports = [4000, 4001, 4002]
  for (const port of ports) assert.equal(send(port), 0)
  const ids = host.takeNewFlows()
  const rows = () => ids.map((id) => host.tidOf(paft.findId(id)))
  tunnels.setUsable(tids[0], false)
  assert.deepEqual(ports.map(send), [Verdict.PARK, Verdict.PARK, Verdict.PARK])
  tunnels.setUsable(tids[0], true)
  tunnels.update(tids[0], { remoteTun: { endPoint: 'AN, by another address', index: 7 } })
  assert.deepEqual(ports.map(send), [0, 0, 0])
  assert.deepEqual(rows(), [tids[0], tids[0], tids[0]])
  // The other way round: a row that is bound elsewhere changes nothing about either tunnel.
  host.bind(5, tids[1])
  paft.setGroup(paft.findId(ids[1]!), 5)
  assert.deepEqual(ports.map(send), [0, 1, 0])
  assert.equal(tunnels.size, 2)
  tunnels.close(tids[0])
  assert.deepEqual(ports.map(send), [Verdict.PARK, 1, Verdict.PARK])
})

/** How packets travel between two ends: around them, and out of it again. */
interface TunnelType {
  wrap(inner: Uint8Array): Uint8Array
  unwrap(outer: Uint8Array): Uint8Array
}

/** IP/UDP, without the outer headers that the kernel makes. */
const ipUdp: TunnelType = {
  wrap: (inner) => Uint8Array.of(0x20, 0, 0, 0, ...inner),
  unwrap: (outer) => outer.slice(4),
}

/** IP/GRE with a key (RFC 2784, RFC 2890 §2): flags K, version 0, protocol IPv4, the key. */
const ipGre: TunnelType = {
  wrap: (inner) => Uint8Array.of(0x20, 0, 0x08, 0, 0, 0, 0, 7, ...inner),
  unwrap: (outer) => {
    assert.deepEqual([...outer.subarray(0, 8)], [0x20, 0, 0x08, 0, 0, 0, 0, 7])
    return outer.slice(8)
  },
}

test('UP-27: a tunnel of another type, IP/GRE, stands beside one of IP/UDP; a flow moves between them', () => {
  const { paft, host, tids } = twoTunnels()
  const far = anchor()
  far.forwarder.assign(1, 2)
  const types = [ipUdp, ipGre]
  for (const slot of [0, 1]) far.open(1, slot)
  let counter = 0
  /** Through the tunnel that the host chooses, and back through the one that the anchor does. */
  const roundTrip = () => {
    const request = packet(FIX4, CH, 6, tcp(4876, 80, [1, 2, 3]))
    const up = host.outbound(request, viewOf(request), 0, request.length, false, 0)
    const arrived = types[up]!.unwrap(types[up]!.wrap(request))
    assert.ok(far.forwarder.inbound(arrived, viewOf(arrived), 0, arrived.length, false, 1, up, ++counter, 0))
    assert.deepEqual(arrived, packet(vipa(2), CH, 6, tcp(4876, 80, [1, 2, 3])))
    const answer = packet(CH, vipa(2), 6, tcp(80, 4876, [4, 5]))
    const down = far.forwarder.outbound(answer, viewOf(answer), 0, answer.length, false, 0)
    const back = types[down]!.unwrap(types[down]!.wrap(answer))
    assert.ok(host.inbound(back, viewOf(back), 0, back.length, false, 0, down, counter, 0))
    assert.deepEqual(back, packet(CH, FIX4, 6, tcp(80, 4876, [4, 5])))
    return [up, down]
  }
  assert.deepEqual(roundTrip(), [0, 0])
  const row = paft.findId(host.takeNewFlows()[0]!)
  host.bind(5, tids[1])
  paft.setGroup(row, 5)
  assert.deepEqual(roundTrip(), [1, 1])
  host.bind(5, tids[0])
  assert.deepEqual(roundTrip(), [0, 0])
})

test('a blocked flow is dropped, one with no usable access waits, foreign sources are dropped', () => {
  const paft = new Paft({ allocate })
  const tunnels = new TunnelTable()
  const host = new HostForwarder({ paft, tunnels, fix4: FIX4, fix6: FIX6, secret })
  const send = (from: Uint8Array) => {
    const bytes = packet(from, CH, 17, udp(1, 2))
    return host.outbound(bytes, viewOf(bytes), 0, bytes.length, false, 0)
  }
  assert.equal(host.defaultTid, NOWHERE)
  assert.equal(send(FIX4), Verdict.PARK)
  host.bind(5, BLOCKED)
  paft.setGroup(paft.findId(host.takeNewFlows()[0]!), 5)
  assert.equal(send(FIX4), Verdict.DROP)
  assert.equal(send(CH), Verdict.DROP)
  assert.equal(paft.size, 1)
})

const V6 = Uint8Array.from([0xfd, 0x67, 0x6f, 0x64, 0x77, 0x69, 0, 1, 0, 0, 0, 0])

function anchor(rowsOfHost?: number, limit = 1 << 20) {
  const paft = new Paft({ allocate, limit })
  const tunnels = new TunnelTable()
  const groups = new Groups(paft)
  const forwarder = new AnchorForwarder({
    paft,
    tunnels,
    groups,
    ...(rowsOfHost !== undefined && { rowsOfHost }),
    v4Base: 0xc6120000,
    numbers: 65536,
    v6Prefix: V6,
    secret,
  })
  const open = (peer: number, slot: number) =>
    tunnels.open({
      slot,
      peer,
      localTun: { interface: 'eth0', index: 1 },
      remoteTun: { endPoint: 'x', index: 1 },
      vipNat: {},
      unTid: 0,
    }).localTid
  return { paft, tunnels, groups, forwarder, open }
}

const vipa = (n: number) => Uint8Array.of(198, 18, 0, n)
const vipa6 = (n: number) => Uint8Array.from([...V6, 0, 0, 0, n])

test('UP-5, UP-29, E-3: the anchor learns from newer packets of the same peer, and the downlink follows', () => {
  const { forwarder, open } = anchor()
  forwarder.assign(1, 2)
  forwarder.assign(2, 3)
  open(1, 10)
  open(1, 11)
  open(2, 20)
  const up = (from: Uint8Array, peer: number, slot: number, counter: number) => {
    const bytes = packet(from, from.length === 4 ? CH : FIX6, 6, tcp(4876, 80))
    return forwarder.inbound(bytes, viewOf(bytes), 0, bytes.length, false, peer, slot, counter, 0)
  }
  const down = (to: Uint8Array, port = 4876) => {
    const bytes = packet(to.length === 4 ? CH : FIX6, to, 6, tcp(80, port))
    return forwarder.outbound(bytes, viewOf(bytes), 0, bytes.length, false, 0)
  }
  for (const address of [vipa(2), vipa6(2)]) {
    assert.equal(up(address, 1, 10, 100), true)
    assert.equal(down(address), 10)
    up(address, 1, 11, 110)
    assert.equal(down(address), 11)
    up(address, 1, 10, 105)
    assert.equal(down(address), 11, 'a late packet on the old tunnel')
    up(address, 1, 10, 120)
    assert.equal(down(address), 10)
  }
  // E-3 (2): another peer with this source, or this peer with another's.
  assert.equal(up(vipa(2), 2, 20, 500), false)
  assert.equal(up(vipa(3), 1, 10, 500), false)
  assert.equal(up(Uint8Array.of(10, 0, 0, 1), 1, 10, 500), false)
  assert.equal(forwarder.spoofed, 3)
  assert.equal(down(vipa(2)), 10)
  // A flow never seen takes the host's newest tunnel; nobody's address is dropped.
  assert.equal(down(vipa(2), 9999), 10)
  assert.equal(down(vipa(9)), Verdict.DROP)
})

test('UP-11: the VIpA inside alone tells whose a packet is, on whatever tunnel it comes and goes', () => {
  const { forwarder, tunnels, open } = anchor()
  for (const [peer, slots] of [
    [1, [10, 11]],
    [2, [20, 21]],
  ] as const) {
    forwarder.assign(peer, peer + 1)
    for (const slot of slots) open(peer, slot)
  }
  const up = (host: number, port: number, slot: number, peer = host) => {
    const bytes = packet(vipa(host + 1), CH, 6, tcp(port, 80))
    return forwarder.inbound(bytes, viewOf(bytes), 0, bytes.length, false, peer, slot, 1, 0)
  }
  const down = (host: number, port: number) => {
    const bytes = packet(CH, vipa(host + 1), 6, tcp(80, port))
    return forwarder.outbound(bytes, viewOf(bytes), 0, bytes.length, false, 0)
  }
  // The same ports on both hosts, each host on both of its tunnels.
  for (const [host, slots] of [
    [1, [10, 11]],
    [2, [20, 21]],
  ] as const)
    for (const [i, slot] of slots.entries()) assert.ok(up(host, 4000 + i, slot))
  assert.deepEqual([down(1, 4000), down(1, 4001), down(2, 4000), down(2, 4001)], [10, 11, 20, 21])
  // Where a tunnel ends outside is nobody's business here.
  tunnels.update(tunnels.atSlot(20)!.localTid, { remoteTun: { endPoint: 'elsewhere', index: 9 } })
  assert.ok(up(2, 4000, 20))
  assert.equal(down(2, 4000), 20)
  assert.equal(up(2, 4000, 10, 1), false, 'of another host')
})

test('a new session of the peer is newer than every packet of the one before', () => {
  const { forwarder, open } = anchor()
  forwarder.assign(1, 2)
  open(1, 10)
  open(1, 11)
  const up = (slot: number, counter: number) => {
    const bytes = packet(vipa(2), CH, 6, tcp(4876, 80))
    forwarder.inbound(bytes, viewOf(bytes), 0, bytes.length, false, 1, slot, counter, 0)
  }
  const down = () => {
    const bytes = packet(CH, vipa(2), 6, tcp(80, 4876))
    return forwarder.outbound(bytes, viewOf(bytes), 0, bytes.length, false, 0)
  }
  up(10, 1_000_000)
  up(11, 2 ** 40 + 5)
  assert.equal(down(), 11)
  up(10, 1_000_001)
  assert.equal(down(), 11)
})

test("UP-31, D12, E-8 (7): explicit handover moves the peer's flows only; a closed tunnel falls back", () => {
  const { forwarder, tunnels, open } = anchor()
  forwarder.assign(1, 2)
  forwarder.assign(2, 3)
  const first = open(1, 10)
  const second = open(1, 11)
  const flow = (local: Uint8Array) => ({ protocol: 6, local, remote: CH, localPort: 4876, remotePort: 80 })
  const down = () => {
    const bytes = packet(CH, vipa(2), 6, tcp(80, 4876))
    return forwarder.outbound(bytes, viewOf(bytes), 0, bytes.length, false, 0)
  }
  forwarder.setDefaultTid(1, first)
  assert.equal(forwarder.bind(1, second, 0, [flow(vipa(2))], 50, 0), 1)
  assert.equal(down(), 11)
  assert.equal(forwarder.bind(2, 0, 0, [flow(vipa(2))], 50, 0), 0)
  assert.equal(down(), 11)
  const late = packet(vipa(2), CH, 6, tcp(4876, 80))
  forwarder.inbound(late, viewOf(late), 0, late.length, false, 1, 10, 49, 0)
  assert.equal(down(), 11, 'sent before the request, arrived after it')
  tunnels.close(second)
  assert.equal(down(), 10)
})

/** Two paths of host 1 (VIpA 2) and one of host 2 (VIpA 3), and packets of any flow of theirs. */
function hosts(rowsOfHost?: number, limit?: number) {
  const parts = anchor(rowsOfHost, limit)
  const { forwarder, open } = parts
  forwarder.assign(1, 2)
  forwarder.assign(2, 3)
  const tids = [open(1, 10), open(1, 11), open(2, 20)] as const
  let counter = 0
  const up = (port: number, slot: number, order = ++counter, peer = slot < 20 ? 1 : 2, now = 0) => {
    const bytes = packet(vipa(peer + 1), CH, 17, udp(port, 80))
    return forwarder.inbound(bytes, viewOf(bytes), 0, bytes.length, false, peer, slot, order, now)
  }
  const down = (port: number, peer = 1) => {
    const bytes = packet(CH, vipa(peer + 1), 17, udp(80, port))
    return forwarder.outbound(bytes, viewOf(bytes), 0, bytes.length, false, 0)
  }
  const flow = (port: number) => ({
    protocol: 17,
    local: vipa(2),
    remote: CH,
    localPort: port,
    remotePort: 80,
  })
  return { ...parts, tids, up, down, flow, next: () => ++counter }
}

test('UP-2, UP-31: a handover of a group is one write; flows that packets moved meanwhile are still of their group', () => {
  const { forwarder, groups, tids, up, down, flow, next } = hosts()
  const voice = Array.from({ length: 30 }, (_, n) => 4000 + n)
  const rest = [5000, 5001]
  for (const port of [...voice, ...rest]) up(port, 10)
  assert.equal(forwarder.bind(1, tids[0], 7, voice.map(flow), next(), 0), 30)
  up(4003, 11)
  up(5001, 11)
  assert.deepEqual(
    [4000, 4003, 5000, 5001].map((port) => down(port)),
    [10, 11, 10, 11],
  )
  assert.equal(forwarder.bind(1, tids[1], 7, [], next(), 0), 30, 'named by its number alone')
  assert.deepEqual(
    [4000, 4003, 5000, 5001].map((port) => down(port)),
    [11, 11, 10, 11],
  )
  assert.equal(forwarder.bind(1, tids[0], 7, [], next(), 0), 30)
  assert.deepEqual(
    [4000, 4003, 5000, 5001].map((port) => down(port)),
    [10, 10, 10, 11],
  )
  assert.equal(forwarder.bind(1, tids[1], 'all', [], next(), 0), 32)
  assert.deepEqual(
    [4000, 4003, 5000, 5001, 9999].map((port) => down(port)),
    [11, 11, 11, 11, 11],
  )
  assert.equal(groups.rowsOf(1), 32)
})

test('E-3 (4): neither a packet nor a request that was overtaken undoes a handover; a static row waits for a request', () => {
  const { paft, forwarder, tids, up, down, flow } = hosts()
  up(4000, 10, 100)
  forwarder.bind(1, tids[1], 0, [], 200, 0)
  up(4000, 10, 150)
  assert.equal(down(4000), 11, 'a packet sent before the request')
  assert.equal(forwarder.bind(1, tids[0], 0, [], 180, 0), 0, 'a request sent before it')
  assert.equal(down(4000), 11)
  forwarder.setStatic(1, true, [flow(4000)])
  up(4000, 10, 300)
  assert.equal(down(4000), 11)
  forwarder.bind(1, tids[0], 0, [], 400, 0)
  assert.equal(down(4000), 10)
  assert.equal(paft.size, 1)
  // The order wraps at 2^31.
  up(4001, 10, 2 ** 31 - 1)
  up(4001, 11, 2 ** 31 + 1)
  assert.equal(down(4001), 11)
})

test('a host that has all the rows it may have pays with its own; in a full table the fullest host pays', () => {
  const few = hosts(100)
  for (let port = 1; port <= 20; port++) few.up(port, 20)
  for (let port = 1; port <= 5000; port++) few.up(port, 10)
  assert.deepEqual([few.groups.rowsOf(1), few.groups.rowsOf(2)], [100, 20])
  assert.equal(few.down(5000), 10)
  const full = hosts(undefined, 300)
  for (let port = 1; port <= 20; port++) full.up(port, 20)
  for (let port = 1; port <= 5000; port++) full.up(port, 10)
  assert.deepEqual([full.groups.rowsOf(1), full.groups.rowsOf(2)], [280, 20])
  for (let port = 1000; port < 1020; port++) full.up(port, 20)
  assert.equal(full.groups.rowsOf(2), 40, 'and the other one still finds room')
})

test('however many groups a host names, it has 64, and nothing is thrown', () => {
  const { forwarder, groups, tids, up, flow, next } = hosts()
  for (let n = 0; n < 1000; n++) {
    up(1000 + n, 10)
    forwarder.bind(1, tids[n % 2]!, 1 + n, [flow(1000 + n)], next(), 0)
  }
  assert.equal(groups.rowsOf(1), 1000)
  assert.ok(groups.peerOf.filter((peer) => peer === 1).length <= MOST_GROUPS)
})

test('a host that is gone leaves no rows, and what it had is used again', () => {
  const { paft, groups, forwarder, tunnels, open, up, tids } = hosts()
  for (let round = 0; round < 200; round++) {
    for (let port = 1; port <= 10; port++) up(port, 10, round * 100 + port)
    groups.forget(1)
    forwarder.revoke(1)
    for (const tid of tids.slice(0, 2)) tunnels.close(tid)
    while (!forwarder.sweep(1 << 12, { tcp: 1e9, udp: 1e9, other: 1e9 }, 0));
    assert.equal(paft.size, 0)
    forwarder.assign(1, 2)
    for (const slot of [10, 11]) open(1, slot)
  }
  assert.ok(groups.tunnelOf.length <= 128, `${groups.tunnelOf.length}`)
})

test('stock WireGuard clients: what is in their allowed IPs may be a source and is routed to them', () => {
  const { forwarder, open } = anchor()
  forwarder.assign(4, 0, [{ address: Uint8Array.of(10, 9, 0, 0), length: 16 }])
  open(4, 7)
  const bytes = packet(Uint8Array.of(10, 9, 1, 1), CH, 6, tcp(1, 2))
  assert.equal(forwarder.inbound(bytes, viewOf(bytes), 0, bytes.length, false, 4, 7, 1, 0), true)
  const back = packet(CH, Uint8Array.of(10, 9, 1, 1), 6, tcp(2, 1))
  assert.equal(forwarder.outbound(back, viewOf(back), 0, back.length, false, 0), 7)
  forwarder.revoke(4)
  assert.equal(forwarder.outbound(back, viewOf(back), 0, back.length, false, 0), Verdict.DROP)
})

test('random bytes pass through both forwarders without an exception', () => {
  const { forwarder } = anchor()
  const host = new HostForwarder({
    paft: new Paft({ allocate }),
    tunnels: new TunnelTable(),
    fix4: FIX4,
    fix6: FIX6,
    secret,
  })
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 100 }),
      fc.constantFrom(0x45, 0x46, 0x4f, 0x60, 0),
      (noise, first) => {
        const bytes = Uint8Array.from(noise)
        if (bytes.length > 0 && first !== 0) bytes[0] = first
        for (const f of [forwarder, host]) {
          f.outbound(bytes, viewOf(bytes), 0, bytes.length, false, 0)
          f.inbound(bytes, viewOf(bytes), 0, bytes.length, false, 0, 0, 1, 0)
        }
      },
    ),
    { numRuns: 3000 },
  )
})

/** The forwarder of an anchor, packet by packet: both families, wherever they lie in memory, and what it notes of them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AnchorForwarder } from '../../../src/anchoring/forwarders/anchor.ts'
import { Groups } from '../../../src/anchoring/tables/groups.ts'
import { Paft } from '../../../src/anchoring/tables/paft.ts'
import { TunnelTable } from '../../../src/anchoring/tables/tunnels.ts'
import { Verdict } from '../../../src/tunnel/seam.ts'
import { packet, tcp, udp, viewOf } from '../../support/full-packets.ts'
import { errorAbout } from '../../support/icmp-errors.ts'

const PREFIX = Uint8Array.from([0xfd, 0x67, 0x6f, 0x64, 0x77, 0x69, 0, 1, 0, 0, 0, 0])
const vipa4 = (n: number) => Uint8Array.of(198, 18, n >> 8, n & 255)
const vipa6 = (n: number) => Uint8Array.from([...PREFIX, 0, 0, n >> 8, n & 255])
const FAR4 = Uint8Array.of(203, 0, 113, 7)
const FAR6 = Uint8Array.from({ length: 16 }, (_, i) => i + 1)
const [FIN, ACK] = [1, 0x10]
const BOTH = [
  [vipa4, FAR4],
  [vipa6, FAR6],
] as const

/** Host `peer` has the number peer + 1 and the slots 10 · peer and the one after. */
function bed(peers: readonly number[] = [1, 2]) {
  const paft = new Paft({ allocate: (bytes) => new ArrayBuffer(bytes), rows: 64 })
  const tunnels = new TunnelTable()
  const groups = new Groups(paft)
  const forwarder = new AnchorForwarder({
    ...{ paft, tunnels, groups, v4Base: 0xc6120000, numbers: 65536, v6Prefix: PREFIX },
    secret: Uint8Array.of(8, 7, 6, 5, 4, 3, 2, 1),
  })
  for (const peer of peers) {
    forwarder.assign(peer, peer + 1)
    for (const slot of [10 * peer, 10 * peer + 1])
      tunnels.open({
        ...{ slot, peer, vipNat: {}, unTid: slot },
        localTun: { interface: '', index: 0 },
        remoteTun: { endPoint: '', index: 0 },
      })
  }
  const lying = <T>(bytes: Uint8Array, call: (memory: Uint8Array, view: DataView) => T): T => {
    const memory = new Uint8Array(36 + bytes.length + 64).fill(0x5a)
    memory.set(bytes, 36)
    const result = call(memory, viewOf(memory))
    assert.deepEqual(memory.subarray(36, 36 + bytes.length), bytes, 'an anchor changes nothing')
    return result
  }
  let counter = 0
  const up = (bytes: Uint8Array, peer: number, slot: number, now = 0) =>
    lying(bytes, (memory, view) =>
      forwarder.inbound(memory, view, 36, bytes.length, false, peer, slot, ++counter, now),
    )
  const down = (bytes: Uint8Array, now = 0) =>
    lying(bytes, (memory, view) => forwarder.outbound(memory, view, 36, bytes.length, false, now))
  return { paft, tunnels, groups, forwarder, up, down }
}

test('UP-11, E-3: over both families a packet is taken from its own host alone, and answered by the tunnel that it came on', () => {
  const { up, down, forwarder, paft } = bed()
  for (const [vipa, far] of BOTH) {
    assert.equal(up(packet(vipa(2), far, 6, tcp(4000, 80)), 1, 11), true)
    assert.equal(down(packet(far, vipa(2), 6, tcp(80, 4000))), 11)
    assert.equal(up(packet(vipa(2), far, 6, tcp(4000, 80)), 2, 20), false)
    assert.equal(up(packet(vipa(3), far, 6, tcp(4000, 80)), 2, 20), true)
    assert.equal(down(packet(far, vipa(3), 6, tcp(80, 4000))), 20)
    for (const number of [0, 1, 4, 300])
      assert.equal(down(packet(far, vipa(number), 17, udp(1, 2))), Verdict.DROP)
  }
  assert.deepEqual([forwarder.spoofed, forwarder.unroutable, paft.size], [2, 8, 4])
  // Of another prefix, by any of its words.
  for (const byte of [0, 7, 11]) {
    const other = vipa6(2).map((value, i) => (i === byte ? value ^ 1 : value))
    assert.equal(up(packet(other, FAR6, 17, udp(1, 2)), 1, 10), false)
  }
  assert.equal(up(new Uint8Array(20), 1, 10), false)
  assert.equal(down(new Uint8Array(20)), Verdict.DROP)
  assert.deepEqual([forwarder.spoofed, forwarder.unroutable], [6, 8])
})

test('E-3: an ICMP error is taken from a host only about what was sent to that host, also in fragments', () => {
  const { up, forwarder } = bed()
  for (const [vipa, far] of BOTH) {
    // Of the second host, about the two flows between the first one and the correspondent.
    for (const [source, target] of [
      [vipa(2), far],
      [far, vipa(2)],
    ] as const)
      assert.equal(up(errorAbout(packet(source, target, 17, udp(4000, 80)), vipa(3)), 2, 20), false)
    // What a kernel believes without a socket: an answer to an echo.
    const echo = packet(vipa(2), far, far.length === 4 ? 1 : 58, Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0))
    assert.equal(up(errorAbout(echo, vipa(3)), 2, 20), false)
    const own = errorAbout(packet(far, vipa(3), 17, udp(4000, 80)), vipa(3))
    assert.equal(up(own, 2, 20), true)
    const header = far.length === 4 ? 20 : 40
    for (const length of [header + 8, 2 * header + 7]) assert.equal(up(own.slice(0, length), 2, 20), false)
  }
  assert.equal(forwarder.spoofed, 10)
  const first = errorAbout(packet(FAR4, vipa4(3), 17, udp(4000, 80)), vipa4(3)).slice(0, 28)
  viewOf(first).setUint16(6, 0x2000)
  assert.equal(up(first, 2, 20), false)
  viewOf(first).setUint16(6, 1)
  assert.equal(up(first, 2, 20), true, 'nothing without its first')
})

test('UP-29: a flow that comes by another tunnel is answered there, and the others stay; one that is new takes the newest', () => {
  const { up, down, forwarder } = bed()
  const send = (port: number, slot: number) => up(packet(vipa4(2), FAR4, 17, udp(port, 53)), 1, slot)
  const answer = (port: number) => down(packet(FAR4, vipa4(2), 17, udp(53, port)))
  for (const port of [1, 2, 3]) send(port, 10)
  send(2, 11)
  assert.deepEqual([answer(1), answer(2), answer(3), answer(9)], [10, 11, 10, 11])
  assert.equal(forwarder.learned, 1)
  send(2, 11)
  send(1, 10)
  assert.deepEqual([answer(1), answer(2), answer(9), forwarder.learned], [10, 11, 10, 1])
})

test('UP-30: what comes by a tunnel that is not proven, or by none, is taken and teaches nothing', () => {
  const { up, down, tunnels, paft } = bed()
  const send = (slot: number) => up(packet(vipa4(2), FAR4, 17, udp(1, 53)), 1, slot)
  const answer = () => down(packet(FAR4, vipa4(2), 17, udp(53, 1)))
  assert.equal(answer(), Verdict.PARK, 'it has not been heard of')
  for (const slot of [-1, 99]) assert.equal(send(slot), true)
  tunnels.setUsable(tunnels.atSlot(11)!.localTid, false)
  assert.equal(send(11), true)
  assert.deepEqual([paft.size, answer()], [0, Verdict.PARK])
  send(10)
  assert.deepEqual([paft.size, answer()], [1, 10])
  // The tunnel of the flow rests: the answer takes the one by which the host was heard last.
  tunnels.setUsable(tunnels.atSlot(11)!.localTid, true)
  up(packet(vipa4(2), FAR4, 17, udp(2, 53)), 1, 11)
  tunnels.setUsable(tunnels.atSlot(10)!.localTid, false)
  assert.equal(answer(), 11)
})

test('a host that is held neither sends nor gets anything', () => {
  const { up, down, forwarder, paft } = bed([1, 70])
  forwarder.hold(70, true)
  const send = () => up(packet(vipa4(71), FAR4, 17, udp(1, 53)), 70, 700)
  const answer = () => down(packet(FAR4, vipa4(71), 17, udp(53, 1)))
  assert.deepEqual([send(), answer(), forwarder.held, paft.size], [false, Verdict.DROP, 2, 0])
  forwarder.hold(70, false)
  assert.deepEqual([send(), answer(), forwarder.held], [true, 700, 2])
  // Room for hosts beyond any before leaves the others what they had.
  forwarder.hold(1, true)
  forwarder.assign(500, 501)
  assert.equal(up(packet(vipa4(2), FAR4, 17, udp(1, 53)), 1, 10), false)
  assert.equal(answer(), 700)
  forwarder.revoke(70)
  assert.deepEqual(
    [send(), answer(), forwarder.defaultTid(70), forwarder.defaultTid(9999)],
    [false, Verdict.DROP, 0, 0],
  )
})

test('an address that a host had is another one’s: what is left of its flows is not answered to the former', () => {
  const { up, down, forwarder, groups, paft } = bed()
  const send = (peer: number, slot: number) => up(packet(vipa4(2), FAR4, 17, udp(1, 53)), peer, slot)
  const answer = () => down(packet(FAR4, vipa4(2), 17, udp(53, 1)))
  send(1, 10)
  forwarder.revoke(1)
  groups.forget(1)
  forwarder.assign(2, 2)
  assert.equal(answer(), Verdict.PARK, 'nothing was heard of the new one')
  assert.equal(send(1, 10), false)
  send(2, 20)
  assert.deepEqual([answer(), paft.size, groups.rowsOf(2)], [20, 1, 1])
})

test('bytes of both ways are counted while somebody watches; a connection that both ends close is over soon', () => {
  const { up, down, paft } = bed()
  const send = (flags = ACK) => up(packet(vipa6(2), FAR6, 6, tcp(4000, 80, [], flags)), 1, 10)
  const answer = (flags = ACK) => down(packet(FAR6, vipa6(2), 6, tcp(80, 4000, [1], flags)))
  send()
  paft.counting = true
  send()
  answer()
  const row = Array.from({ length: paft.slots }, (_, at) => at).find((at) => paft.occupied(at))!
  assert.deepEqual(paft.bytesAt(row), { sent: 60, received: 61 })
  paft.counting = false
  const sweep = () => {
    for (let i = 0; i < 20; i++) paft.sweep(1000, { tcp: 7_440_000, udp: 1, other: 1 }, 60_000)
    return paft.size
  }
  send(FIN)
  assert.equal(sweep(), 1, 'half closed')
  answer(FIN)
  assert.equal(sweep(), 0)
})

/** Paths that strip options, cut and join segments, or translate addresses (issue: middlebox behaviour is tested). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TCP, TcpFlag } from '../../../src/core/tcp.ts'
import { MPTCP_KIND } from '../../../src/mptcp/wire.ts'
import { Pair, type PairInit } from './network.ts'

const IP = 20

/** Overwrites options of Multipath TCP with padding. */
function strip(packet: Uint8Array): Uint8Array {
  const out = packet.slice()
  const end = IP + ((out[IP + TCP.DATA_OFFSET]! >> 4) << 2)
  for (let at = IP + TCP.OPTIONS; at < end; ) {
    const kind = out[at]!
    if (kind === 0) break
    const size = kind === 1 ? 1 : out[at + 1]!
    if (kind === MPTCP_KIND) out.fill(1, at, at + size)
    at += size
  }
  return out
}

const flagsOf = (packet: Uint8Array): number => packet[IP + TCP.FLAGS]!
const isSyn = (packet: Uint8Array): boolean => (flagsOf(packet) & TcpFlag.SYN) !== 0

function transfer(middlebox: PairInit['middlebox'], init: Partial<PairInit> = {}): Pair {
  const pair = new Pair({ seed: 5, bytes: [300_000, 300_000], ...init, ...(middlebox && { middlebox }) })
  pair.client.tcp!.connect(0)
  const ok = pair.run(() => pair.done || pair.problem !== '')
  assert.equal(pair.problem, '')
  assert.ok(ok, `${pair.client.tcp!.state}/${pair.server.tcp!.state} at ${pair.now}`)
  return pair
}

test('MP-22: options that are stripped from the SYN, the SYN/ACK or the third ACK make it plain TCP', () => {
  for (const [what, hit] of [
    ['SYN', (packet: Uint8Array, up: boolean) => up && isSyn(packet)],
    ['SYN/ACK', (packet: Uint8Array, up: boolean) => !up && isSyn(packet)],
    ['everything', () => true],
    ['all but SYNs', (packet: Uint8Array) => !isSyn(packet)],
  ] as const) {
    const pair = transfer((packet, _path, up) => [hit(packet, up) ? strip(packet) : packet])
    assert.equal(pair.client.machine.connections.length, 0, `${what}: the client has let go`)
    assert.equal(pair.server.machine.connections.length, 0, `${what}: the server has let go`)
    assert.ok(pair.client.machine.counts.fallbacks + pair.server.machine.counts.fallbacks > 0)
  }
})

test('a path that drops SYNs with the option gets one without it', () => {
  const pair = transfer((packet, _path, up) =>
    up && isSyn(packet) && strip(packet).some((byte, i) => byte !== packet[i]) ? [] : [packet],
  )
  assert.equal(pair.client.machine.counts.fallbacks, 1)
})

test('a second path that strips the options of joins gets no subflow, and the first goes on', () => {
  const pair = transfer((packet, path) => [path === 1 ? strip(packet) : packet])
  assert.equal(pair.client.machine.counts.established, 1)
  assert.equal(
    pair.client.machine.connections[0]?.subflows.some(({ id, state }) => id > 0 && state === 'active') ??
      false,
    false,
  )
})

test('a path that strips the options of a subflow that stands: it is left, and the transfer goes on over the other', () => {
  let strips = false
  const pair = new Pair({
    seed: 5,
    bytes: [3_000_000, 3_000_000],
    middlebox: (packet, path) => [strips && path === 1 ? strip(packet) : packet],
  })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 400)
  strips = true
  pair.client.machine.handover(0, 'acc2', pair.now)
  pair.client.flush()
  assert.ok(pair.run(() => pair.done || pair.problem !== ''))
  assert.equal(pair.problem, '')
})

test('MP-35: a box that cuts segments and leaves the option on one piece, with a mapping for both', () => {
  for (const optionOn of [0, 1]) {
    let packets = 0
    let cuts = 0
    const pair = transfer((packet) => {
      const header = IP + ((packet[IP + TCP.DATA_OFFSET]! >> 4) << 2)
      const cut = header + 600
      // The first data without an option would be those of a peer that fell back.
      if (packet.length <= cut || ++packets < 200) return [packet]
      cuts++
      const rest = new Uint8Array([...packet.subarray(0, header), ...packet.subarray(cut)])
      const view = new DataView(rest.buffer)
      view.setUint32(IP + TCP.SEQ, (view.getUint32(IP + TCP.SEQ) + 600) >>> 0)
      const pieces = [packet.slice(0, cut), rest]
      return pieces.map((piece, i) => {
        new DataView(piece.buffer, piece.byteOffset).setUint16(2, piece.length)
        return i === optionOn ? piece : strip(piece)
      })
    })
    assert.ok(cuts > 100)
    assert.equal(pair.client.machine.counts.resets + pair.server.machine.counts.resets, 0)
  }
})

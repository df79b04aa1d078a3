/** TCP segments as the machine reads and writes them (RFC 9293 §3.1, RFC 7323, RFC 2018). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { OptionWriter, Segment, tupleKey } from '../../../src/mptcp/machine/segment.ts'
import { dump } from '../codec-suite.ts'

const NOP = 1
const MPC = [30, 4, 1, 1]

/** A packet from 10.1.0.2:40000 to 10.9.0.2:80, or over IPv6, with these options and so many bytes of payload. */
function packet(options: readonly number[] = [], payload = 0, family: 4 | 6 = 4): Uint8Array {
  const ip = family === 4 ? 20 : 40
  const header = 20 + options.length
  const bytes = new Uint8Array(ip + header + payload)
  const view = new DataView(bytes.buffer)
  if (family === 4) {
    bytes.set(dump('45 00 0000 0000 4000 40 06 0000 0a010002 0a090002'))
    view.setUint16(2, bytes.length)
  } else {
    bytes.set(dump('60000000 0000 06 40'))
    view.setUint16(4, bytes.length - ip)
    bytes.set([0x20, 1], 8)
    bytes[23] = 2
    bytes.set([0x20, 1], 24)
    bytes[39] = 9
  }
  view.setUint16(ip, 40_000)
  view.setUint16(ip + 2, 80)
  view.setUint32(ip + 4, 0xfedcba98)
  view.setUint32(ip + 8, 0x12345678)
  bytes[ip + 12] = (header / 4) << 4
  bytes[ip + 13] = TcpFlag.ACK | TcpFlag.PSH
  view.setUint16(ip + 14, 0xabcd)
  bytes.set(options, ip + 20)
  return bytes
}

function read(bytes: Uint8Array, outgoing = true, at = 0, segment = new Segment()): Segment | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  return segment.read(view, bytes, at, bytes.length - at, outgoing) ? segment : undefined
}

test('MP-18: numbers, flags and window of a segment, and where its payload is, wherever the packet lies', () => {
  for (const family of [4, 6] as const)
    for (const before of [0, 7]) {
      const bytes = new Uint8Array([...new Uint8Array(before), ...packet([NOP, NOP, NOP, NOP], 5, family)])
      const it = read(bytes, true, before)!
      assert.deepEqual([it.seq, it.ack, it.window], [0xfedcba98, 0x12345678, 0xabcd])
      assert.equal(it.flags, TcpFlag.ACK | TcpFlag.PSH)
      assert.deepEqual([it.payloadAt, it.payloadLength], [bytes.length - 5, 5])
      assert.equal(it.bytes, bytes)
    }
})

test('MP-23: both ends are seen from this host, and turned round for one behind it', () => {
  const own = {
    local: Uint8Array.of(10, 1, 0, 2),
    localPort: 40_000,
    remote: Uint8Array.of(10, 9, 0, 2),
    remotePort: 80,
  }
  const its = { local: own.remote, localPort: 80, remote: own.local, remotePort: 40_000 }
  const out = read(packet())!
  assert.deepEqual([out.tuple, out.key], [own, tupleKey(own)])
  out.turn()
  assert.deepEqual([out.tuple, out.key], [its, tupleKey(its)])
  const into = read(packet(), false)!
  assert.deepEqual([into.tuple, into.key], [its, tupleKey(its)])
  assert.equal(read(packet([], 0, 6))!.tuple.local.length, 16)
})

test('MP-23: any other address or port is another tuple', () => {
  for (const family of [4, 6] as const) {
    const base = read(packet([], 0, family))!.tuple
    const keys = new Set([tupleKey(base)])
    let count = 1
    const add = (more: Partial<typeof base>) => {
      keys.add(tupleKey({ ...base, ...more }))
      count++
    }
    for (const port of [1, 79, 81, 39_999, 65_535]) {
      add({ localPort: port })
      add({ remotePort: port })
    }
    for (let i = 0; i < base.local.length; i++)
      for (const end of ['local', 'remote'] as const) {
        const address = base[end].slice()
        address[i]! ^= 1
        add({ [end]: address })
      }
    add({ local: base.remote, remote: base.local })
    assert.equal(keys.size, count)
  }
})

test('what is no whole TCP segment is not read: another protocol, a fragment, one that is cut', () => {
  const whole = packet([NOP, NOP, NOP, NOP])
  assert.ok(read(whole))
  const udp = packet()
  udp[9] = 17
  assert.equal(read(udp), undefined)
  for (const [high, low] of [
    [0x20, 0],
    [0, 1],
  ]) {
    const fragment = packet()
    fragment.set([high!, low!], 6)
    assert.equal(read(fragment), undefined)
  }
  const long = packet()
  long[32] = 0xf0
  assert.equal(read(long), undefined, 'its header is longer than the packet')
  const short = packet()
  short[32] = 0x40
  assert.equal(read(short), undefined)
})

test('RFC 7323, RFC 2018: options of a SYN are read where they have their length, a scale is 14 at most; without them there is none', () => {
  const of = (options: readonly number[]) => {
    const { mss, scale, sackPermitted, authenticated } = read(packet(options))!
    return [mss, scale, sackPermitted, authenticated]
  }
  assert.deepEqual(of([]), [0, -1, false, false])
  assert.deepEqual(of([2, 4, 5, 180, 1, 3, 3, 7, 1, 1, 4, 2]), [1460, 7, true, false])
  assert.deepEqual(of([3, 3, 14, 1]), [0, 14, false, false])
  assert.deepEqual(of([3, 3, 15, 1]), [0, 14, false, false])
  assert.deepEqual(of([3, 4, 7, 0]), [0, -1, false, false])
  assert.deepEqual(of([2, 3, 5, 1]), [0, -1, false, false])
  assert.deepEqual(of([19, 4, 0, 0]), [0, -1, false, true])
  assert.deepEqual(of([29, 4, 0, 0]), [0, -1, false, true])
  // Behind the end of the list, and behind one without an end, there is nothing.
  assert.deepEqual(of([0, 2, 4, 5, 180, 0, 0, 0]), [0, -1, false, false])
  assert.deepEqual(of([8, 0, 2, 4, 5, 180, 1, 1]), [0, -1, false, false])
  assert.deepEqual(of([4, 2, 2, 9]), [0, -1, true, false])
  // One object is used again: nothing is left of the segment before.
  const segment = read(packet([2, 4, 5, 180, 3, 3, 7, 1, 4, 2, 1, 1, 19, 4, 0, 0, ...MPC]))!
  assert.deepEqual([segment.mptcp.length, segment.authenticated], [1, true])
  read(packet(), true, 0, segment)
  const { mss, scale, sackPermitted, authenticated, mptcp } = segment
  assert.deepEqual([mss, scale, sackPermitted, authenticated, mptcp.length], [0, -1, false, false, 0])
})

test('RFC 2018 §3: blocks are read by their edges, four at most; half of one is none', () => {
  const sack = (count: number, more = 0) => [
    5,
    2 + 8 * count + more,
    ...Array.from({ length: 8 * count + more }, (_, i) => i),
  ]
  const edges = (options: readonly number[]) => read(packet([...options, NOP, NOP].slice(0, 40)))!.sack
  assert.deepEqual(edges(sack(1)), [0x00010203, 0x04050607])
  assert.deepEqual(edges(sack(4)).length, 8)
  assert.deepEqual(edges(sack(1, 4)), [])
  const segment = read(packet([...sack(2), NOP, NOP]))!
  assert.equal(segment.sack.length, 4)
  read(packet(), true, 0, segment)
  assert.equal(segment.sack.length, 0)
})

test('MP-14: of several options of MPTCP each is found by its type; one that makes no sense is none', () => {
  const prio = [30, 3, 0x51, NOP]
  const segment = read(packet([...MPC, ...prio]))!
  assert.deepEqual(
    segment.mptcp.map(({ type }) => type),
    ['capable', 'prio'],
  )
  assert.deepEqual(segment.option('prio'), { type: 'prio', backup: true })
  assert.equal(segment.option('dss'), undefined)
  assert.deepEqual(
    read(packet([30, 4, 0xe0, 0, ...prio]))!
      .mptcp.map(({ type }) => type)
      .includes('prio'),
    true,
  )
})

test('MP-49, MP-51: options are written in whole words, with as many blocks as there is room for', () => {
  const writer = new OptionWriter()
  const bytes = (work: (writer: OptionWriter) => unknown) => {
    work(writer)
    return [...writer.finish()]
  }
  assert.deepEqual(
    bytes((to) => to.syn({ mss: 1460, scale: 7, sackPermitted: true })),
    [2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 7],
  )
  assert.deepEqual(
    bytes((to) => to.syn({ mss: 0, scale: -1, sackPermitted: false })),
    [],
  )
  assert.deepEqual(
    bytes((to) => to.syn({ mss: 1, scale: 0, sackPermitted: false })),
    [2, 4, 0, 1, 1, 3, 3, 0],
  )
  assert.deepEqual(
    bytes((to) => to.mptcp({ type: 'prio', backup: true })),
    [30, 3, 0x51, NOP],
  )
  assert.deepEqual(
    bytes(() => {}),
    [],
    'it is empty again',
  )
  const blocks = Array.from({ length: 5 }, (_, i) => ({ left: 256 * i, right: 256 * i + 16 }))
  const edge = (offset: number) => offset + 0x01020304
  assert.deepEqual(
    bytes((to) => to.sack(blocks.slice(1, 2), edge)),
    [1, 1, 5, 10, 1, 2, 4, 4, 1, 2, 4, 20],
  )
  const four = bytes((to) => to.sack(blocks, edge))
  assert.deepEqual([four.length, ...four.slice(0, 4)], [4 + 4 * 8, NOP, NOP, 5, 2 + 4 * 8])
  assert.deepEqual(
    bytes((to) => to.sack([], edge)),
    [],
  )
  const dss = { type: 'dss', dataFin: false, ack: { high: 1, low: 2 } } as const
  const map = { dsn: { high: 1, low: 2 }, ssn: 3, length: 4 }
  assert.equal(bytes((to) => to.mptcp(dss).sack(blocks, edge)).length, 12 + 4 + 3 * 8)
  assert.equal(bytes((to) => to.mptcp({ ...dss, map }).sack(blocks, edge)).length, 28 + 4 + 8)
  assert.equal(
    bytes((to) =>
      to
        .mptcp({ ...dss, map })
        .mptcp({ type: 'prio', backup: true })
        .sack(blocks, edge),
    ).length,
    32,
    'none fits',
  )
})

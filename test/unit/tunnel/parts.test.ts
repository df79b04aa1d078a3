/** Parts of the tunnel's protocol that need no peer, as tables: shapes of messages, limits under load, timestamps, the MTU search. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LoadMeter, SourceLimiter } from '../../../src/tunnel/protocol/limiter.ts'
import { MtuSearch } from '../../../src/tunnel/protocol/mtu.ts'
import { TimestampSource } from '../../../src/tunnel/protocol/timestamp.ts'
import { messageType, outerOverhead, readIndex, writeIndex } from '../../../src/tunnel/protocol/wire.ts'

test('§5.4: a datagram has the shape of a message by its type, its three zero bytes and its length', () => {
  const shape = (type: number, length: number, ...reserved: number[]): number => {
    const bytes = new Uint8Array(length)
    bytes.set([type, ...reserved])
    return messageType(bytes)
  }
  for (const [type, least, most] of [
    [1, 148, 148],
    [2, 92, 92],
    [3, 64, 64],
    [4, 32, 65_000],
    [32, 34, 65_000],
  ] as const) {
    for (const length of [least, most]) {
      assert.equal(shape(type, length), type)
      for (const reserved of [[1], [0, 1], [0, 0, 1]]) assert.equal(shape(type, length, ...reserved), 0)
    }
    for (const length of least === most ? [least - 1, least + 1] : [least - 1])
      assert.equal(shape(type, length), 0, `${type}, ${length} bytes`)
  }
  for (const type of [0, 5, 31, 33, 255]) assert.equal(shape(type, 148), 0)
  assert.deepEqual([4, 16].map(outerOverhead), [28, 48])
  const bytes = new Uint8Array(6)
  writeIndex(bytes, 1, 0xfedcba98)
  assert.deepEqual([...bytes], [0, 0x98, 0xba, 0xdc, 0xfe, 0])
  assert.equal(readIndex(bytes, 1), 0xfedcba98)
})

test('§5.3: under load a source has five handshakes at once and twenty a second; IPv6 counts by its /64; memory is bounded', () => {
  const limiter = new SourceLimiter()
  const four = (last: number) => ({ address: Uint8Array.of(10, 0, last >> 8, last & 255), port: last })
  const six = (net: number, host: number) => {
    const address = new Uint8Array(16)
    address[7] = net
    address[8] = host
    address[15] = host
    return { address, port: host }
  }
  const passed = (source: ReturnType<typeof four>, now: number): number => {
    let count = 0
    while (limiter.allow(source, now)) count++
    return count
  }
  assert.equal(passed(four(1), 0), 5)
  assert.deepEqual(
    [49, 50, 51, 200, 10_000].map((now) => passed(four(1), now)),
    [0, 1, 0, 3, 5],
  )
  assert.equal(passed(six(1, 1), 0), 5)
  assert.equal(passed(six(1, 2), 0), 0)
  assert.equal(passed(six(2, 1), 0), 5)
  const full = new SourceLimiter()
  for (let n = 0; n < 8_192; n++) assert.ok(full.allow(four(n), 1_000))
  assert.ok(!full.allow(four(9_000), 1_249), 'all are remembered')
  assert.ok(full.allow(four(9_000), 1_250), 'the oldest has refilled')
  assert.equal(full.size, 8_192)
})

test('§5.3: under load: more messages in a second than the threshold, and for a second after', () => {
  const meter = new LoadMeter(3)
  const counted = [0, 1, 2, 3, 500, 999, 1_000, 1_498, 1_999, 2_000, 2_999, 3_000].map((now) =>
    meter.count(now),
  )
  assert.deepEqual(
    counted.map((load) => (load ? 1 : 0)),
    [0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0],
  )
})

test('§5.1: timestamps: TAI64N in steps of 16.8 ms, rising whatever the clock does', () => {
  const source = new TimestampSource(0)
  const hex = (wall: number): string => Buffer.from(source.next(wall)).toString('hex')
  assert.equal(hex(1_700_000_000_000), '400000006553f10a00000000')
  assert.equal(hex(1_700_000_000_020), '400000006553f10a01000000')
  assert.equal(hex(1_700_000_000_020), '400000006553f10a02000000')
  assert.equal(hex(1_600_000_000_000), '400000006553f10a03000000')
  assert.equal(source.floor, 1700000000051)
  let last = ''
  for (let n = 0; n < 70; n++) {
    const next = hex(1_700_000_000_000)
    assert.ok(next > last)
    last = next
  }
  assert.equal(last, '400000006553f10b0d000000')
  const again = new TimestampSource(source.floor)
  assert.ok(Buffer.from(again.next(0)).toString('hex') > last)
  // Beyond 2^32 seconds, in 2106, and where a step ends a second.
  assert.equal(hex(4_294_967_290_000), '400000010000000400000000')
  const late = new TimestampSource(0)
  late.next(4_294_967_290_999)
  assert.equal(Buffer.from(late.next(0)).toString('hex'), '400000010000000500000000')
})

/** What is tried as time passes: `NOW: SIZES, CURRENT, next at`; `passes`: which sizes are answered at once. */
function search(
  limit: number,
  until: number,
  passes: (size: number, now: number) => boolean,
  busy = true,
): string[] {
  const mtu = new MtuSearch(limit, 0)
  const said: string[] = []
  for (let now = mtu.nextAt; now <= until; now = mtu.nextAt) {
    const sizes = mtu.handleTimeout(now, 100, busy)
    for (const size of sizes) if (passes(size, now)) mtu.acknowledged(size, now + 10)
    said.push(`${now}: ${sizes.length > 3 ? `${sizes.length} sizes` : sizes.join()} ${mtu.current}`)
    assert.ok(mtu.nextAt > now)
  }
  return said
}

test('ADR 0280: the first search tells that more may pass, until it is over; later ones and a refusal do not', () => {
  const mtu = new MtuSearch(1_500, 0)
  const seen: boolean[] = []
  for (let now = 0; now <= 400; now = mtu.nextAt) {
    for (const size of mtu.handleTimeout(now, 100, false)) if (size <= 1_420) mtu.acknowledged(size, now)
    seen.push(mtu.searching)
  }
  assert.deepEqual(seen, [true, true, true, true, false])
  mtu.handleTimeout(700_000, 100, false)
  assert.equal(mtu.searching, false, 'what it searches again for may pass, but has not for ten minutes')
  mtu.restart(9_000, 700_000)
  assert.equal(mtu.searching, true)
  mtu.refused(700_000)
  assert.equal(mtu.searching, false)
  const whole = new MtuSearch(1_500, 0)
  for (const size of whole.handleTimeout(0, 100, false)) whole.acknowledged(size, 0)
  assert.equal(whole.searching, false)
})

test('a path that carries less than 1,280 bytes is found out, by whatever it is limited, and left when it carries more', () => {
  assert.deepEqual(
    search(1_500, 6_000, (size) => size <= 1_124),
    [
      '0: 1500 1280',
      '100: 1500 1280',
      '200: 14 sizes 1280',
      '300: 15 sizes 1280',
      '400: 11 sizes 1280',
      '500:  1120',
      '5500: 1120 1120',
    ],
  )
  // A narrow network behind a narrow interface.
  assert.deepEqual(
    search(1_200, 1_000, (size) => size <= 600),
    ['0: 1200 1200', '100: 1200 1200', '200: 9 sizes 1200', '300:  576'],
  )
  // It becomes narrow under way, and wide again: after a minute it is tried.
  const course = search(1_500, 100_000, (size, now) => size <= (now > 9_000 && now < 40_000 ? 1_100 : 1_400))
  const changes = course.filter((line, i) => line.split(' ').at(-1) !== course[i - 1]?.split(' ').at(-1))
  assert.deepEqual(changes, [
    '0: 1500 1280',
    '200: 14 sizes 1400',
    '11010: 14 sizes 1280',
    '11310:  1080',
    '71620: 14 sizes 1400',
  ])
  // Answers to what is smaller say nothing while larger ones have not failed.
  const mtu = new MtuSearch(1_500, 0)
  mtu.handleTimeout(0, 100, true)
  assert.ok(!mtu.acknowledged(1_000, 10))
  assert.equal(mtu.current, 1_280)
})

test('RFC 8899: which sizes are tried, confirmed, doubted and given up', () => {
  assert.deepEqual(
    search(1_500, 12_000, () => true),
    ['0: 1500 1500', '5010: 1500 1500', '10020: 1500 1500'],
  )
  assert.deepEqual(
    search(1_500, 12_000, (size) => size <= 1_420),
    [
      '0: 1500 1280',
      '100: 1500 1280',
      '200: 14 sizes 1420',
      '300: 7 sizes 1420',
      '400:  1420',
      '5400: 1420 1420',
      '10410: 1420 1420',
    ],
  )
  assert.deepEqual(
    search(1_500, 6_000, () => false),
    [
      '0: 1500 1280',
      '100: 1500 1280',
      '200: 14 sizes 1280',
      '300: 15 sizes 1280',
      '400: 11 sizes 1280',
      '500: 11 sizes 1280',
      '600:  1280',
      '5600: 1280 1280',
      '5700: 1280 1280',
      '5950: 1280 1280',
    ],
  )
  assert.deepEqual(
    search(9_000, 400, (size) => size <= 4_096),
    ['0: 9000 1280', '100: 9000 1280', '200: 16 sizes 4096', '300:  4096'],
  )
  assert.deepEqual(
    search(1_280, 12_000, () => true),
    ['0: 1280 1280', '5010: 1280 1280', '10020: 1280 1280'],
  )
  assert.deepEqual(
    search(1_000, 6_000, () => true),
    ['0: 1000 1000', '5010: 1000 1000'],
  )
  assert.deepEqual(
    search(1_500, 12_000, () => true, false),
    ['0: 1500 1500', '5010:  1500', '10010:  1500'],
  )
  assert.deepEqual(
    search(1_500, 16_000, (size, now) => now < 9_000 || size <= 1_400),
    [
      '0: 1500 1500',
      '5010: 1500 1500',
      '10020: 1500 1500',
      '10120: 1500 1500',
      '10370: 1500 1500',
      '10620: 14 sizes 1400',
      '10720: 8 sizes 1400',
      '10820:  1400',
      '15820: 1400 1400',
    ],
  )
  const raised = search(1_500, 700_000, (size, now) => size <= (now < 500_000 ? 1_400 : 1_500))
  assert.equal(
    raised.find((line) => line.endsWith('1500 1500')),
    '601590: 1500 1500',
    'ten minutes after the search',
  )

  const mtu = new MtuSearch(1_500, 0)
  mtu.handleTimeout(0, 100, true)
  assert.ok(!mtu.acknowledged(1_501, 10), 'larger than what can have been asked')
  assert.ok(mtu.acknowledged(1_500, 10))
  assert.ok(!mtu.acknowledged(1_500, 10))
  assert.deepEqual([mtu.current, mtu.nextAt], [1_500, 5_010])
  mtu.doubt(2_000)
  assert.equal(mtu.nextAt, 2_000)
  assert.deepEqual(mtu.handleTimeout(2_000, 100, false), [], 'no data flows')
  mtu.refused(3_000)
  assert.deepEqual([mtu.current, mtu.nextAt], [1_280, 3_000])
  assert.equal(mtu.handleTimeout(3_000, 100, true).length, 14)
  mtu.restart(1_200, 4_000)
  assert.deepEqual([mtu.current, mtu.nextAt], [1_200, 4_000])
  mtu.restart(1, 4_000)
  assert.equal(mtu.current, 576, 'whatever a peer announces')
  mtu.restart(1_400, 5_000)
  assert.deepEqual(mtu.handleTimeout(5_000, 100, true), [1_400])
  mtu.acknowledged(1_400, 5_010)
  mtu.restart(1_300, 6_000)
  assert.equal(mtu.current, 1_300)
})

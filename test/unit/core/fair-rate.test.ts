/** A rate that a few sources cannot take, and the sources that it counts. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Buckets } from '../../../src/core/buckets.ts'
import { FairRate } from '../../../src/core/fair-rate.ts'
import { siteOf, sourceOf } from '../../../src/core/source.ts'

function limiter() {
  const rate = new FairRate({
    rateOfSource: 4,
    burstOfSource: 32,
    rate: 100,
    burst: 200,
    reserve: 50,
    reserveBurst: 100,
    reserveMs: 3000,
  })
  const taken = (source: string | undefined, n: number, now: number) =>
    Array.from({ length: n }, () => rate.take(source, now)).filter(Boolean).length
  return { rate, taken }
}

test('a source has its rate and no more; one that takes all the time leaves room for others', () => {
  const { rate, taken } = limiter()
  assert.equal(taken('greedy', 1000, 0), 32)
  assert.equal(taken('greedy', 1000, 1000), 4)
  assert.equal(rate.take('honest', 1000), true)
})

test('where many have taken all, each source has one of the reserve in its time; one that is not known has none', () => {
  const { rate, taken } = limiter()
  // Seven take all, the other 43 one each of the reserve.
  for (let i = 0; i < 50; i++) taken(`source ${i}`, 32, 0)
  assert.equal(rate.take('source 49', 0), false)
  assert.equal(rate.take(undefined, 0), false)
  assert.equal(taken('another', 9, 0), 1)
  assert.equal(rate.take('another', 1), false)
  for (let i = 0; i < 500; i++) rate.take(`crowd ${i}`, 1)
  // The reserve is bounded too.
  assert.equal(rate.take('yet another', 1), false)
  assert.equal(rate.take('yet another', 1000), true)
})

test('the sources of one site take a quarter: of a /48, and of a /24', () => {
  const { rate, taken } = limiter()
  let count = 0
  for (let i = 0; i < 1000; i++) count += taken(`2001:db8:0:${i.toString(16)}`, 1, 0)
  assert.equal(count, 50)
  count = 0
  for (let i = 0; i < 200; i++) count += taken(`192.0.2.${i}`, 1, 0)
  assert.equal(count, 50)
  assert.equal(rate.take('2001:db8:1:0', 0), true)
  assert.equal(rate.take('192.0.3.1', 0), true)
})

test('keys are forgotten when others were used after them', () => {
  const buckets = new Buckets(1, 1, 2)
  assert.equal(buckets.take('a', 0), true)
  assert.equal(buckets.take('b', 0), true)
  assert.deepEqual([buckets.has('a', 0), buckets.take('a', 0)], [false, false])
  assert.equal(buckets.take('c', 0), true)
  assert.equal(buckets.size, 2)
  assert.deepEqual([buckets.has('a', 0), buckets.has('b', 0)], [false, true])
})

test('a source is an IPv4 address or a /64, a site a /24 or a /48', () => {
  assert.equal(sourceOf('::ffff:192.0.2.1'), '192.0.2.1')
  assert.equal(sourceOf('2001:db8::1'), sourceOf('2001:db8:0:0:9:9:9:9'))
  assert.notEqual(sourceOf('2001:db8:0:1::1'), sourceOf('2001:db8::1'))
  assert.equal(sourceOf('fe80::1%eth0'), sourceOf('fe80::2%eth0'))
  assert.equal(siteOf(sourceOf('2001:db8:0:1::1')), siteOf(sourceOf('2001:db8::1')))
  assert.notEqual(siteOf(sourceOf('2001:db8:1::1')), siteOf(sourceOf('2001:db8::1')))
  assert.equal(siteOf(sourceOf('::ffff:192.0.2.1')), '192.0.2')
  assert.equal(siteOf(''), '')
})

/** How many signature checks anybody can ask for (machine/checks.ts). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Checks } from '../../../src/translation/machine/checks.ts'

/** Checks that a source gets at once, of these networks each. */
function shares(sources: readonly string[]): number[] {
  const checks = new Checks()
  return sources.map((source) => {
    let count = 0
    while (checks.admits(source, undefined, 0)) {
      checks.spent(source, undefined, 1, 0)
      count++
    }
    return count
  })
}

test('a source has its share, and so has each other one; of IPv6 all addresses of a network of 64 bits are one', () => {
  assert.deepEqual(shares(['192.0.2.1', '192.0.2.1', '192.0.2.2']), [20, 0, 20])
  assert.deepEqual(shares(['2001:db8::1', '2001:db8::2', '2001:db8::']), [20, 0, 0])
  assert.deepEqual(shares(['2001:db8:0:1::1', '2001:db8:0:2::1', '2001:db8:0:2:3:4:5:6']), [20, 20, 0])
  assert.deepEqual(shares(['2001::4:1:2:3:4', '2001::5:1:2:3:4', '::1', '::2']), [20, 20, 20, 0])
})

test('a message that costs no check is none of a share; a crowd has 400 a second in all', () => {
  const checks = new Checks()
  for (let n = 0; n < 100; n++) checks.spent('192.0.2.1', undefined, 0, 0)
  assert.ok(checks.admits('192.0.2.1', undefined, 0))
  const crowd = Array.from({ length: 30 }, (_, n) => `198.51.100.${n}`)
  assert.equal(
    shares(crowd).reduce((sum, count) => sum + count, 0),
    400,
  )
})

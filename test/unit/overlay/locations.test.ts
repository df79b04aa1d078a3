/** Which registered node ends first, whatever has registered again, left or been renewed meanwhile. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seeded } from '../../../lab/seeded.ts'
import { TokenBucket } from '../../../src/core/token-bucket.ts'
import { nodeCrypto, nodeRandom } from '../../../src/crypto/node-crypto.ts'
import type { AnswerSession } from '../../../src/overlay/machine/answerer.ts'
import { LIFETIME_SECONDS, Locations } from '../../../src/overlay/machine/locations.ts'
import { Type } from '../../../src/overlay/wire/message.ts'

const from = { address: Uint8Array.of(192, 0, 2, 1), port: 5000 }
const key = new Uint8Array(32)

function bed() {
  const locations = new Locations({
    crypto: { ...nodeCrypto, sign: () => key, verify: () => false },
    random: nodeRandom,
    wall: () => 0,
    onHeard: () => {},
    onLocated: () => {},
  })
  const register = (name: string, now: number) => {
    const messages = new TokenBucket(1)
    const session: AnswerSession = { index: now, asker: 1, owner: name, openedAt: now, key, messages }
    const message = { type: Type.REGISTRATION_REQUEST, transaction: 1 }
    const arrival = { how: 'opened', counter: 0 } as const
    locations.registered(locations.sourceOf(session, message, { from, socket: 0 }, arrival, now), [], now)
  }
  return { locations, register }
}

test('the timeout of locations is that of the node that ends first, and those that end do so in their order', () => {
  for (let seed = 1; seed <= 60; seed++) {
    const next = seeded(seed)
    const { locations, register } = bed()
    const ends = new Map<string, number>()
    let now = 1000
    for (let i = 0; i < 400; i++) {
      now += Math.floor(next() * 4) * 20_000
      const name = `n${Math.floor(next() * 12)}`
      const what = next()
      if (what < 0.6) {
        register(name, now)
        ends.set(name, now + 1000 * LIFETIME_SECONDS)
      } else if (what < 0.75) {
        locations.delete(name)
        ends.delete(name)
      }
      const due = [...ends].filter(([, at]) => at <= now).sort((a, b) => a[1] - b[1])
      const ended: number[] = []
      locations.expire(now, (node) => {
        ended.push(node.expiresAt)
        ends.delete(node.name)
        const renews = node.name === 'n1' || node.name === 'n2'
        if (renews) ends.set(node.name, now + 1000 * LIFETIME_SECONDS)
        return renews
      })
      assert.deepEqual(
        ended,
        due.map(([, at]) => at),
        `seed ${seed}`,
      )
      assert.equal(locations.nextTimeout(), Math.min(...ends.values()), `seed ${seed}, step ${i}`)
      assert.equal(locations.size, ends.size)
    }
  }
})

// V8 keeps the places of what was removed from a map until there are as many as entries; each new iterator passes them.
test('asking which node ends first goes through no places of nodes that have registered again', (context) => {
  const { locations, register } = bed()
  for (let i = 0; i < 1000; i++) register(`n${i}`, i)
  locations.nextTimeout()
  const values = context.mock.method(Map.prototype, 'values')
  for (let i = 0; i < 1000; i++) {
    register(`n${i}`, 2000 + i)
    locations.expire(2000 + i, () => false)
    assert.ok(locations.nextTimeout() <= 602_000 + i)
  }
  assert.equal(values.mock.callCount(), 0)
  values.mock.restore()
})

/** The window of counters of a sealed session, against a set of all that have come. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seeded } from '../../../lab/seeded.ts'
import { CounterWindow } from '../../../src/overlay/machine/counters.ts'

test('a counter passes once, and those of more than 63 below the highest do not, in whatever order they come', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const next = seeded(seed)
    const random = { below: (count: number) => Math.floor(next() * count) }
    const window = new CounterWindow()
    const came = new Set<number>()
    let highest = -1
    let counter = random.below(3) === 0 ? 2 ** 40 : 0
    for (let i = 0; i < 300; i++) {
      counter = Math.max(0, counter + random.below(200) - (random.below(2) === 0 ? 180 : 90))
      if (random.below(2) === 0 && highest >= 0) counter = Math.max(0, highest - random.below(66))
      const isGood = counter > highest || (highest - counter < 64 && !came.has(counter))
      assert.equal(window.take(counter), isGood, `seed ${seed}: ${counter}, highest ${highest}`)
      came.add(counter)
      highest = Math.max(highest, counter)
    }
  }
})

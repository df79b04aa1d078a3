/** The rehearsal of a move (translation/kernel/rehearsal.ts). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { RealClock } from '../../../src/linux/clock.ts'
import { rehearse } from '../../../src/translation/kernel/rehearsal.ts'

test('a rehearsal is whole moves: each time both ends switch', () => {
  assert.equal(rehearse(new RealClock(), nodeRandom), 10)
})

/** What test/sim/mptcp does with sixty handovers, with a thousand. */
import { test } from 'node:test'
import { randomHandovers } from '../../sim/mptcp/random-handovers.ts'

test('1,000 random handovers with loss, reordering, breaks and black holes change, lose and reorder nothing', () => {
  randomHandovers(1000, 1000)
})

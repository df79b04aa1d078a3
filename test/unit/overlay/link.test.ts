/** The store's side of the link to PostgreSQL, when the thread that talks to it ends by a fault. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Link } from '../../../src/overlay/store/postgres/link.ts'
import type { PostgresSettings } from '../../../src/overlay/store/postgres/settings.ts'

test('NT-10: a thread that has ended delays nobody; another one is started', async () => {
  // The fault: an address that nobody can have set.
  const settings = { url: 'none' } as unknown as PostgresSettings
  let starts = 0
  const mark = () => {
    starts++
    return undefined
  }
  const link = new Link({ settings, zone: 'test.example', hold: undefined, mark })
  try {
    // It ends while this thread waits, then while it does not.
    for (let n = 0; n < 3; n++) {
      assert.throws(() => link.ready(), /its thread has ended/)
      assert.throws(
        () => link.call({ type: 'changes', since: 0, ident: '', database: '' }),
        /its thread has ended/,
      )
      assert.equal(link.isUp, false)
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    assert.throws(() => link.call({ type: 'report' }), /its thread has ended: .*undefined/, 'and says why')
    const before = starts
    while (starts === before) await new Promise((resolve) => setTimeout(resolve, 50))
    assert.throws(() => link.ready(), /its thread has ended/)
  } finally {
    link.close()
  }
})

/** A short form of test/long/mptcp/integrity.test.ts: every byte of one transfer compared, over links that lose, reorder and double. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { observeScenario } from '../../../lab/run.ts'
import { mptcpIntegrity } from '../../../lab/scenarios/mptcp-integrity.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'

usePrivateNames()

const out = mkdtempSync(join(tmpdir(), 'godwit-integrity-'))
after(() => rmSync(out, { recursive: true, force: true }))

test('issue 12: an upload over handovers of a random kind, with loss and reordering, arrives as sent', async () => {
  const { checks } = await observeScenario(
    mptcpIntegrity,
    { out, handovers: 4, only: ['proxy-kernel', 'up'] },
    {},
  )
  assert.deepEqual(
    checks.map(({ ok }) => ok),
    [true],
    String(checks[0]?.value),
  )
})

/** Real transfers over links that lose, reorder and double packets, 250 random handovers in each of four: every byte compared. */
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

test('issue 12: more than 10 GB over 1,000 random handovers, with loss and reordering, arrive as sent', async () => {
  const { checks, metrics } = await observeScenario(mptcpIntegrity, { out, handovers: 250 }, {})
  for (const { name, ok, value } of checks) assert.ok(ok, `${name}: ${value}`)
  assert.equal(checks.length, 4)
  assert.ok((metrics.gigabytes as number) > 10, `${metrics.gigabytes} GB`)
})

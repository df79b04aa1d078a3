/** The connection controller with real daemons: simulated radios behind the control socket of wpa_supplicant. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { runScenario } from '../../../lab/index.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'

usePrivateNames()

test('OH-5, OH-13, OH-23, OH-26, OH-27: two radios take turns past access points; the last working one is never let go', async () => {
  const out = mkdtempSync(join(tmpdir(), 'godwit-radios-'))
  try {
    const { checks, metrics } = await runScenario('router-seamless', { handovers: 2, out, log: () => {} })
    const check = (name: string) => checks.find((each) => each.name === name)
    assert.equal(check('last link let go')?.value, 0)
    assert.equal(check('datagrams seen twice')?.value, 0)
    assert.ok(
      Number(metrics.handovers) >= 2 && Number(metrics.controlled_moves) >= 2,
      JSON.stringify(metrics),
    )
    // How many are lost is measured by the scenario itself; a stock client loses hundreds at each.
    assert.ok(Number(metrics.lost_packets) < 300, JSON.stringify(metrics))
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
})

/**
 * Ten minutes of a hostile peer and hostile strangers at full rate (10 Mbit/s of datagrams, which is more than the daemon takes in at
 * that speed) beside ten honest connections. GODWIT_HOSTILE_SECONDS shortens it.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { attacked, followed, HostileBed, secondsBefore } from '../../netns/translation/hostile-hosts.ts'

const SECONDS = Number(process.env.GODWIT_HOSTILE_SECONDS ?? 600)
/** Datagrams a second, about 250 bytes each. */
const RATE = 5_000

test('ten minutes under attack: memory is bounded, honest connections have their throughput and their delay', async (t) => {
  const bed = new HostileBed()
  try {
    const outcome = await attacked(bed, SECONDS, RATE)
    await followed(bed)
    t.diagnostic(JSON.stringify(outcome))
    const { before, bystander, during, rss } = outcome
    const share = during.bytes / SECONDS / (before.bytes / secondsBefore(SECONDS))
    assert.ok(share >= 0.8, `throughput ${share.toFixed(2)} of what it was`)
    // The attacker takes one of the machine's cores as well: a connection that is not the daemon's shows what that alone costs.
    const alone = Math.max(before.p99, bystander.p99)
    assert.ok(
      during.p99 <= 2 * alone,
      `p99 ${during.p99} ms, ${before.p99} before, bystander ${bystander.p99}`,
    )
    assert.ok(rss.most < 1.5 * rss.before, `memory ${rss.most} of ${rss.before}`)
    // The daemon has just started before; what an attack warms up is compiled code and V8's heap, and stays.
    assert.ok(rss.after < 1.4 * rss.before, `memory afterwards ${rss.after} of ${rss.before}`)
  } finally {
    await bed.close()
  }
})

/** What the proxy needs is looked for as the kernel answers. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { PACKET_QUEUE } from '../../../src/mptcp/needs.ts'

test('a kernel that has packet queues is not said to lack them (issue 12)', (t) => {
  if (process.getuid?.() !== 0) return t.skip('needs root')
  if (!existsSync('/proc/net/netfilter/nfnetlink_queue')) return t.skip('this kernel has no packet queues')
  assert.deepEqual(PACKET_QUEUE.look(), { ok: true, value: 'usable' })
})

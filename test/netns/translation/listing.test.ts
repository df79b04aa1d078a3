/** What other programs read of the rules of StackTrans. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { createNamespace, deleteNamespace } from '../../../src/linux/netns.ts'
import { NfBatch } from '../../../src/linux/nf_tables.ts'
import { NfSocket } from '../../../src/linux/nf-socket.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { installTables, LAYOUT } from '../../../src/translation/kernel/stacktrans.ts'

usesPrograms('ip', 'nft')

test('ADR 0020: `nft list ruleset` prints all rules, and no error', () => {
  const netns = `dime-list-${process.pid}`
  createNamespace(netns)
  try {
    const sockets = new NfSocket(netns)
    const batch = new NfBatch()
    for (const family of [4, 6] as const)
      installTables(batch, LAYOUT[family], 'dime', { translate: true, watch: true, renumber: true })
    sockets.commit(batch, 'install')
    sockets.close()
    const args = ['netns', 'exec', netns, 'nft', 'list', 'ruleset']
    const { status, stdout, stderr } = spawnSync('ip', args, { encoding: 'utf8' })
    assert.deepEqual([status, stderr], [0, ''])
    for (const name of ['out_one', 'in_flow', 'in_port']) assert.ok(stdout.includes(`@${name}`), name)
  } finally {
    deleteNamespace(netns)
  }
})

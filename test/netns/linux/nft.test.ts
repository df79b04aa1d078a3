import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { GodwitError } from '../../../src/core/errors.ts'
import { createNamespace, deleteNamespace } from '../../../src/linux/netns.ts'
import { Nft, nftVersion } from '../../../src/linux/nft.ts'
import { nftCompliance } from '../../suites/nftables.ts'

const netns = `nft-${process.pid}`
before(() => createNamespace(netns))
after(() => deleteNamespace(netns))

nftCompliance('nft', () => new Nft(netns))

test('nft: a mistake is reported with its line', () => {
  const nft = new Nft(netns)
  assert.throws(
    () => nft.replaceTable({ family: 'inet', name: 'broken' }, 'chain c {\n  ip saddr nonsense! accept\n}'),
    (error) => error instanceof GodwitError && error.code === 'NFT_FAILED' && /nonsense/.test(error.message),
  )
  assert.equal(nft.listTable({ family: 'inet', name: 'broken' }), undefined)
  assert.ok((nftVersion()?.[0] ?? 0) >= 0)
})

/** What every `Nftables` does, the program and the fake. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Nftables, NftTableName } from '../../src/linux/nft.ts'

const TABLE: NftTableName = { family: 'inet', name: 'godwit_suite' }
const ALLOWED = { family: 'inet', table: 'godwit_suite', set: 'allowed' } as const

const BODY = `
  set allowed {
    type ipv4_addr
    elements = { 192.0.2.1 }
  }
  chain out {
    type filter hook output priority 0; policy accept;
    ip daddr @allowed counter accept
  }`

export function nftCompliance(name: string, make: () => Nftables): void {
  describe(`Nftables: ${name}`, () => {
    const setOf = (nft: Nftables) =>
      nft.listTable(TABLE)?.find((each) => each.set?.name === 'allowed')?.set?.elem

    test('a table is made, replaced whole, listed and deleted', () => {
      const nft = make()
      assert.equal(nft.listTable(TABLE), undefined)
      nft.replaceTable(TABLE, BODY)
      assert.deepEqual(nft.tables(), [TABLE])
      assert.deepEqual(setOf(nft), ['192.0.2.1'])
      nft.replaceTable(TABLE, BODY.replace('192.0.2.1', '192.0.2.2'))
      assert.deepEqual(setOf(nft), ['192.0.2.2'])
      assert.equal(nft.deleteTable(TABLE), true)
      assert.equal(nft.deleteTable(TABLE), false)
      assert.deepEqual(nft.tables(), [])
    })

    test('elements are added and deleted, all or none', () => {
      const nft = make()
      nft.replaceTable(TABLE, BODY)
      nft.addElements(ALLOWED, ['192.0.2.7', '192.0.2.8'])
      nft.addElements(ALLOWED, ['192.0.2.7'])
      assert.deepEqual([...(setOf(nft) as string[])].sort(), ['192.0.2.1', '192.0.2.7', '192.0.2.8'])
      assert.equal(nft.deleteElements(ALLOWED, ['192.0.2.7', '192.0.2.99']), false)
      assert.equal((setOf(nft) as string[]).length, 3)
      assert.equal(nft.deleteElements(ALLOWED, ['192.0.2.7']), true)
      assert.throws(() => nft.addElements({ ...ALLOWED, set: 'none' }, ['192.0.2.7']))
      nft.deleteTable(TABLE)
    })
  })
}

/** NT-26: which cache servers of a zone nodes are told of, and in which order. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CacheList, MAX_CACHES } from '../../../src/overlay/servers/cache-list.ts'

const DAY = 86_400_000
const server = (host: string, port = 6743) => ({ host, port, certificate: new Uint8Array(32) })
const hosts = (list: CacheList) => list.all.map(({ host }) => host)

test('NT-26: the own cache server comes first, one that is away last, and is named until all that it may keep has expired', () => {
  let now = 0
  const list = new CacheList(server('b'), () => now)
  assert.deepEqual(hosts(list), ['b'])
  for (const host of ['c', 'a', 'b']) list.heard(server(host))
  assert.deepEqual(hosts(list), ['b', 'a', 'c'])
  now = 60_000
  list.heard(server('c'))
  assert.deepEqual(hosts(list), ['b', 'c', 'a'])
  now = 30 * DAY + 1000
  assert.deepEqual(hosts(list), ['b', 'c'])
  assert.deepEqual(hosts(new CacheList(undefined, () => now)), [])
})

test('NT-26: a server at another port is another one; no more are known than there may be', () => {
  const list = new CacheList(undefined, () => 0)
  list.heard(server('a', 1))
  list.heard(server('a', 2))
  assert.equal(list.all.length, 2)
  for (let i = 0; i < 100; i++) list.heard(server(`s${i}`))
  assert.ok(list.all.length < MAX_CACHES)
  assert.ok(hosts(list).includes('s99'))
})

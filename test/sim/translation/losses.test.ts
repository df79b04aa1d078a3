/** Addresses lost one right after the other, as those of an access are: the peer hears of each (DI-37, D14). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { A, B, F, pairOfHosts, peerOf } from './network.ts'

const C = '10.5.0.2'
const G = '10.4.0.2'

test('DI-25, DI-37: the loss that was being told from an address that is lost, too, is told from another', () => {
  const { net, mh, ch } = pairOfHosts()
  const deaf = [A, B, C].map((ip) => `${ip} ${G}`)
  for (const pair of deaf) net.cut.add(pair)
  mh.preferred = A
  mh.set(`${A}/24`, `${B}/24`, `${C}/24`)
  net.run(net.now + 5_000)
  ch.set(`${F}/24`, `${G}/24`)
  const probing = () => [...peerOf(mh).requests].some((r) => r.pair.foreign === G)
  while (!probing()) net.run(net.now + 10)
  mh.preferred = B
  mh.set(`${B}/24`, `${C}/24`)
  net.run(net.now + 10)
  mh.preferred = C
  mh.set(`${C}/24`)
  assert.ok(probing(), 'something is asked that will not be answered')
  net.run(net.now + 20_000)
  assert.deepEqual([...peerOf(ch).row.active], [C])
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: C })
  assert.deepEqual([...peerOf(mh).lost], [])
})

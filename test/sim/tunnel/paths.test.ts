import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Pair } from './harness.ts'

test('two paths come up over one session, 1.5 round trips after the first initiation', () => {
  const pair = new Pair()
  pair.open(0)
  pair.open(1)
  pair.world.run(45)
  assert.deepEqual(pair.host.usable(pair.anchorPeer), pair.slots)
  assert.equal(pair.anchor.usable(pair.hostPeer).length, 2)
  assert.equal(pair.anchor.all('session').length, 1)
  assert.equal(pair.host.forms.get(pair.anchorPeer), 'godwit')
  assert.equal(pair.anchor.forms.get(pair.hostPeer), 'godwit')
  const observed = pair.host.all('observed').map((event) => event.address.address[3])
  assert.deepEqual(observed.sort(), [1, 2])
  pair.world.run(2000)
  for (const path of pair.host.machine.peer(pair.anchorPeer)!.paths) {
    assert.equal(path.mtu, 1500)
    assert.ok(Math.abs(path.rttMs - 20) < 1, `${path.rttMs}`)
  }
})

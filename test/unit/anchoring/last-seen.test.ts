import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { LastSeen, readLastSeen } from '../../../src/anchoring/last-seen.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-seen-'))
after(() => rmSync(folder, { recursive: true }))

test('when a host was last heard from is known over restarts, written once a minute, forgotten with the host (issue 14, point 8)', () => {
  const file = join(folder, 'last-seen.json')
  let now = 1_000_000
  const wall = () => 1_700_000_000_000 + now
  const make = () => new LastSeen({ file, now: () => now, wall })
  const seen = make()
  assert.equal(seen.get('laptop'), undefined)
  seen.follow([
    { peer: 'laptop', lastReceivedAt: now - 5000 },
    { peer: 'laptop', lastReceivedAt: now - 200 },
    { peer: 'phone', lastReceivedAt: 0 },
  ])
  assert.equal(seen.get('laptop'), wall() - 200)
  assert.equal(seen.get('phone'), undefined, 'a path on which nothing came')
  assert.deepEqual(readLastSeen(file), { laptop: wall() - 200 })
  now += 30_000
  seen.follow([{ peer: 'laptop', lastReceivedAt: now }])
  assert.equal(readLastSeen(file).laptop, wall() - 30_200)
  now += 30_000
  seen.follow([])
  assert.equal(readLastSeen(file).laptop, wall() - 30_000)
  assert.equal(make().get('laptop'), wall() - 30_000)
  seen.keep(() => false)
  seen.write()
  assert.deepEqual(readLastSeen(file), {})
})

test('a damaged file or one that cannot be written costs nothing but the memory of it', () => {
  const file = join(folder, 'bad.json')
  writeFileSync(file, '{"a":')
  const seen = new LastSeen({ file, now: () => 10, wall: () => 20 })
  seen.follow([{ peer: 'a', lastReceivedAt: 5 }])
  assert.equal(seen.get('a'), 15)
  const nowhere = join(folder, 'nowhere', 'x.json')
  writeFileSync(join(folder, 'nowhere'), '')
  const other = new LastSeen({ file: nowhere, now: () => 10, wall: () => 20 })
  other.follow([{ peer: 'a', lastReceivedAt: 5 }])
  assert.equal(existsSync(nowhere), false)
})

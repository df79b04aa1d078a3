import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { RememberedTimestamp } from '../../../src/mechanism/timestamp.ts'

test('the newest timestamp is kept; a damaged file is none, an impossible place is survived', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'godwit-timestamp-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'timestamp')
  const timestamp = new RememberedTimestamp(file)
  assert.equal(timestamp.get(), undefined)
  timestamp.set(1_800_000_000_123.5)
  assert.equal(new RememberedTimestamp(file).get(), 1_800_000_000_123.5)
  writeFileSync(file, 'rubbish')
  assert.equal(timestamp.get(), undefined)
  new RememberedTimestamp(join(directory, 'absent', 'timestamp')).set(1)
})

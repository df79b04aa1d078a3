/** A hostile host against a live one, short: what must hold at once. The ten minutes are in the long tier. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { attacked, followed, HostileBed } from './hostile-hosts.ts'

const SECONDS = 20
/** Datagrams a second. */
const RATE = 1_000

test('a hostile peer and hostile strangers end nothing, get nobody’s connection and nothing multiplied; an honest peer is followed afterwards', async () => {
  const bed = new HostileBed()
  try {
    const { during, before } = await attacked(bed, SECONDS, RATE)
    assert.ok(during.bytes > 0 && before.bytes > 0)
    await followed(bed)
  } finally {
    await bed.close()
  }
})

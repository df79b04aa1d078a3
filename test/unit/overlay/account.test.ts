import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { addAccount, initOverlay, listAccounts } from '../../../src/host/provisioning/overlay-server.ts'
import { State } from '../../../src/host/stores/state.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-account-'))
after(() => rmSync(folder, { recursive: true }))

test('an account whose command cannot be shown is not made: its password would be lost (issue 14, point 7)', async () => {
  const state = new State({ state: folder })
  await initOverlay(state, { zone: 'home.example.org', endpoint: '192.0.2.1' })
  // As without openssl: there is no certificate that nodes could pin.
  for (const name of ['overlay-server.crt', 'overlay-server.key']) mkdirSync(state.file(name))
  await assert.rejects(addAccount(state, 'carol', {}))
  assert.deepEqual(listAccounts(state), [])
})

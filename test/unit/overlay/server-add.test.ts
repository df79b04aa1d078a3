/** NT-14: which servers a zone may have several of, apart. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { GodwitError } from '../../../src/core/errors.ts'
import { addServer, initOverlay, listServers } from '../../../src/host/provisioning/overlay-server.ts'
import { State } from '../../../src/host/stores/state.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-servers-'))
after(() => rmSync(folder, { recursive: true }))

test('NT-14, NT-26: relays and cache servers may be several, account and notification server are one', async () => {
  const state = new State({ state: join(folder, 'zone') })
  await initOverlay(state, { zone: 'home.example.org', endpoint: '192.0.2.1' })
  const add = (name: string, roles: string) =>
    addServer(state, name, { roles, endpoint: '192.0.2.9', out: join(folder, `${name}.json`) })
  for (const [name, roles] of [
    ['one', 'rs,cs'],
    ['two', 'rs,cs'],
    ['three', 'as,cs'],
    ['four', 'ns'],
  ] as const)
    await add(name, roles)
  for (const roles of ['as', 'cs,ns'])
    await assert.rejects(add('five', roles), (error: GodwitError) => {
      assert.equal(error.code, 'SERVER_EXISTS')
      return /server (three|four) has/.test(error.message) && /server remove/.test(error.hint!)
    })
  assert.equal(listServers(state).filter(({ roles }) => roles.includes('cs')).length, 3)
})

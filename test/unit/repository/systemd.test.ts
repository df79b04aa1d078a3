/** The units of examples/systemd, by their text; test/netns/host/units.test.ts runs daemons as they do. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test } from 'node:test'

const folder = resolve(import.meta.dirname, '../../../../examples/systemd')

test('each unit starts a daemon that failed again, without a limit; not if the configuration is wrong', () => {
  const units = readdirSync(folder).filter((name) => name.endsWith('.service'))
  assert.equal(units.length, 4)
  for (const name of units) {
    const [, unit, service] = readFileSync(join(folder, name), 'utf8').split(
      /^\[(?:Unit|Service|Install)\]$/m,
    )
    assert.match(unit!, /^StartLimitIntervalSec=0$/m, name)
    assert.match(service!, /^Restart=on-failure\n(#.*\n)*RestartPreventExitStatus=2$/m, name)
  }
})

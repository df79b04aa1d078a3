/** What a restarted DIME daemon reads back: kept from ending the daemon, and from being believed when it is damaged. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { StateFile } from '../../../src/translation/saved.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-saved-'))
after(() => rmSync(folder, { recursive: true }))
const nothing = { hosts: [], identifiers: ['10.1.0.2'], sysctls: [] }

test('what cannot be written is said once, ends nothing, and is written when it can be', () => {
  const faults: string[] = []
  const path = join(folder, 'later', 'dime.json')
  const file = new StateFile(
    path,
    () => nothing,
    (what) => faults.push(what),
  )
  file.save()
  file.save()
  assert.equal(faults.length, 1)
  assert.match(faults[0]!, /cannot be saved/)
  mkdirSync(join(folder, 'later'))
  file.save()
  assert.deepEqual(StateFile.read(path), nothing)
  file.remove()
  assert.ok(!existsSync(path))
})

test('a damaged file is told from none', () => {
  const path = join(folder, 'dime.json')
  assert.equal(StateFile.read(path), undefined)
  for (const text of ['', '{', 'null', '{}', '{"hosts":[]}', '{"hosts":1,"identifiers":[],"sysctls":[]}']) {
    writeFileSync(path, text)
    assert.throws(() => StateFile.read(path), text)
  }
})

test('hosts that another version has saved otherwise are left out, and the others are there', () => {
  const path = join(folder, 'other.json')
  const pair = { local: '10.1.0.2', foreign: '10.2.0.2' }
  const host = {
    ...{
      hid: 1,
      bound: pair,
      key: new Uint8Array(32).fill(7),
      privileged: true,
      taken: ['tcp 1'],
      floor: 3,
      counter: 4,
    },
    ...{
      known: [],
      indexed: ['10.2.0.2'],
      answered: [],
      natFloors: [],
      active: [],
      unreachable: [],
      local: [],
    },
    ...{
      accepted: [pair],
      confirmed: [pair],
      current: [pair],
      lost: [],
      flows: [pair],
      later: { of: 'another' },
    },
  }
  const { bound: _, ...without } = host
  const others = [
    {},
    null,
    7,
    without,
    { ...host, known: undefined },
    { ...host, active: [1] },
    { ...host, flows: [{}] },
  ]
  const saved = { hosts: [...others, host], identifiers: ['10.1.0.2', 'x', null], sysctls: [] }
  new StateFile(
    path,
    () => saved as never,
    () => {},
  ).save()
  assert.deepEqual(StateFile.read(path), { ...saved, hosts: [host], identifiers: ['10.1.0.2'] })
})

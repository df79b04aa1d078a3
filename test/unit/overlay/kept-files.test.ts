/** Files of a node on a disk that is full for a while. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KeptFiles } from '../../../src/overlay/node/kept-files.ts'

test('issue 13: what could not be kept is said once and tried again, the newest of each; at the end once more', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  let isFull = true
  const said: string[] = []
  const disk: string[] = []
  const files = new KeptFiles((level, message) => said.push(`${level} ${message}`))
  const write = (text: string) => () => {
    if (isFull) throw new Error('no space left')
    disk.push(text)
  }
  files.keep('the lease', write('lease 1'))
  files.keep('the lease', write('lease 2'))
  files.keep('the list of peers', write('peers'))
  t.mock.timers.tick(120_000)
  assert.deepEqual(disk, [])
  assert.equal(said.length, 2)
  assert.match(said[0]!, /^warn the lease could not be kept, .*: no space left$/)
  isFull = false
  t.mock.timers.tick(30_000)
  assert.deepEqual(disk, ['lease 2', 'peers'])
  assert.equal(said.length, 4)
  t.mock.timers.tick(300_000)
  assert.equal(disk.length, 2)
  isFull = true
  files.keep('the lease', write('lease 3'))
  isFull = false
  files.stop()
  assert.deepEqual(disk.slice(2), ['lease 3'])
  t.mock.timers.tick(300_000)
  assert.equal(disk.length, 3)
})

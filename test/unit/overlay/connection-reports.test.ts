/** NT-21: what a notification server apart tells of connections. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConnectionReports, routeReport } from '../../../src/overlay/servers/connection-reports.ts'
import { Connection } from '../../../src/overlay/wire/message.ts'

const TOKEN = new Uint8Array(32).fill(1)

test('NT-21: one report of a node is under way, always of how it is: an end that is repeated does not overtake the next connection', async () => {
  const connected = new Map<string, Uint8Array>()
  const told: string[] = []
  const answers: ((isTold: boolean) => void)[] = []
  const reports = new ConnectionReports({
    tokenOf: (name) => connected.get(name),
    tell: (name, token, status) => {
      told.push(`${name} ${token[0]} ${status}`)
      return new Promise((resolve) => answers.push(resolve))
    },
  })
  connected.set('a', TOKEN)
  const first = reports.changed('a', TOKEN)
  connected.delete('a')
  assert.equal(await reports.changed('a', TOKEN), true)
  const next = new Uint8Array(32).fill(2)
  connected.set('a', next)
  assert.equal(await reports.changed('a', next), true)
  const other = reports.was('b', TOKEN)
  assert.deepEqual(told, [`a 1 ${Connection.NOW}`, `b 1 ${Connection.ENDED}`], 'the others wait; b has ended')
  answers[0]!(false)
  answers[1]!(true)
  assert.equal(await other, true)
  await new Promise(setImmediate)
  assert.deepEqual(told.slice(2), [`a 2 ${Connection.NOW}`], 'how it is, once')
  answers[2]!(true)
  assert.equal(await first, true)
  connected.delete('a')
  const last = reports.changed('a', next)
  assert.equal(told.at(-1), `a 2 ${Connection.ENDED}`)
  answers[3]!(false)
  assert.equal(await last, false)
})

test('NT-20, NT-21: the coordinator that has announced a node hears of its connection, and where that is not there all others do, as after a restart', () => {
  const { NOW, ENDED, BEFORE } = Connection
  assert.deepEqual(routeReport('a', ['a', 'b'], NOW), { to: ['a'], status: NOW })
  assert.deepEqual(routeReport('a', ['b', 'c'], NOW), { to: ['b', 'c'], status: BEFORE })
  assert.deepEqual(routeReport('a', ['b', 'c'], ENDED), { to: ['b', 'c'], status: ENDED })
  assert.deepEqual(routeReport(undefined, ['a', 'b'], ENDED), { to: ['a', 'b'], status: ENDED })
  assert.deepEqual(routeReport('', [''], NOW), { to: [''], status: NOW }, 'a zone with one coordinator')
})

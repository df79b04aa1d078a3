/** Issue 10 D4: only proven addresses are kept, a few of each peer, and each is greeted twice at most. */
import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import { formatEndpoint } from '../../../src/core/flow.ts'
import type { PathReport } from '../../../src/tunnel/engine/events.ts'
import { Greetings, type SeenStore } from '../../../src/tunnel/engine/greetings.ts'

function start(seen: Readonly<Record<string, readonly string[]>>) {
  const greeted: string[] = []
  const written: Readonly<Record<string, readonly string[]>>[] = []
  const store: SeenStore = { get: () => seen, set: (all) => written.push(all) }
  const greetings = new Greetings({
    store,
    greet: (name, { address, port }) => greeted.push(`${name} ${formatEndpoint(address, port)}`),
  })
  return { greetings, greeted, written }
}

const path = (peer: string, remote: string, state: PathReport['state'], lastReceivedAt = 0): PathReport => ({
  ...{ peer, remote, state, lastReceivedAt, id: 1, access: '', rttMs: 1, loss: 0, mtu: 1280 },
  ...{ sentBytes: 0, receivedBytes: 0 },
})

test('issue 10 D4: each address is greeted twice, then nobody any more; what is no address is left out', (context) => {
  mock.timers.enable({ apis: ['setTimeout'] })
  context.after(() => mock.timers.reset())
  const { greetings, greeted } = start({ bus: ['192.0.2.1:7', 'nonsense', '[2001:db8::1]:9'], boat: [] })
  for (const name of ['bus', 'boat', 'unknown']) greetings.start(name)
  for (let i = 0; i < 20; i++) mock.timers.tick(100)
  const round = ['bus 192.0.2.1:7', 'bus [2001:db8::1]:9']
  assert.deepEqual(greeted, [...round, ...round])
})

test('issue 10 D4: a path that works ends the greetings, and its address is kept; the newest first, four at most', (context) => {
  mock.timers.enable({ apis: ['setTimeout'] })
  context.after(() => mock.timers.reset())
  const { greetings, greeted, written } = start({ bus: ['192.0.2.1:7'] })
  greetings.start('bus')
  mock.timers.tick(0)
  greetings.follow([
    path('bus', '192.0.2.9:1', 'validating'),
    ...[1, 2, 3, 4, 5].map((n) => path('bus', `198.51.100.${n}:1`, 'up', n)),
  ])
  mock.timers.tick(5000)
  assert.equal(greeted.length, 1)
  const kept = [5, 4, 3, 2].map((n) => `198.51.100.${n}:1`)
  assert.deepEqual(written, [{ bus: kept }])
  greetings.forget('bus')
  greetings.stop()
  assert.deepEqual(written.at(-1), {})
})

test('issue 10 D4: the store is written once in ten seconds however often addresses change', (context) => {
  mock.timers.enable({ apis: ['setTimeout'] })
  context.after(() => mock.timers.reset())
  const { greetings, written } = start({})
  for (let n = 1; n <= 50; n++) {
    greetings.follow([path('bus', `192.0.2.${n}:1`, 'up')])
    mock.timers.tick(10)
  }
  assert.equal(written.length, 1)
  greetings.stop()
  assert.deepEqual(written.at(-1), { bus: ['192.0.2.50:1'] })
})

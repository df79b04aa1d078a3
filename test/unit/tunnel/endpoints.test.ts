import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatAddress } from '../../../src/core/address.ts'
import { Endpoints } from '../../../src/tunnel/engine/endpoints.ts'
import type { PathReport } from '../../../src/tunnel/engine/events.ts'

const peer = { name: 'anchor', host: 'anchor.example', port: 51820 }

function path(state: PathReport['state']): PathReport {
  return {
    peer: peer.name,
    id: 1,
    access: 'wlan0',
    remote: '192.0.2.7:51820',
    state,
    rttMs: 20,
    loss: 0,
    mtu: 1500,
    sentBytes: 0,
    receivedBytes: 0,
    lastReceivedAt: 0,
  }
}

function endpoints(remembered: readonly string[], answers: (readonly string[] | Error)[]) {
  const told: string[] = []
  const saved: string[] = []
  const resolved: Promise<unknown>[] = []
  const made = new Endpoints({
    cache: { get: () => remembered, set: (name, addresses) => saved.push(`${name} ${addresses.join()}`) },
    resolve: () => {
      const answer = answers.shift()
      const done = answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer ?? [])
      resolved.push(done.catch(() => {}))
      return done
    },
    onRemotes: (name, remotes) =>
      told.push(`${name} ${remotes.map(({ address, port }) => `${formatAddress(address)} ${port}`).join()}`),
    report: (message) => told.push(`report ${message}`),
  })
  const settled = async () => {
    await Promise.all(resolved)
    await new Promise(setImmediate)
  }
  return { made, told, saved, settled }
}

test('the address of the last run is used at once, also where the name does not resolve', async () => {
  const { made, told, saved, settled } = endpoints(['192.0.2.7'], [new Error('EAI_AGAIN')])
  made.start(peer)
  assert.deepEqual(told, ['anchor 192.0.2.7 51820'])
  await settled()
  assert.deepEqual([told.length, saved.length], [1, 0])
  made.stop()
})

test('what is resolved is remembered; the same again is not told twice, another is', async () => {
  const { made, told, saved, settled } = endpoints(
    [],
    [['192.0.2.7'], ['192.0.2.7'], ['2001:db8::7', '192.0.2.8']],
  )
  made.start(peer)
  await settled()
  for (const now of [0, 5_000, 10_000]) made.follow([], now)
  await settled()
  assert.deepEqual(told, ['anchor 192.0.2.7 51820'])
  made.follow([path('up')], 15_000)
  for (const now of [20_000, 29_999]) made.follow([path('down')], now)
  await settled()
  assert.equal(saved.length, 1, 'it has been silent for less than ten seconds')
  made.follow([path('down')], 30_000)
  await settled()
  assert.equal(told.at(-1), 'anchor 2001:db8::7 51820,192.0.2.8 51820')
  assert.deepEqual(saved, ['anchor.example 192.0.2.7', 'anchor.example 2001:db8::7,192.0.2.8'])
  made.stop()
})

test('an address needs no resolver', () => {
  const { made, told } = endpoints([], [])
  made.start({ ...peer, host: '2001:db8::1' })
  for (const now of [0, 10_000]) made.follow([], now)
  assert.deepEqual(told, ['anchor 2001:db8::1 51820'])
})

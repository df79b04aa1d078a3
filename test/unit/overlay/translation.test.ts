/** How a node finds out that a network translates IPv4 (NAT64, RFC 7050). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Translation } from '../../../src/overlay/node/translation.ts'

const PREFIX = { address: Uint8Array.of(0, 0x64, 0xff, 0x9b, ...new Uint8Array(12)), length: 96 }

test('issue 13: the prefix of a network is asked for once, again while no answer comes, and anew in another network', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  let [asked, found] = [0, 0]
  let answer: () => Promise<(typeof PREFIX)[]> = () => Promise.reject(new Error('no name server'))
  const translation = new Translation({
    ask: () => {
      asked++
      return answer()
    },
    onFound: () => found++,
  })
  const settle = async () => {
    for (let i = 0; i < 10; i++) await Promise.resolve()
  }
  assert.equal(translation.prefix('wlan0', 1), undefined)
  await settle()
  t.mock.timers.tick(1_000)
  await settle()
  assert.equal(asked, 2)
  answer = () => Promise.resolve([{ ...PREFIX, length: 64 }, PREFIX])
  t.mock.timers.tick(2_000)
  await settle()
  assert.equal(found, 1)
  for (let i = 0; i < 3; i++)
    assert.deepEqual(
      translation.prefix('wlan0', 1),
      Uint8Array.of(0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0),
    )
  t.mock.timers.tick(3_600_000)
  await settle()
  assert.equal(asked, 3)
  answer = () => Promise.resolve([])
  assert.equal(translation.prefix('wlan0', 2), undefined)
  for (let i = 0; i < 20; i++) {
    await settle()
    t.mock.timers.tick(60_000)
  }
  assert.equal(asked, 9, 'a network that has none is asked six times')
  translation.stop()
})

/** wireguard-go starts a rekey by itself after 120 s: nothing of what flows meanwhile may be lost. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { Bench, inOwnNamespace, sessions } from '../../netns/tunnel/wireguard-bench.ts'

inOwnNamespace(import.meta.url, 300_000, () => {
  test('they initiate and rekey twice under traffic, with a pre-shared key', async () => {
    const bench = new Bench(52_010, true)
    const socket = await bench.driver.open()
    try {
      await bench.start(['endpoint', `127.0.0.1:${bench.driver.port(socket)}`, 'persistent-keepalive', '5'])
      bench.addPeer()
      await bench.driver.until('a session', () => sessions(bench) === 1)
      const slot = bench.driver.machine.peer(0)!.paths[0]!.slot
      for (let second = 0; second < 250; second++) {
        bench.driver.packets.length = 0
        await bench.ping(slot, second)
        await delay(1000)
      }
      assert.ok(sessions(bench) >= 3, `${sessions(bench)} sessions`)
    } finally {
      await bench.stop()
    }
  })
})

/** The protocol machine beside wireguard-go, in both directions. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { echoRequest } from '../../../bench/programs/plain-driver.ts'
import { generatePresharedKey, publicKeyOf } from '../../../src/crypto/keys.ts'
import { Bench, inOwnNamespace, sessions, withBench } from './wireguard-bench.ts'

inOwnNamespace(import.meta.url, 120_000, () => {
  for (const preshared of [false, true]) {
    test(`we initiate, data both ways, our rekey, ${preshared ? 'with' : 'without'} a pre-shared key`, async () => {
      await withBench(52_001, preshared, [], async (bench) => {
        const peer = bench.addPeer()
        const slot = await bench.path(peer)
        await bench.ping(slot, 1)
        bench.driver.machine.updatePeer(peer, {}, bench.driver.now)
        // WireGuard lets an initiator speak again after 5 s.
        await delay(5_000)
        bench.driver.machine.connect(peer, bench.driver.now)
        bench.driver.settle()
        await bench.driver.until('a second session', () => sessions(bench) === 2)
        await bench.ping(slot, 2)
        assert.equal(bench.show('latest-handshakes').length, 10)
      })
    })
  }

  test('they initiate, with a pre-shared key; we learn their endpoint and keep the session alive', async () => {
    const bench = new Bench(52_002, true)
    const socket = await bench.driver.open()
    try {
      await bench.start(['endpoint', `127.0.0.1:${bench.driver.port(socket)}`, 'persistent-keepalive', '1'])
      bench.addPeer()
      await bench.driver.until('a session', () => sessions(bench) === 1)
      const up = bench.driver.events.find((event) => event.type === 'session')
      assert.ok(up?.type === 'session' && !up.initiator)
      const path = bench.driver.machine.peer(0)!.paths[0]!
      assert.equal(path.state.name, 'up')
      await bench.ping(path.slot, 3)
      await bench.driver.until('keepalives', () => bench.driver.keepalives >= 3)
    } finally {
      await bench.stop()
    }
  })

  test('we roam: wireguard-go follows us to another port', async () => {
    await withBench(52_003, false, [], async (bench) => {
      const peer = bench.addPeer()
      const first = await bench.path(peer)
      await bench.ping(first, 1)
      bench.driver.machine.removePath(first, bench.driver.now)
      const second = await bench.path(peer)
      await bench.ping(second, 2)
      assert.ok(bench.show('endpoints').endsWith(`:${bench.driver.port(1)}`))
    })
  })

  test('they roam: we follow wireguard-go to another port', async () => {
    await withBench(52_004, false, ['persistent-keepalive', '1'], async (bench) => {
      const peer = bench.addPeer()
      const slot = await bench.path(peer)
      await bench.ping(slot, 1)
      bench.wg('listen-port', '52005')
      await bench.driver.until('roaming', () => bench.driver.machine.path(slot)!.remote.port === 52_005)
      await bench.ping(slot, 2)
    })
  })

  test('HELLO does not trouble a stock peer: data flows, and after six tries it is left alone', async () => {
    await withBench(52_006, false, [], async (bench) => {
      const peer = bench.addPeer('auto', 1)
      const slot = await bench.path(peer)
      await bench.ping(slot, 1)
      assert.equal(bench.driver.machine.peer(peer)!.godwit, false)
      await bench.ping(slot, 2)
    })
  })

  test('a wrong pre-shared key and an unknown key: no session, and the reason is named', async () => {
    await withBench(52_007, true, [], async (bench) => {
      const peer = bench.driver.machine.addPeer(
        { publicKey: publicKeyOf(bench.theirKey), dialect: 'stock', presharedKey: generatePresharedKey() },
        bench.driver.now,
      )
      const slot = await bench.path(peer)
      bench.driver.sendPacket(slot, echoRequest(1))
      await bench.driver.until('refusal', () =>
        bench.driver.events.some(
          (event) => event.type === 'handshake-failed' && event.reason === 'authentication',
        ),
      )
      assert.equal(sessions(bench), 0)
    })
  })
})

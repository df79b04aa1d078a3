/** What makes a pair count as proven, and that nothing heard before counts again: the answers of IHMP, each forged or repeated. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import { Control, encodeSigned, type IhmpMessage, ihmp, Option } from '../../../src/translation/wire.ts'
import { A, B, F, pairOfHosts, peerOf, type SimHost } from './network.ts'

const signed = (host: SimHost, message: IhmpMessage): Uint8Array =>
  encodeSigned(message, (bytes) => nodeIhmpCrypto.sign(host.key!, bytes))

test('DI-24, DI-27: an acknowledgement confirms its pair only with the response to the challenge that was sent there', () => {
  for (const response of [undefined, new Uint8Array(16), 'true'] as const) {
    const { net, mh, ch } = pairOfHosts()
    mh.preferred = A
    net.intercept = (packet, message) => {
      if (packet.from !== F || packet.to !== B || response === 'true') return packet
      // The host itself says it, with its key, and has not seen the challenge, or not understood it.
      const { response: _, challenge: __, ...rest } = message
      const body = { ...rest, ...(response === undefined ? {} : { response }) }
      return message.control === Control.ACK ? { ...packet, bytes: signed(ch, body) } : undefined
    }
    mh.set(`${A}/24`, `${B}/24`)
    net.run(net.now + 5_000)
    assert.equal(peerOf(mh).confirmed.has(`${B} ${F}`), response === 'true', `response ${response}`)
    assert.deepEqual(peerOf(mh).row.current[4], { local: A, foreign: F })
  }
})

test('DI-38, D8: what a host asked for earlier does not come true again when it is repeated', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = A
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 5_000)
  const { hid } = peerOf(mh).row
  mh.machine.move(hid, B, net.now)
  net.run(net.now + 1_000)
  mh.machine.move(hid, A, net.now)
  net.run(net.now + 1_000)
  const wish = net.log.findLast(({ bytes, from }) => {
    const m = ihmp.decode(bytes)
    return m.ok && from === A && m.value.control === Control.PATH_PROBE && (m.value.options & Option.PF) !== 0
  })
  assert.ok(wish !== undefined)
  mh.machine.move(hid, B, net.now)
  net.run(net.now + 1_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  const { replayed } = ch.machine.stats
  ch.machine.handleMessage(wish.bytes, { local: F, foreign: A }, 0, net.now)
  net.run(net.now + 1_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  assert.equal(ch.machine.stats.replayed, replayed + 1)
})

test('DI-38, D8: nor when it is so old that nobody remembers it: below the window nothing is new', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = A
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 5_000)
  const { hid } = peerOf(mh).row
  mh.machine.move(hid, B, net.now)
  net.run(net.now + 1_000)
  mh.machine.move(hid, A, net.now)
  net.run(net.now + 1_000)
  const wish = net.log.findLast(({ bytes, from }) => {
    const m = ihmp.decode(bytes)
    return m.ok && from === A && m.value.control === Control.PATH_PROBE && (m.value.options & Option.PF) !== 0
  })
  assert.ok(wish !== undefined)
  mh.machine.move(hid, B, net.now)
  for (let i = 0; i < 100; i++) {
    mh.machine.handleSuspicion(hid, net.now)
    net.run(net.now + 1_000)
  }
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  const { replayed, sent } = ch.machine.stats
  ch.machine.handleMessage(wish.bytes, { local: F, foreign: A }, 0, net.now)
  net.run(net.now + 1_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  assert.deepEqual(
    [ch.machine.stats.replayed, ch.machine.stats.sent],
    [replayed + 1, sent],
    'and not answered',
  )
})

test('DI-16, DI-27: whoever doubts a path asks with a challenge, so that only an answer from there confirms it', () => {
  const { net, mh } = pairOfHosts()
  net.run(net.now + 30_000)
  const before = net.log.length
  mh.machine.handleSuspicion(peerOf(mh).row.hid, net.now)
  net.run(net.now + 1_000)
  const probes = net.log.slice(before).flatMap(({ bytes }) => {
    const m = ihmp.decode(bytes)
    return m.ok && m.value.control === Control.PATH_PROBE ? [m.value.challenge?.length] : []
  })
  assert.deepEqual(probes, [16])
})

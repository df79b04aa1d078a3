/** Tunnel requests of a pair: which answers count. */
import assert from 'node:assert/strict'
import { it } from 'node:test'
import { nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { Checks } from '../../../src/overlay/machine/checks.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { type Check, datagramCodec, Kind } from '../../../src/overlay/wire/datagram.ts'

const remote = { address: Uint8Array.of(192, 0, 2, 9), port: 5001 }
const TARGET = { socket: 0, remote }

function end(leads: boolean) {
  const sent: Check[] = []
  let answers = 0
  const checks = new Checks({
    ...{ crypto: overlayCrypto, random: nodeRandom, pairKey: new Uint8Array(32).fill(3), leads },
    ...{ onNamed: () => undefined, onObserved: () => {}, onMeeting: () => {}, onStep: () => {} },
    onAnswer: (_target, isProven) => {
      assert.ok(isProven)
      answers++
    },
    send: (_socket, _to, bytes) => {
      const datagram = datagramCodec.decode(bytes)
      assert.ok(datagram.ok && datagram.value.kind === Kind.CHECK)
      sent.push(datagram.value)
    },
  })
  return { checks, sent, answers: () => answers }
}

/** What the peer answers to the first request, when it arrives so late (ms), another round having begun just before. */
function answered(late: number): number {
  const [own, peer] = [end(true), end(false)]
  own.checks.ask([TARGET], 0)
  peer.checks.handle(own.sent[0]!, remote, 0, 0)
  for (let now = own.checks.nextTimeout(); now < late; now = own.checks.nextTimeout())
    own.checks.handleTimeout(now)
  own.checks.ask([TARGET], late)
  own.checks.handle(peer.sent[0]!, remote, 0, late)
  return own.answers()
}

it('NT-47: an answer that was under way when the next round began counts; one that was kept back proves nothing', () => {
  assert.equal(answered(300), 1)
  assert.equal(answered(20_000), 0)
})

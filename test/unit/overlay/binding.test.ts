/** A node's binding of a relay's channel: what shows that the relay is where it says. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { encoded } from '../../../src/overlay/machine/asker.ts'
import { Binding, BindingCounters } from '../../../src/overlay/machine/binding.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import {
  datagramCodec,
  encodeSeen,
  Kind,
  MAC,
  type RelayBind,
  WHERE,
} from '../../../src/overlay/wire/datagram.ts'
import type { RelaySide } from '../../../src/overlay/wire/message.ts'

const KEY = new Uint8Array(32).fill(7)
const CHANNEL = 5
const SOCKET = 1
const SIDE: RelaySide = {
  channel: CHANNEL,
  side: 0,
  key: KEY,
  endpoint: { address: Uint8Array.of(192, 0, 2, 9), port: 6742 },
}
/** Milliseconds since 1970. */
const WALL = Date.UTC(2026, 10, 29)

function binding(counters = new BindingCounters(), wall = () => WALL) {
  const sent: RelayBind[] = []
  const seen: (readonly [number, number])[] = []
  let bound = 0
  const made = new Binding({
    crypto: overlayCrypto,
    random: nodeRandom,
    wall,
    side: SIDE,
    counters,
    send: (_, bytes) => {
      const { ok, value } = datagramCodec.decode(bytes) as { ok: boolean; value: RelayBind }
      assert.ok(ok && value.kind === Kind.RELAY_BIND)
      sent.push(value)
    },
    onSeen: (number, port) => seen.push([number, port]),
    onBound: () => bound++,
    onFailed: () => {},
  })
  /** RELAY_BOUND under the relay's key. */
  const answer = (counter: number, side = 1, token: Uint8Array = new Uint8Array(16)) => {
    const head = { kind: Kind.RELAY_BOUND, channel: CHANNEL, side, counter, token }
    const bytes = encoded({ ...head, mac: new Uint8Array(MAC) })
    made.handle({ ...head, mac: overlayCrypto.mac(KEY, bytes.subarray(0, bytes.length - MAC)) }, SOCKET, 0)
  }
  return { made, sent, seen, answer, bound: () => bound }
}

describe('NT-24: a binding', () => {
  it('counters grow with each binding, and cannot be told from the time', () => {
    const first = binding()
    const counters = Array.from({ length: 50 }, () => {
      first.made.bind(SOCKET, 0)
      return first.sent.at(-1)!.counter
    })
    assert.deepEqual(
      counters.toSorted((a, b) => a - b),
      counters,
    )
    const others = new Set(
      Array.from({ length: 50 }, () => {
        const { made, sent } = binding()
        made.bind(SOCKET, 0)
        return sent[0]!.counter
      }),
    )
    assert.ok(others.size > 45, `${others.size} of 50 differ at the same time`)
    const later = Math.floor(WALL / 1000 + 1) * 2 ** 22
    assert.ok(
      [...others].every((counter) => Number.isSafeInteger(counter) && counter < later),
      'restarts',
    )
  })

  it('another binding of the same channel within the second begins above the last', () => {
    const counters = new BindingCounters()
    let last = 0
    for (let n = 0; n < 50; n++) {
      const { made, sent } = binding(counters)
      made.bind(SOCKET, 0)
      assert.ok(sent[0]!.counter > last)
      last = sent[0]!.counter
    }
  })

  it('a process that began in the second in which the one before was killed counts anew in the next', () => {
    const higher = Math.floor(WALL / 1000) * 2 ** 22 + 2 ** 22 - 1 // what the relay has of the one before
    let now = 0
    const { made, sent, answer, bound } = binding(new BindingCounters(), () => WALL + now)
    made.bind(SOCKET, now)
    while (bound() === 0 && now < 3_000) {
      now = made.nextTimeout()
      made.handleTimeout(now)
      const { counter } = sent.at(-1)!
      if (counter > higher) answer(counter)
    }
    assert.equal(bound(), 1)
    assert.ok(now <= 1_100, `${now} ms`)
    assert.equal(sent[0]!.counter, sent[1]!.counter, 'an answer that takes long is not missed')
  })

  it('what was sent is answered: bound', () => {
    const { made, sent, answer, bound } = binding()
    made.bind(SOCKET, 0)
    answer(sent[0]!.counter - 1)
    answer(sent[0]!.counter)
    assert.equal(bound(), 1)
  })

  it('issue 13: what the relay says of itself and this node; a question is answered once', () => {
    const { made, sent, seen, answer } = binding()
    made.bind(SOCKET, 0)
    assert.equal(made.seen, undefined)
    const token = { port: 40_001, first: 6742, last: 6805 }
    answer(sent[0]!.counter, 1, encodeSeen(token))
    assert.deepEqual(made.seen, token)
    made.ask(6750, 99)
    assert.equal(sent.at(-1)!.side, WHERE)
    for (const number of [98, 99, 99]) answer(number, 3, encodeSeen({ ...token, port: 40_003 }))
    assert.deepEqual(seen, [[99, 40_003]])
    made.bind(SOCKET, 0)
    assert.equal(made.seen, undefined)
    answer(sent.at(-1)!.counter)
    assert.equal(made.seen, undefined, 'a relay that says nothing')
  })

  it('a relay that guesses what it did not receive has few tries, and none after them', () => {
    const { made, sent, answer, bound } = binding()
    made.bind(SOCKET, 0)
    for (let n = 1; n <= 8; n++) answer(sent[0]!.counter + n)
    answer(sent[0]!.counter)
    assert.equal(bound(), 0)
    made.bind(SOCKET, 0)
    answer(sent.at(-1)!.counter)
    assert.equal(bound(), 1, 'the next binding is another')
  })
})

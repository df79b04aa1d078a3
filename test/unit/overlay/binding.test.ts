/** A node's binding of a relay's channel: what shows that the relay is where it says. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { concat } from '../../../src/core/bytes.ts'
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
  SHOWS,
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
  /** RELAY_BOUND under the relay's key, of who has the last request, or makes up what that showed. */
  const answer = (
    counter: number,
    side = 1,
    token: Uint8Array = new Uint8Array(16),
    { shown = sent.at(-1)!.token, from = SIDE.endpoint } = {},
  ) => {
    const head = { kind: Kind.RELAY_BOUND, channel: CHANNEL, side, counter, token }
    const bytes = encoded({ ...head, mac: new Uint8Array(MAC) })
    const text = concat(bytes.subarray(0, bytes.length - MAC), shown)
    made.handle({ ...head, mac: overlayCrypto.mac(KEY, text) }, from, SOCKET, 0)
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
    assert.equal(sent.at(-1)!.side, WHERE | SHOWS)
    for (const number of [98, 99, 99]) answer(number, 3, encodeSeen({ ...token, port: 40_003 }))
    assert.deepEqual(seen, [[99, 40_003]])
    made.bind(SOCKET, 0)
    assert.equal(made.seen, undefined)
    answer(sent.at(-1)!.counter)
    assert.equal(made.seen, undefined, 'a relay that says nothing')
  })

  it('who has the key and the counter, and not the request, binds nothing, and what it sends is not answered', () => {
    const { made, sent, seen, answer, bound } = binding()
    made.bind(SOCKET, 0)
    const { counter } = sent[0]!
    const guesses = [new Uint8Array(0), new Uint8Array(16), new Uint8Array(16).fill(255)]
    const token = encodeSeen({ port: 40_001, first: 6742, last: 6805 })
    for (const state of [1, 2]) for (const shown of guesses) answer(counter, state, token, { shown })
    assert.equal(bound(), 0)
    assert.equal(sent.length, 1, 'no token of a relay that did not receive the request')
    made.ask(6750, 99)
    for (const shown of guesses) answer(99, 3, token, { shown })
    assert.deepEqual(seen, [])
  })

  it('a binding draws what its requests show anew, 16 bytes, and a question has its own', () => {
    const { made, sent } = binding()
    for (let n = 0; n < 20; n++) {
      made.bind(SOCKET, 0)
      made.ask(6750, n)
    }
    assert.equal(new Set(sent.map(({ token }) => token.join())).size, 40)
  })

  it('the relay’s token is taken once for a request, and shown by the answer to the next', () => {
    const { made, sent, answer, bound } = binding()
    made.bind(SOCKET, 0)
    const { counter, token } = sent[0]!
    answer(counter, 2, new Uint8Array(16).fill(3))
    assert.deepEqual(sent[1]!.token, new Uint8Array(16).fill(3))
    for (const state of [1, 2]) answer(counter, state, new Uint8Array(16).fill(4), { shown: token })
    assert.equal(bound(), 0)
    assert.equal(sent.length, 2, 'a late answer to the first request')
    answer(counter)
    assert.equal(bound(), 1)
  })

  it('from elsewhere nothing counts; from the relay’s address 64 answers to a request are looked at', () => {
    const { made, sent, answer, bound } = binding()
    made.bind(SOCKET, 0)
    const { counter } = sent[0]!
    const elsewhere = { address: Uint8Array.of(198, 51, 100, 9), port: 6742 }
    for (let n = 0; n < 1000; n++) answer(counter, 1, undefined, { from: elsewhere })
    assert.equal(bound(), 0)
    for (let n = 0; n < 64; n++) answer(counter, 1, undefined, { shown: new Uint8Array(16) })
    answer(counter)
    assert.equal(bound(), 0)
    made.handleTimeout(made.nextTimeout())
    answer(counter)
    assert.equal(bound(), 1, 'the request that is sent again is another')
  })
})

/** Cookies and proofs by themselves: for whom and how long they are good. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { addMacs, CookieGuard, macOffsets, openCookieReply } from '../../../src/tunnel/protocol/cookies.ts'
import { identity } from '../../../src/tunnel/protocol/noise.ts'
import { INITIATION, MessageType } from '../../../src/tunnel/protocol/wire.ts'
import type { Endpoint } from '../../../src/tunnel/seam.ts'

const OWN = identity(nodeCrypto, new Uint8Array(32).fill(7))
const at = (last: number, port: number): Endpoint => ({ address: Uint8Array.of(192, 0, 2, last), port })
const V6: Endpoint = { address: new Uint8Array(16).fill(3), port: 0x1234 }

/** Message 1 of somebody, with this cookie, which came at `cookieAt`. */
function initiation(cookie?: Uint8Array, now = 0, cookieAt = 0): Uint8Array {
  const message = new Uint8Array(INITIATION.length).fill(9)
  message[0] = MessageType.initiation
  addMacs(nodeCrypto, message, OWN.mac1Key, cookie && { value: cookie, at: cookieAt }, now)
  return message
}

class Guard {
  #filled = 0
  readonly guard = new CookieGuard(nodeCrypto, { fill: (out) => out.fill(++this.#filled) })

  /** The cookie that somebody there gets. */
  cookie(from: Endpoint, now = 0): Uint8Array {
    const message = initiation()
    const { mac1, mac2 } = macOffsets(message)
    const reply = this.guard.reply(message, from, OWN, now)
    return openCookieReply(nodeCrypto, OWN.cookieKey, message.slice(mac1, mac2), reply)!
  }

  takes(cookie: Uint8Array | undefined, from: Endpoint, now = 0): boolean {
    return this.guard.mac2Valid(initiation(cookie, now, now), from, now)
  }
}

test('§5.4.7: a cookie is good at the address and the port that it was given to, each byte of both', () => {
  for (const home of [at(1, 0x1234), V6]) {
    const guard = new Guard()
    const cookie = guard.cookie(home)
    assert.equal(guard.takes(cookie, home), true)
    for (const port of [0x1235, 0x1334, 0x0034]) assert.equal(guard.takes(cookie, { ...home, port }), false)
    const address = home.address.slice()
    address[0]! ^= 1
    assert.equal(guard.takes(cookie, { ...home, address }), false)
    assert.equal(guard.takes(undefined, home), false)
  }
})

test('§5.4.7: before the first cookie none is good, not even one of an empty secret', () => {
  const source = Uint8Array.of(192, 0, 2, 1, 0x12, 0x34)
  const guessed = nodeCrypto.mac(new Uint8Array(32), source)
  const guard = new Guard()
  for (const now of [0, 1, 500_000]) assert.equal(guard.takes(guessed, at(1, 0x1234), now), false)
})

test('§5.4.7: a secret is good for two minutes, and whoever asks later gets a cookie of the next one', () => {
  const home = at(1, 0x1234)
  const guard = new Guard()
  const first = guard.cookie(home, 1_000_000)
  assert.deepEqual(guard.cookie(home, 1_119_999), first)
  assert.equal(guard.takes(first, home, 1_119_999), true)
  assert.equal(guard.takes(first, home, 1_120_000), false)
  const next = guard.cookie(home, 1_120_000)
  assert.notDeepEqual(next, first)
  assert.deepEqual([guard.takes(first, home, 1_120_001), guard.takes(next, home, 1_120_001)], [false, true])
})

test('§5.4.7: who has a cookie uses it for 115 s, five less than it is good for', () => {
  const cookie = new Uint8Array(16).fill(4)
  const { mac2 } = macOffsets(initiation())
  const has = (age: number) =>
    initiation(cookie, 1_000 + age, 1_000)
      .slice(mac2)
      .some((byte) => byte !== 0)
  assert.deepEqual([has(0), has(114_999), has(115_000)], [true, true, false])
})

/** When a further subflow is tried again where one failed (ADR 0300), to the millisecond. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { Connection } from '../../../src/mptcp/machine/connection.ts'
import { keyOf } from '../../../src/mptcp/machine/keys.ts'
import { forgetPauses, joinAt, type LossKind, pauseJoins } from '../../../src/mptcp/machine/pauses.ts'
import { OptionWriter, tupleKey } from '../../../src/mptcp/machine/segment.ts'
import { Subflow, type SubflowState } from '../../../src/mptcp/machine/subflow.ts'
import { DEFAULT_INIT, newCounts } from '../../../src/mptcp/machine/types.ts'

const NEVER = Number.NEGATIVE_INFINITY
const TUPLE = {
  ...{ local: Uint8Array.of(10, 1, 0, 2), localPort: 40_000 },
  ...{ remote: Uint8Array.of(10, 9, 0, 2), remotePort: 80 },
}

interface Loss {
  readonly began?: number
  readonly state?: SubflowState
  readonly access?: string | undefined
}

/** Pauses of one connection; chance is always the same word. */
class Pauses {
  readonly it: Connection
  #ids = 0

  constructor(word = 0x8000_0000) {
    const fill = (out: Uint8Array) => {
      new DataView(out.buffer).setUint32(0, word)
      return out
    }
    const host = {
      ...{ sha: nodeSha256, random: { fill }, init: DEFAULT_INIT, writer: new OptionWriter(), accesses: [] },
      ...{ counts: newCounts(), fast: undefined, spare: [], emit: () => {}, tell: () => {} },
    }
    const localKey = keyOf(nodeSha256, new Uint8Array(8).fill(7))
    this.it = new Connection({
      ...{ id: 0, host, tuple: TUPLE, key: tupleKey(TUPLE), role: 'client', localKey, tcpIsn: 5 },
      ...{ forwarded: false, inside: undefined, now: 0 },
    })
    this.it.state = 'established'
  }

  subflow({ began = 0, state = 'syn-sent', access = 'acc2' }: Loss, none = false): Subflow {
    const id = this.#ids++
    return new Subflow({
      ...{ id, tuple: TUPLE, key: tupleKey(TUPLE), addressId: id, access: none ? undefined : access, state },
      ...{ localIsn: 0, backup: false, now: began },
    })
  }

  /** A subflow ends; the answers are when the next join may begin beside others, and when while none works. */
  lose(kind: LossKind, now: number, loss: Loss = {}): readonly [at: number, alone: number] {
    pauseJoins(this.it, this.subflow(loss), kind, now)
    return this.at(loss.access)
  }

  at(access = 'acc2'): readonly [at: number, alone: number] {
    return [joinAt(this.it, access, false), joinAt(this.it, access, true)]
  }
}

test('ADR 0300: a pause of 2 s, of 10 s where nobody answered, doubles with each further failure up to 640 s', () => {
  for (const [kind, lengths] of [
    ['ended', [2, 4, 8, 16, 32, 64, 128, 256, 512, 640, 640]],
    ['gone', [2, 4, 8]],
    ['silent', [10, 20, 40, 80, 160, 320, 640, 640]],
  ] as const) {
    const pauses = new Pauses()
    let now = 1000
    for (const length of lengths) {
      assert.equal(pauses.lose(kind, now, { began: now })[0], now + 1000 * length, `${kind}, ${length}`)
      now += 1000 * length
    }
  }
  const both = new Pauses()
  assert.equal(both.lose('ended', 0)[0], 2000)
  assert.equal(both.lose('silent', 2000)[0], 12_000)
  assert.equal(both.lose('ended', 12_000)[0], 32_000)
  assert.deepEqual(both.at('acc1'), [NEVER, NEVER], 'another access has no pause')
})

test('ADR 0300: pauses are a quarter shorter or longer, at random', () => {
  assert.equal(new Pauses(0).lose('ended', 0)[0], 1500)
  assert.ok(Math.abs(new Pauses(0xffff_ffff).lose('ended', 0)[0] - 2500) < 0.01)
  assert.equal(new Pauses(0x4000_0000).lose('silent', 0)[0], 8750)
  const alone = new Pauses(0)
  alone.lose('ended', 0)
  assert.equal(alone.lose('ended', 5000)[1], 6500)
})

test('ADR 0300: a subflow that lasted 30 s was no failure; one that only began for so long was', () => {
  for (const [state, lasted, length] of [
    ['active', 30_000, 2000],
    ['closing', 30_000, 2000],
    ['active', 29_999, 8000],
    ['joined', 30_000, 8000],
  ] as const) {
    const pauses = new Pauses()
    pauses.lose('ended', 0)
    pauses.lose('ended', 5000)
    const now = 20_000 + lasted
    assert.equal(pauses.lose('ended', now, { began: 20_000, state })[0], now + length, `${state}, ${lasted}`)
  }
})

test('ADR 0300: while no subflow works a silent access is tried 2 s after its last join began', () => {
  for (const kind of ['silent', 'gone'] as const) {
    const pauses = new Pauses()
    for (const began of [0, 12_000, 50_000])
      assert.equal(pauses.lose(kind, began + 9000, { began })[1], began + 2000, `${kind}, ${began}`)
  }
})

test('ADR 0300: while no subflow works the first refusal costs no pause, and each further one twice the last', () => {
  for (const state of ['syn-sent', 'syn-received'] as const) {
    // The peer may have refused one that it began, too.
    const kind = state === 'syn-sent' ? 'ended' : 'silent'
    const pauses = new Pauses()
    assert.equal(pauses.lose(kind, 100_000, { began: 1000, state })[1], 3000)
    let now = 110_000
    for (const length of [2000, 4000, 8000]) {
      assert.equal(pauses.lose(kind, now, { began: now - 10, state })[1], now + length, `${state}, ${length}`)
      now += length
    }
  }
})

test('ADR 0300: what is refused beside a subflow that works may be taken alone: that pause does not grow', () => {
  const pauses = new Pauses()
  const other = pauses.subflow({ state: 'active', access: 'acc1' })
  pauses.it.subflows.push(other)
  for (const now of [0, 10_000, 20_000, 30_000]) pauses.lose('ended', now, { began: now })
  assert.deepEqual(pauses.at(), [46_000, 32_000])
  other.state = 'dead'
  assert.equal(pauses.lose('ended', 50_000, { began: 50_000 })[1], 52_000)
  assert.equal(pauses.lose('ended', 60_000, { began: 60_000 })[1], 64_000)
})

test('ADR 0300: a change of accesses ends a pause for silence, and one after a refusal where the access itself is new', () => {
  const pauses = new Pauses()
  pauses.lose('ended', 0, { access: 'acc1' })
  pauses.lose('silent', 0, { access: 'acc2' })
  pauses.lose('ended', 0, { access: 'acc3' })
  forgetPauses(pauses.it, (name) => name === 'acc3')
  assert.deepEqual(
    ['acc1', 'acc2', 'acc3'].map((name) => pauses.at(name)[0]),
    [2000, NEVER, NEVER],
  )
  forgetPauses(pauses.it, (name) => name === 'acc1')
  assert.deepEqual(pauses.at('acc1'), [NEVER, NEVER])
  forgetPauses(pauses.it, () => true)
})

test('ADR 0301: as both ends are done a lost way costs no pause, a refusal does; nor does a subflow of no access', () => {
  const pauses = new Pauses()
  pauses.it.state = 'closing'
  for (const kind of ['gone', 'silent'] as const) assert.deepEqual(pauses.lose(kind, 0), [NEVER, NEVER], kind)
  assert.equal(pauses.lose('ended', 0)[0], 2000)
  const none = new Pauses()
  pauseJoins(none.it, none.subflow({}, true), 'ended', 0)
  assert.equal(none.it.pauses, undefined)
})

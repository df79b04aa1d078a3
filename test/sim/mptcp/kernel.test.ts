/** Connections that the kernel takes and gives back (ADR 0230): its programs run here, instruction by instruction. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { leaveFast } from '../../../src/mptcp/machine/fast.ts'
import { eager, finishes, type Kinds, nothingLeft, randomRun } from './kernel-runs.ts'
import { Pair, type PairInit } from './network.ts'

const KERNELS = [['client'], ['server'], ['client', 'server']] as const
const BOTH = KERNELS[2]

function begin(init: Partial<PairInit>): Pair {
  const pair = new Pair({ seed: 1, bytes: [2_000_000, 2_000_000], kernel: BOTH, queue: 1, ...init })
  pair.client.tcp!.connect(0)
  return pair
}

for (const kernel of KERNELS)
  test(`issue 12, part 3: the bulk goes through the kernel of ${kernel.join(' and ')}, both ways, and the connection ends`, () => {
    const pair = begin({ kernel })
    finishes(pair, 'bulk')
    for (const name of kernel) {
      const { out, in: came } = pair[name].kernel!.counts
      assert.ok(out > 1000 && came > 1000, `${name}: ${out} sent, ${came} received`)
    }
  })

const RUNS: readonly (readonly [string, Kinds])[] = [
  ['loss, reordering and packets that come twice', {}],
  ['moves by hand, accesses that come, go and go silent, subflows that are removed', { moves: true }],
  ['programs that stop to read: windows shut, probed and opened', { stalls: true }],
  ['proxies that are killed, and taken over from', { kills: true }],
  ['all of it', { moves: true, stalls: true, kills: true }],
]

for (const [what, kinds] of RUNS)
  test(`issue 12, part 3: ${what}: every byte arrives once and in order, both ends close, nothing is left in any table`, () => {
    for (let seed = 1; seed <= 30; seed++) finishes(randomRun(seed, kinds), `seed ${seed}`)
  })

for (const [seed, kinds, what] of [
  [
    354,
    { moves: true, stalls: true, kills: true },
    'taken over when both ends are done, with no subflow that it can use',
  ],
  [319, { kills: true }, 'resets that answer what a subflow sends behind its FIN'],
  [302, { moves: true }, 'FINs that nobody answers, after long round trips'],
  [375, { moves: true }, 'no access left when both ends are done: the peer has to hear it'],
  [
    175,
    { moves: true, stalls: true, kills: true },
    'an answer to the SYN without MPTCP that comes after one with it',
  ],
] as const)
  test(`issue 12, part 3: what kept a connection from ending once: ${what}`, () => {
    finishes(randomRun(seed, kinds), `seed ${seed}`)
  })

test('issue 12, part 3: streams that end while the kernel takes them, at every place', () => {
  for (let n = 0; n < 40; n++) {
    const pair = begin({ seed: n, bytes: [20_000 + 997 * n, 61_000 - 1401 * n], queue: 3 })
    eager(pair)
    finishes(pair, `${n}`)
  }
})

for (const name of ['client', 'server'] as const)
  test(`issue 12, part 3: the program of the ${name} closes its connection at once, whatever its kernel does: the other end hears of it, and nothing is left`, () => {
    for (let at = 40; at < 900; at += 37) {
      const conditions = { loss: 0.01, jitter: 5 }
      const pair = begin({ seed: at, bytes: [9_000_000, 9_000_000], queue: 5, conditions })
      eager(pair)
      pair.at(at, () => pair[name].tcp!.abort())
      const other = name === 'client' ? pair.server : pair.client
      assert.ok(
        pair.run(() => other.tcp!.state === 'reset' || other.tcp!.state === 'closed'),
        `at ${at}: ${other.tcp!.state}`,
      )
      assert.equal(pair.problem, '')
      nothingLeft(pair, `at ${at}`)
    }
  })

test('a slot that a connection left is found by none of its packets: another connection may have it', () => {
  const pair = begin({})
  const [client] = [pair.client]
  pair.run(() => client.machine.connections[0]?.fast !== undefined)
  assert.deepEqual(client.kernel!.used, { slots: 1, tuples: 1 })
  leaveFast(client.machine.connections[0]!, pair.now)
  assert.deepEqual(client.kernel!.used, { slots: 0, tuples: 0 })
  finishes(pair, 'afterwards')
})

/** Random runs of connections that the kernels of both hosts, or of one, take and give back. */
import assert from 'node:assert/strict'
import { patience } from '../../../src/mptcp/machine/joins.ts'
import { STRANDED } from '../../../src/mptcp/machine/lifecycle.ts'
import { LINGER } from '../../../src/mptcp/machine/machine.ts'
import { type Host, Pair, type PairInit } from './network.ts'

const HOSTS = ['client', 'server'] as const

export interface Kinds {
  /** Accesses come and go, go silent, and data are moved by hand. */
  readonly moves?: boolean
  readonly kills?: boolean
  /** The programs stop to read, and go on. */
  readonly stalls?: boolean
}

/** What happens at random, the same for the same seed. `more`: in place of it. */
export function randomRun(seed: number, kinds: Kinds, more: Partial<PairInit> = {}): Pair {
  let state = seed
  const pick = (of: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 4294967296) * of)
  }
  pick(1)
  const kernel = [HOSTS, HOSTS, ['client'], ['server']][pick(4)] as PairInit['kernel']
  const bytes = () => [0, 100_000, 600_000, 1_000_000][pick(4)]!
  const pair = new Pair({
    seed,
    bytes: [bytes(), bytes() || 300_000],
    paths: 2 + pick(2),
    conditions: {
      delay: [1, 15, 40][pick(3)]!,
      loss: [0, 0.003, 0.02][pick(3)]!,
      jitter: [0, 2, 20][pick(3)]!,
      twice: [0, 0.01][pick(2)]!,
    },
    init: { standby: pick(3) !== 0 },
    keep: kinds.kills === true,
    queue: [0.1, 2, 30][pick(3)]!,
    tcp: { burst: [1, 4, 20][pick(3)]!, buffer: [1 << 20, 1 << 18][pick(2)]!, blocks: 3 + pick(2) },
    ...more,
    kernel: more.kernel ?? kernel!,
  })
  eager(pair)
  pair.client.tcp!.connect(0)
  const acts = actsOf(pair, kinds)
  const act = () => {
    acts[Math.floor(pair.random() * acts.length)]!()
    pair.at(pair.now + 20 + pair.random() * 200, () => pair.now < END && act())
  }
  if (acts.length > 0) pair.at(60, act)
  // In the end there is a network, and everybody reads.
  pair.calmAt = END + LONGEST_DEATH
  pair.at(END, () => {
    for (const each of pair.paths) each.works = true
    pair.setAccesses(new Set(pair.paths.keys()))
    for (const name of HOSTS) pair[name].tcp!.stall(false)
  })
  return pair
}

const END = 4000
/** How long (ms) at most a proxy that was killed is gone. */
export const LONGEST_DEATH = 1500

/** Connections go to the kernel as soon as they may, and again soon after they came back. */
export function eager(pair: Pair): void {
  for (const name of HOSTS) {
    const host = pair[name]
    if (host.kernel === undefined) continue
    const step = () => {
      if (!host.dead)
        for (const each of host.machine.connections)
          each.fastAfter = Math.min(each.fastAfter, 1000 + Math.floor(pair.random() * 30_000))
      if (!pair.over) pair.at(pair.now + 10, step)
    }
    step()
  }
}

function actsOf(pair: Pair, kinds: Kinds): (() => void)[] {
  const acts: (() => void)[] = []
  const some = () => Math.floor(pair.random() * pair.paths.length)
  const host = (): Host => pair[HOSTS[Math.floor(pair.random() * 2)]!]
  if (kinds.moves) {
    acts.push(() => {
      const path = some()
      const conditions = pair.paths[path]!
      conditions.works = !pair.usable.has(path)
      const others = [...pair.usable].filter((each) => each !== path)
      pair.setAccesses(new Set(conditions.works ? [...others, path] : others))
    })
    acts.push(() => {
      const conditions = pair.paths[some()]!
      conditions.works = !conditions.works
    })
    acts.push(() => {
      if (pair.client.dead) return
      pair.client.machine.handover(0, `acc${1 + some()}`, pair.now)
      pair.client.flush()
    })
    acts.push(() => {
      if (pair.client.dead) return
      const [connection] = pair.client.machine.connections
      const standby = connection?.subflows.find((each) => each.id > 0 && each.usable)
      if (standby !== undefined) pair.client.machine.removeSubflow(0, standby.id, pair.now)
      else pair.client.machine.addSubflow(0, `acc${1 + some()}`, pair.now)
      pair.client.flush()
    })
  }
  if (kinds.kills)
    acts.push(() => pair.killed(host() === pair.client ? 'client' : 'server', pair.random() * LONGEST_DEATH))
  if (kinds.stalls) {
    acts.push(() => host().tcp!.stall(true))
    acts.push(() => host().tcp!.stall(false))
  }
  return acts
}

/** Ends in order: every byte arrived once and in order, both ends closed, and nothing is left in any table. */
export function finishes(pair: Pair, what: string, limit = 200_000): void {
  const ok = pair.run(() => pair.done || pair.problem !== '', limit)
  assert.equal(pair.problem, '', what)
  const { client, server } = pair
  const where = () =>
    HOSTS.map((name) => {
      const { tcp, machine, kernel } = pair[name]
      const each = machine.connections[0]
      return `${name}: ${tcp!.state}, ${tcp!.acknowledged} acknowledged, ${tcp!.received} received, ${each?.state} ${JSON.stringify(each && { ...pickNumbers(each), subflows: each.subflows.map(({ id, state, next, una, high, acked, finSent, finReceived, retryAt, tries }) => ({ id, state, next, una, high, acked, finSent, finReceived, retryAt, tries })) })} ${JSON.stringify(kernel?.used)}`
    }).join('\n')
  assert.ok(ok, `${what} at ${pair.now.toFixed(0)}:\n${where()}`)
  assert.equal(pair.refused, false, what)
  nothingLeft(pair, what, where)
  for (const { machine } of [client, server]) {
    const { lies, unmapped } = machine.counts
    assert.deepEqual({ lies, unmapped }, { lies: 0, unmapped: 0 }, what)
  }
}

function pickNumbers(connection: object): Record<string, unknown> {
  const { sndMax, dataUna, tan, rcvMax, finLocal, finRemote, window, remoteWindow } = connection as Record<
    string,
    unknown
  >
  return { sndMax, dataUna, tan, rcvMax, finLocal, finRemote, window, remoteWindow }
}

/**
 * How long (ms) at most a connection is there whose both ends are done: the FIN of the last subflow goes out again and again, as often as
 * one may; then another subflow might come (P11), and what is late is answered.
 */
function longestEnd(pair: Pair): number {
  return Math.max(patience(0), patience(pair.longestRoundTrip)) + STRANDED + LINGER
}

export function nothingLeft(pair: Pair, what: string, where: () => string = () => ''): void {
  pair.run(() => false, Math.max(0, pair.calmAt - pair.now) + longestEnd(pair))
  pair.over = true
  for (const name of HOSTS) {
    const { machine, kernel } = pair[name]
    assert.equal(
      machine.connections.length,
      0,
      `${what}: a connection is left at the ${name} at ${pair.now.toFixed(0)}\n${where()}`,
    )
    if (kernel === undefined) continue
    assert.deepEqual(kernel.used, { slots: 0, tuples: 0 }, what)
    assert.equal(kernel.tuples, 0, what)
  }
}

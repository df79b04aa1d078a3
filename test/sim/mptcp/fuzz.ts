/**
 * Transfers over networks drawn by a seed: links of several kinds with NATs, and between them everything that may happen to a connection. What counts
 * is that every byte arrives as it was sent, that data flow within `STANDS` while a path and both proxies stand, and that nothing is left.
 */
import assert from 'node:assert/strict'
import { seeded } from '../../../lab/seeded.ts'
import { eager, LONGEST_DEATH, nothingLeft } from './kernel-runs.ts'
import { Nat } from './nat.ts'
import { type Host, Pair, type PathConditions } from './network.ts'
import { Trace } from './trace.ts'

const HOSTS = ['client', 'server'] as const
/** When nothing more happens (ms), and how long all may take in the end. */
const END = 6000
const LIMIT = 120_000
/** How long (ms) no data may flow while one path has stood: a pause before a join, a few timers of TCP that have doubled. */
export const STANDS = 20_000
/** How often (ms) that is looked at. */
const LOOK = 50

export const LINKS: Readonly<Record<string, Partial<PathConditions>>> = {
  wire: { delay: 1 },
  wifi: { delay: 4, jitter: 12, loss: 0.01, twice: 0.002, rate: 3000, queue: 60 },
  cellular: { delay: 30, jitter: 5, loss: 0.002, rate: 1000, queue: 300 },
  satellite: { delay: 280, jitter: 10, loss: 0.001, rate: 2500, queue: 200 },
  bad: { delay: 60, jitter: 80, loss: 0.05, twice: 0.02, rate: 200, queue: 400 },
}

export interface Run {
  readonly pair: Pair
  /** The longest time (ms) without data, while one path stood. */
  readonly longest: () => number
}

export interface Kinds {
  /** What paths are drawn from. */
  readonly links?: readonly string[]
  /** Packet rules are removed, and come back: what goes wrong then a kernel keeps from happening (ADR 0381). */
  readonly flushes?: boolean
  /** The server takes what comes on a subflow in order, as a native peer does. */
  readonly inOrder?: boolean
}

export function fuzzRun(
  seed: number,
  { links = Object.keys(LINKS), flushes = false, inOrder = false }: Kinds = {},
): Run {
  const random = seeded(seed ^ 0x5eed)
  const pick = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)]!
  const kernel = flushes || inOrder ? [] : pick([[], [], ['client'], ['server'], HOSTS] as const)
  const sack = kernel.length > 0 || random() < 0.7
  const size = () => pick([0, 30, 20_000, 300_000, 1_000_000])
  const multipath = random() < 0.2
  const pair = new Pair({
    seed,
    ...{ sack, inOrder },
    bytes: [size(), size() || 100_000],
    paths: 2 + Math.floor(random() * 2),
    init: { standby: random() < 0.7, multipath },
    backups: random() < 0.2 ? [pick([0, 1])] : [],
    takesOptions: true,
    keep: random() < 0.6,
    queue: pick([0.1, 2, 30]),
    tcp: { burst: kernel.length > 0 ? pick([1, 4, 20]) : 1, buffer: pick([1 << 20, 1 << 18]), blocks: 3 },
    ...(kernel.length > 0 && { kernel }),
  })
  // What is sent while nothing works has its place all the same; after a fallback a TCP may believe that its FIN passed.
  pair.observer.overtakes = true
  pair.observer.looksAway = flushes || pair.client.memory !== undefined
  pair.installing = pick([0, 0, 20, 700])
  for (const path of pair.paths) {
    Object.assign(path, LINKS[pick(links)])
    if (random() < 0.5) path.nat = new Nat(random)
  }
  if (kernel.length > 0) eager(pair)
  pair.client.tcp!.connect(0)
  const forgotten = new Set<number>()
  const acts = actsOf(pair, flushes, forgotten, random)
  const gap = pick([60, 250, 800])
  const act = () => {
    if (pair.now >= END) return
    pick(acts)()
    pair.at(pair.now + 10 + random() * 2 * gap, act)
  }
  pair.at(random() * 400, act)
  pair.calmAt = END + LONGEST_DEATH + pair.installing
  pair.at(END, () => {
    for (const each of pair.paths) each.works = true
    for (const name of HOSTS) {
      pair[name].tcp!.stall(false)
      pair[name].flushed = false
    }
    pair.setAccesses(new Set(pair.paths.keys()))
    // A client that has nothing to say does not hear that a NAT forgot its subflows: by hand it gets others.
    pair.at(END + 10, () => {
      for (const path of forgotten) pair.client.machine.addSubflow(0, `acc${path + 1}`, pair.now)
      pair.client.flush()
      forgotten.clear()
    })
  })
  return { pair, longest: watch(pair, forgotten) }
}

function actsOf(pair: Pair, flushes: boolean, forgotten: Set<number>, random: () => number): (() => void)[] {
  const some = () => Math.floor(random() * pair.paths.length)
  const name = () => HOSTS[Math.floor(random() * 2)]!
  // One that stayed plain TCP ends with its path.
  const isTranslated = () =>
    HOSTS.every((each) => {
      const [connection] = pair[each].machine.connections
      return connection?.state === 'established' || connection?.state === 'closing'
    })
  const machineOf = (host: Host) => (host.dead || host.flushed ? undefined : host.machine)
  const note = (text: string) => pair.trace?.note(pair.now, text)
  const acts = [
    () => {
      if (!isTranslated()) return
      const path = some()
      const conditions = pair.paths[path]!
      conditions.works = !pair.usable.has(path)
      const others = [...pair.usable].filter((each) => each !== path)
      pair.setAccesses(new Set(conditions.works ? [...others, path] : others))
    },
    () => {
      if (!isTranslated()) return
      const path = some()
      const conditions = pair.paths[path]!
      conditions.works = !conditions.works
      note(`path ${path + 1} ${conditions.works ? 'speaks' : 'is silent'}`)
    },
    () => {
      machineOf(pair.client)?.handover(0, `acc${1 + some()}`, pair.now)
      pair.client.flush()
    },
    () => {
      const machine = machineOf(pair.client)
      const standby = machine?.connections[0]?.subflows.find((each) => each.id > 0 && each.usable)
      if (standby !== undefined) machine!.removeSubflow(0, standby.id, pair.now)
      else machine?.addSubflow(0, `acc${1 + some()}`, pair.now)
      pair.client.flush()
    },
    () => {
      if (!isTranslated()) return
      const path = some()
      if (pair.paths[path]!.nat === undefined) return
      note(`the NAT of path ${path + 1} is restarted`)
      pair.paths[path]!.nat.restart()
      forgotten.add(path)
      // New ports may be old ones of other subflows.
      pair.observer.looksAway = true
    },
    () => {
      const host = name()
      const on = random() < 0.5
      note(`the program of the ${host} ${on ? 'stops to read' : 'reads'}`)
      pair[host].tcp!.stall(on)
    },
  ]
  if (pair.client.memory !== undefined)
    acts.push(() =>
      pair.killed(pair.server.inOrder === undefined ? name() : 'client', random() * LONGEST_DEATH),
    )
  if (flushes)
    acts.push(() => {
      const host = pair[name()]
      if (host.dead || host.flushed) return
      note('rules flushed')
      host.flushed = true
      pair.at(pair.now + random() * 100, () => {
        note('rules are back')
        host.flushed = false
        host.flush()
      })
    })
  return acts
}

/** Notes how long no data came while a path stood. */
function watch(pair: Pair, forgotten: ReadonlySet<number>): () => number {
  let longest = 0
  let before = -1
  let since = 0
  const up = new Map<PathConditions, number>()
  const look = () => {
    const stands = HOSTS.every((name) => {
      const { dead, flushed, tcp } = pair[name]
      return !dead && !flushed && !tcp!.stalled
    })
    pair.paths.forEach((path, i) => {
      if (!stands || !path.works || forgotten.has(i) || !pair.usable.has(i)) up.delete(path)
      else if (!up.has(path)) up.set(path, pair.now)
    })
    const sum = HOSTS.reduce((all, name) => all + pair[name].tcp!.received + pair[name].tcp!.acknowledged, 0)
    if (sum !== before || pair.done) since = pair.now
    before = sum
    const stood = Math.min(...up.values())
    longest = Math.max(longest, pair.now - Math.max(since, stood))
    if (!pair.over && !pair.done) pair.at(pair.now + LOOK, look)
  }
  look()
  return () => longest
}

/** It ends as it should; otherwise the error has the newest packets. */
export function survives(seed: number, kinds?: Kinds): Run {
  try {
    return check(seed, fuzzRun(seed, kinds))
  } catch (error) {
    const again = fuzzRun(seed, kinds)
    const trace = new Trace()
    again.pair.trace = trace
    assert.throws(() => check(seed, again))
    throw new Error(`${(error as Error).message}\n${trace}`)
  }
}

function check(seed: number, run: Run): Run {
  const { pair, longest } = run
  const late = () => longest() > STANDS
  const ok = pair.run(() => pair.done || pair.problem !== '' || late(), LIMIT)
  const where = HOSTS.map((name) => {
    const { tcp, machine } = pair[name]
    return `${name}: ${tcp!.state}, ${tcp!.acknowledged} acknowledged, ${tcp!.received} received, ${machine.connections[0]?.state}`
  }).join('; ')
  const what = `seed ${seed} at ${pair.now.toFixed(0)}: ${where}`
  assert.equal(pair.problem, '', `${what}: ${pair.problem}`)
  assert.ok(!late(), `${what}: no data for ${longest().toFixed(0)} ms while a path stood`)
  assert.ok(ok, what)
  assert.equal(pair.refused, false, what)
  nothingLeft(pair, what)
  return run
}

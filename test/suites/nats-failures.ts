/**
 * One run of three coordinators over a cluster of three servers of NATS: nodes move between them under load, while a server is killed, stopped
 * or all of them are. Afterwards every look-up of every coordinator names the one that has the node; before, none may hang.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { realRandom } from '../../src/linux/clock.ts'
import { Fellows } from '../../src/overlay/machine/fellows.ts'
import { overlayCrypto } from '../../src/overlay/node/crypto.ts'
import { SoftBus } from '../../src/overlay/servers/soft/bus.ts'
import { clusterHere, isListening, type NatsServer } from '../support/nats.ts'
import { until } from '../support/postgres.ts'

const delay = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
const NODES = 60
const NAMES = ['a', 'b', 'c'] as const

/** A coordinator as far as this is concerned: which nodes it has, and since when. */
class Member {
  readonly fellows: Fellows
  readonly nodes = new Map<string, number>()
  readonly #bus: SoftBus
  readonly #timer: NodeJS.Timeout
  failed: string | undefined

  constructor(name: string, first: number) {
    this.fellows = new Fellows({
      ...{ crypto: overlayCrypto, random: realRandom, wall: () => Date.now() },
      ...{ secret: new Uint8Array(32).fill(7), name },
      emit: (output) => this.#bus.post(output),
      locatedAt: (node) => this.nodes.get(node),
      nodes: () => this.nodes.size,
      onMoved: (node) => this.nodes.delete(node),
      ...{ onAsked: () => {}, log: () => {} },
    })
    const url = `nats://${[1, 2, 3].map((n) => `127.0.0.1:${first + n}`).join()}`
    const settings = { url, name, host: 'x', addresses: ['127.0.0.1'], tls: 'off' as const, replicas: 3 }
    this.#bus = new SoftBus(
      { settings, zone: 'long.example' },
      {
        onInput: (input) => this.fellows.handle(input, performance.now()),
        log: (_level, message) => {
          if (/has ended/.test(message)) this.failed = message
        },
      },
    )
    this.#timer = setInterval(() => {
      const now = performance.now()
      if (this.fellows.nextTimeout() <= now) this.fellows.handleTimeout(now)
    }, 5)
  }

  take(node: string, at: number): void {
    this.nodes.set(node, at)
    this.fellows.located(node, true, performance.now())
  }

  seek(node: string, anew = false): Promise<string | undefined> {
    return new Promise((resolve) => {
      this.fellows.seek(node, node, (id) => resolve(id), performance.now(), anew)
    })
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    await this.#bus.stop()
  }
}

export const FAULTS = [
  'one killed and started',
  'one stopped for a while',
  'two killed and started',
  'all killed and started',
  'all stopped for a while',
  'bucket lost',
] as const
export type Fault = (typeof FAULTS)[number]

export interface NatsResult {
  readonly moves: number
  readonly lookUps: number
  /** From the end of the fault until every look-up was right (ms). */
  readonly healed: number
}

/** Servers and coordinators of several runs. */
export class NatsBed {
  readonly folder = mkdtempSync(join(tmpdir(), 'godwit-nats-'))
  readonly servers: readonly NatsServer[]
  readonly members: Member[] = []
  readonly #first: number

  constructor(first = 24_220) {
    this.#first = first
    this.servers = clusterHere(this.folder, first)
  }

  async start(): Promise<void> {
    for (const server of this.servers) await server.start()
    for (const { place } of this.servers) await isListening(place)
    for (const name of NAMES) this.members.push(new Member(name, this.#first))
    await until(() => this.members.every(({ fellows }) => fellows.counts.fellows === 2), 'all are there')
  }

  async end(): Promise<void> {
    for (const member of this.members) await member.stop()
    for (const server of this.servers) await server.kill()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

export async function runWithNatsFault(bed: NatsBed, fault: Fault, seed: number): Promise<NatsResult> {
  let state = seed >>> 0
  const random = (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  const { members, servers } = bed
  const at = new Map<string, Member>()
  let moves = 0
  let lookUps = 0
  let last = 0
  const move = () => {
    const node = `n${random(NODES)}.long.example`
    const to = members[random(members.length)]!
    if (to.nodes.has(node)) return
    moves++
    // As a node does: it is at the new one from now on; the one before learns it from the bus.
    at.set(node, to)
    // No node is at two places at one moment.
    last = Math.max(last + 1, Date.now())
    to.take(node, last)
  }
  let isLoaded = true
  let longest = 0
  const load = async () => {
    while (isLoaded) {
      move()
      const node = [...at.keys()][random(at.size)]
      const asker = members[random(members.length)]!
      const since = performance.now()
      lookUps++
      if (node !== undefined && !asker.nodes.has(node)) await asker.seek(node)
      longest = Math.max(longest, performance.now() - since)
      await delay(random(20))
    }
  }
  const loads = [load(), load(), load()]
  await delay(200 + random(300))
  const victim = servers[random(servers.length)]!
  const others = servers.filter((server) => server !== victim)
  const struck = fault.startsWith('all') ? servers : fault.startsWith('two') ? others : [victim]
  if (fault === 'bucket lost') await loseBucket(bed)
  else if (fault.includes('killed')) {
    for (const server of struck) await server.kill()
    await delay(random(1500))
    for (const server of struck) await server.start()
  } else {
    for (const server of struck) server.signal('SIGSTOP')
    await delay(500 + random(6000))
    for (const server of struck) server.signal('SIGCONT')
  }
  const since = performance.now()
  await delay(random(1000))
  isLoaded = false
  await Promise.all(loads)
  assert.ok(longest < 5000, `a look-up took ${Math.round(longest)} ms`)
  let wrong = ''
  const isRight = async () => {
    for (const [node, owner] of at)
      for (const asker of members) {
        if (asker === owner) {
          if (!owner.nodes.has(node)) {
            wrong = `${node} has left its coordinator`
            return false
          }
          continue
        }
        let found = asker.nodes.has(node) ? 'itself' : await asker.seek(node)
        // As a coordinator: whoever is named and does not have it says so, and all are asked.
        const named = members.find(({ fellows }) => fellows.id === found)
        if (named !== undefined && !named.nodes.has(node)) found = await asker.seek(node, true)
        if (found === owner.fellows.id) continue
        wrong = `${node} is found at ${found}`
        return false
      }
    return true
  }
  for (let right = false; !right; ) {
    right = members.every(({ fellows }) => fellows.counts.fellows === 2) && (await isRight())
    if (right) break
    if (performance.now() - since > 60_000) assert.fail(`${fault}, seed ${seed}: ${wrong}`)
    await delay(100)
  }
  for (const { failed } of members) assert.equal(failed, undefined)
  return { moves, lookUps, healed: Math.round(performance.now() - since) }
}

/** An operator has removed it, or a cluster has lost it. */
async function loseBucket(bed: NatsBed): Promise<void> {
  const { natsClient } = await import('../../src/overlay/servers/soft/client.ts')
  const { address, port } = bed.servers[0]!.place
  const connection = (await natsClient().connect({ servers: [`${address}:${port}`] })) as unknown as {
    request(subject: string, data: string): Promise<unknown>
    close(): Promise<void>
  }
  await connection.request('$JS.API.STREAM.DELETE.KV_godwit-long_example', '').catch(() => {})
  await connection.close()
}

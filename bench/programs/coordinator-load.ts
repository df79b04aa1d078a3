/**
 * One coordinator of a zone under load, without its socket, and the nodes that load it. Its argument is JSON (`LoadInit`); each line of its input is a
 * phase, answered by one line of JSON (`Measured`). What nodes do is not in `ms`, but for `across`: there it is time on the clock. `cpu` is time on all
 * processors while the coordinator worked, with the collection of garbage.
 *
 *   nodes      logs in all nodes of the zone (of one coordinator; the others read them)
 *   register   sessions, registrations and leases, in batches of 128, each a commit
 *   look       AAAA of nodes of the zone, as its name server answers it
 *   build      directions to both nodes of pairs that are here, acknowledged
 *   across     the same of pairs whose other node the other coordinator has; or to end of nodes here: {"count"} 0
 *   fellows    resolves when another coordinator is there
 *   grow N     registers nodes until there are N; what is measured is the next 5,000 (with `bytes`: memory per node, `mean`: of those before)
 *   again      registrations of those 5,000 once more, in their sessions
 */
import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { encode } from 'dns-packet'
import type { Endpoint } from '../../src/core/endpoint.ts'
import { signingPublicKey } from '../../src/crypto/keys.ts'
import { nodeCrypto } from '../../src/crypto/node-crypto.ts'
import { withShortHashes } from '../../src/crypto/openssl-hash.ts'
import { pooledRandom, RealClock, realRandom } from '../../src/linux/clock.ts'
import { Asker } from '../../src/overlay/machine/asker.ts'
import { Coordinator } from '../../src/overlay/machine/coordinator.ts'
import type { SoftInput, SoftOutput } from '../../src/overlay/machine/fellows.ts'
import { overlayCrypto } from '../../src/overlay/node/crypto.ts'
import { virtualAddresses } from '../../src/overlay/servers/servers.ts'
import { SoftBus } from '../../src/overlay/servers/soft/bus.ts'
import type { SoftSettings } from '../../src/overlay/servers/soft/settings.ts'
import { answerQuery } from '../../src/overlay/servers/zone.ts'
import { Store, type StoreInit } from '../../src/overlay/store/store.ts'
import { datagramCodec } from '../../src/overlay/wire/datagram.ts'
import { LEAST_DIRECTION, Status, Type } from '../../src/overlay/wire/message.ts'

export interface LoadInit {
  readonly zone: string
  readonly store: StoreInit
  readonly soft?: SoftSettings
  /** Nodes here: from `first` on. */
  readonly first: number
  readonly count: number
  /** Nodes of the zone. */
  readonly all: number
}

export interface Measured {
  readonly count: number
  /** In the coordinator. */
  readonly ms: number
  readonly cpu: number
  readonly bytes?: number
  /** CPU time of a registration in the mean of all that `grow` did before those it measures (ms). */
  readonly mean?: number
}

const BATCH = 128
const SAMPLE = 5000
/** Directions across that are under way. */
const UNDER_WAY = 256
const ACROSS_MS = 60_000
/** Between two looks at what nodes repeat (ms). */
const REPEAT_MS = 100

const init = JSON.parse(process.argv[2]!) as LoadInit
const { zone, first, count, all } = init
const clock = new RealClock()
const crypto = withShortHashes(overlayCrypto)
const parts = { crypto, random: realRandom, wall: () => clock.wall() }
const store = new Store(init.store)
const seed = new Uint8Array(32).fill(5)
const coordinatorKey = new Uint8Array(32).fill(9)
const machine = new Coordinator({ ...parts, random: pooledRandom() }, store, {
  ...{ zone, zoneSeed: seed, zoneKey: signingPublicKey(seed), coordinatorKey },
  prefix6: Uint8Array.of(0xfd, 0x67, 1, 2, 3, 4, 0, 1),
  block4: { address: Uint8Array.of(100, 64, 0, 0), length: 10 },
  ...{ relays: false, openTo: 'zone' },
  ...(init.soft !== undefined && { fellow: init.soft.name }),
})

const nameOf = (i: number) => `n${i}.${zone}`
const bytesOf = (what: string, i: number, size: number) =>
  new Uint8Array(createHash('sha256').update(`${what} ${i}`).digest().subarray(0, size))
const placeOf = (i: number): Endpoint => ({
  address: Uint8Array.of(10, (i >> 16) & 255, (i >> 8) & 255, i & 255),
  port: 5000,
})
const indexOf = ({ address }: Endpoint) => (address[1]! << 16) | (address[2]! << 8) | address[3]!
setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void
const own = Array.from({ length: count }, (_, n) => first + n)

interface Node {
  readonly asker: Asker
  /** Called with the peer of each direction. */
  onDirection: (() => void) | undefined
}
const nodes = new Map<number, Node>()
/** What nodes have sent and the coordinator has not handled. */
const inbox: { readonly from: number; readonly bytes: Uint8Array }[] = []
/** What the coordinator has sent and nodes have not handled. */
let outbox: { readonly to: number; readonly bytes: Uint8Array }[] = []
let spent = 0
let spentCpu = 0
let bus: SoftBus | undefined
let soft: SoftInput[] = []
const serverAt = { socket: 0, to: { address: Uint8Array.of(192, 0, 2, 1), port: 6741 } }

/** Time in the coordinator: what it is asked, the commit, and its answers. */
function serve(handle: (now: number) => void): void {
  const begun = performance.now()
  const cpu = process.cpuUsage()
  store.beginTurn()
  handle(clock.now())
  const isKept = commit()
  for (let output = machine.poll(); output !== undefined; output = machine.poll())
    // What was not kept is not answered: nodes ask again.
    if (output.type === 'send' && isKept) outbox.push({ to: indexOf(output.to), bytes: output.bytes })
    else if (output.type.startsWith('soft-') && (isKept || output.type !== 'soft-tell'))
      bus?.post(output as SoftOutput)
  spent += performance.now() - begun
  const { user, system } = process.cpuUsage(cpu)
  spentCpu += (user + system) / 1000
}

/** False: the other coordinator was faster. */
function commit(): boolean {
  try {
    store.commit()
    return true
  } catch (error) {
    if ((error as { readonly op?: unknown }).op !== 'behind') throw error
    return false
  }
}

/** One batch of what nodes have sent, and all that the bus has brought. */
function serveSome(): void {
  const batch = inbox.splice(0, BATCH)
  const brought = soft
  soft = []
  const due = machine.nextTimeout()
  if (batch.length === 0 && brought.length === 0 && (due === undefined || due > clock.now())) return
  serve((now) => {
    for (const input of brought) machine.handleSoft(input, now)
    for (const { from, bytes } of batch) machine.handleDatagram(bytes, placeOf(from), 0, now)
    if ((machine.nextTimeout() ?? Number.POSITIVE_INFINITY) <= now) machine.handleTimeout(now)
  })
}

function deliver(): void {
  const sent = outbox
  outbox = []
  for (const { to, bytes } of sent) {
    const datagram = datagramCodec.decode(bytes)
    if (datagram.ok) nodes.get(to)?.asker.handle(datagram.value, serverAt, clock.now())
  }
}

function makeNode(i: number): Node {
  const node: Node = {
    asker: new Asker({
      ...parts,
      identity: { type: 'key', id: bytesOf('id', i, 16) },
      key: bytesOf('key', i, 32),
      send: (bytes) => inbox.push({ from: i, bytes: bytes.slice() }),
      onMessage: ({ type, transaction }, way) => {
        if (type !== Type.ROUTE_DIRECTION) return
        node.asker.tell({ type: Type.ROUTE_DIRECTION_ACK, transaction, status: Status.DONE }, way)
        node.onDirection?.()
      },
      ...{ onOpened: () => {}, onSilence: () => {} },
    }),
    onDirection: undefined,
  }
  nodes.set(i, node)
  node.asker.setWays([serverAt], clock.now())
  return node
}

let repeatedAt = 0

/** Nodes ask again, as they do. */
function repeat(): void {
  const now = clock.now()
  if (now < repeatedAt + REPEAT_MS) return
  repeatedAt = now
  for (const { asker } of nodes.values())
    if ((asker.nextTimeout() ?? Number.POSITIVE_INFINITY) <= now) asker.handleTimeout(now)
}

/** Rounds of the coordinator, and of nodes, until `isDone`. */
async function until(isDone: () => boolean, ms: number): Promise<void> {
  for (const end = Date.now() + ms; !isDone(); ) {
    if (Date.now() > end) throw new Error('not in time')
    serveSome()
    deliver()
    repeat()
    await turn()
  }
}

async function logIn(from: number, to: number): Promise<number> {
  const hidden = { salt: new Uint8Array(16), hash: new Uint8Array(32), disabled: false }
  for (let i = from; i < to; i++) {
    const account = `account${i}`
    store.putAccount({ name: account, ...hidden })
    const keys = {
      publicKey: bytesOf('public', i, 32),
      keyId: bytesOf('id', i, 16),
      key: bytesOf('key', i, 32),
    }
    store.putNode({ name: nameOf(i), account, ...keys })
    if (i % 1000 === 999) store.commit()
  }
  store.commit()
  return to - from
}

/** `keeps`: these nodes go on. */
async function register(from: number, to: number, keeps = true): Promise<number> {
  store.refresh()
  let done = 0
  let begun = from
  const begin = (i: number) =>
    (nodes.get(i) ?? makeNode(i)).asker.request(
      { type: Type.REGISTRATION_REQUEST, candidates: [], padding: 300 },
      600_000,
      (answer) => {
        if (answer?.status !== Status.DONE) return
        done++
        if (!keeps) nodes.delete(i)
      },
      clock.now(),
    )
  await until(
    () => {
      while (begun < to && begun - from - done < 2 * BATCH) begin(begun++)
      return done === to - from
    },
    300_000 + (to - from),
  )
  return to - from
}

let grown = 0
let empty = 0

/** Bytes in use, on the heap and beside it. */
async function used(): Promise<number> {
  await delay(0)
  collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

async function grow(size: number): Promise<Measured> {
  if (size < grown) throw new Error(`sizes have to be more than ${SAMPLE} apart`)
  if (grown === 0) empty = await used()
  nodes.clear()
  await logIn(grown, size + SAMPLE)
  spentCpu = 0
  await register(grown, size, false)
  const mean = spentCpu / (size - grown)
  grown = size + SAMPLE
  const bytes = ((await used()) - empty) / size
  spent = spentCpu = 0
  const registered = await register(size, grown)
  return { count: registered, ms: spent, cpu: spentCpu, bytes, mean }
}

function look(): number {
  const data = {
    ...{ zone, addresses: [serverAt.to.address], port: 6741, serial: 1 },
    ...{ coordinatorKey: nodeCrypto.publicKey(coordinatorKey), zoneKey: signingPublicKey(seed) },
    nodeOf: (name: string) => {
      store.refresh()
      return virtualAddresses(store, name)
    },
  }
  const queries = own.map((_, n) => {
    const name = nameOf((n * 7919) % all)
    return new Uint8Array(encode({ type: 'query', id: 1, questions: [{ type: 'AAAA', name }] }))
  })
  const begun = performance.now()
  const cpu = process.cpuUsage()
  for (const query of queries) {
    const answer = answerQuery(query, data, 'tcp')
    if (answer === undefined || answer[7] === 0) throw new Error('no address')
  }
  spent += performance.now() - begun
  const { user, system } = process.cpuUsage(cpu)
  spentCpu += (user + system) / 1000
  return queries.length
}

async function build(peerOf: (i: number) => number, from: readonly number[], most: number): Promise<number> {
  let done = 0
  let begun = 0
  const begin = (i: number) => {
    const node = nodes.get(i)!
    node.onDirection = () => {
      node.onDirection = undefined
      done++
    }
    node.asker.request(
      { type: Type.DIRECTION_REQUEST, name: nameOf(peerOf(i)), padding: LEAST_DIRECTION },
      600_000,
      () => {},
      clock.now(),
    )
    // Its answer is the direction.
    node.asker.drop(({ type }) => type === Type.DIRECTION_REQUEST)
  }
  await until(() => {
    while (begun < from.length && begun - done < most) begin(from[begun++]!)
    return done === from.length
  }, ACROSS_MS)
  // The last acknowledgements.
  await until(() => inbox.length === 0 && machine.counts.directing === 0, ACROSS_MS)
  return done
}

const half = own.slice(0, Math.floor(count / 2))
let isServing = false

async function phase(line: string): Promise<Measured> {
  const [name, size] = line.split(' ')
  spent = spentCpu = 0
  const measured = (n: number) => ({ count: n, ms: spent, cpu: spentCpu })
  switch (name) {
    case 'nodes':
      return { ...measured(await logIn(0, all)), ms: 0 }
    case 'register':
      return measured(await register(first, first + count))
    case 'look': {
      // What another coordinator has written shows within a second.
      for (const end = Date.now() + 2000; Date.now() < end; await delay(100)) store.refresh()
      spent = spentCpu = 0
      return measured(look())
    }
    case 'build':
      return measured(await build((i) => i + half.length, half, 2 * BATCH))
    case 'across': {
      const begun = performance.now()
      const built = await build((i) => (i + count) % all, half, UNDER_WAY)
      return { count: built, ms: performance.now() - begun, cpu: spentCpu }
    }
    case 'fellows':
      await until(() => (machine.counts.fellows ?? 0) > 0, 30_000)
      return { count: 1, ms: 0, cpu: 0 }
    case 'grow':
      return await grow(Number(size))
    case 'again':
      return measured(await register(grown - SAMPLE, grown))
    default:
      throw new Error(line)
  }
}

if (init.soft !== undefined)
  bus = new SoftBus(
    { settings: init.soft, zone },
    { onInput: (input) => soft.push(input), log: (_level, message) => process.stderr.write(`${message}\n`) },
  )

/** Between phases others are served. */
async function idle(): Promise<void> {
  for (;;) {
    if (!isServing) {
      serveSome()
      deliver()
      repeat()
    }
    if (inbox.length + soft.length === 0) await delay(1)
    else await turn()
  }
}
void idle()

for await (const line of createInterface({ input: process.stdin })) {
  isServing = true
  const result = await phase(line.trim())
  isServing = false
  process.stdout.write(`${JSON.stringify(result)}\n`)
}
await bus?.stop()
store.close()
process.exit(0)

/** The main thread's side of a tunnel, against an engine that the test plays. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { GodwitError } from '../../../src/core/errors.ts'
import type {
  AddPeer,
  CommonEvent,
  EngineSetup,
  MobileCommand,
  PathReport,
  Question,
  RemovePeer,
  SocketSetup,
  StatusEvent,
} from '../../../src/tunnel/engine/events.ts'
import { narrowestMtu, SteadyMtu, widestMtu } from '../../../src/tunnel/engine/inner-mtu.ts'
import { answer, failed } from '../../../src/tunnel/engine/outcome.ts'
import { isUsable } from '../../../src/tunnel/engine/reports.ts'
import { type AccessSource, TunnelHost } from '../../../src/tunnel/engine/tunnel-host.ts'
import { FakeEngine, recorderTo } from '../../support/fake-engine.ts'

type Command =
  | AddPeer<{ readonly name: string }>
  | RemovePeer
  | MobileCommand<SocketSetup>
  | ({ readonly type: 'count'; readonly what: string } & Question)
type Event = CommonEvent<StatusEvent> | { readonly type: 'special'; readonly value: number }
interface Answers {
  readonly count: number
}

function path(changes: Partial<PathReport> = {}): PathReport {
  return {
    peer: 'far',
    id: 1,
    access: 'wlan0',
    remote: '192.0.2.7:51820',
    state: 'up',
    rttMs: 20,
    loss: 0,
    mtu: 1500,
    sentBytes: 0,
    receivedBytes: 0,
    lastReceivedAt: 0,
    ...changes,
  }
}

const status = (...paths: PathReport[]): StatusEvent => ({ type: 'status', paths, counters: {} })

async function bench(floor?: number) {
  const engine = new FakeEngine()
  const lines: string[] = []
  const specials: number[] = []
  const mtus: number[] = []
  const floors: number[] = []
  const host = new TunnelHost<EngineSetup, Command, Event, StatusEvent, Answers>(
    {
      recorder: recorderTo(lines),
      endpoints: { get: () => [], set: () => {} },
      names: { resolve: async () => ({ addresses: [], synthesised: [], validMs: 0 }) },
      timestamp: { get: () => floor, set: (value) => floors.push(value) },
      startEngine: engine.start,
    },
    {
      entry: new URL('file:///engine.js'),
      setup: { device: 'gw0', mtu: 1400, privateKey: new Uint8Array(32) },
      onEvent: (event) => specials.push(event.value),
      works: ({ paths }) => paths.some(({ state }) => isUsable(state)),
      mtu: { of: narrowestMtu, set: (mtu) => mtus.push(mtu) },
    },
  )
  await host.start()
  return { host, engine, lines, specials, mtus, floors }
}

test('the engine is started with the timestamp of the last run, and its newest is kept', async () => {
  const first = await bench()
  assert.deepEqual(Object.keys(first.engine.setup as object), ['device', 'mtu', 'privateKey'])
  first.engine.emit({ type: 'timestamp', floor: 17 })
  assert.deepEqual(first.floors, [17])
  const second = await bench(17)
  assert.equal((second.engine.setup as EngineSetup).timestampFloor, 17)
})

test('log lines are recorded; the mechanism gets its own events and no others', async () => {
  const { engine, lines, specials } = await bench()
  engine.emit({ type: 'log', level: 'warn', message: 'rain' })
  engine.emit({ type: 'special', value: 3 })
  engine.emit(status(path()))
  assert.deepEqual(lines, ['warn rain'])
  assert.deepEqual(specials, [3])
})

test('a question is answered by its number, with a value or with the failure and its hint', async () => {
  const { host, engine } = await bench()
  const [one, two] = [host.ask('count', { what: 'a' }), host.ask('count', { what: 'b' })]
  assert.deepEqual(engine.commands, [
    { type: 'count', request: 1, what: 'a' },
    { type: 'count', request: 2, what: 'b' },
  ])
  engine.emit({ type: 'answer', request: 2, outcome: failed('ACCESS_DOWN', 'it is down', 'look') })
  engine.emit({ type: 'answer', request: 1, outcome: answer(41) })
  assert.equal(await one, 41)
  await assert.rejects(two, { name: 'GodwitError', code: 'ACCESS_DOWN', message: 'it is down', hint: 'look' })
})

test('peers come and go: a literal endpoint is told at once, a peer that is gone no more', async () => {
  const { host, engine } = await bench()
  host.addPeer({ name: 'far' }, [{ host: '192.0.2.7', port: 51820 }])
  host.addPeer({ name: 'silent' })
  host.removePeer('far')
  assert.deepEqual(engine.commands, [
    { type: 'add-peer', peer: { name: 'far' } },
    {
      type: 'remotes',
      name: 'far',
      remotes: [{ address: Uint8Array.of(192, 0, 2, 7), port: 51820 }],
    },
    { type: 'add-peer', peer: { name: 'silent' } },
    { type: 'remove-peer', name: 'far' },
  ])
})

test('accesses are told as they change, those without a setup never; a gone one once', async () => {
  const { host, engine } = await bench()
  let listener: Parameters<AccessSource['subscribe']>[0] = () => {}
  let ended = 0
  const source: AccessSource = {
    subscribe: (given) => {
      listener = given
      return () => ended++
    },
    accesses: () => [{ name: 'wlan0' }, { name: 'docker0' }],
  }
  let known = true
  host.followAccesses<SocketSetup>(source, (name) =>
    known && name === 'wlan0' ? { name, up: true, families: [4], mtu: 1500, generation: 1 } : undefined,
  )
  assert.deepEqual(engine.types, ['access'])
  const changed = (name: string, cause: string) => listener({ type: 'access', access: { name }, cause })
  changed('docker0', 'removed')
  changed('wlan0', 'address')
  listener({ type: 'woke' })
  known = false
  changed('wlan0', 'address')
  changed('wlan0', 'removed')
  assert.deepEqual(engine.types, ['access', 'access', 'wake', 'access-gone'])
  host.retire()
  assert.equal(ended, 1)
})

test('NT-50: where the engine reports changes of the clock, nobody looks at it in between', async () => {
  const { host, engine } = await bench()
  let users = 0
  let checks = 0
  const source: AccessSource = {
    subscribe: () => () => {},
    accesses: () => [],
    useClockEvents: () => {
      users++
      return () => users--
    },
    checkClock: () => checks++,
  }
  host.followAccesses<SocketSetup>(source, () => undefined)
  assert.equal(users, 0)
  engine.emit({ type: 'clock', changed: false })
  engine.emit({ type: 'clock', changed: true })
  assert.deepEqual([users, checks], [1, 1])
  host.retire()
  assert.equal(users, 0)
})

test('UP-37: the MTU follows the paths; how is the mechanism’s choice', async () => {
  const { engine, mtus } = await bench()
  engine.emit(status())
  engine.emit(status(path(), path({ mtu: 1480 })))
  assert.deepEqual(mtus, [1398], '1480 less IPv6 40, UDP 8, message 32 with its tag 32, and 2 inside')
  const six = path({ mtu: 1480, remote: '[2001:db8::1]:51820' })
  assert.equal(widestMtu([six]), 1398)
  assert.equal(widestMtu([six, path({ mtu: 1470 })]), 1408, 'IPv4 takes 20 less')
  assert.equal(narrowestMtu([path({ mtu: 1300 })]), 1280, 'never below what IPv6 asks for')
})

test('the MTU of a device that forwards rises at once and falls when it has been smaller for two seconds', () => {
  const steady = new SteadyMtu(1400)
  const follow = (now: number, fitting: number | undefined, mtu: number) =>
    assert.equal(steady.follow(fitting, now), mtu, `at ${now}`)
  follow(0, 1280, 1400)
  follow(100, 1438, 1438)
  // Its only path goes and comes back, and is searched anew.
  follow(5_000, undefined, 1438)
  follow(6_000, 1280, 1438)
  follow(6_900, 1418, 1438)
  follow(7_100, 1438, 1438)
  // The path that carried the most is gone for good.
  follow(8_000, 1280, 1438)
  follow(9_500, 1418, 1438)
  follow(10_000, 1418, 1418)
  follow(10_001, 1280, 1418)
})

test('ready: with the first path that works, not before, and when the daemon is to stop', async () => {
  const working = await bench()
  let ready = false
  const done = working.host.untilReady().then(() => {
    ready = true
  })
  working.engine.emit(status(path({ state: 'down' })))
  await new Promise(setImmediate)
  assert.equal(ready, false)
  working.engine.emit(status(path()))
  await done
  await working.host.untilReady()
  const stopped = await bench()
  const vain = stopped.host.untilReady()
  stopped.host.retire()
  await vain
})

test('an engine whose loop goes round responds; one that is silent for 5 s, or has ended, does not', async (t: TestContext) => {
  const { host, engine } = await bench()
  const asked = host.responds()
  const { type, request } = engine.commands.at(-1) as Question & { type: string }
  assert.equal(type, 'alive')
  engine.emit({ type: 'answer', request, outcome: answer(undefined) })
  assert.equal(await asked, true)
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const silent = host.responds()
  t.mock.timers.tick(5000)
  assert.equal(await silent, false)
  engine.end()
  assert.equal(await host.responds(), false)
})

test('an engine that ends by itself: who waits is refused with its reason, and `failure` has it', async () => {
  const { host, engine } = await bench()
  const waiting = host.untilReady()
  const asked = host.ask('count', { what: 'a' })
  const reason = new GodwitError('EIO', 'interface gw0 is gone')
  engine.end(reason)
  assert.equal(await host.failure, reason)
  for (const vain of [waiting, asked, host.ask('count', { what: 'b' }), host.untilReady()])
    await assert.rejects(vain, reason)
  host.post({ type: 'wake' })
  await host.stop()
  assert.equal(engine.types.includes('wake'), false)
  assert.equal(engine.stopped, 0, 'it has ended already')
})

test('an engine that ends without a reason is named by its device', async () => {
  const { host, engine } = await bench()
  engine.end()
  const { code, message } = await host.failure
  assert.deepEqual([code, message], ['ENGINE_FAILED', 'the packet engine of gw0 ended'])
})

test('an engine that was stopped has not failed; questions are refused from then on', async () => {
  const { host, engine } = await bench()
  const asked = host.ask('count', { what: 'a' })
  await Promise.all([host.stop(), assert.rejects(asked, { code: 'STOPPING' })])
  engine.end()
  await assert.rejects(host.ask('count', { what: 'a' }), { code: 'STOPPING' })
  const first = await Promise.race([host.failure, Promise.resolve('none')])
  assert.equal(first, 'none')
})

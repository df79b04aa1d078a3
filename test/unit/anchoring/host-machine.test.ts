/** The mobile host's core by itself: what its anchors are told, and when; what moves by hand; what the user sees of it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HostForwarder, REPORTED } from '../../../src/anchoring/forwarders/host.ts'
import { HostMachine } from '../../../src/anchoring/machine/host.ts'
import type { AccessSetup, HostEvent, PolicySetup, RemoteAnchor } from '../../../src/anchoring/protocol.ts'
import type { Signalling, SignallingEvents } from '../../../src/anchoring/signalling/api.ts'
import { FlowKey, type FlowTuple } from '../../../src/anchoring/tables/flow-key.ts'
import { Paft } from '../../../src/anchoring/tables/paft.ts'
import { NOWHERE, TunnelTable, tidOf } from '../../../src/anchoring/tables/tunnels.ts'
import { EVERYTHING } from '../../../src/core/subject.ts'
import type { PathState, PathView, TunnelCommands, TunnelEvent } from '../../../src/tunnel/protocol/api.ts'

const FIX4 = Uint8Array.of(198, 19, 0, 1)
const FIX6 = new Uint8Array(16).fill(0xfd)
const VIPA4 = Uint8Array.of(198, 18, 0, 2)
const VIPA6 = new Uint8Array(16).fill(0xfe)
const SERVER = Uint8Array.of(203, 0, 113, 7)
const SERVER6 = new Uint8Array(16).fill(0x20)
const REST: PolicySetup = { name: 'rest', prefer: ['*'], fallback: 'any', moveUp: true }
const CALLS: PolicySetup = { name: 'calls', prefer: ['acc2'], fallback: 'any', moveUp: true }
/** Groups as anchors know them: that of `REST` is 0. */
const [DEFAULT, CALL] = [0, 1]

const flow = (localPort: number, v6 = false): FlowTuple => ({
  protocol: 17,
  local: v6 ? FIX6 : FIX4,
  remote: v6 ? SERVER6 : SERVER,
  localPort,
  remotePort: 443,
})

interface Told {
  readonly what: string
  readonly anchor: number
  readonly slot?: number
  readonly group?: number | 'all'
  readonly ports?: readonly number[]
}

function bed(policies: readonly PolicySetup[] = [REST, CALLS]) {
  const paft = new Paft({ allocate: (bytes) => new ArrayBuffer(bytes), rows: 16 })
  const tunnels = new TunnelTable()
  const secret = new Uint8Array(8)
  const forwarder = new HostForwarder({ paft, tunnels, fix4: FIX4, fix6: FIX6, secret })
  const told: Told[] = []
  const locals: Uint8Array[] = []
  const timeouts: number[] = []
  const views = new Map<number, PathView>()
  let signallingTimeout: number | undefined
  let slots = 0
  let answers!: SignallingEvents
  const ports = (flows: readonly FlowTuple[]) => {
    locals.push(...flows.map(({ local }) => local))
    return flows.map(({ localPort }) => localPort).sort((a, b) => a - b)
  }
  const signalling: Signalling = {
    associate: (anchor) => void told.push({ what: 'associate', anchor }),
    setUpTunnel: () => slots++,
    handOver: (anchor, { slot }, group, flows) =>
      void told.push({ what: 'hand over', anchor, slot, group, ports: ports(flows) }),
    setMode: (anchor, isStatic, flows) =>
      void told.push({ what: isStatic ? 'static' : 'free', anchor, ports: ports(flows) }),
    tally: (anchor, slot) => void told.push({ what: 'tally', anchor, slot }),
    handleFrame: (anchor, code) => void told.push({ what: `frame ${code}`, anchor }),
    nextTimeout: () => signallingTimeout,
    handleTimeout: (now) => void timeouts.push(now),
  }
  const machine = new HostMachine({
    tunnel: { path: (slot: number) => views.get(slot) } as unknown as TunnelCommands,
    ...{ paft, tunnels, forwarder },
    wall: () => 42,
    tally: () => ({ sent: 0, received: 0 }),
    signalling: (events) => {
      answers = events
      return signalling
    },
  })
  machine.setPolicies(policies, 0)
  const setup = (name: string, changes: Partial<RemoteAnchor> = {}): RemoteAnchor => ({
    ...{ name, kind: 'godwit', publicKey: new Uint8Array(32) },
    ...changes,
  })
  const access = (name: string, changes: Partial<AccessSetup> = {}): AccessSetup => ({
    ...{ name, up: true, health: 'up', since: 0, detail: 'no carrier', families: [4], mtu: 1500 },
    ...{ use: 'normal', cost: 0, generation: 1 },
    ...changes,
  })
  const events = (): HostEvent[] => {
    const out: HostEvent[] = []
    for (let event = machine.poll(); event !== undefined; event = machine.poll()) out.push(event)
    return out
  }
  const view = (slot: number, peer: number, state: PathState): PathView =>
    ({ slot, peer, state, rttMs: 20, loss: 0 }) as unknown as PathView
  const on = (event: object, now = 1000) => machine.handleTunnelEvent(event as TunnelEvent, now)
  const path = (slot: number, peer: number, name: string, now = 1000) =>
    on(
      {
        type: 'path',
        peer,
        path: view(slot, peer, {
          name,
          since: 0,
          evidence: { silentMs: Number.NaN },
        } as unknown as PathState),
      },
      now,
    )
  const addPath = (peer: number, name: string, address = Uint8Array.of(192, 0, 2, 9)) =>
    machine.addPath(
      peer,
      name,
      { pathId: slots + 10, socket: 0, remote: { address, port: 51820 }, mtu: 1500 },
      4000,
      0,
    )!
  return {
    machine,
    paft,
    tunnels,
    forwarder,
    views,
    setup,
    access,
    events,
    view,
    on,
    path,
    addPath,
    timeouts,
    locals,
    get answers() {
      return answers
    },
    setTimeoutOfSignalling: (at: number | undefined) => {
      signallingTimeout = at
    },
    /** What anchors were told since the last call. */
    told: () => told.splice(0),
    /** A flow that exists and is not identified; its id. */
    flow: (port: number, v6 = false) => {
      const key = new FlowKey(secret)
      key.set(flow(port, v6))
      key.hash()
      return paft.idAt(paft.insert(key, REPORTED, 0, 0))
    },
    /** Anchor 0, associated, reached over both accesses: slot 0 over acc1, slot 1 over acc2. */
    begin: () => {
      machine.addAnchor(0, setup('anchor'))
      for (const name of ['acc1', 'acc2']) machine.setAccess(access(name), 0)
      for (const name of ['acc1', 'acc2']) addPath(0, name)
      path(0, 0, 'up')
      path(1, 0, 'up')
      answers.associated(0, VIPA4, VIPA6, 1000)
      events()
      told.length = 0
    },
  }
}

test('UP-8: the first path that works asks for addresses, once; they go into every tunnel and into reports', () => {
  const { machine, setup, access, addPath, path, told, answers, tunnels, events, forwarder } = bed()
  machine.addAnchor(0, setup('anchor'))
  machine.addAnchor(1, setup('other'))
  for (const name of ['acc1', 'acc2']) machine.setAccess(access(name), 0)
  for (const peer of [0, 1]) for (const name of ['acc1', 'acc2']) addPath(peer, name)
  path(0, 0, 'validating')
  assert.deepEqual(told(), [])
  path(0, 0, 'up')
  path(1, 0, 'up')
  assert.deepEqual(told(), [{ what: 'associate', anchor: 0 }])
  assert.deepEqual(machine.peerReports(), [
    { name: 'anchor', established: false },
    { name: 'other', established: false },
  ])
  answers.associated(0, VIPA4, undefined, 1000)
  assert.deepEqual(tunnels.atSlot(0)?.vipNat, { v4: VIPA4 })
  assert.deepEqual(tunnels.atSlot(1)?.vipNat, { v4: VIPA4 })
  assert.deepEqual(tunnels.atSlot(2)?.vipNat, {}, 'those to another anchor have none')
  assert.deepEqual(machine.peerReports()[0], { name: 'anchor', established: false, v4: VIPA4 })
  answers.associated(0, undefined, VIPA6, 2000)
  assert.deepEqual(tunnels.atSlot(1)?.vipNat, { v6: VIPA6 })
  const logged = events().flatMap((event) => (event.type === 'log' ? [event.message] : []))
  assert.deepEqual(logged, ['associated with anchor: 198.18.0.2'], 'once')
  assert.deepEqual(machine.peerReports()[0], { name: 'anchor', established: false, v6: VIPA6 })
  // A tunnel that comes later has them from the start.
  assert.deepEqual(tunnels.atSlot(addPath(0, 'acc1'))?.vipNat, { v6: VIPA6 })
  assert.equal(forwarder.defaultTid, tidOf(0))
  answers.associated(9, VIPA4, undefined, 2000) // of an anchor that is gone
})

test('UP-8: what a WireGuard server gives is known beforehand: nothing is asked of it or told to it', () => {
  for (const known of [{ v4: VIPA4 }, { v6: VIPA6 }]) {
    const { machine, setup, access, addPath, path, told, tunnels, on, flow: made } = bed()
    machine.addAnchor(0, setup('server', { kind: 'wireguard', ...known }))
    for (const name of ['acc1', 'acc2']) {
      machine.setAccess(access(name), 0)
      addPath(0, name)
    }
    path(0, 0, 'new')
    assert.equal(tunnels.isUsable(tidOf(0)), true, 'the first packet asks for a session')
    assert.deepEqual([tunnels.atSlot(0)?.unTid, tunnels.atSlot(0)?.vipNat], [0, known])
    on({ type: 'hello', peer: 0, restarted: false })
    machine.identify([{ id: made(1), policy: CALL, app: 5 }], 1000)
    path(0, 0, 'down')
    machine.move(EVERYTHING, 'all', undefined, false, 1000)
    assert.deepEqual(told(), [])
    assert.deepEqual(machine.peerReports(), [{ name: 'server', established: false, ...known }])
  }
})

test('UP-8: an anchor is asked again when it says hello, and only then', () => {
  const { machine, begin, on, path, told, access } = bed()
  begin()
  path(0, 0, 'degrading')
  path(0, 0, 'up')
  machine.setAccess(access('acc3'), 1000)
  assert.deepEqual(
    told().filter(({ what }) => what === 'associate'),
    [],
  )
  for (const restarted of [false, true]) {
    on({ type: 'hello', peer: 0, restarted })
    assert.deepEqual(told(), [{ what: 'associate', anchor: 0 }])
  }
})

test('UP-31: what an anchor has lost is told when it answers: groups with their flows, then which ones are static', () => {
  const host = bed()
  const { machine, begin, on, told, flow: made } = host
  begin()
  const [call, fixed] = [made(1), made(2)]
  made(3) // of nobody: the default's
  machine.identify([{ id: call, policy: CALL, app: 5 }], 1000)
  machine.move(EVERYTHING, [fixed], 'acc1', true, 1000)
  told()
  on({ type: 'hello', peer: 0, restarted: true })
  told()
  host.answers.associated(0, VIPA4, VIPA6, 1000)
  assert.deepEqual(told(), [
    { what: 'hand over', anchor: 0, slot: 1, group: CALL, ports: [1] },
    { what: 'hand over', anchor: 0, slot: 0, group: 2, ports: [2] },
    { what: 'static', anchor: 0, ports: [2] },
  ])
  host.answers.associated(0, VIPA4, VIPA6, 1000)
  assert.deepEqual(told(), [], 'once')
  // Without static flows there is nothing to repeat of them.
  machine.move(EVERYTHING, 'all', undefined, false, 1000)
  assert.deepEqual(
    told().filter(({ what }) => what !== 'hand over'),
    [{ what: 'free', anchor: 0, ports: [2] }],
  )
  on({ type: 'hello', peer: 0, restarted: true })
  host.answers.associated(0, VIPA4, VIPA6, 1000)
  assert.deepEqual(
    told().filter(({ what }) => what === 'static' || what === 'free'),
    [],
  )
})

test('UP-8: a refusal is told to the user with what to do, and an anchor that accepts later is used', () => {
  const host = bed()
  const { machine, begin, told, on, events } = host
  begin()
  host.answers.refused(0, 'no such invitation', 1000)
  host.answers.refused(9, 'nobody', 1000)
  const [logged] = events()
  assert.equal(logged?.type, 'log')
  assert.match(
    (logged as { message: string }).message,
    /anchor refuses this host: no such invitation; get another/,
  )
  assert.deepEqual(machine.peerReports(), [
    { name: 'anchor', established: false, refused: 'no such invitation' },
  ])
  on({ type: 'hello', peer: 0, restarted: false })
  assert.deepEqual(told(), [{ what: 'associate', anchor: 0 }])
  assert.deepEqual(machine.peerReports(), [{ name: 'anchor', established: false }])
  host.answers.associated(0, VIPA4, VIPA6, 1000)
  assert.equal(events().filter(({ type }) => type === 'log').length, 1)
})

test('an invited host sends no data until the anchor has taken its own key', () => {
  const host = bed()
  const { machine, setup, access, addPath, path, on, forwarder, flow: made } = host
  const packet = new Uint8Array(28)
  const view = new DataView(packet.buffer)
  packet.set([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, ...FIX4, ...SERVER])
  const sends = () => {
    packet.set(FIX4, 12)
    return forwarder.outbound(packet, view, 0, 28, false, 0) >= 0
  }
  machine.addAnchor(0, setup('anchor', { invited: true }))
  machine.setAccess(access('acc1'), 0)
  addPath(0, 'acc1')
  path(0, 0, 'up')
  host.answers.associated(0, VIPA4, VIPA6, 1000)
  assert.equal(machine.peerReports()[0]?.joining, true)
  assert.equal(sends(), false)
  on({ type: 'key-confirmed', peer: 0, whose: 'remote' })
  assert.equal(sends(), false, "that is the anchor's own")
  on({ type: 'key-confirmed', peer: 0, whose: 'own' })
  assert.equal(sends(), true)
  assert.equal(machine.peerReports()[0]?.joining, undefined)
  assert.ok(made(1))
  // The key is confirmed before the addresses are there: they are used when they come.
  const early = bed()
  early.machine.addAnchor(0, early.setup('anchor', { invited: true }))
  early.on({ type: 'key-confirmed', peer: 0, whose: 'own' })
  assert.deepEqual(early.machine.peerReports(), [{ name: 'anchor', established: false }])
})

test('UP-31: a policy that takes another tunnel is one request with its group, however many flows; the default is known', () => {
  const { machine, begin, told, path, flow: made, locals } = bed()
  begin()
  const ids = [made(1), made(2), made(3, true), made(4)]
  machine.identify(
    ids.slice(0, 3).map((id) => ({ id, policy: CALL, app: 5 })),
    1000,
  )
  assert.deepEqual(told(), [{ what: 'hand over', anchor: 0, slot: 1, group: CALL, ports: [1, 2, 3] }])
  assert.deepEqual(
    new Set(locals.map((local) => (local.length === 4 ? VIPA4 : VIPA6))),
    new Set(locals),
    'as the anchor sees them',
  )
  machine.identify([{ id: ids[0]!, policy: CALL, app: 6 }], 1000)
  machine.identify([{ id: ids[3]!, policy: DEFAULT, app: 6 }], 1000)
  machine.identify([{ id: '0123456789', policy: CALL, app: 6 }], 1000)
  machine.identify([{ id: ids[3]!, policy: 7, app: 6 }], 1000)
  assert.deepEqual(told(), [], 'nothing that is new to it')
  path(1, 0, 'down')
  assert.deepEqual(told(), [{ what: 'hand over', anchor: 0, slot: 0, group: CALL, ports: [] }])
  path(1, 0, 'up')
  told()
  machine.identify([{ id: ids[0]!, policy: DEFAULT, app: 6 }], 1000)
  assert.deepEqual(told(), [{ what: 'hand over', anchor: 0, slot: 0, group: DEFAULT, ports: [1] }])
})

test('UP-31: flows that get a policy while its anchor cannot be told are named when it can', () => {
  const host = bed()
  const { machine, setup, access, addPath, path, told, flow: made } = host
  machine.addAnchor(0, setup('anchor'))
  machine.setAccess(access('acc1'), 0)
  addPath(0, 'acc1')
  path(0, 0, 'up')
  told()
  machine.identify([{ id: made(1), policy: CALL, app: 5 }], 1000)
  machine.identify([{ id: made(2), policy: CALL, app: 5 }], 1000)
  made(3)
  assert.deepEqual(told(), [])
  host.answers.associated(0, VIPA4, VIPA6, 1000)
  assert.deepEqual(told(), [{ what: 'hand over', anchor: 0, slot: 0, group: CALL, ports: [1, 2] }])
  // The same when no path works.
  path(0, 0, 'down')
  machine.identify([{ id: made(4), policy: CALL, app: 5 }], 1000)
  assert.deepEqual(told(), [])
  path(0, 0, 'up')
  assert.deepEqual(
    told().filter(({ group }) => group === CALL),
    [{ what: 'hand over', anchor: 0, slot: 0, group: CALL, ports: [1, 2, 4] }],
  )
})

test('UP-28, UP-31: a flow is moved by hand, held there, and given back; the record says from where and why', () => {
  const { machine, begin, told, events, flow: made, paft } = bed()
  begin()
  const [id, other] = [made(1), made(2)]
  const row = () => machine.whereabouts(paft.findId(id))
  assert.deepEqual(row(), { policy: 'rest', peer: 'anchor', access: 'acc1' })
  events()
  assert.equal(machine.move(EVERYTHING, [id, 'ffffffff00'], 'acc2', true, 1000), 1)
  assert.deepEqual(told(), [
    { what: 'hand over', anchor: 0, slot: 1, group: 2, ports: [] },
    { what: 'hand over', anchor: 0, slot: 1, group: 2, ports: [1] },
    { what: 'static', anchor: 0, ports: [1] },
  ])
  assert.deepEqual(row(), { policy: 'rest, pinned to acc2', pinned: 'acc2', peer: 'anchor', access: 'acc2' })
  const recorded = events()
  assert.deepEqual(
    recorded.flatMap((event) =>
      event.type === 'handover' ? [[event.from, event.to, event.cause, event.at]] : [],
    ),
    [['acc1', 'acc2', 'moved by hand', 42]],
  )
  assert.deepEqual(
    recorded.flatMap((event) =>
      event.type === 'decision' && event.reason === 'moved by hand' ? [[event.chosen, event.evidence]] : [],
    ),
    [['acc2', { from: 'acc1', flows: 1, policy: 'rest', static: true }]],
  )
  // Again: nothing changes, and nothing is told twice.
  assert.equal(machine.move(EVERYTHING, [id], 'acc2', true, 1000), 1)
  assert.deepEqual(told(), [])
  assert.deepEqual(
    events().filter(({ type }) => type === 'handover'),
    [],
  )
  // Several at once are one record of a handover.
  assert.equal(machine.move(EVERYTHING, [id, other], 'acc1', false, 1000), 2)
  assert.equal(events().filter(({ type }) => type === 'handover').length, 1)
  assert.deepEqual(
    told().filter(({ what }) => what === 'free'),
    [{ what: 'free', anchor: 0, ports: [1] }],
  )
  assert.equal(machine.move(EVERYTHING, [id], undefined, false, 1000), 1)
  assert.deepEqual(row(), { policy: 'rest', peer: 'anchor', access: 'acc1' })
  assert.deepEqual(told(), [{ what: 'hand over', anchor: 0, slot: 0, group: DEFAULT, ports: [1] }])
  events()
  assert.equal(machine.move(EVERYTHING, [id], undefined, false, 1000), 0, 'it is where its policy has it')
  assert.deepEqual([told(), events()], [[], []])
})

test('UP-31: a move to an access that does not work is refused with the reason', () => {
  const { machine, begin, access, path } = bed()
  begin()
  const move = (to: string) => machine.move(EVERYTHING, 'all', to, false, 1000)
  assert.equal(move('acc9'), 'there is no access acc9')
  path(1, 0, 'down')
  assert.equal(move('acc2'), 'acc2 is up, but nothing answers over it')
  machine.setAccess(access('acc2', { health: 'down' }), 1000)
  assert.equal(move('acc2'), 'acc2 is down (no carrier)')
  assert.equal(move('acc1'), 0)
  machine.removeAccess('acc2', 1000)
  assert.equal(move('acc2'), 'there is no access acc2')
})

test('UP-29: a path that closes, an access that goes or gets worse moves what was on it; the cause is on record', () => {
  const causes = (events: readonly HostEvent[]) =>
    events.flatMap((event) =>
      event.type === 'handover' ? [`${event.from} ${event.to}: ${event.cause}`] : [],
    )
  const each: readonly [(host: ReturnType<typeof bed>) => void, string][] = [
    [({ machine }) => machine.removeAccess('acc1', 1000), 'acc1 acc2: acc1 is gone'],
    [
      ({ machine, access }) => machine.setAccess(access('acc1', { health: 'down' }), 1000),
      'acc1 acc2: acc1: no carrier',
    ],
    [({ path }) => path(0, 0, 'down'), 'acc1 acc2: the path over acc1 is down'],
    [
      ({ on, view }) =>
        on({
          type: 'path',
          peer: 0,
          path: view(0, 0, { name: 'down', since: 0, reason: 2, evidence: { silentMs: 99.6 } } as PathState),
        }),
      'acc1 acc2: the path over acc1 has been silent for 100 ms',
    ],
    [
      ({ on, view }) =>
        on({
          type: 'path',
          peer: 0,
          path: view(0, 0, {
            name: 'down',
            since: 0,
            reason: 2,
            evidence: { silentMs: Number.NaN },
          } as PathState),
        }),
      'acc1 acc2: the path over acc1 is down',
    ],
  ]
  for (const [act, record] of each) {
    const host = bed([REST])
    host.begin()
    host.flow(1)
    act(host)
    assert.deepEqual(causes(host.events()), [record])
    assert.equal(host.forwarder.defaultTid, tidOf(1))
    // Of paths and peers that are gone nothing is heard.
    host.on({ type: 'path-closed', peer: 0, slot: 99 })
    host.on({ type: 'path-closed', peer: 9, slot: 1 })
    host.on({ type: 'quality', peer: 0, slot: 99, rttMs: 1, loss: 0 })
    host.path(99, 0, 'up')
    assert.equal(host.forwarder.defaultTid, tidOf(1))
    host.on({ type: 'path-closed', peer: 0, slot: 1 })
    host.events()
    assert.equal(host.forwarder.defaultTid, NOWHERE)
    assert.equal(host.tunnels.atSlot(1), undefined)
  }
})

test('one handover of a policy is a record of everything when there is no other policy, else of that policy', () => {
  for (const policies of [[REST], [REST, CALLS]]) {
    const host = bed(policies)
    host.begin()
    host.flow(1)
    host.path(0, 0, 'down')
    const [handover] = host.events().flatMap((event) => (event.type === 'handover' ? [event] : []))
    assert.deepEqual(handover?.subject, policies.length === 1 ? EVERYTHING : { kind: 'policy', name: 'rest' })
  }
})

test('sessions, frames and paths are told to whom they concern; a path in use may be told by its slot', () => {
  const { machine, begin, on, told, addPath, views, view, tunnels } = bed()
  begin()
  on({ type: 'session', peer: 0, up: true })
  assert.equal(machine.peerReports()[0]?.established, true)
  on({ type: 'session', peer: 0, up: false })
  assert.equal(machine.peerReports()[0]?.established, false)
  on({ type: 'frame', peer: 0, code: 33, body: new Uint8Array(0) })
  assert.deepEqual(told(), [{ what: 'frame 33', anchor: 0 }])
  assert.equal(machine.addPath(9, 'acc1', {} as never, 0, 0), undefined)
  assert.deepEqual([machine.pathAccess(1), machine.pathAccess(77)], ['acc2', undefined])
  assert.deepEqual(
    machine.pathsOf('acc2').map(({ slot }) => slot),
    [1],
  )
  // Carried by something else than UDP: its other end is this machine.
  assert.equal(machine.pathIsCarried(0), false)
  assert.equal(machine.pathIsCarried(77), false)
  const carried = addPath(0, 'acc1', Uint8Array.of(127, 0, 0, 1))
  assert.equal(machine.pathIsCarried(carried), true)
  // A path that works as soon as it is made is usable at once.
  views.set(carried + 1, view(carried + 1, 0, { name: 'up', since: 0 }))
  assert.equal(addPath(0, 'acc2'), carried + 1)
  assert.equal(tunnels.isUsable(tidOf(carried + 1)), true)
  assert.deepEqual(
    { ...tunnels.atSlot(carried), vipNat: undefined, unTid: undefined },
    {
      ...{ slot: carried, peer: 0, localTid: tidOf(carried), vipNat: undefined, unTid: undefined },
      localTun: { interface: 'acc1', index: 4000 },
      remoteTun: { endPoint: '127.0.0.1', index: 51820 },
    },
  )
})

test('the next timeout is the earliest of signalling, records and policies, and reaches them', () => {
  const { machine, begin, setTimeoutOfSignalling, timeouts, told, on } = bed()
  begin()
  assert.equal(machine.nextTimeout(), undefined)
  setTimeoutOfSignalling(5000)
  assert.equal(machine.nextTimeout(), 5000)
  on({ type: 'hello', peer: 0, restarted: true })
  told()
  machine.setTraffic(true, 3000)
  assert.equal(machine.nextTimeout(), 3000)
  setTimeoutOfSignalling(2000)
  assert.equal(machine.nextTimeout(), 2000)
  machine.handleTimeout(3000)
  assert.deepEqual(timeouts, [3000])
  assert.deepEqual(told(), [{ what: 'tally', anchor: 0, slot: -1 }])
  machine.setTraffic(false, 3000)
  setTimeoutOfSignalling(undefined)
  assert.equal(machine.nextTimeout(), undefined)
})

test('UP-10: an application that was moved by hand has its new flows there too', () => {
  const { machine, begin, told, flow: made, paft } = bed()
  begin()
  const [a, b] = [made(1), made(2)]
  machine.identify([{ id: a, policy: DEFAULT, app: 5, pin: 'acc2' }], 1000)
  machine.identify([{ id: b, policy: DEFAULT, app: 5, pin: 'acc2' }], 1000)
  assert.deepEqual(
    told().map(({ slot, ports }) => [slot, ports]),
    [
      [1, []],
      [1, [1]],
      [1, [2]],
    ],
  )
  assert.equal(paft.groupAt(paft.findId(a)), paft.groupAt(paft.findId(b)))
  assert.equal(paft.appAt(paft.findId(b)), 5)
})

/** The control socket and the daemon behind it, with a mechanism that only remembers what it was asked. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, beforeEach, describe, test } from 'node:test'
import * as z from 'zod'
import type { UnusedInterface } from '../../../src/access/index.ts'
import { GodwitError } from '../../../src/core/errors.ts'
import {
  type AccessStatus,
  type FlowStatus,
  type Mechanism,
  type Move,
  type Offer,
  postRoute,
} from '../../../src/core/mechanism.ts'
import { formatSelector, type Selector } from '../../../src/core/selector.ts'
import { EVERYTHING, type Subject, subjectOf } from '../../../src/core/subject.ts'
import { ControlClient } from '../../../src/host/control/client.ts'
import { Daemon, type Status, type Why } from '../../../src/host/daemon/daemon.ts'
import { Log } from '../../../src/host/daemon/log.ts'
import { HostRecorder } from '../../../src/host/stores/recorder.ts'
import { State } from '../../../src/host/stores/state.ts'
import { UnixDatagram } from '../../../src/linux/unix-datagram.ts'

const folder = mkdtempSync(join(tmpdir(), 'godwit-control-'))
after(() => rmSync(folder, { recursive: true }))

const FLOW: FlowStatus = {
  id: 'f1',
  proto: 'tcp',
  src: '198.19.0.1:4876',
  dst: '203.0.113.7:80',
  app: 'curl',
  mechanism: 'memory',
  peer: 'anchor',
  access: 'acc1',
}

class MemoryMechanism implements Mechanism {
  readonly name: string
  readonly calls: string[]
  failStart = false
  failMove = false
  untilReady?: () => Promise<void>
  waiting?: () => string
  responds?: () => Promise<boolean>

  constructor(name: string, calls: string[]) {
    this.name = name
    this.calls = calls
  }

  async start() {
    this.calls.push(`start ${this.name}`)
    if (this.failStart) throw new GodwitError('NO_LUCK', 'it would not start')
  }

  async stop() {
    this.calls.push(`stop ${this.name}`)
  }

  async cleanUp() {}

  peers() {
    const path = {
      id: 1,
      access: 'acc1',
      remote: '192.0.2.9:51820',
      state: 'up',
      rtt_ms: 12,
      loss: 0,
      sent_bytes: 5,
    }
    return [{ name: 'anchor', kind: 'anchor', state: 'up', paths: [path] } as const]
  }

  flows() {
    return this.name === 'memory' ? [FLOW] : []
  }

  async move(what: Selector, access: string): Promise<Move | undefined> {
    this.calls.push(`move ${formatSelector(what)} ${access}`)
    if (this.failMove) throw new GodwitError('NO_PATH', `${this.name} does not reach it`)
    return formatSelector(what) === 'app:nobody' ? undefined : { flows: 1 }
  }

  offer(): Offer {
    const cost = { bytes: 62, rtt_ms: 12 }
    const survives = ['access'] as const
    return { mechanism: this.name, carries: true, reason: 'it can', cost, survives, needs: [] }
  }

  why() {
    const record = { at: 1, mechanism: this.name, what: 'f1', chosen: 'acc1', reason: 'it is the only one' }
    return [{ ...record, subject: { kind: 'flow', id: 'f1' } as const }]
  }
}

const ACCESS = { name: 'acc1', state: 'up', addresses: ['192.0.2.1/24'], rtt_ms: 12, loss: 0 } as const

let accesses: readonly AccessStatus[] = [ACCESS]
let unused: readonly UnusedInterface[] = []
let calls: string[] = []
let lines: string[] = []
let state: State
let recorder: HostRecorder
let first: MemoryMechanism
let second: MemoryMechanism
let daemon: Daemon
let client: ControlClient

describe('the control socket', () => {
  beforeEach(() => {
    accesses = [ACCESS]
    unused = []
    calls = []
    lines = []
    state = new State({ state: join(folder, 's') })
    state.prepare()
    recorder = new HostRecorder(new Log('info', { write: (line) => lines.push(line), stamp: false }))
    first = new MemoryMechanism('memory', calls)
    second = new MemoryMechanism('second', calls)
    daemon = new Daemon({
      role: 'host',
      roles: ['host', 'anchor'],
      accesses: () => accesses,
      unused: () => unused,
      version: '1',
      state,
      mechanisms: [first, second],
      recorder,
      instance: `test-${process.pid}`,
      routes: [
        postRoute('/v1/fault', z.strictObject({}), () => {
          throw new TypeError('a bug')
        }),
      ],
    })
    client = new ControlClient(state.socket)
  })
  afterEach(() => daemon.stop())

  test('a list that is cut says how many it leaves out, and `why` that the flow may be one of these', async () => {
    await daemon.start()
    assert.equal((await client.get<Status>('/v1/status')).flows_left_out, 0)
    Object.assign(first, { flowsLeftOut: 2300 })
    Object.assign(second, { flowsLeftOut: 45 })
    assert.equal((await client.get<Status>('/v1/status')).flows_left_out, 2345)
    await assert.rejects(client.get('/v1/why', { flow: 'f9' }), ({ hint }: GodwitError) =>
      /^2345 flows are not listed/.test(hint ?? ''),
    )
  })

  test('mechanisms start in order and stop in reverse; the socket is 0660 and replaces one that was left', async () => {
    writeFileSync(state.socket, '')
    await daemon.start()
    assert.equal(statSync(state.socket).mode & 0o777, 0o660)
    await daemon.stop()
    assert.deepEqual(calls, ['start memory', 'start second', 'stop second', 'stop memory'])
    assert.throws(() => statSync(state.socket), { code: 'ENOENT' })
  })

  test('ready when traffic flows: what is waited for is said after a second, once, and is in status', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
    let answered!: () => void
    second.untilReady = () =>
      new Promise<void>((resolve) => {
        answered = resolve
      })
    second.waiting = () => 'waiting for home over wlan0'
    await daemon.start()
    const ready = daemon.untilReady()
    t.mock.timers.tick(999)
    assert.deepEqual(lines, [])
    t.mock.timers.tick(60_000)
    assert.deepEqual(lines, ['warn  waiting for home over wlan0\n'])
    const { ready: isReady, waiting } = await daemon.status()
    assert.deepEqual([isReady, waiting], [false, 'waiting for home over wlan0'])
    answered()
    await ready
    const { ready: nowReady, waiting: nothing } = await daemon.status()
    assert.deepEqual([nowReady, nothing], [true, undefined])
  })

  test('systemd hears that the daemon is ready, what it waits for, and, while its workers respond, that it lives', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
    const heard: string[] = []
    const manager = new UnixDatagram(join(folder, 'notify'), (text) => heard.push(text))
    Object.assign(process.env, { NOTIFY_SOCKET: manager.path, WATCHDOG_USEC: '30000000' })
    let responds = true
    first.responds = async () => responds
    second.untilReady = () => new Promise<void>(() => {})
    second.waiting = () => 'waiting for home'
    const hears = async (count: number) => {
      while (heard.length < count) await new Promise(setImmediate)
    }
    try {
      await daemon.start()
      void daemon.untilReady()
      t.mock.timers.tick(10_000)
      await hears(3)
      assert.deepEqual(heard, ['READY=1', 'STATUS=waiting for home', 'WATCHDOG=1'])
      responds = false
      t.mock.timers.tick(10_000)
      for (let i = 0; i < 5; i++) await new Promise(setImmediate)
      await daemon.stop()
      await hears(4)
      assert.equal(heard[3], 'STOPPING=1')
    } finally {
      delete process.env.NOTIFY_SOCKET
      delete process.env.WATCHDOG_USEC
      manager.close()
    }
  })

  test('when one does not start, what had started is stopped and the reason is kept', async () => {
    second.failStart = true
    await assert.rejects(daemon.start(), { code: 'NO_LUCK' })
    assert.deepEqual(calls, ['start memory', 'start second', 'stop memory'])
  })

  test('status has the keys of the contract; /metrics is Prometheus text', async () => {
    await daemon.start()
    recorder.handover({
      at: 5,
      subject: EVERYTHING,
      from: 'acc1',
      to: 'acc2',
      cause: 'link down',
      gap_ms: 12.5,
      lost_packets: 0,
    })
    const status = await client.get<Status>('/v1/status')
    assert.deepEqual(status.flows, [FLOW])
    assert.deepEqual(Object.keys(status.accesses[0]!), ['name', 'state', 'addresses', 'rtt_ms', 'loss'])
    assert.equal(status.accesses.length, 1)
    assert.equal(status.handovers[0]?.gap_ms, 12.5)
    const text = await client.metrics()
    assert.match(text, /^# TYPE godwit_handover_gap_seconds histogram$/m)
    assert.match(text, /^godwit_handover_gap_seconds_bucket\{le="0.025"\} 1$/m)
    assert.match(text, /^godwit_path_up\{peer="anchor",access="acc1",path="1"\} 1$/m)
    assert.match(
      lines.join(''),
      /^info {2}handover: all acc1 -> acc2 \(link down\), gap 12.5 ms, lost 0 packets$/m,
    )
  })

  test('UP-1, UP-41: move goes to every mechanism; what nobody knows and accesses that are not there are refused', async () => {
    await daemon.start()
    assert.deepEqual(await client.post('/v1/move', { what: 'app:curl', access: 'acc1' }), { flows: 2 })
    assert.ok(calls.includes('move app:curl acc1'))
    await assert.rejects(client.post('/v1/move', { what: 'app:nobody', access: 'acc1' }), { code: 'NO_FLOW' })
    await assert.rejects(client.post('/v1/move', { what: 'app:nobody', access: 'acc1' }), {
      message: 'no flow is app:nobody',
      hint: '`godwit flows` lists what can be moved',
    })
    await assert.rejects(client.get('/v1/ping'), {
      code: 'WRONG_ROLE',
      message: 'the godwit that runs here is a host: it has no anchors to test',
    })
    await assert.rejects(client.post('/v1/move', { what: 'all', access: 'acc9' }), {
      code: 'NO_ACCESS',
      hint: 'accesses: acc1',
    })
    unused = [{ name: 'acc8', reason: 'down: the interface is set down', addresses: [] }]
    await assert.rejects(client.post('/v1/move', { what: 'all', access: 'acc8' }), {
      code: 'NO_ACCESS',
      message: 'acc8 is no access: down: the interface is set down',
      hint: /^ip link set acc8 up; .*; accesses: acc1$/,
    })
    accesses = [{ ...ACCESS, state: 'down', reason: 'no carrier' }]
    await assert.rejects(client.post('/v1/move', { what: 'all', access: 'acc1' }), {
      code: 'ACCESS_DOWN',
      message: 'acc1 is down: no carrier',
    })
    accesses = [ACCESS]
    await assert.rejects(client.post('/v1/move', { what: 'port:x', access: 'acc1' }), { kind: 'usage' })
    await assert.rejects(client.post('/v1/move', {}), { kind: 'usage' })
  })

  test('what one mechanism cannot move is a note when another has moved something, else the error', async () => {
    await daemon.start()
    first.failMove = true
    assert.deepEqual(await client.post('/v1/move', { what: 'all', access: 'acc1' }), {
      flows: 1,
      note: 'memory does not reach it',
    })
    second.failMove = true
    await assert.rejects(client.post('/v1/move', { what: 'all', access: 'acc1' }), { code: 'NO_PATH' })
  })

  test('why gives what is now and every record about the flow, of whatever selector', async () => {
    await daemon.start()
    const base = { at: 1, mechanism: 'memory', chosen: 'acc1', reason: 'r' }
    for (const what of ['f1', 'f2', 'app:curl', 'app:wget', 'port:80', 'to:203.0.113.0/24', 'all']) {
      recorder.decision({ ...base, subject: subjectOf(what) })
    }
    const tagged: Subject[] = [
      { kind: 'peer', name: FLOW.peer },
      { kind: 'peer', name: 'another' },
      { kind: 'access', name: FLOW.access },
      { kind: 'policy', name: 'rest', peer: FLOW.peer },
    ]
    for (const subject of tagged) recorder.decision({ ...base, subject })
    const why = await client.get<Why>('/v1/why', { flow: 'f1' })
    assert.equal(why.now[0]?.reason, 'it is the only one')
    assert.deepEqual(
      why.decisions.map(({ what }) => what),
      ['f1', 'app:curl', 'port:80', 'to:203.0.113.0/24', 'all', FLOW.peer, FLOW.access],
    )
    assert.deepEqual(
      why.offers.map(({ mechanism, carries }) => [mechanism, carries]),
      [
        ['memory', true],
        ['second', true],
      ],
    )
    await assert.rejects(client.get('/v1/why', { flow: 'f9' }), { code: 'NO_FLOW' })
  })

  test('bad requests and our own faults are answered, and the daemon goes on', async () => {
    await daemon.start()
    await assert.rejects(client.get('/v1/nothing'), { code: 'NO_ROUTE' })
    await assert.rejects(client.post('/v1/fault'), { code: 'INTERNAL' })
    assert.match(lines.join(''), /^error error while answering .*a bug/m)
    assert.equal(await raw('POST', '/v1/move', 'this is not JSON'), 400)
    assert.equal(await raw('POST', '/v1/move', `"${'x'.repeat(2_000_000)}"`), 400)
    await assert.rejects(client.post('/v1/run', { pid: 1, command: 'x' }), { kind: 'usage' })
    await assert.rejects(client.post('/v1/run', { pid: 4711, command: 'x' }), { code: 'NO_APPLICATIONS' })
    assert.equal((await client.get<Status>('/v1/status')).role, 'host')
  })

  test('connections that a user leaves open take nobody a descriptor (issue 8, point 12)', async () => {
    await daemon.start()
    const sockets = Array.from({ length: 200 }, () => connect(state.socket))
    const closed = sockets.map(
      (socket) => new Promise((done) => socket.on('error', () => {}).on('close', done)),
    )
    await Promise.any(closed)
    const refused = () => sockets.filter((socket) => socket.destroyed).length
    while (refused() < 200 - 64) await Promise.any(closed.filter((_, i) => !sockets[i]!.destroyed))
    assert.equal(refused(), 200 - 64)
    for (const socket of sockets) socket.destroy()
    await Promise.all(closed)
    // What was let go counts no more.
    for (;;)
      if (
        await client.get<Status>('/v1/status').then(
          ({ role }) => role === 'host',
          () => false,
        )
      )
        break
  })

  test('requests that come in one piece on one connection are not all answered', async () => {
    await daemon.start()
    const socket = connect(state.socket)
    socket.on('error', () => {})
    let answers = 0
    socket.on('data', (bytes) => {
      answers += String(bytes).split('HTTP/1.1 200').length - 1
    })
    socket.write('GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(300))
    await once(socket, 'close')
    assert.ok(answers <= 1, `${answers} answers`)
  })

  test('without a daemon the client says so and how to start one', async () => {
    await assert.rejects(new ControlClient(join(folder, 'none.sock')).get('/v1/status'), {
      code: 'NOT_RUNNING',
    })
    await assert.rejects(new ControlClient(`/${'x'.repeat(120)}`).get('/'), {
      code: 'SOCKET_PATH',
      kind: 'usage',
    })
  })

  test('a command for another role is told which one runs here (issue 14, point 5)', async () => {
    await daemon.start()
    await assert.rejects(client.post('/v1/anchor/invite', { name: 'x' }), {
      code: 'WRONG_ROLE',
      kind: 'usage',
      message: 'the running daemon is a host, not an anchor',
      hint: 'run the command where the anchor runs, or give its state folder: --state DIR',
    })
    await assert.rejects(client.post('/v1/other/thing'), { code: 'NO_ROUTE' })
  })

  test('a move for a time is given back; where nothing is kept by hand that is said (issue 14, point 4)', async (t) => {
    await daemon.start()
    await assert.rejects(client.post('/v1/move', { what: 'all', access: 'auto' }), {
      kind: 'usage',
      message: /keeps moves by hand/,
    })
    const back: string[] = []
    Object.assign(first, {
      giveBack: async (what: Selector) => {
        back.push(formatSelector(what))
        return { flows: 2 }
      },
      pins: () => [{ what: 'app:x', access: 'acc1' }],
    })
    t.mock.timers.enable({ apis: ['setTimeout', 'Date'] })
    await daemon.move('app:x', 'acc1', {}, 60_000)
    assert.deepEqual((await daemon.status()).pins, [{ what: 'app:x', access: 'acc1', until: 60_000 }])
    await daemon.move('app:x', 'acc1', {}, 90_000)
    t.mock.timers.tick(60_000)
    assert.deepEqual(back, [], 'a later move counts')
    t.mock.timers.tick(30_000)
    assert.deepEqual(back, ['app:x'])
    assert.equal((await daemon.status()).pins[0]?.until, undefined)
    await daemon.move('app:x', 'acc1', {}, 60_000)
    assert.deepEqual(await daemon.move('app:x', 'auto'), { flows: 2 })
    t.mock.timers.tick(60_000)
    assert.deepEqual(back, ['app:x', 'app:x'], 'given back by hand, not again by time')
  })

  test('a message of a peer cannot forge a line of the log', () => {
    recorder.log('warn', 'peer says\nerror all is lost')
    assert.deepEqual(lines, ['warn  peer says | error all is lost\n'])
  })
})

function raw(method: string, path: string, body: string): Promise<number> {
  return new Promise((done, fail) => {
    const outgoing = request({ socketPath: state.socket, method, path }, (response) => {
      response.resume()
      done(response.statusCode ?? 0)
    })
    outgoing.on('error', fail)
    outgoing.end(body)
  })
}

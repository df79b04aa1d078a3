/** Tunnels over WebSockets on loopback, without daemons: datagrams both ways, certificates, proxies, and strangers. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect, createServer, type Socket as NetSocket, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, mock, test } from 'node:test'
import { WebSocket } from 'ws'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bridge } from '../../../src/tunnel/carrier/bridge.ts'
import { Carriers } from '../../../src/tunnel/carrier/carriers.ts'
import { openWebSocket, pinOf } from '../../../src/tunnel/carrier/client.ts'
import { CarrierServer, LIMITS } from '../../../src/tunnel/carrier/server.ts'
import type { CarrierCommand, CarrierEvent } from '../../../src/tunnel/carrier/worker.ts'
import type { PathReport } from '../../../src/tunnel/engine/events.ts'
import { KeyUpdates } from '../../support/key-updates.ts'

usesPrograms('openssl')

const UPGRADE = [
  'GET /godwit HTTP/1.1',
  'Host: anchor.example',
  'Connection: Upgrade',
  'Upgrade: websocket',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==',
  '',
  '',
].join('\r\n')
const LOOPBACK = Uint8Array.of(127, 0, 0, 1)
const folder = mkdtempSync(join(tmpdir(), 'godwit-carrier-'))
const file = (name: string) => join(folder, name)
let tls: { cert: string; key: string }
let pin: string
let engine: Socket

before(async () => {
  const made = spawnSync('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
    ...['-keyout', file('key'), '-out', file('cert'), '-days', '2', '-subj', '/CN=anchor.example'],
  ])
  assert.equal(made.status, 0, String(made.stderr))
  tls = { cert: readFileSync(file('cert'), 'utf8'), key: readFileSync(file('key'), 'utf8') }
  pin = pinOf(new X509Certificate(tls.cert).raw)
  engine = createSocket('udp4')
  engine.bind(0, '127.0.0.1')
  await once(engine, 'listening')
})

after(() => {
  engine.close()
  rmSync(folder, { recursive: true })
})

async function serve(limits = LIMITS, now?: () => number, plain = false) {
  const server = new CarrierServer(
    {
      host: '127.0.0.1',
      port: 0,
      path: '/godwit',
      enginePort: engine.address().port,
      ...(!plain && { tls }),
    },
    limits,
    now,
  )
  const port = await server.listen()
  return { server, port, url: `wss://127.0.0.1:${port}/godwit` }
}

const heard = async (socket: Socket) => {
  const [bytes, from] = (await once(socket, 'message')) as [Buffer, { port: number }]
  return { text: String(bytes), port: from.port }
}

test('issue 10, A10: datagrams pass a WebSocket both ways, between two engines on loopback', async () => {
  const { server, port, url } = await serve()
  const near = createSocket('udp4')
  near.bind(0, '127.0.0.1')
  await once(near, 'listening')
  const socket = await openWebSocket({ url, pin, address: LOOPBACK, port, device: 'lo', mark: 1 })
  const bridge = await Bridge.open(socket, near.address().port, { onClose: () => {} })
  near.send('one', bridge.port, '127.0.0.1')
  const one = await heard(engine)
  assert.equal(one.text, 'one')
  engine.send('two', one.port, '127.0.0.1')
  assert.deepEqual(await heard(near), { text: 'two', port: bridge.port })
  bridge.close('done')
  near.close()
  await server.close()
})

test('issue 10, A10: a pinned certificate is the only one; without a pin it must be of a known authority', async () => {
  const { server, port, url } = await serve()
  const wrong = Buffer.alloc(32, 1).toString('base64')
  await assert.rejects(openWebSocket({ url, pin: wrong, address: LOOPBACK, port }), {
    code: 'CARRIER_FAILED',
    message: /not the certificate of the invitation/,
  })
  await assert.rejects(openWebSocket({ url, address: LOOPBACK, port }), /self.signed/)
  await assert.rejects(openWebSocket({ url: `${url}/other`, pin, address: LOOPBACK, port }), /404/)
  await server.close()
})

/** A proxy that answers CONNECT with `answer`, and with 200 leads to the port that is asked for. */
async function proxy(answer: string, seen: string[] = []): Promise<Server> {
  const server = createServer((client) => {
    client.on('error', () => {})
    client.once('data', (head) => {
      seen.push(String(head))
      client.write(answer)
      if (!answer.includes(' 200 ')) return
      const target = connect(Number(/CONNECT [^:]+:(\d+)/.exec(String(head))?.[1]), '127.0.0.1')
      target.on('error', () => client.destroy())
      client.pipe(target).pipe(client)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}

test('issue 10, A10: through a proxy by CONNECT, with credentials; one that refuses or sends nonsense is an error', async () => {
  const { server, port } = await serve()
  const url = `wss://anchor.example:${port}/godwit`
  const seen: string[] = []
  const good = await proxy('HTTP/1.1 200 OK\r\nX-By: test\r\n\r\n', seen)
  const portOf = (each: Server) => (each.address() as { port: number }).port
  const via = (each: Server) => ({ url, pin, address: LOOPBACK, port: portOf(each) })
  const socket = await openWebSocket({ ...via(good), proxy: { authorization: 'Basic eDp5' } })
  assert.equal(socket.readyState, socket.OPEN)
  assert.match(seen[0]!, new RegExp(`^CONNECT anchor\\.example:${port} HTTP/1\\.1\\r\\n`))
  assert.match(seen[0]!, /\r\nProxy-Authorization: Basic eDp5\r\n/)
  socket.terminate()
  const refuses = await proxy('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n')
  await assert.rejects(openWebSocket({ ...via(refuses), proxy: {} }), /the proxy answers 407/)
  const endless = await proxy('x'.repeat(20_000))
  await assert.rejects(openWebSocket({ ...via(endless), proxy: {} }), /answer of the proxy is too long/)
  for (const each of [good, refuses, endless]) each.close()
  await server.close()
})

test('issue 8: strangers over WebSockets are few, send little, and have little time; who has a path is none', async () => {
  let now = 0
  const limits = { ...LIMITS, strangersOfSource: 2, strangerBurst: 3000 }
  const { server, port, url } = await serve(limits, () => now)
  const open = () => openWebSocket({ url, pin, address: LOOPBACK, port })
  const first = await open()
  const second = await open()
  await assert.rejects(open(), /503/)
  // One has proven itself: there is room for another.
  first.send(Buffer.from('hello'))
  const { port: proven } = await heard(engine)
  server.setProven(new Set([proven]))
  const third = await open()
  const ended = (socket: WebSocket) => once(socket, 'close')
  const flooded = ended(second)
  for (let i = 0; i < 4; i++) second.send(Buffer.alloc(1500))
  await flooded
  for (let i = 0; i < 20; i++) first.send(Buffer.alloc(1500))
  await once(engine, 'message')
  const late = ended(third)
  now = 16_000
  await late
  assert.deepEqual([server.size, first.readyState], [1, WebSocket.OPEN])
  const gone = ended(first)
  server.setProven(new Set())
  now = 40_000
  await gone
  assert.equal(server.size, 0, 'who loses its path is a stranger again')
  await server.close()
})

test('issue 8: text, too large messages, other paths, plain requests and a flood of connections bring nothing', async () => {
  const { server, port, url } = await serve({ ...LIMITS, rate: 4 }, () => 0)
  for (const message of ['text', Buffer.alloc(5000)]) {
    const socket = await openWebSocket({ url, pin, address: LOOPBACK, port })
    socket.send(message)
    await once(socket, 'close')
  }
  assert.equal(server.size, 0)
  const results = await Promise.allSettled(
    Array.from({ length: 12 }, () => openWebSocket({ url, pin, address: LOOPBACK, port })),
  )
  assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 6, 'twice the rate at once')
  assert.equal(server.refused, 6)
  await server.close()
  const plain = await serve(LIMITS, undefined, true)
  const answer = await fetch(`http://127.0.0.1:${plain.port}/godwit`)
  assert.equal(answer.status, 404)
  await plain.server.close()
})

/** Also with an error. */
function closed(client: NetSocket): Promise<void> {
  return new Promise((resolve) => client.once('close', () => resolve()))
}

test('whatever frames a stranger sends, they count: empty messages, pongs, fragments without end', async () => {
  const { server, port } = await serve({ ...LIMITS, strangerBurst: 20_000 }, () => 0, true)
  const frame = (first: number, length: number) =>
    Buffer.from([first, 0x80 | length, 0, 0, 0, 0, ...Buffer.alloc(length)])
  const [BINARY, PONG, PING, BEGINS, GOES_ON] = [0x82, 0x8a, 0x89, 0x02, 0x00]
  for (const [frames, most] of [
    [[frame(BINARY, 0)], 80],
    [[frame(BINARY, 1)], 80],
    [[frame(PONG, 0)], 21],
    [[frame(PING, 125)], 21],
    [[frame(BEGINS, 0), frame(GOES_ON, 0)], 5],
  ] as const) {
    const client = connect(port, '127.0.0.1')
    client.on('error', () => {})
    client.write(UPGRADE)
    await once(client, 'data')
    const [first, again = first] = frames
    client.write(first)
    // Nobody who sends that many is kept.
    for (let i = 0; i < most; i++) client.write(again)
    client.resume()
    await closed(client)
  }
  await server.close()
})

test('who is refused and does not close its end keeps no connection', async () => {
  const { server, port } = await serve({ ...LIMITS, strangersOfSource: 0 }, undefined, true)
  for (const [path, status] of [
    ['/other', 404],
    ['/godwit', 503],
  ] as const) {
    const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    client.on('error', () => {})
    client.write(UPGRADE.replace('/godwit', path))
    let answer = ''
    client.on('data', (part) => {
      answer += part
    })
    // What nobody holds any more is answered with a reset.
    const ended = closed(client)
    const timer = setInterval(() => client.write('x'), 20)
    await ended
    clearInterval(timer)
    assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `))
  }
  await server.close()
})

test('strangers from few sources keep nobody out: the oldest of the source with most gives way', async () => {
  const { server, port } = await serve({ ...LIMITS, strangers: 4, strangersOfSource: 3 }, () => 0, true)
  // As a web server on this machine says where they come from.
  const open = async (source: string) => {
    const headers = { 'x-forwarded-for': source }
    const socket = new WebSocket(`ws://127.0.0.1:${port}/godwit`, { headers })
    socket.on('error', () => {})
    await once(socket, 'open')
    return socket
  }
  const [first, second] = [await open('192.0.2.1'), await open('192.0.2.1')]
  await open('192.0.2.1')
  await open('192.0.2.2')
  await assert.rejects(open('192.0.2.1'), /503/)
  const ended = once(first, 'close')
  const honest = await open('192.0.2.3')
  await ended
  assert.deepEqual([second.readyState, honest.readyState], [WebSocket.OPEN, WebSocket.OPEN])
  assert.equal(server.size, 4)
  await server.close()
})

function path(state: PathReport['state'], carrier?: 'websocket'): PathReport {
  return {
    peer: 'anchor',
    id: 1,
    access: 'wlan0',
    remote: '192.0.2.7:51820',
    state,
    rttMs: 20,
    loss: 0,
    mtu: 1500,
    sentBytes: 0,
    receivedBytes: 0,
    lastReceivedAt: 0,
    ...(carrier && { carrier }),
  }
}

test('issue 10, A10: a WebSocket is opened when UDP has had no answer for four seconds, and closed when it has one again', async () => {
  const commands: CarrierCommand[] = []
  const carriers: string[] = []
  let tell: (event: CarrierEvent) => void = () => {}
  const made = new Carriers(
    {
      resolver: {
        resolve: async (host, access) => {
          assert.deepEqual([host, access], ['anchor.example', 'wlan0'])
          return { addresses: ['2001:db8::7', '192.0.2.7'], synthesised: [], validMs: 1 }
        },
      },
      enginePort: async () => 4000,
      setCarrier: (peer, access, port) => carriers.push(`${peer} ${access} ${port}`),
      report: () => {},
      startThread: (_role, onEvent) => {
        tell = onEvent
        return { post: (command) => commands.push(command), stop: async () => {} }
      },
    },
    { peers: [{ name: 'anchor', url: 'wss://anchor.example/godwit', pin: 'p' }], mark: 7 },
  )
  const access = { name: 'wlan0', up: true, families: [4], generation: 1 } as const
  made.setAccess(access)
  let now = 0
  const seconds = async (count: number, ...paths: PathReport[]) => {
    for (let i = 0; i < count; i++) {
      now += 1000
      made.follow(paths, now)
      await new Promise(setImmediate)
    }
  }
  await seconds(10, path('up'))
  await seconds(4, path('down'))
  assert.deepEqual(commands, [])
  await seconds(1, path('down'))
  const opening = {
    url: 'wss://anchor.example/godwit',
    pin: 'p',
    address: Uint8Array.of(192, 0, 2, 7),
    port: 443,
    device: 'wlan0',
    mark: 7,
  }
  assert.deepEqual(commands, [{ type: 'open', id: 1, enginePort: 4000, opening }])
  tell({ type: 'opened', id: 1, port: 5000 })
  await seconds(20, path('down'), path('up', 'websocket'))
  assert.deepEqual([commands.length, carriers], [1, ['anchor wlan0 5000']])
  await seconds(2, path('up'), path('up', 'websocket'))
  await seconds(1, path('suspect'), path('up', 'websocket'))
  assert.equal(commands.length, 1)
  await seconds(1, path('up'), path('up', 'websocket'))
  assert.deepEqual([commands.at(-1), carriers.at(-1)], [{ type: 'close', id: 1 }, 'anchor wlan0 undefined'])
  // It fails: tried again with growing pauses; on another network at once.
  await seconds(5, path('down'))
  assert.equal(commands.length, 3)
  tell({ type: 'closed', id: 2, reason: 'test' })
  await seconds(30, path('down'))
  assert.equal(commands.length, 4)
  made.setAccess({ ...access, generation: 2 })
  await seconds(5, path('down'))
  assert.equal(commands.length, 6, 'the old one is closed, and another opened')
  await made.stop()
  mock.reset()
})

test('who changes the keys of TLS without end loses the connection, with a path too; short datagrams without end do not', async () => {
  const { server, port, url } = await serve()
  assert.ok(await (await KeyUpdates.connect(port)).flood(5000))
  const host = await KeyUpdates.connect(port)
  host.write(UPGRADE)
  // One masked message of one byte.
  host.write(Uint8Array.of(0x82, 0x81, 0, 0, 0, 0, 1))
  const first = await heard(engine)
  server.setProven(new Set([first.port]))
  assert.ok(await host.flood(5000), 'a host')
  const other = await openWebSocket({ url, pin, address: LOOPBACK, port })
  other.send('x'.repeat(32), { binary: true })
  const { port: proven } = await heard(engine)
  server.setProven(new Set([proven]))
  for (let i = 0; i < 20_000; i++) {
    other.send(Buffer.alloc(32))
    if (i % 500 === 0) await once(engine, 'message')
  }
  await new Promise((resolve) => other.ping('', true, resolve as () => void))
  await once(other, 'pong')
  assert.equal(other.readyState, WebSocket.OPEN)
  other.terminate()
  await server.close()
})

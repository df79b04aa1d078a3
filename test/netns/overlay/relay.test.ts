/** The relay's thread on real sockets: between IPv4 and IPv6 (NT-24), in bursts, and nothing for strangers. */
import assert from 'node:assert/strict'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { after, before, it } from 'node:test'
import type { Endpoint } from '../../../src/core/endpoint.ts'
import { encoded } from '../../../src/overlay/machine/asker.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import type { RelayEvent, RelaySetup } from '../../../src/overlay/servers/protocol.ts'
import { datagramCodec, Kind, MAC } from '../../../src/overlay/wire/datagram.ts'
import type { RelaySide } from '../../../src/overlay/wire/message.ts'
import { EngineWorker } from '../../../src/tunnel/engine/thread.ts'

const V4 = Uint8Array.of(127, 0, 0, 1)
const V6 = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)

let worker: EngineWorker
let four: Socket
let six: Socket
let stranger: Socket
let sides: readonly [RelaySide, RelaySide]
let onEvent: (event: RelayEvent) => void = () => {}

async function open(type: 'udp4' | 'udp6'): Promise<Socket> {
  const socket = createSocket({ type, recvBufferSize: 4 << 20 })
  await new Promise<void>((done) => socket.bind(0, type === 'udp4' ? '127.0.0.1' : '::1', done))
  return socket
}

const endpoint = (socket: Socket, address: Uint8Array): Endpoint => ({ address, port: socket.address().port })

function ask(command: object): Promise<RelayEvent> {
  return new Promise((resolve) => {
    onEvent = resolve
    worker.post(command)
  })
}

before(async () => {
  // Ports that were free a moment ago.
  const probes = await Promise.all([open('udp6'), open('udp6'), open('udp6')])
  const ports = probes.map((socket) => socket.address().port)
  for (const probe of probes) probe.close()
  const setup: RelaySetup = { ports, addresses: [V4, V6], rate: 0, capacity: 0, kernel: false }
  const entry = new URL('../../../src/overlay/servers/relay-worker.js', import.meta.url)
  worker = await EngineWorker.start(entry, setup, {
    onEvent: (event) => {
      if ((event as RelayEvent).type !== 'relay-load') onEvent(event as RelayEvent)
    },
    onEnd: (error) => assert.equal(error, undefined),
  })
  four = await open('udp4')
  six = await open('udp6')
  stranger = await open('udp4')
  const answer = await ask({
    ...{ type: 'relay-order', id: 1, pair: 'ab', another: false },
    sides: [
      { node: 1n, proven: endpoint(four, V4) },
      { node: 2n, proven: endpoint(six, V6) },
    ],
  })
  assert.ok(answer.type === 'relay-ack' && answer.sides !== undefined)
  sides = answer.sides
})

after(async () => {
  await worker?.stop()
  for (const socket of [four, six, stranger]) socket?.close()
})

it('NT-24: a datagram crosses from IPv4 to IPv6 and back, from the other side’s port', async () => {
  four.send('there', sides[0].endpoint.port, '127.0.0.1')
  const [there, from] = (await once(six, 'message')) as [Buffer, { port: number }]
  assert.equal(String(there), 'there')
  assert.equal(from.port, sides[1].endpoint.port)
  six.send('back', sides[1].endpoint.port, '::1')
  const [back] = (await once(four, 'message')) as [Buffer]
  assert.equal(String(back), 'back')
})

it('bursts arrive whole, in order, each datagram as it was', async () => {
  const sizes: number[] = []
  const done = new Promise<void>((resolve) => {
    six.on('message', (bytes) => {
      sizes.push(bytes.length)
      if (sizes.length === 500) resolve()
    })
  })
  for (let i = 0; i < 500; i++) {
    const bytes = Buffer.alloc(i % 7 === 0 ? 300 : 1200, 1)
    await new Promise<void>((sent) => four.send(bytes, sides[0].endpoint.port, '127.0.0.1', () => sent()))
  }
  await done
  six.removeAllListeners('message')
  assert.deepEqual(
    sizes,
    Array.from({ length: 500 }, (_, i) => (i % 7 === 0 ? 300 : 1200)),
  )
})

it('a stranger gets nothing through and nothing back; the node binds its next address with the relay’s token', async () => {
  stranger.send('hello', sides[0].endpoint.port, '127.0.0.1')
  stranger.send(Buffer.alloc(52, 0x4e), sides[0].endpoint.port, '127.0.0.1')
  const bind = (token: Uint8Array) => {
    const head = { kind: Kind.RELAY_BIND, channel: sides[0].channel, side: 0, counter: 9, token }
    const blank = encoded({ ...head, mac: new Uint8Array(MAC) })
    return encoded({ ...head, mac: overlayCrypto.mac(sides[0].key, blank.subarray(0, blank.length - MAC)) })
  }
  const moved = await open('udp4')
  const answered = async (token: Uint8Array) => {
    moved.send(bind(token), sides[0].endpoint.port, '127.0.0.1')
    const [bytes] = (await once(moved, 'message')) as [Buffer]
    const datagram = datagramCodec.decode(new Uint8Array(bytes))
    assert.ok(datagram.ok && datagram.value.kind === Kind.RELAY_BOUND)
    return datagram.value
  }
  const prove = await answered(new Uint8Array(16))
  assert.equal(prove.side, 2)
  assert.equal((await answered(prove.token)).side, 1)
  let got = 0
  stranger.on('message', () => got++)
  four.on('message', () => got++)
  six.send('to where it moved', sides[1].endpoint.port, '::1')
  const [bytes] = (await once(moved, 'message')) as [Buffer]
  assert.equal(String(bytes), 'to where it moved')
  const report = await ask({ type: 'report' })
  assert.ok(report.type === 'report')
  assert.equal(report.counts.channels, 1)
  assert.equal(report.counts.unknown, 1)
  assert.equal(got, 0)
  moved.close()
})

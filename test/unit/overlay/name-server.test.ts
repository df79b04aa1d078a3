/** The name server on loopback: what it does not get to is told to come over TCP. */
import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { decode, encode } from 'dns-packet'
import { NameServer } from '../../../src/overlay/servers/dns.ts'
import type { ZoneData } from '../../../src/overlay/servers/zone.ts'

const DATA: ZoneData = {
  zone: 'home.example',
  addresses: [Uint8Array.of(192, 0, 2, 1)],
  port: 6741,
  coordinatorKey: new Uint8Array(32),
  zoneKey: new Uint8Array(32),
  serial: 1,
  nodeOf: () => undefined,
}
const QUERY = encode({ type: 'query', id: 7, questions: [{ type: 'A', name: 'dc.home.example' }] })

async function freePort(): Promise<number> {
  const socket = createSocket({ type: 'udp6' })
  socket.bind(0)
  await once(socket, 'listening')
  const { port } = socket.address()
  await new Promise<void>((resolve) => socket.close(resolve))
  return port
}

test('NT-17: queries beyond the rate are told to come over TCP, where they are answered', async () => {
  const port = await freePort()
  const server = new NameServer(port, () => DATA, assert.ifError)
  await server.start()
  const client = createSocket('udp4')
  const answers: Buffer[] = []
  client.on('message', (answer) => answers.push(answer))
  const cut = () => answers.find((answer) => ((decode(answer).flags ?? 0) & 0x0200) !== 0)
  for (let sent = 0; cut() === undefined && sent < 20_000; sent += 50) {
    for (let i = 0; i < 50; i++) client.send(QUERY, port, '127.0.0.1')
    await delay(1)
    answers.splice(0, answers.length - 200)
  }
  assert.ok(cut()!.length <= QUERY.length)
  const connection = connect(port, '127.0.0.1')
  const framed = Buffer.concat([Buffer.of(0, QUERY.length), QUERY])
  connection.write(framed)
  const [bytes] = (await once(connection, 'data')) as [Buffer]
  assert.equal(decode(bytes.subarray(2)).answers?.length, 1)
  connection.destroy()
  client.close()
  await server.stop()
})

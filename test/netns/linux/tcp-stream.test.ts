/** Sequence numbers of TCP connections, as the kernel tells them to root. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { parseAddress } from '../../../src/core/address.ts'
import type { SocketFlow } from '../../../src/linux/sockdiag.ts'
import { tcpStreams } from '../../../src/linux/tcp-stream.ts'

const streams = tcpStreams()

for (const host of ['127.0.0.1', '::1'])
  test(`both ends of a connection (${host}) begin at the same two numbers, whatever has passed`, {
    skip: streams === undefined && 'no eBPF programs here',
  }, async () => {
    const accepted: Socket[] = []
    const server = createServer((socket) => accepted.push(socket.resume())).listen(0, host)
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    const client = connect(port, host)
    const taking = once(server, 'connection')
    await Promise.all([once(client, 'connect'), taking])
    const address = parseAddress(host)
    assert.ok(address.ok)
    const flow = (localPort: number, remotePort: number): SocketFlow => ({
      protocol: 6,
      localAddress: address.value,
      localPort,
      remoteAddress: address.value,
      remotePort,
    })
    const ends = [flow(client.localPort!, port), flow(port, client.localPort!)]
    const find = () => streams!.find([...ends, flow(1, 2), flow(2, port)])
    const [opened, taken, none, listener] = find()
    assert.equal(none, undefined)
    assert.equal(listener, undefined, 'a listening socket is no connection')
    assert.ok(opened !== undefined && taken !== undefined)
    assert.equal(opened.received, taken.sent)
    assert.equal((opened.sent + 1) >>> 0, taken.received, 'the SYN of the end that opened it')
    assert.ok(opened.sent !== 0 && taken.sent !== 0)
    client.write(Buffer.alloc(300_000))
    for (let read = 0; read < 300_000; ) read += (await once(accepted[0]!, 'data'))[0].length
    const answer = once(client, 'data')
    accepted[0]!.write('answer')
    await answer
    const later = find().slice(0, 2)
    assert.deepEqual(
      later.map((s) => [s?.sent, s?.received]),
      [opened, taken].map((s) => [s.sent, s.received]),
    )
    assert.equal((later[0]!.unacknowledged - opened.sent - 1) >>> 0, 300_000)
    assert.equal((later[0]!.expected - opened.expected) >>> 0, 'answer'.length)
    client.destroy()
    accepted[0]!.destroy()
    server.close()
  })

test('connections of both families are found in one call', {
  skip: streams === undefined && 'no eBPF programs here',
}, async (t) => {
  const flows: SocketFlow[] = []
  for (const host of ['127.0.0.1', '::1']) {
    const server = createServer().listen(0, host)
    t.after(() => server.close())
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    const socket = connect(port, host)
    t.after(() => socket.destroy())
    await once(socket, 'connect')
    const address = parseAddress(host)
    assert.ok(address.ok)
    const ends = { localAddress: address.value, remoteAddress: address.value }
    flows.push({ protocol: 6, ...ends, localPort: socket.localPort!, remotePort: port })
  }
  assert.ok(streams!.find(flows).every((stream) => stream !== undefined))
  assert.ok(streams!.find(flows.toReversed()).every((stream) => stream !== undefined))
})

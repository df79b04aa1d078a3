/** Requests that come in one piece on one connection. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { test } from 'node:test'
import { OneByOne } from '../../../src/linux/one-by-one.ts'
import { sendJson } from '../../../src/overlay/servers/answers.ts'

const REQUEST = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'

async function serve(keep: boolean) {
  const oneByOne = new OneByOne()
  const handled: string[] = []
  const server = createServer((request, response) => {
    if (!oneByOne.admits(request, response)) return
    handled.push(request.url ?? '')
    // As after a look at a store.
    setImmediate(() => sendJson(response, 200, {}, keep))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, handled, port: (server.address() as AddressInfo).port }
}

test('who sends requests before the answer to the first has one handled, and loses the connection', async () => {
  for (const keep of [false, true]) {
    const { server, handled, port } = await serve(keep)
    const client = connect(port, '127.0.0.1')
    client.on('error', () => {})
    client.resume()
    client.write(REQUEST.repeat(200))
    await once(client, 'close')
    assert.deepEqual(handled, ['/'])
    server.close()
  }
})

test('one after the other is served as long as the answers keep the connection', async () => {
  for (const [keep, served] of [
    [true, 5],
    [false, 1],
  ] as const) {
    const { server, handled, port } = await serve(keep)
    const client = connect(port, '127.0.0.1')
    client.on('error', () => {})
    for (let i = 0; i < served; i++) {
      client.write(REQUEST)
      await once(client, 'data')
    }
    assert.equal(handled.length, served)
    client.destroy()
    server.close()
  }
})

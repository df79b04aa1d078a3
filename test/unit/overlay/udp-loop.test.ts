/** The loop of a server's thread: what one message, command or timer breaks ends nothing. */
import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { test } from 'node:test'
import { MessageChannel } from 'node:worker_threads'
import { KernelPoller, wake } from '../../../src/linux/poller.ts'
import { UdpLoop } from '../../../src/overlay/servers/udp-loop.ts'

const PORT = 45_354

test('a fault in one message, command or timer is reported, and the others are served', async () => {
  const poller = new KernelPoller()
  const loop = new UdpLoop(poller, () => performance.now())
  const faults: string[] = []
  const served: string[] = []
  let timers = 0
  const fail = (what: string) => {
    throw new Error(what)
  }
  loop.drive({
    onMessage: (_socket, batch, i) => {
      const byte = loop.arena.u8[batch.at[i]!]!
      if (byte === 1) fail('message')
      served.push(`message ${byte}`)
    },
    onCommand: () => {},
    finishTurn: () => {
      if (served.length === 2 && timers > 1) loop.stop()
    },
    nextTimeout: () => 0,
    handleTimeout: () => {
      if (++timers === 1) fail('timer')
    },
    onFault: (error) => faults.push((error as Error).message),
  })
  loop.open(PORT)
  const { port1, port2 } = new MessageChannel()
  loop.listen(port2, (command) => (command === 1 ? fail('command') : served.push(`command ${command}`)))
  const sender = createSocket('udp6')
  for (const byte of [1, 2])
    await new Promise<void>((done) => sender.send(Uint8Array.of(byte), PORT, '::1', () => done()))
  sender.close()
  for (const command of [1, 2]) port1.postMessage(command)
  wake(poller.wakeFd)
  loop.run()
  loop.close()
  port1.close()
  assert.deepEqual(served.sort(), ['command 2', 'message 2'])
  assert.deepEqual(faults.sort(), ['command', 'message', 'timer'])
})

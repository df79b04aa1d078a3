/** What a server of NATS may send, read ahead of its client (NT-15). */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Guard } from '../../../src/overlay/servers/soft/transport.ts'

const bytes = (text: string) => new TextEncoder().encode(text)

describe('NT-15: what a server of NATS may send', () => {
  it('messages and lines go through in whatever parts they come; what is in a message is not read', () => {
    const text = `INFO {"a":1}\r\nMSG a 1 22 \r\nMSG a 1 4000000000\r\nxx\r\nHMSG a 1 r 0 0\r\n\r\nPONG\r\nmsg\ta 1 3\nabc\n+OK\r\n`
    for (let size = 1; size <= text.length; size++) {
      const guard = new Guard()
      for (let at = 0; at < text.length; at += size) guard.take(bytes(text.slice(at, at + size)), 0)
      assert.throws(() => guard.take(bytes('MSG a 1 1048577\r\n'), 0), /message that is too long/)
    }
  })

  it('a message or line that is too long, and pings without end, are refused at once', () => {
    const refused = (text: string, why: RegExp) => {
      const began = performance.now()
      assert.throws(() => new Guard().take(bytes(text), 0), why)
      assert.ok(performance.now() - began < 500, 'it takes no time')
    }
    refused('MSG a 1 999999999999999\r\n', /message/)
    refused('hmsg a 1 r 12 2000000\r\n', /message/)
    refused('-ERR '.padEnd(200_000, 'x'), /line/)
    refused(`MSG ${'1'.repeat(130_000)}x${' '.repeat(900)}\r\n${'x'.repeat(200_000)}`, /line/)
    refused('PING\r\n'.repeat(30), /pings/)
    const guard = new Guard()
    for (let s = 0; s < 200; s++) guard.take(bytes('PING\r\n'), s * 1000)
  })
})

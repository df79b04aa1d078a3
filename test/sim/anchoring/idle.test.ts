/** Without packets the engines of a host and of its anchor wait for events; what has flowed is reported all the same. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Network } from '../overlay/network.ts'
import { AnchoredFlow } from './engine-ends.ts'

const MINUTE = 60_000

function idleFlow(): AnchoredFlow {
  const net = new Network(7)
  net.delay = 20
  const flow = new AnchoredFlow(net, undefined, '203.0.113.9')
  flow.run(1_700, 30)
  return flow
}

test('issue 9: an idle host and its anchor turn by themselves 25 times a minute at most', () => {
  const { net, host, anchor } = idleFlow()
  net.run(10_000)
  for (const end of [host, anchor]) end.turns = 0
  net.run(MINUTE)
  const turns = [host.turns, anchor.turns]
  assert.ok(
    turns.every((n) => n > 0 && n <= 25),
    turns.join(' '),
  )
})

test('issue 9: an idle host without a way to its anchor looks for one as often as before', () => {
  const { net, host, anchor } = idleFlow()
  net.nodes.splice(net.nodes.indexOf(anchor), 1)
  net.run(10_000)
  host.turns = 0
  net.run(MINUTE)
  assert.ok(host.turns >= 60, String(host.turns))
})

test('the last packets before a silence are reported within two seconds', () => {
  const { net, host, anchor } = idleFlow()
  net.run(100)
  const ends = [host, anchor].map((end) => ({
    end,
    counted: end.engine.tunnel.paths(() => ({ access: '' }))[0]!,
  }))
  net.run(1_900)
  for (const { end, counted } of ends) {
    const reported = end.events.filter((event) => event.type === 'status').at(-1)!.paths[0]!
    assert.ok(reported.sentBytes >= counted.sentBytes, `${reported.sentBytes} of ${counted.sentBytes}`)
    assert.ok(reported.receivedBytes >= counted.receivedBytes)
  }
})

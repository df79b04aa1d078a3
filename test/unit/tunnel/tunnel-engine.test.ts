/** The worker's side of a tunnel, over a packet source of its own: what commands come to, and the peers by name. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FakeTun } from '../../../src/linux/fake-tun.ts'
import type { Poller } from '../../../src/linux/poller.ts'
import type { StatusEvent } from '../../../src/tunnel/engine/events.ts'
import { answer, done, failed, type Outcome } from '../../../src/tunnel/engine/outcome.ts'
import { type EngineParts, TunnelEngine } from '../../../src/tunnel/engine/tunnel-engine.ts'
import { Verdict } from '../../../src/tunnel/seam.ts'

type Command =
  | { readonly type: 'works' | 'fails' | 'faults' }
  | { readonly type: 'ask' | 'ask-vainly' | 'ask-faulty'; readonly request: number }

class Bench implements EngineParts<Command, StatusEvent> {
  readonly posted: { readonly type: string; readonly [name: string]: unknown }[] = []
  readonly tunnel: TunnelEngine<Command, StatusEvent, { readonly name: string }, StatusEvent>

  constructor() {
    const poller: Poller = {
      wakeFd: -1,
      add: () => {},
      remove: () => {},
      wait: () => 0,
      ready: () => 0,
      woken: () => false,
      close: () => {},
    }
    this.tunnel = new TunnelEngine(
      { poller, data: undefined, post: (event) => this.posted.push(event as Bench['posted'][number]) },
      {
        setup: { device: 'own0', mtu: 1400, privateKey: new Uint8Array(32).fill(1) },
        source: (arena) => new FakeTun(arena, 'own0'),
        forwarder: { outbound: () => Verdict.DROP, inbound: () => false },
        ringBytes: 1 << 20,
      },
      this,
    )
    // NT-50: it says at once that it watches the clock.
    assert.deepEqual(this.posted.shift(), { type: 'clock', changed: false })
  }

  handleCommand(command: Command): Outcome {
    switch (command.type) {
      case 'works':
        return done
      case 'ask':
        return answer({ n: 41 })
      case 'fails':
      case 'ask-vainly':
        return failed('ACCESS_DOWN', 'it is down', 'look')
      case 'faults':
      case 'ask-faulty':
        throw new TypeError('undefined is not a function')
    }
  }

  status(): StatusEvent {
    return { type: 'status', paths: this.tunnel.paths(() => ({ access: '' })), counters: { own: 3 } }
  }

  handleTunnelEvent(): void {}
  afterTurn(): void {}
  noteData(): void {}
  handleTimeout(): void {}
  nextTimeout(): undefined {}
}

const FAILURE = { code: 'ACCESS_DOWN', message: 'it is down', hint: 'look', kind: 'failed' }

test('what a command could not do is a log line, or the answer to who asked', () => {
  const { tunnel, posted } = new Bench()
  tunnel.onCommand({ type: 'works' })
  assert.deepEqual(posted, [])
  tunnel.onCommand({ type: 'fails' })
  tunnel.onCommand({ type: 'ask', request: 1 })
  tunnel.onCommand({ type: 'ask-vainly', request: 2 })
  assert.deepEqual(posted, [
    { type: 'log', level: 'warn', message: 'fails: it is down' },
    { type: 'answer', request: 1, outcome: { ok: true, value: { n: 41 } } },
    { type: 'answer', request: 2, outcome: { ok: false, failure: FAILURE } },
  ])
})

test('a fault while a command is handled does not end the engine, is logged, and answers who asked', () => {
  const { tunnel, posted } = new Bench()
  tunnel.onCommand({ type: 'faults' })
  tunnel.onCommand({ type: 'ask-faulty', request: 7 })
  assert.match(String(posted[0]!.message), /^fault in faults: TypeError.*\n +at /)
  assert.equal(posted[0]!.level, 'error')
  const answered = posted.find(({ type }) => type === 'answer') as unknown as {
    readonly request: number
    readonly outcome: { readonly failure: { readonly code: string } }
  }
  assert.deepEqual([answered.request, answered.outcome.failure.code], [7, 'INTERNAL'])
  tunnel.engine.turn(false)
  assert.equal(posted.at(-1)!.type, 'status', 'it turns on')
})

test('peers are known by name and index until they are removed; a second one of a name or key is refused', () => {
  const { tunnel } = new Bench()
  const key = (fill: number) => ({ publicKey: new Uint8Array(32).fill(fill) })
  const first = tunnel.addPeer({ name: 'a' }, key(9), 0)
  assert.ok(first.ok)
  assert.equal(tunnel.peers.get('a'), first.value)
  assert.equal(tunnel.peers.nameOf(first.value), 'a')
  const twice = tunnel.addPeer({ name: 'a' }, key(8), 0)
  const sameKey = tunnel.addPeer({ name: 'b' }, key(9), 0)
  for (const refused of [twice, sameKey]) assert.equal(!refused.ok && refused.failure.code, 'PEER_EXISTS')
  assert.equal(tunnel.peers.get('b'), undefined)
  assert.equal(tunnel.removePeer('a', 0), first.value)
  assert.deepEqual([tunnel.peers.get('a'), tunnel.removePeer('a', 0)], [undefined, undefined])
  const again = tunnel.addPeer({ name: 'b' }, key(9), 0)
  assert.ok(again.ok)
  assert.deepEqual([tunnel.peers.nameOf(again.value), tunnel.peers.at(again.value)], ['b', { name: 'b' }])
})

test('a report has the mechanism’s counters and the engine’s own', () => {
  const { tunnel, posted } = new Bench()
  tunnel.engine.turn(false)
  const { counters } = posted[0] as unknown as StatusEvent
  assert.deepEqual([counters.own, counters.sends_split], [3, 0])
  tunnel.engine.turn(false)
  assert.equal(posted.length, 1, 'the next one has its time')
  tunnel.reportSoon()
  tunnel.engine.turn(false)
  assert.equal(posted.length, 2)
})

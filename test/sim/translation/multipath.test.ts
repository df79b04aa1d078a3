/** Single flows on a pair of their own, both ways (Table III, multipath; issue 11, 4). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encoded } from '../../../src/core/codec.ts'
import { nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import { IhmpMachine } from '../../../src/translation/machine/machine.ts'
import { bytesOf, compile, type Pair, type SocketRow } from '../../../src/translation/tables.ts'
import { Control, encodeSigned, type IhmpMessage, ihmp, Option } from '../../../src/translation/wire.ts'
import { A, B, F, pairOfHosts, peerOf, type SimHost, type SimNetwork } from './network.ts'
import { says } from './situations.ts'

const C = '10.7.0.2'

/** Where single flows leave that do not go with all others, as `port: own > foreign`. */
const alone = (host: SimHost): string[] =>
  [...compile(host.tables)[4].out_one.values()].map(
    ({ flow, wire }) => `${Math.max(flow.localPort, flow.foreignPort)}: ${wire.local} > ${wire.foreign}`,
  )

const flowAt = (host: SimHost, port: number): SocketRow =>
  [...host.tables.sockets.values()].find((f) => f.localPort === port || f.foreignPort === port)!

/** Two connections over A, with B working too; `move` sends the one of port 40001 over an own address of the mobile host. */
function twoWays() {
  const hosts = pairOfHosts()
  const { net, mh, ch, hid } = hosts
  mh.flow(A, 40001, F, 80)
  ch.flow(F, 80, A, 40001)
  mh.preferred = A
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 5_000)
  const move = (local: string) => mh.machine.moveFlows(hid, local, [flowAt(mh, 40001)], net.now)
  return { ...hosts, move }
}

const moves = (net: SimNetwork, since = 0): IhmpMessage[] =>
  net.log.slice(since).flatMap((p) => {
    const m = ihmp.decode(p.bytes)
    return m.ok && m.value.control === Control.MOVE_FLOWS ? [m.value] : []
  })

test('issue 11, 4: a flow that is moved by hand goes over the new pair in both directions, alone, by one message', () => {
  const { net, mh, ch, move } = twoWays()
  const mark = net.log.length
  assert.equal(move(B).length, 1)
  net.run(net.now + 1_000)
  assert.deepEqual(alone(mh), [`40001: ${B} > ${F}`])
  assert.deepEqual(alone(ch), [`40001: ${F} > ${B}`])
  assert.equal(net.log.length - mark, 2, 'told once, acknowledged once')
  for (const host of [mh, ch]) {
    const { diversions } = peerOf(host)
    assert.deepEqual(
      [...diversions.values()].map((d) => [d.own, d.followed]),
      [[host === mh, true]],
    )
    const diverted = host.events.filter((e) => e.kind === 'diverted')
    assert.deepEqual(
      diverted.map(({ from, pair }) =>
        host === mh ? [from?.local, pair.local] : [from?.foreign, pair.foreign],
      ),
      [[A, B]],
    )
  }
  assert.ok(moves(net).every((m) => m.flowEnds?.length === 1))
})

test('issue 11, 4: given back, it goes with all others again, at both ends', () => {
  const { net, mh, ch, hid, move } = twoWays()
  move(B)
  net.run(net.now + 1_000)
  mh.machine.giveBack(hid, [flowAt(mh, 40001)], net.now)
  net.run(net.now + 1_000)
  assert.deepEqual([alone(mh), alone(ch)], [[], []])
  move(B)
  net.run(net.now + 1_000)
  assert.ok(mh.machine.move(hid, A, net.now), 'everything, by hand')
  net.run(net.now + 1_000)
  assert.deepEqual([alone(mh), alone(ch)], [[], []])
  assert.equal(peerOf(mh).pinned, A)
  mh.machine.giveBack(hid, undefined, net.now)
  assert.equal(peerOf(mh).pinned, undefined)
})

test('issue 11, 4: either end may move it; the last word counts, and its address is lost at both', () => {
  const { net, mh, ch, move } = twoWays()
  ch.set(`${F}/24`, '10.4.0.2/24')
  ch.preferred = F
  net.run(net.now + 5_000)
  move(B)
  net.run(net.now + 1_000)
  ch.machine.moveFlows(peerOf(ch).row.hid, '10.4.0.2', [flowAt(ch, 40001)], net.now)
  net.run(net.now + 1_000)
  assert.deepEqual(alone(mh), [`40001: ${B} > 10.4.0.2`], 'what the other end chose before stays')
  assert.deepEqual(alone(ch), [`40001: 10.4.0.2 > ${B}`])
  mh.set(`${A}/24`)
  net.run(net.now + 1_000)
  assert.deepEqual([alone(mh), alone(ch)], [[], []])
})

test('issue 11, 4: a pair that falls silent for the end that chose it is left by both', () => {
  const { net, mh, ch, hid, move } = twoWays()
  move(B)
  net.run(net.now + 1_000)
  net.cut.add(`${B} ${F}`)
  mh.machine.handleSuspicion(hid, net.now)
  net.run(net.now + 5_000)
  assert.deepEqual([alone(mh), alone(ch)], [[], []])
})

test('issue 11, 4: nothing is sent to an address before the peer has answered there', () => {
  const { net, mh, ch, move } = twoWays()
  const there: Pair = { local: F, foreign: B }
  peerOf(ch).confirmed.delete(`${F} ${B}`)
  // The peer never answers the challenges of that pair, as somebody would not to whom it only points.
  net.intercept = (packet, message) =>
    packet.from === B && message.response !== undefined ? undefined : packet
  move(B)
  net.run(net.now + 10_000)
  assert.deepEqual(alone(ch), [])
  assert.ok(net.types().includes(`PATH_PROBE ${F}>${B}`), 'it is asked')
  net.intercept = undefined
  mh.machine.handleSuspicion(peerOf(mh).row.hid, net.now)
  net.run(net.now + 40_000)
  assert.ok(peerOf(ch).confirmed.has(`${there.local} ${there.foreign}`))
  assert.deepEqual(alone(ch), [`40001: ${F} > ${B}`], 'proven: it follows')
})

test('issue 11, 4: a hostile peer moves no flow of another, none that it has not proven, and none to an address that is not its own', () => {
  const { net, mh, ch } = twoWays()
  const other = net.host()
  other.set(`${C}/24`)
  other.flow(C, 40009, F, 80)
  ch.flow(F, 80, C, 40009)
  ch.flow(F, 80, A, 40077) // of another program behind the mobile host's address
  net.run(net.now + 5_000)
  let counter = 1_700_000_900_000_000
  const say = (pair: Pair, ends: readonly [number, number][], own = A): void => {
    const host = peerOf(mh)
    const message: IhmpMessage = {
      control: Control.MOVE_FLOWS,
      options: 0,
      sequence: 7,
      counter: counter++,
      hostId: Uint8Array.from(A.split('.').map(Number)),
      receiver: Uint8Array.from(F.split('.').map(Number)),
      flowPair: {
        own: Uint8Array.from(own.split('.').map(Number)),
        other: Uint8Array.from(F.split('.').map(Number)),
      },
      flowEnds: ends.map(([ownPort, otherPort]) => ({ protocol: 6, ownPort, otherPort, wirePort: ownPort })),
      challenge: new Uint8Array(16),
    }
    const bytes = encodeSigned(message, (text) => nodeIhmpCrypto.sign(host.ownKey!, text))
    ch.machine.handleMessage(bytes, pair, 0, net.now)
    net.run(net.now + 3_000)
  }
  say({ local: F, foreign: B }, [[40009, 80]], C)
  say({ local: F, foreign: B }, [[40077, 80]])
  assert.deepEqual(alone(ch), [])
  say({ local: F, foreign: C }, [[40001, 80]])
  say({ local: F, foreign: '198.51.100.9' }, [[40001, 80]])
  assert.deepEqual(alone(ch), [])
  const sent = net.log.filter((p) => p.to === '198.51.100.9')
  assert.deepEqual(sent, [], 'nor is it answered there')
  // What it may: as many as it has, whatever it names.
  say(
    { local: F, foreign: B },
    Array.from({ length: 100 }, (_, i) => [40001 + (i % 3), 80]),
  )
  assert.deepEqual(alone(ch), [`40001: ${F} > ${B}`])
  assert.equal(peerOf(ch).diversions.size, 1)
})

test('issue 11, 4, D8: an older word about a flow does not undo a newer one', () => {
  const { net, mh, ch, hid, move } = twoWays()
  let held: { bytes: Uint8Array } | undefined
  net.intercept = (packet, message) => {
    if (message.control !== Control.MOVE_FLOWS || (message.options & Option.RF) !== 0) return packet
    held ??= packet
    return undefined
  }
  move(B)
  net.run(net.now + 10)
  net.intercept = (packet, message) =>
    message.control === Control.MOVE_FLOWS && (message.options & Option.RF) === 0 ? undefined : packet
  mh.machine.giveBack(hid, [flowAt(mh, 40001)], net.now)
  net.run(net.now + 1_000)
  assert.ok(held !== undefined)
  ch.machine.handleMessage(held.bytes, { local: F, foreign: B }, 0, net.now)
  net.run(net.now + 1_000)
  assert.deepEqual([alone(mh), alone(ch)], [[], []])
})

test('issue 11, 4: a flow that the other end does not know yet is named again', () => {
  const { net, mh, ch, hid } = twoWays()
  mh.flow(A, 40002, F, 80)
  const late = flowAt(mh, 40002)
  late.taken = 'both'
  mh.machine.moveFlows(hid, B, [late], net.now)
  net.run(net.now + 500)
  assert.deepEqual(alone(ch), [])
  ch.flow(F, 80, A, 40002)
  flowAt(ch, 40002).taken = 'both'
  net.run(net.now + 4_000)
  assert.deepEqual(alone(ch), [`40002: ${F} > ${B}`])
  assert.equal(peerOf(mh).diversions.get(late.id)?.followed, true)
})

test('issue 11, 4: flows on pairs of their own are there again after a restart, those of other sockets are not', () => {
  const { net, mh, ch, move } = twoWays()
  move(B)
  net.run(net.now + 1_000)
  const saved = ch.machine.save()
  const again = net.host()
  net.hosts.splice(net.hosts.indexOf(again), 1)
  again.key = ch.key
  assert.ok(again.machine instanceof IhmpMachine)
  for (const host of saved) again.machine.restore(host)
  again.flow(F, 80, A, 40000)
  again.flow(F, 80, A, 40001)
  again.machine.handleLocal(ch.addresses, net.now)
  assert.deepEqual(alone(again), [`40001: ${F} > ${B}`])
  assert.deepEqual(alone(mh), [`40001: ${B} > ${F}`])
})

test('issue 11, 4: whoever speaks another version of IHMP is told in vain, and its flow goes on', () => {
  const { net, mh, move } = twoWays()
  net.intercept = (packet, message) => (message.control === Control.MOVE_FLOWS ? undefined : packet)
  move(B)
  net.run(net.now + 20_000)
  assert.deepEqual(alone(mh), [`40001: ${B} > ${F}`])
  assert.equal(peerOf(mh).diversions.get(flowAt(mh, 40001).id)?.followed, false)
  assert.ok(peerOf(mh).confirmed.has(`${B} ${F}`), 'the pair itself is not in doubt')
  assert.ok(encoded(ihmp, moves(net)[0] ?? sample()).length < 1200)
})

const sample = (): IhmpMessage => ({
  control: Control.MOVE_FLOWS,
  options: 0,
  sequence: 0,
  counter: 0,
  hostId: new Uint8Array(4),
})

test('a flow is named for a pair of its own family only', () => {
  const [A6, F6] = ['fd00:1::2', 'fd00:3::2']
  const { net, mh, ch } = twoWays()
  mh.set(`${A}/24`, `${A6}/64`)
  ch.set(`${F}/24`, `${F6}/64`)
  net.run(net.now + 5_000)
  assert.ok(peerOf(ch).row.accepted.has(`${F6} ${A6}`))
  const [own, other] = [bytesOf(A), bytesOf(F)]
  const ends = { protocol: 6, ownPort: 40001, otherPort: 80, wirePort: 40001 }
  says(
    net,
    mh,
    ch,
    { local: F6, foreign: A6 },
    { control: Control.MOVE_FLOWS, flowPair: { own, other }, flowEnds: [ends] },
  )
  assert.equal(peerOf(ch).row.overrides.size, 0)
  assert.equal(peerOf(ch).diversions.size, 0)
})

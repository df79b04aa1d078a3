/** Connections that come back to where a router remembers them take other ports (issue 10, C 2; docs/adr/0161). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { compile, type SocketRow } from '../../../src/translation/tables.ts'
import { Control } from '../../../src/translation/wire.ts'
import { A, B, F, pairOfHosts, peerOf, type SimHost } from './network.ts'

const flowOf = (host: SimHost): SocketRow => [...host.tables.sockets.values()][0]!

/** `own>other` ports with which packets leave, and those for which they are taken in, by the socket's ports. */
function ports(host: SimHost): { out: string[]; in: string[] } {
  const maps = compile(host.tables)[4]
  const text = (each: { ports: { local: number; foreign: number } }) =>
    `${each.ports.local}>${each.ports.foreign}`
  return { out: [...maps.out_port.values()].map(text), in: [...maps.in_port.values()].map(text) }
}

/** The mobile host has moved away and back; `repeat`: TCP of an end has repeated itself since. */
function back() {
  const hosts = pairOfHosts()
  const { net, mh } = hosts
  const move = (ip: string): void => {
    mh.preferred = ip
    mh.set(`${ip}/24`)
    net.run(net.now + 1_000)
  }
  const repeat = (host: SimHost): void => {
    host.machine.handleSuspicion(peerOf(host).row.hid, net.now)
    net.run(net.now + 500)
    host.machine.handleRepeated([flowOf(host)], net.now)
  }
  move(B)
  move(A)
  return { ...hosts, move, repeat }
}

test('issue 10, C 2: a connection that repeats itself where it has been before takes another port, at both ends, in before out', () => {
  for (const end of ['mh', 'ch'] as const) {
    const hosts = back()
    const { net, mh, ch, repeat } = hosts
    const [first, second] = end === 'mh' ? [mh, ch] : [ch, mh]
    repeat(first)
    const [taken] = ports(first).in
    assert.ok(taken !== undefined, 'taken in at once')
    const [own, other] = taken.split('>')
    assert.deepEqual(ports(first).out, [`${end === 'mh' ? 40000 : 80}>${other}`], 'not sent yet')
    assert.ok(Number(own) >= 32_768 && Number(own) < 61_000)
    net.run(net.now + 40)
    assert.deepEqual(ports(second), { out: [`${other}>${own}`], in: [`${other}>${own}`] })
    assert.ok(!ports(first).out.includes(taken), 'the peer has not answered')
    net.run(net.now + 40)
    assert.deepEqual(ports(first), { out: [taken], in: [taken] })
    for (const host of [mh, ch]) {
      assert.equal(host.events.filter((e) => e.kind === 'diverted' && e.renumbered === true).length, 1)
      assert.ok(
        compile(host.tables)[4].in_flow.size === 1,
        'what is under way with the old one is taken in too',
      )
    }
  }
})

test('issue 10, C 2: not where it has never been, not twice, not while the path itself is silent; and again when it comes back again', () => {
  const { net, mh, move, repeat } = back()
  const { hid } = peerOf(mh).row
  move('10.7.0.2')
  repeat(mh)
  assert.deepEqual(ports(mh).in, [])
  move(B)
  net.run(net.now + 3_000)
  mh.machine.handleRepeated([flowOf(mh)], net.now)
  assert.deepEqual(ports(mh).in, [], 'nothing has been heard on the pair for a while')
  repeat(mh)
  net.run(net.now + 1_000)
  const first = ports(mh).in
  assert.equal(first.length, 1)
  repeat(mh)
  net.run(net.now + 1_000)
  assert.deepEqual(ports(mh).in, first)
  move(A)
  assert.deepEqual(ports(mh).out, first, 'it keeps the port, which is new there')
  repeat(mh)
  assert.deepEqual(ports(mh).in, first, 'it has not been there with that one')
  move(B)
  repeat(mh)
  net.run(net.now + 1_000)
  assert.notDeepEqual(ports(mh).in, first)
  assert.equal(mh.tables.hosts.get(hid)?.numbers.size, 1)
})

test('issue 10, C 2: a peer takes no port with which its packets would be those of another socket', () => {
  const { net, ch, mh, repeat } = back()
  // Behind the peer's address somebody else talks to the same server, from every port there is to choose.
  net.intercept = (packet, message) => {
    if (message.control === Control.MOVE_FLOWS)
      for (const { wirePort } of message.flowEnds ?? []) ch.flow(F, 80, A, wirePort)
    return packet
  }
  repeat(mh)
  net.run(net.now + 30_000)
  assert.deepEqual(ports(ch), { out: [], in: [] })
  assert.deepEqual(ports(mh), { out: [], in: [] }, 'refused: it keeps the port that it has')
})

test('issue 10, C 2: a socket that gets the very addresses and ports later wins over the renumbered connection', () => {
  const { net, ch, mh, repeat } = back()
  repeat(mh)
  net.run(net.now + 1_000)
  const port = Number(ports(ch).in[0]!.split('>')[1])
  ch.flow(F, 80, A, port)
  net.run(net.now + 10)
  assert.deepEqual(ports(ch).in, [])
})

test('issue 10, C 2: a peer that does not know the message: the connection keeps its port', () => {
  const { net, mh, repeat } = back()
  net.intercept = (packet, message) => (message.control === Control.MOVE_FLOWS ? undefined : packet)
  repeat(mh)
  assert.equal(ports(mh).in.length, 1)
  net.run(net.now + 20_000)
  assert.deepEqual(ports(mh), { out: [], in: [] })
})

test('issue 10, C 2: renumbered connections are that after a restart', () => {
  const { net, ch, repeat } = back()
  repeat(ch)
  net.run(net.now + 1_000)
  const before = ports(ch)
  const again = net.host()
  net.hosts.splice(net.hosts.indexOf(again), 1)
  again.key = ch.key
  for (const host of ch.machine.save()) again.machine.restore(host)
  again.flow(F, 80, A, 40000)
  again.machine.handleLocal(ch.addresses, net.now)
  assert.deepEqual(ports(again), before)
})

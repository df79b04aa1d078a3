/** What is asked for by hand, what accesses are for, and the end of the proxy: one machine or two, on several accesses. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { Segment } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import type { MptcpInit } from '../../../src/mptcp/machine/types.ts'
import { Alone, CAPABLE, optionsOf } from './alone.ts'
import { addressOf, Pair, type PairInit } from './network.ts'
import { forge } from './packets.ts'

const { SYN, ACK, RST } = TcpFlag

/** A connection that has been established for a while. */
function underWay(init: Partial<MptcpInit> = {}, more: Partial<PairInit> = {}): Pair {
  const pair = new Pair({ seed: 31, bytes: [5_000_000, 5_000_000], paths: 3, init, ...more })
  pair.client.tcp!.connect(0)
  assert.ok(pair.run(() => pair.now > 400))
  return pair
}

const connection = (pair: Pair) => pair.client.machine.connections[0]!
const works = (pair: Pair) => {
  assert.ok(pair.run(() => pair.done || pair.problem !== ''))
  assert.equal(pair.problem, '')
}

test('MP-55: a connection is moved by hand where it has a subflow that works, and nowhere else', () => {
  const pair = underWay({ standby: false })
  const move = (id: number, access: string) => pair.client.machine.handover(id, access, pair.now)
  assert.equal(move(7, 'acc1'), false, 'no such connection')
  assert.equal(move(0, 'acc2'), false, 'no subflow there')
  assert.ok(pair.client.machine.addSubflow(0, 'acc2', pair.now))
  assert.equal(move(0, 'acc2'), false, 'it only begins')
  assert.equal(connection(pair).active!.access, 'acc1')
  pair.client.flush()
  assert.ok(pair.run(() => connection(pair).subflows[1]?.state === 'active', 1000))
  assert.equal(move(0, 'acc2'), true)
  assert.equal(connection(pair).active!.access, 'acc2')
  works(pair)
})

test('a subflow is added by hand: of a connection that is there and whose peer is known, on an access of its family, while there is room', () => {
  const pair = new Pair({ seed: 31, bytes: [5_000_000, 0], paths: 3, init: { standby: false, subflows: 2 } })
  const { machine } = pair.client
  const add = (access: string, id = 0) => machine.addSubflow(id, access, pair.now)
  pair.client.tcp!.connect(0)
  assert.equal(add('acc2'), false, 'it is being opened')
  assert.ok(pair.run(() => pair.now > 400))
  assert.deepEqual([add('acc2', 7), add('acc9')], [false, false])
  connection(pair).noJoin = true
  assert.equal(add('acc2'), false, 'RFC 8684 §3.1: the peer forbade it')
  connection(pair).noJoin = false
  const own = pair.accessesOf('client')
  const [first, second, third] = own
  machine.setAccesses([first!, { ...second!, addresses: [new Uint8Array(16).fill(1)] }, third!], pair.now)
  assert.equal(add('acc2'), false, 'of the other family')
  assert.deepEqual([add('acc3'), add('acc3')], [true, false], 'two are all that may be')
  assert.equal(connection(pair).subflows.length, 2)
  pair.client.flush()
  works(pair)
})

test('a subflow beside the first is counted once, at either end, when it works', () => {
  const pair = underWay({}, { paths: 2 })
  assert.deepEqual([pair.client.machine.counts.joins, pair.server.machine.counts.joins], [1, 1])
  pair.paths[1]!.works = false
  const lost = underWay({}, { paths: 2, middlebox: (packet, path) => (path === 1 ? [] : [packet]) })
  assert.deepEqual([lost.client.machine.counts.joins, lost.server.machine.counts.joins], [0, 0])
})

test('where all accesses are backups, a connection stays on the one that it was moved to; a normal one takes it', () => {
  const pair = underWay({}, { backups: [0, 1] })
  pair.setAccesses(new Set([0, 1]))
  assert.ok(pair.run(() => connection(pair).subflows.filter(({ usable }) => usable).length >= 2, 1000))
  assert.ok(pair.client.machine.handover(0, 'acc2', pair.now))
  pair.setAccesses(new Set([1, 0]))
  assert.ok(!pair.run(() => connection(pair).active!.access !== 'acc2', 500))
  pair.setAccesses(new Set([0, 1, 2]))
  assert.ok(pair.run(() => connection(pair).active!.access === 'acc3', 1000))
  works(pair)
})

test('a subflow that the peer closes while another is in use moves nothing, wherever the connection was moved by hand', () => {
  const pair = underWay()
  assert.ok(pair.client.machine.handover(0, 'acc3', pair.now))
  pair.client.flush()
  assert.ok(pair.run(() => pair.server.machine.connections[0]!.active!.remoteBackup === false, 200))
  pair.run(() => false, 500)
  const { subflows, active } = connection(pair)
  const idle = subflows.find(({ access }) => access === 'acc2')!
  const there = pair.server.machine.connections[0]!.subflows.find(
    ({ tuple }) => tuple.remotePort === idle.tuple.localPort,
  )!
  assert.ok(pair.server.machine.removeSubflow(0, there.id, pair.now))
  pair.server.flush()
  assert.ok(pair.run(() => idle.state === 'dead', 1000))
  assert.equal(connection(pair).active, active)
  assert.equal(active!.access, 'acc3')
  works(pair)
})

test('RFC 9293 §3.6.1: a peer opens another connection from the ports of one that has just ended', () => {
  const server = Uint8Array.of(203, 0, 113, 1)
  const wire = { local: server, localPort: 80, remote: Uint8Array.of(198, 51, 100, 7), remotePort: 4000 }
  const served = new Alone()
  const open = (isn: number): void => {
    const [syn] = served.in(wire, SYN, { seq: isn, options: [CAPABLE] })!
    assert.deepEqual([syn!.to, syn!.seq], ['local', isn])
    served.out(wire, SYN | ACK, { seq: 5000, ack: isn + 1 })
    const { localKey } = served.machine.connections[0]!
    const keys = { ...CAPABLE, key: new Uint8Array(8).fill(2), peerKey: localKey.bytes }
    served.in(wire, ACK, { seq: isn + 1, ack: 5001, options: [keys] })
    assert.equal(served.machine.connections[0]!.state, 'established')
  }
  open(1000)
  const [first] = served.machine.connections
  served.out(wire, RST | ACK, { seq: 5001, ack: 1001 })
  assert.equal(first!.state, 'closed')
  open(900_000)
  assert.equal(served.machine.connections.length, 1)
  assert.notEqual(served.machine.connections[0]!.localKey.token, first!.localKey.token)
})

test('the proxy ends: what it translates is reset at both ends, and what is being opened goes on as plain TCP', () => {
  const server = Uint8Array.of(203, 0, 113, 1)
  const own = (localPort: number) => {
    return { local: server, localPort, remote: Uint8Array.of(198, 51, 100, 7), remotePort: 443 }
  }
  const alone = new Alone()
  alone.out(own(1), SYN, { seq: 10 })
  for (const port of [2, 3]) {
    alone.out(own(port), SYN, { seq: 10 })
    const options = [{ ...CAPABLE, key: new Uint8Array(8).fill(2) }]
    alone.in(own(port), SYN | ACK, { seq: 70, ack: 11, options })
    alone.out(own(port), ACK, { seq: 11, ack: 71 })
  }
  const known = alone.machine.connections[2]!
  known.confirmed = true
  alone.machine.resetAll(5)
  const sent = []
  for (let out = alone.machine.poll(); out !== undefined; out = alone.machine.poll()) sent.push(out)
  assert.deepEqual(
    sent.map(({ to, tuple, flags }) => [to, tuple.localPort, flags & RST]),
    [
      ['local', 2, RST],
      ['wire', 3, RST],
      ['local', 3, RST],
    ],
  )
  assert.deepEqual(optionsOf(sent[1]!)[0]!.type, 'fastclose')
  assert.deepEqual(
    alone.machine.connections.map(({ state }) => state),
    ['closed'],
  )
  assert.equal(addressOf(0).length, 4)
})

test('RFC 8684 §3.2: a subflow carries data when its fourth packet has come, which says something of MPTCP', () => {
  const segment = new Segment()
  const joins: number[] = []
  const pair = underWay(
    {},
    {
      paths: 2,
      middlebox: (packet, path, toServer) => {
        if (path === 0) return [packet]
        segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, toServer)
        if (toServer && (segment.flags & SYN) !== 0) joins.push(segment.window)
        return toServer || (segment.flags & SYN) !== 0 ? [packet] : []
      },
    },
  )
  const { window, localSyn, subflows } = connection(pair)
  assert.equal(joins[0], Math.min(0xffff, window * 2 ** localSyn.scale), 'a SYN is not scaled')
  const subflow = subflows[1]!
  assert.equal(subflow.state, 'joined')
  const { tuple } = subflow
  const at = { tuple, seq: subflow.ackAt(1), ack: subflow.seqAt(1) }
  pair.client.in(forge(at))
  assert.equal(subflow.state, 'joined')
  const ack = dsnAt(connection(pair).localKey, connection(pair).dataUna)
  pair.client.in(forge({ ...at, options: [{ type: 'dss', dataFin: false, ack }] }))
  assert.equal(subflow.state, 'active')
})

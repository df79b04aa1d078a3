/** A proxy is killed in the middle of transfers, and the next one takes its connections over from what it kept. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { viewOf } from '../../../src/core/bytes.ts'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import { MptcpMachine } from '../../../src/mptcp/machine/machine.ts'
import {
  type KeptConnection,
  type KeptSubflow,
  type RecordMemory,
  Records,
} from '../../../src/mptcp/machine/record.ts'
import { Segment, type Tuple } from '../../../src/mptcp/machine/segment.ts'
import { extent, some, stride } from '../../support/extent.ts'
import { back } from './alone.ts'
import { Pair, type PairInit, SLOTS } from './network.ts'
import { forge } from './packets.ts'
import { randomHandovers } from './random-handovers.ts'

function transfer(init: Partial<PairInit>, work: (pair: Pair) => void): Pair {
  const pair = new Pair({ seed: 5, bytes: [3_000_000, 3_000_000], keep: true, ...init })
  pair.client.tcp!.connect(0)
  work(pair)
  const ok = pair.run(() => pair.done || pair.problem !== '')
  assert.equal(pair.problem, '')
  const { client } = pair
  assert.ok(ok, `at ${pair.now}: ${client.tcp!.acknowledged} up, ${client.tcp!.received} down`)
  assert.equal(pair.refused, false)
  return pair
}

for (const name of ['client', 'server'] as const)
  for (const [what, after] of some([
    ['a second later', 1000],
    ['at once', 0],
    ['after 30 s', 30_000],
  ] as const))
    for (const sack of some([true, false]))
      test(`issue 12, part 3: the ${name}'s proxy is killed, and restarted ${what}: both directions end intact${sack ? '' : ', without SACK'}`, () => {
        const pair = transfer({ sack }, (each) => each.at(400, () => each.killed(name, after)))
        assert.equal(pair[name].machine.counts.takenOver, 1)
        assert.equal(pair[name].machine.counts.resets + pair[name].machine.counts.lies, 0)
      })

test('it takes over after a handover, and a handover works after it', () => {
  const pair = transfer({ bytes: [9_000_000, 9_000_000] }, (each) => {
    const move = (access: string) => {
      assert.ok(each.client.machine.handover(0, access, each.now))
      each.client.flush()
    }
    each.at(300, () => move('acc2'))
    each.at(305, () => each.killed('client', 700))
    // The other end gave acc1 up meanwhile; some two seconds after it said so there is another subflow on it.
    each.at(3700, () => move('acc1'))
  })
  assert.ok(pair.client.machine.counts.handovers > 0)
})

for (const kernel of some([true, false]))
  test(`a proxy that takes seconds to install its rules, as on a busy machine, takes none for silent meanwhile${kernel ? ', from the kernel’s path' : ''}`, () => {
    const kernels: Partial<PairInit> = kernel ? { kernel: ['client'] } : {}
    const pair = transfer({ bytes: [9_000_000, 9_000_000], ...kernels }, (each) => {
      each.installing = 2500
      each.at(400, () => each.killed('client', 100))
    })
    // The other end may have given it up meanwhile, and then says so.
    const causes = pair.client.events.flatMap((event) => (event.type === 'moved' ? [event.cause] : []))
    assert.deepEqual(
      causes.filter((cause) => cause.includes('does not answer')),
      [],
    )
    assert.equal(pair.client.machine.counts.takenOver, 1)
  })

test('an access that was lost while no proxy ran is left', () => {
  const pair = transfer({}, (each) => {
    each.at(400, () => each.killed('client', 1000))
    each.at(700, () => {
      each.paths[0]!.works = false
      each.setAccesses(new Set([1]))
    })
  })
  const [connection] = pair.client.machine.connections
  assert.notEqual(connection?.active?.access, 'acc1')
})

test('it is killed again and again, at every stage of opening, transfer and closing', () => {
  for (let at = 5; at < 700; at += stride(23))
    transfer({ bytes: [200_000, 200_000], seed: at }, (each) => {
      each.at(at, () => each.killed('client', 40))
      each.at(at + 90, () => each.killed('server', 40))
      each.at(at + 180, () => each.killed('client', 1))
    })
})

test('random handovers, losses, black holes and kills', () => {
  randomHandovers(extent(25), 7000, true)
})

test('ADR 0301: an end that is killed as both are done gives up the subflow over which the other’s FIN comes: it is not taken for one that knows', () => {
  randomHandovers(1, 1013, true)
})

test('ADR 0455: a proxy that is killed after a break, as the newest segment was lost first on the new subflow, leaves word that the local TCP will not send it again', () => {
  for (const standby of [false, true]) {
    let lost = 0
    const segment = new Segment()
    const pair = new Pair({
      ...{ seed: 4, bytes: [9_000_000, 0], keep: true, inOrder: true, init: { standby } },
      conditions: { delay: 15, rate: 2500 },
      middlebox: (packet, path, toServer) => {
        segment.read(viewOf(packet), packet, 0, packet.length, true)
        if (!toServer || path !== 1 || lost > 0 || segment.payloadLength === 0) return [packet]
        lost = pair.now
        // The local TCP sends the rest before that.
        pair.at(pair.now + 10, () => pair.killed('client', 100))
        pair.paths[1]!.works = false
        pair.at(pair.now, () => {
          pair.paths[1]!.works = true
        })
        return [packet]
      },
    })
    pair.client.tcp!.connect(0)
    const newest = pair.breaks(500)
    assert.ok(pair.run(() => lost > 0, 1000))
    assert.ok(
      pair.run(() => pair.server.tcp!.received >= newest(), 60_000),
      `${pair.server.tcp!.received}, ${newest()}`,
    )
    assert.ok(pair.now - lost < 1000, `${pair.now - lost} ms`)
    const { client } = pair
    pair.run(() => client.machine.connections[0]!.dataUna > newest())
    const [kept] = new Records(client.memory!, SLOTS).load().kept
    assert.equal(kept!.forgotten, undefined, 'nothing is missing any more')
    assert.ok(pair.run(() => pair.done || pair.problem !== ''))
    assert.equal(pair.problem, '')
    assert.equal(client.machine.counts.takenOver, 1)
  }
})

test('where mappings were forgotten, the bytes go over another subflow', () => {
  const pair = transfer({}, (each) =>
    each.at(400, () => {
      each.killed('client', 500)
      // As when more were under way than a record has room for.
      const { view, bytes } = each.client.memory!
      bytes.fill(0, 64 + 416 + 448, 64 + 2048)
      assert.equal(view.getUint32(0, true), 1)
    }),
  )
  assert.ok(pair.client.machine.counts.handovers > 0)
})

test('what a file says is taken for nothing: random damage is refused or does no harm', () => {
  const pair = new Pair({ seed: 9, bytes: [3_000_000, 3_000_000], keep: true })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 400)
  const { bytes: left } = pair.client.memory!
  const size = 64 + 2048
  const further = 64 + SLOTS * 2048
  const first = left.slice(0, size)
  const second = left.slice(further, further + 1600)
  const { client } = pair
  client.kill()
  let refused = 0
  for (let i = 0; i < extent(3000); i++) {
    left.set(first, 0)
    left.set(second, further)
    for (let n = 0; n <= i % 3; n++) {
      const at = Math.floor(pair.random() * (size + 1600))
      left[at < size ? at : further + at - size] = Math.floor(pair.random() * 256)
    }
    refused += client.restart([
      { name: 'acc1', addresses: [Uint8Array.of(10, 1, 0, 2)], mtu: 1500, backup: false },
    ])
    client.machine.handleTimeout(pair.now + 100_000)
    client.flush()
    assert.ok(client.machine.connections.length <= 1)
  }
  assert.ok(refused > extent(100), `${refused} refused`)
})

/** A connection with two subflows as a killed proxy left it. */
function left(): KeptConnection {
  const pair = new Pair({ seed: 9, bytes: [3_000_000, 3_000_000], keep: true })
  pair.client.tcp!.connect(0)
  const isWhole = () =>
    pair.client.machine.connections[0]?.subflows.filter(({ state }) => state === 'active').length === 2
  assert.ok(pair.run(() => pair.now > 400 && isWhole()))
  const [kept] = new Records(pair.client.memory!, SLOTS).load().kept
  return kept!
}

/** The next proxy; `forgotten`: ids of what it took out of the file. */
function next(): { readonly machine: MptcpMachine; readonly forgotten: readonly number[] } {
  const forgotten: number[] = []
  const keeper = { save: () => {}, forget: (id: number) => void forgotten.push(id) }
  const machine = new MptcpMachine({ sha: nodeSha256, random: nodeRandom, keeper }, { connections: 8 })
  const access = (n: number) => ({ name: `acc${n}`, addresses: [Uint8Array.of(10, n, 0, 2)] })
  machine.setAccesses(
    [1, 2, 3].map((n) => ({ ...access(n), mtu: 1500, backup: false })),
    0,
  )
  return { machine, forgotten }
}

test('issue 12, part 3: a connection of the file that contradicts itself or another is refused and forgotten, and the other is taken over', () => {
  const good = left()
  const [first, second] = good.subflows as [KeptSubflow, KeptSubflow]
  const elsewhere = (tuple: Tuple, by: number) => ({ ...tuple, localPort: tuple.localPort + by })
  const other: KeptConnection = {
    ...good,
    id: good.id + 2,
    tuple: elsewhere(good.tuple, 1),
    localKey: new Uint8Array(8).fill(3),
    subflows: [
      { ...first, tuple: elsewhere(first.tuple, 1) },
      { ...second, tuple: elsewhere(second.tuple, 1) },
    ],
  }
  const [one, two] = other.subflows as [KeptSubflow, KeptSubflow]
  const bad: Readonly<Record<string, KeptConnection>> = {
    'its first subflow has other ports': { ...other, subflows: [first, two] },
    'it has none of its own': { ...other, subflows: [two] },
    'its mappings contradict': {
      ...other,
      subflows: [
        one,
        {
          ...two,
          recv: [
            { ssn: 1, dsn: 1, length: 100 },
            { ssn: 50, dsn: 70, length: 100 },
          ],
        },
      ],
    },
    'the connection is another’s': { ...other, tuple: good.tuple, subflows: [first, two] },
    'the key is another’s': { ...other, localKey: good.localKey },
    'its subflow is another’s': { ...other, subflows: [one, second] },
    'there is no such place': { ...other, id: 8 },
    'its place is taken': { ...other, id: good.id },
  }
  for (const [what, each] of Object.entries(bad)) {
    const { machine, forgotten } = next()
    assert.equal(machine.restore([good, each], 0), 1, what)
    assert.deepEqual(
      machine.connections.map(({ id, tuple }) => [id, tuple.localPort]),
      [[good.id, good.tuple.localPort]],
      what,
    )
    assert.deepEqual(forgotten, [each.id], what)
    assert.equal(machine.counts.takenOver, 1, what)
  }
  const { machine, forgotten } = next()
  assert.equal(machine.restore([good, other], 0), 0)
  assert.deepEqual([machine.connections.length, forgotten], [2, []])
})

test('issue 12, part 3, RFC 8684 §3.1: who forbade joins to its address gets none of the next proxy either', () => {
  const good = left()
  const joins = (noJoin: boolean) => {
    const { machine } = next()
    assert.equal(machine.restore([{ ...good, noJoin }], 0), 0)
    machine.resume(0)
    let count = 0
    for (let out = machine.poll(); out !== undefined; out = machine.poll())
      if ((out.flags & TcpFlag.SYN) !== 0) count++
    return count
  }
  assert.deepEqual([joins(false), joins(true)], [1, 0])
})

test('issue 12, part 3: a connection of a host behind the router is that host’s for the next proxy, too', () => {
  const good = left()
  const passage = { from: 'lan', to: 'acc1' }
  for (const forwarded of [true, false]) {
    const { machine } = next()
    assert.equal(machine.restore([{ ...good, forwarded, inside: 'lan' }], 0), 0)
    const [connection] = machine.connections
    assert.deepEqual([connection!.forwarded, connection!.isFromInside(passage)], [forwarded, forwarded])
    machine.resume(0)
    for (let out = machine.poll(); out !== undefined; out = machine.poll())
      if (out.to === 'local') assert.equal(out.behind, forwarded)
    // What others behind the router write with its addresses is looked at.
    const packet = forge({ tuple: back(good.tuple), seq: (good.tcpIsn + 2 ** 31) >>> 0, flags: TcpFlag.RST })
    const segment = new Segment()
    segment.read(new DataView(packet.buffer, packet.byteOffset), packet, 0, packet.length, true)
    machine.handleOutgoing(segment, 1, forwarded ? passage : undefined)
    assert.equal(connection!.state === 'closed', !forwarded)
  }
})

test('a file of nothing but one value, or of noise, is refused', () => {
  const buffer = new ArrayBuffer(Records.byteLength(50))
  const memory: RecordMemory = { view: new DataView(buffer), bytes: new Uint8Array(buffer), room: () => true }
  for (const fill of [(i: number) => 255 + 0 * i, () => 1, () => 2, (i: number) => (i * 2654435761) >>> 24]) {
    for (let i = 0; i < 64 + 50 * 2048; i++) memory.bytes[i] = fill(i)
    memory.view.setUint32(0, 50, true)
    assert.deepEqual(new Records(memory, 50).load().kept, [])
  }
})

test('nothing of a connection is left when it has ended', () => {
  const pair = transfer({ bytes: [10_000, 10_000] }, () => {})
  pair.run(() => false, 20_000)
  for (const { memory } of [pair.client, pair.server]) {
    assert.deepEqual(new Records(memory!, SLOTS).load().kept, [])
    assert.ok(
      memory!.bytes.subarray(64, 64 + 416).every((byte) => byte === 0),
      'no key either',
    )
  }
})

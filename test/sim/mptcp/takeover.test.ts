/** A proxy is killed in the middle of transfers, and the next one takes its connections over from what it kept. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type RecordMemory, Records } from '../../../src/mptcp/machine/record.ts'
import { extent, stride } from '../../support/extent.ts'
import { Pair, type PairInit, SLOTS } from './network.ts'
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
  for (const [what, after] of [
    ['at once', 0],
    ['a second later', 1000],
    ['after 30 s', 30_000],
  ] as const)
    for (const sack of [true, false])
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

for (const kernel of [false, true])
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

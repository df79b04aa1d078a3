/** Several paths at once: copies of the same ciphertext, and order restored. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { Arena } from '../../../src/linux/arena.ts'
import { FakeTun } from '../../../src/linux/fake-tun.ts'
import { FakeUdpNetwork } from '../../../src/linux/fake-udp.ts'
import { Datapath } from '../../../src/tunnel/datapath/datapath.ts'
import { HOLD_MOST } from '../../../src/tunnel/datapath/reorder.ts'
import { Spread } from '../../../src/tunnel/seam.ts'
import { FixedMachine, OpenForwarder } from '../../support/fixed-machine.ts'
import { udp } from '../../support/packets.ts'

const RING = 1 << 20
const HELD = 256

class SpreadForwarder extends OpenForwarder {
  readonly spread = new Spread()
}

/** Two ends with two paths between them; datagrams wait in `lines` until let through. */
class TwoPaths {
  readonly network = new FakeUdpNetwork()
  readonly lines: { to: number; bytes: Uint8Array; path: number }[] = []
  readonly a = this.#end(1)
  readonly b = this.#end(2)
  now = 1000
  #through = false

  constructor() {
    for (const [end, self, other] of [
      [0, this.a, this.b],
      [1, this.b, this.a],
    ] as const) {
      self.machine.begin({ end, form: 'godwit', remote: other.at[0]!, mtu: 1500, socket: 0 })
      self.slots.push(self.machine.slot)
      self.slots.push(
        self.machine.seam.paths.open({ peer: 0, pathId: 2, socket: 1, remote: other.at[1]!, mtu: 1500 }),
      )
    }
    this.network.filter = (from, to, bytes) => {
      if (this.#through || to.address[3] !== 2) return true
      this.lines.push({ to: 2, bytes: bytes.slice(), path: from.address[1]! })
      return false
    }
  }

  #end(host: number) {
    const arena = new Arena(Datapath.arenaBytes(RING, HELD))
    const tun = new FakeTun(arena)
    const forwarder = new SpreadForwarder()
    const datapath = new Datapath({
      arena,
      tun,
      forwarder,
      machine: (seam) => new FixedMachine(seam),
      random: () => 0,
      ringBytes: RING,
      reorderPackets: HELD,
    })
    const at = [0, 1].map((n) => ({ address: Uint8Array.of(10, n, 0, host), port: 7000 + host }))
    const sockets = at.map((endpoint) => this.network.open(arena, endpoint))
    datapath.sockets.push(...sockets)
    return {
      datapath,
      tun,
      forwarder,
      at,
      sockets,
      machine: datapath.machine as FixedMachine,
      slots: [] as number[],
    }
  }

  /** Sends packet `n` on a path (0 or 1) and on others as copies. */
  send(n: number, path: number, copies: readonly number[] = [], ordered = true): void {
    const { spread } = this.a.forwarder
    this.a.forwarder.slot = this.a.slots[path]!
    spread.copies = copies.length
    copies.forEach((copy, i) => {
      spread.copyTo[i] = this.a.slots[copy]!
    })
    spread.ordered = ordered
    this.a.datapath.now = this.now
    this.a.tun.inject(udp({ version: 4, payload: Uint8Array.of(n >> 8, n & 255) }))
    while (this.a.datapath.outbound.read(1, this.now) > 0);
    this.a.datapath.finishBatch(this.now)
  }

  /** Lets a waiting datagram through. */
  arrive(line: { bytes: Uint8Array; path: number }): void {
    this.#through = true
    this.network.deliver(this.a.at[line.path]!, this.b.at[line.path]!, [line.bytes])
    this.#through = false
    this.b.datapath.now = this.now
    this.b.sockets.forEach((socket, index) => {
      while (this.b.datapath.inbound.receive(socket, index, this.now) > 0);
    })
    this.b.datapath.finishBatch(this.now)
  }

  wait(ms: number): void {
    this.now += ms
    this.b.datapath.releaseHeld(this.now)
  }

  /** Numbers of the packets that came out, super-packets of datagrams taken apart. */
  out(): number[] {
    return this.b.tun.written.flatMap((one) => {
      const numbers: number[] = []
      for (let at = 10 + 28; at + 1 < one.length; at += 2) numbers.push((one[at]! << 8) | one[at + 1]!)
      return numbers
    })
  }
}

/** Some packets bypass; the first two never, so that there is an order from the start. */
function isOrdered(n: number, sends: readonly [number, boolean][]): boolean {
  return n < 2 || sends[n]![1]
}

describe('datapath: several paths at once', () => {
  test('OH-16, OH-16a: copies are the same ciphertext; the first wins, and both paths count what they carried', () => {
    const two = new TwoPaths()
    for (let n = 0; n < 10; n++) two.send(n, 0, [1], false)
    assert.equal(two.lines.length, 20)
    const [first, second] = [0, 1].map((path) => two.lines.filter((line) => line.path === path))
    assert.deepEqual(
      first!.map(({ bytes }) => Buffer.from(bytes).toString('hex')),
      second!.map(({ bytes }) => Buffer.from(bytes).toString('hex')),
    )
    // Path 0 loses the odd ones, path 1 those that 3 divides.
    for (let n = 0; n < 10; n++) {
      if (n % 2 === 0) two.arrive(first![n]!)
      if (n % 3 !== 0) two.arrive(second![n]!)
    }
    assert.deepEqual(two.out(), [0, 1, 2, 4, 5, 6, 7, 8])
    const received = two.b.slots.map((slot) => two.b.datapath.counters(slot).receivedPackets)
    assert.deepEqual(received, [5, 6])
    // A replay of what came before is not counted for the path.
    two.arrive(second![1]!)
    assert.equal(two.b.datapath.counters(two.b.slots[1]!).receivedPackets, 6)
    assert.equal(two.out().length, 8)
  })

  test('OH-17a: whatever the paths do, each keeping its order, packets come out once, in order', () => {
    fc.assert(
      fc.property(
        fc
          .array(fc.tuple(fc.integer({ min: 0, max: 1 }), fc.boolean()), { maxLength: 150 })
          .map((sends) => [[0, true], [1, true], ...sends] as [number, boolean][]),
        fc.infiniteStream(fc.integer({ min: 0, max: 1 })),
        (sends, picks) => {
          const two = new TwoPaths()
          for (const [n, [path]] of sends.entries()) two.send(n, path, [], isOrdered(n, sends))
          const queues = [0, 1].map((path) => two.lines.filter((line) => line.path === path))
          // The first two are there before the race starts, so that both paths are known to be in use.
          for (const [path] of sends.slice(0, 2)) two.arrive(queues[path]!.shift()!)
          while (queues[0]!.length + queues[1]!.length > 0) {
            const pick = picks.next().value as number
            const line = (queues[pick]!.length > 0 ? queues[pick]! : queues[1 - pick]!).shift()!
            two.now += 0.1
            two.arrive(line)
          }
          two.wait(HOLD_MOST)
          const out = two.out()
          assert.deepEqual(
            [...out].sort((a, b) => a - b),
            sends.map((_, n) => n),
          )
          const kept = out.filter((n) => isOrdered(n, sends))
          assert.deepEqual(
            kept,
            [...kept].sort((a, b) => a - b),
          )
        },
      ),
      { numRuns: 60 },
    )
  })

  test('OH-17a: what is lost holds nothing up once every path has brought something newer, or the time is over', () => {
    const two = new TwoPaths()
    for (let n = 0; n < 6; n++) two.send(n, n % 2)
    const [p0, p1, p2, p3, , p5] = two.lines
    two.arrive(p0!)
    two.arrive(p1!)
    // 2 is lost; 4 shows it, once 3 and 5 have come over the other path.
    two.arrive(p3!)
    assert.deepEqual(two.out(), [0, 1])
    two.arrive(two.lines[4]!)
    assert.deepEqual(two.out(), [0, 1, 3, 4])
    two.send(6, 0)
    two.send(7, 1)
    // 5 and 6 are late: 7 waits for its time, no longer.
    two.arrive(two.lines[7]!)
    assert.deepEqual(two.out(), [0, 1, 3, 4])
    two.wait(HOLD_MOST)
    assert.deepEqual(two.out(), [0, 1, 3, 4, 7])
    two.arrive(p5!)
    two.arrive(p2!)
    assert.deepEqual(two.out(), [0, 1, 3, 4, 7, 5, 2])
  })

  test('OH-17a: more than there is room for is let out, none is lost', () => {
    const two = new TwoPaths()
    const count = 3 * HELD
    for (let n = 0; n <= count; n++) two.send(n, n === 1 ? 0 : n === 0 ? 0 : 1)
    const late = two.lines.find((_, n) => n === 1)!
    two.arrive(two.lines[0]!)
    for (const line of two.lines.slice(2)) two.arrive(line)
    two.wait(HOLD_MOST)
    two.arrive(late)
    assert.deepEqual(
      [...two.out()].sort((a, b) => a - b),
      Array.from({ length: count + 1 }, (_, n) => n),
    )
  })
})

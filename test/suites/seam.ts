/**
 * What the tunnel's seam promises the machine (src/tunnel/seam.ts), by whatever stands below it: the datapath, and the
 * double of the simulations. Only through the seam, with sessions and paths that the suite sets up itself.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type FixedMachine, fixedKeys } from '../../bench/fixed-machine.ts'
import type { Endpoint, MachineSeam } from '../../src/tunnel/seam.ts'

export interface SeamEnd {
  readonly seam: MachineSeam
  /** Records what is told. */
  readonly machine: FixedMachine
  /** Where its sockets 0 and 1 are. */
  readonly at: readonly Endpoint[]
  /** Offers a data packet with this number for the path. */
  sendData(slot: number, sequence: number): void
  /** Numbers of the data packets that have come out, in order. */
  received(): number[]
}

export interface SeamBed {
  readonly a: SeamEnd
  readonly b: SeamEnd
  /** Datagrams from these sources are lost. */
  lose(from: (source: Endpoint) => boolean): void
  /** Time passes, and all that is on its way and not lost arrives. */
  deliver(ms?: number): void
  now(): number
}

const PEER = 0
const MTU = 1500

/** A session on both ends, used for sending; returns the local index of each. */
function session(bed: SeamBed): [number, number] {
  const [a, b] = [bed.a.seam.sessions, bed.b.seam.sessions]
  const [ia, ib] = [a.newIndex(), b.newIndex()]
  a.install(fixedKeys(PEER, ia, ib, 0))
  b.install(fixedKeys(PEER, ib, ia, 1))
  for (const [sessions, index] of [
    [a, ia],
    [b, ib],
  ] as const) {
    sessions.setForm(PEER, 'godwit')
    sessions.useForSending(index)
  }
  return [ia, ib]
}

/** Path `n` + 1 over socket `n` of both ends; returns the slot of each. */
function path(bed: SeamBed, n: number): [number, number] {
  const open = (end: SeamEnd, other: SeamEnd) =>
    end.seam.paths.open({ peer: PEER, pathId: n + 1, socket: n, remote: other.at[n]!, mtu: MTU })
  return [open(bed.a, bed.b), open(bed.b, bed.a)]
}

function connected(bed: SeamBed): { a: number; b: number; ia: number; ib: number } {
  const [ia, ib] = session(bed)
  const [a, b] = path(bed, 0)
  return { a, b, ia, ib }
}

export function seamCompliance(name: string, make: () => SeamBed): void {
  test(`${name}: data arrives once and in order, and both ends count it for its path`, () => {
    const bed = make()
    const { a, b, ia } = connected(bed)
    const none = {
      ...{ sentBytes: 0, sentPackets: 0, receivedBytes: 0, receivedPackets: 0 },
      ...{ lastSentAt: 0, lastReceivedAt: 0, highestCounter: -1 },
    }
    const counters = (end: SeamEnd, slot: number) => {
      const { lastSentAt, lastReceivedAt, sentBytes, sentPackets, ...rest } = end.seam.paths.counters(slot)
      const { receivedBytes, receivedPackets, highestCounter } = rest
      return {
        ...{ sentBytes, sentPackets, receivedBytes, receivedPackets },
        ...{ lastSentAt, lastReceivedAt, highestCounter },
      }
    }
    assert.deepEqual(counters(bed.a, a), none)
    const sentAt = bed.now()
    for (let n = 0; n < 5; n++) bed.a.sendData(a, n)
    bed.deliver()
    assert.deepEqual(bed.b.received(), [0, 1, 2, 3, 4])
    const [sent, got] = [counters(bed.a, a), counters(bed.b, b)]
    assert.deepEqual([sent.sentPackets, sent.receivedPackets, sent.lastReceivedAt], [5, 0, 0])
    assert.equal(sent.lastSentAt, sentAt)
    assert.deepEqual([got.receivedPackets, got.sentPackets, got.highestCounter], [5, 0, 4])
    assert.ok(got.lastReceivedAt >= sentAt && got.lastReceivedAt <= bed.now())
    assert.ok(sent.sentBytes > 0 && sent.sentBytes >= got.receivedBytes - 5 * 28)
    assert.equal(bed.a.seam.sessions.sent(ia), 5)
  })

  test(`${name}: control payloads tell who sent them, on which path, with which counter`, () => {
    const bed = make()
    const { a, b } = connected(bed)
    assert.equal(bed.a.seam.transmit.control(a, Uint8Array.of(1, 2, 3)), 0)
    assert.equal(bed.a.seam.transmit.control(a, Uint8Array.of(4)), 1)
    bed.deliver()
    assert.deepEqual(
      bed.b.machine.controls.map(({ pathId, slot, counter, body }) => [pathId, slot, counter, [...body]]),
      [
        [1, b, 0, [1, 2, 3]],
        [1, b, 1, [4]],
      ],
    )
    assert.deepEqual(bed.b.received(), [])
    assert.equal(bed.a.seam.paths.counters(a).sentPackets, 2)
    assert.equal(bed.b.seam.paths.counters(b).receivedPackets, 2)
  })

  test(`${name}: a keepalive has a counter, and is no control payload and no data`, () => {
    const bed = make()
    const { a, b } = connected(bed)
    assert.equal(bed.a.seam.transmit.control(a, new Uint8Array(0)), 0)
    bed.deliver()
    assert.deepEqual([bed.b.machine.controls.length, bed.b.received().length], [0, 0])
    assert.equal(bed.b.seam.paths.counters(b).highestCounter, 0)
  })

  test(`${name}: the first datagram of a session is told once, before what it carries`, () => {
    const bed = make()
    const { a } = connected(bed)
    for (let n = 0; n < 3; n++) bed.a.sendData(a, n)
    bed.deliver()
    session(bed)
    bed.a.sendData(a, 3)
    bed.deliver()
    assert.deepEqual(
      bed.b.machine.events.filter((event) => event.startsWith('first')),
      ['first 0', 'first 0'],
    )
    assert.deepEqual(bed.b.received(), [0, 1, 2, 3])
  })

  test(`${name}: without a session data asks for one, and control is refused`, () => {
    const bed = make()
    const { a, ia } = connected(bed)
    bed.a.seam.sessions.remove(ia)
    assert.equal(bed.a.seam.transmit.control(a, Uint8Array.of(1)), -1)
    bed.a.sendData(a, 0)
    bed.deliver()
    assert.ok(bed.a.machine.events.includes('want 0'))
    assert.deepEqual([bed.b.received(), bed.b.machine.controls], [[], []])
    assert.equal(bed.a.seam.sessions.sent(ia), 0)
  })

  test(`${name}: a session that was removed opens nothing any more`, () => {
    const bed = make()
    const { a, b, ib } = connected(bed)
    bed.a.sendData(a, 0)
    bed.deliver()
    bed.a.sendData(a, 1)
    bed.b.seam.sessions.remove(ib)
    bed.deliver()
    assert.deepEqual(bed.b.received(), [0])
    assert.equal(bed.b.seam.paths.counters(b).receivedPackets, 1)
  })

  test(`${name}: a closed path carries nothing, and the next path in its slot starts from nothing`, () => {
    const bed = make()
    const { a, b } = connected(bed)
    bed.a.sendData(a, 0)
    bed.deliver()
    bed.a.seam.paths.close(a)
    assert.equal(bed.a.seam.transmit.control(a, Uint8Array.of(1)), -1)
    bed.deliver()
    assert.equal(bed.b.seam.paths.counters(b).receivedPackets, 1)
    const again = bed.a.seam.paths.open({
      ...{ peer: PEER, pathId: 3, socket: 0, remote: bed.b.at[0]!, mtu: MTU },
    })
    const { sentPackets, sentBytes, lastSentAt, highestCounter } = bed.a.seam.paths.counters(again)
    assert.deepEqual([sentPackets, sentBytes, lastSentAt, highestCounter], [0, 0, 0, -1])
  })

  test(`${name}: resend: what was lost goes over the other path, once; what had arrived is dropped there`, () => {
    const bed = make()
    const { a, b } = connected(bed)
    const [other] = path(bed, 1)
    for (let n = 0; n < 4; n++) bed.a.sendData(a, n)
    bed.deliver()
    bed.lose((source) => source.address.join() === bed.a.at[0]!.address.join())
    for (let n = 4; n < 9; n++) bed.a.sendData(a, n)
    bed.deliver()
    const highest = bed.b.seam.paths.counters(b).highestCounter
    assert.equal(highest, 3)
    // Two that had arrived are sent again too: their counters are above the bound.
    assert.equal(bed.a.seam.paths.resend(a, other, highest - 2, 1_000), 7)
    bed.deliver()
    assert.deepEqual(bed.b.received(), [0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert.equal(bed.a.seam.paths.counters(other).sentPackets, 0, 'not taken for a loss of that path')
    assert.equal(bed.a.seam.paths.resend(a, other, highest - 2, 1_000), 0, 'they are of the other path now')
  })

  test(`${name}: resend: nothing older than asked for`, () => {
    const bed = make()
    const { a } = connected(bed)
    const [other] = path(bed, 1)
    bed.lose((source) => source.address.join() === bed.a.at[0]!.address.join())
    for (let n = 0; n < 3; n++) bed.a.sendData(a, n)
    bed.deliver(400)
    for (let n = 3; n < 5; n++) bed.a.sendData(a, n)
    assert.equal(bed.a.seam.paths.resend(a, other, -1, 100), 2)
    bed.deliver()
    assert.deepEqual(bed.b.received(), [3, 4])
  })

  test(`${name}: with another session in use, what arrived in the one before is no counter of it`, () => {
    const bed = make()
    const { a, b } = connected(bed)
    for (let n = 0; n < 3; n++) bed.a.sendData(a, n)
    bed.deliver()
    assert.equal(bed.b.seam.paths.counters(b).highestCounter, 2)
    bed.a.sendData(a, 3) // under way
    session(bed)
    assert.equal(bed.b.seam.paths.counters(b).highestCounter, -1)
    bed.deliver()
    assert.deepEqual(bed.b.received(), [0, 1, 2, 3], 'the session before is still opened')
    assert.equal(bed.b.seam.paths.counters(b).highestCounter, -1)
    bed.a.sendData(a, 4)
    bed.deliver()
    assert.equal(bed.b.seam.paths.counters(b).highestCounter, 0)
  })

  test(`${name}: an address that is no path's is told as roaming, with the path it names`, () => {
    const bed = make()
    const { a, b } = connected(bed)
    bed.b.seam.paths.setRemote(b, { address: Uint8Array.of(192, 0, 2, 1), port: 9 })
    bed.a.sendData(a, 0)
    bed.deliver()
    const { address, port } = bed.a.at[0]!
    assert.deepEqual(
      bed.b.machine.events.filter((event) => event.startsWith('roaming')),
      [`roaming 0 1 ${address.join('.')}:${port}`],
    )
    assert.deepEqual(bed.b.received(), [0], 'it is genuine all the same')
  })

  test(`${name}: setRemote: what is sent goes there from then on`, () => {
    const bed = make()
    const { a, b } = connected(bed)
    bed.a.seam.paths.setRemote(a, { address: Uint8Array.of(192, 0, 2, 1), port: 9 })
    bed.a.sendData(a, 0)
    bed.a.seam.paths.setRemote(a, bed.b.at[0]!)
    bed.a.sendData(a, 1)
    bed.deliver()
    assert.deepEqual(bed.b.received(), [1])
    assert.equal(bed.b.seam.paths.counters(b).receivedPackets, 1)
  })

  test(`${name}: handshake messages pass as they are, over the socket named`, () => {
    const bed = make()
    const message = new Uint8Array(148)
    message[0] = 1
    assert.equal(bed.a.seam.transmit.handshake(message, bed.b.at[1]!, 1), 0)
    bed.deliver()
    assert.deepEqual(bed.b.machine.events, ['handshake 148'])
  })
}

/** What every UdpSocket does, the kernel's and the double. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Endpoint } from '../../src/core/endpoint.ts'
import { EAGAIN, EMSGSIZE } from '../../src/core/errno.ts'
import type { Arena } from '../../src/linux/arena.ts'
import { readName, writeName } from '../../src/linux/sockaddr.ts'
import { ReceiveBatch, type UdpSocket } from '../../src/linux/udp.ts'

export interface UdpBed {
  readonly arena: Arena
  /** Two sockets that reach each other, and where; interfaces carry payloads of `largest` bytes at most. */
  readonly a: UdpSocket
  readonly b: UdpSocket
  readonly atA: Endpoint
  readonly atB: Endpoint
  readonly largest: number
}

export function udpCompliance(name: string, make: () => UdpBed): void {
  /** All datagrams that are there, with their sender. */
  function drain(
    bed: UdpBed,
    socket: UdpSocket,
    batch: ReceiveBatch,
  ): { bytes: Uint8Array; from: Endpoint }[] {
    const out: { bytes: Uint8Array; from: Endpoint }[] = []
    for (;;) {
      const n = socket.receive(batch)
      if (n < 0) {
        assert.equal(n, -EAGAIN)
        return out
      }
      for (let i = 0; i < n; i++)
        for (let at = 0; at < batch.length[i]!; at += batch.segment[i]!) {
          const from = batch.at[i]! + at
          const size = Math.min(batch.segment[i]!, batch.length[i]! - at)
          out.push({
            bytes: bed.arena.u8.slice(from, from + size),
            from: readName(bed.arena.u8, bed.arena.view, batch.name[i]!),
          })
        }
    }
  }

  test(`${name}: datagrams of one send arrive each by itself, in order, with their source`, () => {
    const bed = make()
    const batch = new ReceiveBatch(bed.arena, 2)
    const { u8, view } = bed.arena
    const name = bed.arena.reserve(32)
    const at = bed.arena.reserve(65_536)
    assert.equal(bed.b.receive(batch), -EAGAIN)
    writeName(u8, view, name, bed.atB, bed.a.family)
    for (let i = 0; i < 20_000; i++) u8[at + i] = i * 7
    for (const [length, segment] of [
      [100, 0],
      [20_000, 1400],
      [4200, 1400],
      [64, 64],
    ] as const) {
      assert.equal(bed.a.send(name, 0, at, length, segment), 0)
      const got = drain(bed, bed.b, batch)
      assert.deepEqual(Buffer.concat(got.map((one) => one.bytes)), Buffer.from(u8.slice(at, at + length)))
      assert.equal(got.length, segment === 0 ? 1 : Math.ceil(length / segment))
      for (const one of got) assert.deepEqual(one.from, bed.atA)
    }
    bed.a.close()
    bed.b.close()
  })

  test(`${name}: issue 10 D9: datagrams arrive with the traffic class that they were sent with, each message of one`, () => {
    const bed = make()
    const batch = new ReceiveBatch(bed.arena, 8)
    const { u8, view } = bed.arena
    const name = bed.arena.reserve(32)
    const at = bed.arena.reserve(4096)
    writeName(u8, view, name, bed.atB, bed.a.family)
    const sent = [0, 2, 2, 3, 0xb8 | 1]
    for (const trafficClass of sent) {
      bed.a.trafficClass = trafficClass
      assert.equal(bed.a.send(name, 0, at, 2400, 1200), 0)
    }
    const got: number[] = []
    for (let n = bed.b.receive(batch); n > 0; n = bed.b.receive(batch))
      for (let i = 0; i < n; i++)
        for (let done = 0; done < batch.length[i]!; done += 1200) got.push(batch.trafficClass[i]!)
    assert.deepEqual(
      got,
      sent.flatMap((each) => [each, each]),
    )
    bed.a.close()
    bed.b.close()
  })

  test(`${name}: what the interface does not carry is refused, and the next send works`, () => {
    const bed = make()
    const batch = new ReceiveBatch(bed.arena, 2)
    const { u8, view } = bed.arena
    const name = bed.arena.reserve(32)
    const at = bed.arena.reserve(65_536)
    writeName(u8, view, name, bed.atB, bed.a.family)
    assert.equal(bed.a.send(name, 0, at, bed.largest + 1, 0), -EMSGSIZE)
    assert.equal(bed.a.send(name, 0, at, bed.largest, 0), 0)
    assert.equal(bed.a.send(name, 0, at, 10, 0), 0)
    assert.deepEqual(
      drain(bed, bed.b, batch).map((one) => one.bytes.length),
      [bed.largest, 10],
    )
    // Fragmenting is for that send alone.
    assert.equal(bed.a.sendFragmented(name, 0, at, 3000, 1000), 0)
    assert.equal(bed.a.send(name, 0, at, bed.largest + 1, 0), -EMSGSIZE)
    assert.deepEqual(
      drain(bed, bed.b, batch).map((one) => one.bytes.length),
      [1000, 1000, 1000],
    )
    bed.a.close()
    bed.b.close()
  })
}

/** What every Tun does, the kernel's and the double. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import type { Arena } from '../../src/linux/arena.ts'
import { GSO_NONE, TUN_BUFFER, type Tun, VNET_HEADER } from '../../src/linux/tun.ts'

export interface TunBed {
  readonly arena: Arena
  readonly tun: Tun
  /** The system sends a UDP datagram of this payload into the device. */
  send(payload: Uint8Array): void
  /** The payload of a UDP datagram that came out of the device, if one has; each once, in order. */
  receive(): Uint8Array | undefined
  /** A packet that the system takes for such a datagram. */
  packet(payload: Uint8Array): Uint8Array
  close(): void
}

const EAGAIN = 11
const EINVAL = 22
const IOVEC = 16

export function tunCompliance(name: string, make: () => TunBed, skip: string | false = false): void {
  const check = (what: string, body: (bed: TunBed) => void | Promise<void>) =>
    test(`TUN, ${name}: ${what}`, { skip }, async () => {
      const bed = make()
      try {
        await body(bed)
      } finally {
        bed.close()
      }
    })

  /** The next vnet header and packet, at most `length` bytes of them. */
  async function read(bed: TunBed, length = TUN_BUFFER): Promise<Uint8Array> {
    const at = bed.arena.reserve(TUN_BUFFER)
    for (;;) {
      const n = bed.tun.read(at, length)
      if (n >= 0) return bed.arena.u8.slice(at, at + n)
      assert.equal(n, -EAGAIN)
      await setImmediate()
    }
  }

  async function received(bed: TunBed): Promise<Uint8Array> {
    for (;;) {
      const payload = bed.receive()
      if (payload !== undefined) return payload
      await setImmediate()
    }
  }

  const empty = ({ arena, tun }: TunBed) => tun.read(arena.reserve(TUN_BUFFER), TUN_BUFFER)
  const payload = (length: number) => Uint8Array.from({ length }, (_, i) => i * 31)

  check(
    'packets are read whole and in order, each behind its vnet header; then there is none',
    async (bed) => {
      assert.equal(empty(bed), -EAGAIN)
      const payloads = [payload(0), payload(1), payload(1200)]
      for (const each of payloads) bed.send(each)
      for (const each of payloads) {
        const bytes = await read(bed)
        assert.equal(bytes[1], GSO_NONE)
        assert.equal(bytes[VNET_HEADER]! >> 4, 4)
        assert.equal(bytes.length, VNET_HEADER + 20 + 8 + each.length)
        assert.deepEqual(bytes.slice(VNET_HEADER + 28), each)
      }
      assert.equal(empty(bed), -EAGAIN)
    },
  )

  check('what does not fit into the buffer is cut, and the next one is whole again', async (bed) => {
    bed.send(payload(500))
    bed.send(payload(5))
    assert.equal((await read(bed, 100)).length, 100)
    assert.deepEqual((await read(bed)).slice(VNET_HEADER + 28), payload(5))
  })

  check('written packets arrive in order, in one piece or gathered from several', async (bed) => {
    const { arena, tun } = bed
    const at = arena.reserve(TUN_BUFFER)
    const whole = bed.packet(payload(700))
    arena.u8.fill(0, at, at + VNET_HEADER)
    arena.u8.set(whole, at + VNET_HEADER)
    const length = VNET_HEADER + whole.length
    assert.equal(tun.write(at, length), length)
    assert.deepEqual(await received(bed), payload(700))

    const iovecs = arena.reserve(3 * IOVEC)
    const cuts = [0, VNET_HEADER, VNET_HEADER + 33, length]
    for (let i = 0; i < 3; i++) {
      arena.view.setBigUint64(iovecs + IOVEC * i, BigInt(arena.base + at + cuts[i]!), true)
      arena.view.setBigUint64(iovecs + IOVEC * i + 8, BigInt(cuts[i + 1]! - cuts[i]!), true)
    }
    assert.equal(tun.writev(iovecs, 3), length)
    assert.deepEqual(await received(bed), payload(700))
    assert.equal(bed.receive(), undefined)
  })

  check('what is no packet is refused, and the device goes on', async (bed) => {
    const { arena, tun } = bed
    const at = arena.reserve(TUN_BUFFER)
    arena.u8.fill(0, at, at + 100)
    assert.equal(tun.write(at, VNET_HEADER - 1), -EINVAL)
    assert.equal(tun.write(at, VNET_HEADER + 40), -EINVAL, 'neither IPv4 nor IPv6')
    bed.send(payload(9))
    assert.deepEqual((await read(bed)).slice(VNET_HEADER + 28), payload(9))
  })

  check('offloads and carrier change while it is open', async (bed) => {
    for (const offloads of ['checksums', 'segments'] as const) {
      bed.tun.setOffloads(offloads)
      bed.tun.setCarrier(false)
      bed.tun.setCarrier(true)
    }
    bed.send(payload(64))
    assert.deepEqual((await read(bed)).slice(VNET_HEADER + 28), payload(64))
  })
}

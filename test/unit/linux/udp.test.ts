import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EINVAL, EIO } from '../../../src/core/errno.ts'
import { GodwitError } from '../../../src/core/errors.ts'
import { Arena } from '../../../src/linux/arena.ts'
import { FakeUdpNetwork } from '../../../src/linux/fake-udp.ts'
import { declare } from '../../../src/linux/libc.ts'
import { readAddress16, readName, writeAddress16, writeName } from '../../../src/linux/sockaddr.ts'
import { openUdp, ReceiveBatch, type UdpSocket } from '../../../src/linux/udp.ts'
import { udpBatchObstacle } from '../../../src/linux/udp-probe.ts'
import { udpCompliance } from '../../suites/udp.ts'

const LOOPBACK = Uint8Array.of(127, 0, 0, 1)

udpCompliance('the double', () => {
  const arena = new Arena(1 << 20)
  const network = new FakeUdpNetwork()
  const atA = { address: Uint8Array.of(10, 0, 0, 1), port: 1 }
  const atB = { address: Uint8Array.of(10, 0, 0, 2), port: 2 }
  const a = network.open(arena, atA)
  a.largest = 1472
  return { arena, a, b: network.open(arena, atB), atA, atB, largest: 1472 }
})

const setsockopt = declare<
  (fd: number, level: number, option: number, value: Buffer, length: number) => number
>('int setsockopt(int fd, int level, int option, uint8_t *value, int length)')
const getsockopt = declare<
  (fd: number, level: number, option: number, value: Buffer, length: Buffer) => number
>('int getsockopt(int fd, int level, int option, _Out_ uint8_t *value, uint8_t *length)')
const SOL_SOCKET = 1
const SO_NO_CHECK = 11
const SO_BINDTODEVICE = 25
const SO_MARK = 36
const SOL_UDP = 17
const UDP_GRO = 104

function set(fd: number, level: number, option: number, value: number): void {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32LE(value)
  assert.equal(setsockopt(fd, level, option, bytes, 4), 0)
}

function option(fd: number, name: number): Buffer {
  const value = Buffer.alloc(16)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(16)
  assert.equal(getsockopt(fd, SOL_SOCKET, name, value, length), 0)
  return value
}

/** What the kernel may not have, or refuse. */
const kernels = {
  'with all it has': () => {},
  // Segmentation asks for a checksum: the kernel refuses UDP_SEGMENT on a socket that sends none.
  'that refuses UDP_SEGMENT': (a: UdpSocket) => set(a.fd, SOL_SOCKET, SO_NO_CHECK, 1),
  'without UDP_GRO': (_a: UdpSocket, b: UdpSocket) => set(b.fd, SOL_UDP, UDP_GRO, 0),
}

for (const [which, spoil] of Object.entries(kernels))
  for (const family of [4, 6] as const)
    udpCompliance(`the kernel ${which}, IPv4 by a socket of family ${family}`, () => {
      const arena = new Arena(1 << 20)
      const a = family === 4 ? openUdp(arena, { family, address: LOOPBACK }) : openUdp(arena, { family })
      const b = openUdp(arena, { family })
      spoil(a, b)
      return {
        arena,
        a,
        b,
        atA: { address: LOOPBACK, port: a.port },
        atB: { address: LOOPBACK, port: b.port },
        // Loopback's MTU is 65,536, but a payload ends at what an IPv4 packet holds.
        largest: 65_507,
      }
    })

test('a socket carries its mark and keeps to its device', {
  skip: process.getuid?.() !== 0 && 'needs root',
}, () => {
  const arena = new Arena(1 << 12)
  const socket = openUdp(arena, { family: 4, mark: 0xfedc1234, device: 'lo' })
  assert.equal(option(socket.fd, SO_MARK).readUInt32LE(), 0xfedc1234)
  assert.equal(option(socket.fd, SO_BINDTODEVICE).toString('latin1', 0, 3), 'lo\0')
  socket.close()
})

test('a multihomed socket tells which of its addresses was reached, and answers from it', () => {
  for (const family of [4, 6] as const) {
    const arena = new Arena(1 << 20)
    const { u8, view } = arena
    const batch = new ReceiveBatch(arena, 2)
    const anchor = openUdp(arena, { family, multihomed: true })
    const host = openUdp(arena, { family: 4, address: LOOPBACK })
    const name = arena.reserve(32)
    const at = arena.reserve(64)
    const reached = Uint8Array.of(127, 0, 0, 77)
    writeName(u8, view, name, { address: reached, port: anchor.port }, 4)
    assert.equal(host.send(name, 0, at, 10, 0), 0)
    assert.equal(anchor.receive(batch), 1)
    assert.deepEqual(readAddress16(u8, batch.local[0]!), reached)
    assert.equal(anchor.send(batch.name[0]!, batch.local[0]!, at, 40, 20), 0)
    assert.equal(host.receive(batch), 1)
    assert.deepEqual(u8.slice(batch.name[0]! + 4, batch.name[0]! + 8), reached)
    anchor.close()
    host.close()
  }
})

test('house 13: a batch from a chosen address is sent whole, whatever was sent before', () => {
  for (const family of [4, 6] as const) {
    const arena = new Arena(1 << 20)
    const { u8, view } = arena
    const batch = new ReceiveBatch(arena, 4)
    // What the socket keeps for sending is memory that another owner left full.
    const areas = Array.from({ length: 32 }, (_, n) => ({
      at: arena.reserve(64 * n + 64),
      length: 64 * n + 64,
    }))
    for (const { at, length } of areas) {
      u8.fill(0xff, at, at + length)
      arena.release(at, length)
    }
    const anchor = openUdp(arena, { family, multihomed: true })
    const host = openUdp(arena, { family: 4, address: LOOPBACK })
    const name = arena.reserve(32)
    const local = arena.reserve(16)
    const at = arena.reserve(4096)
    writeName(u8, view, name, { address: LOOPBACK, port: host.port }, family)
    // Control messages: none, address, size and address, size, in turn; each leaves its bytes to the next.
    const reached = Uint8Array.of(127, 255, 254, 253)
    writeAddress16(u8, local, reached)
    for (const [localAt, segment] of [
      [0, 0],
      [local, 0],
      [local, 100],
      [0, 100],
      [local, 0],
      [local, 70],
    ] as const) {
      assert.equal(anchor.send(name, localAt, at, 350, segment), 0)
      assert.equal(host.receive(batch), 1, `${segment} bytes, family ${family}: one message`)
      assert.equal(batch.length[0], 350)
      assert.equal(batch.segment[0], segment === 0 ? 350 : segment)
      const source = u8.slice(batch.name[0]! + 4, batch.name[0]! + 8)
      assert.deepEqual(source, localAt === 0 ? LOOPBACK : reached)
    }
    assert.equal(anchor.split, 0)
    anchor.close()
    host.close()
  }
})

test('house 13: batches that the kernel refuses are counted, with its reason', () => {
  const arena = new Arena(1 << 20)
  const a = openUdp(arena, { family: 4, address: LOOPBACK })
  const b = openUdp(arena, { family: 4, address: LOOPBACK })
  set(a.fd, SOL_SOCKET, SO_NO_CHECK, 1)
  const name = arena.reserve(32)
  const at = arena.reserve(4096)
  writeName(arena.u8, arena.view, name, { address: LOOPBACK, port: b.port }, 4)
  assert.equal(a.send(name, 0, at, 300, 100), 0)
  assert.equal(a.send(name, 0, at, 300, 0), 0)
  assert.equal(a.send(name, 0, at, 300, 100), 0)
  assert.equal(a.split, 2)
  assert.ok(a.splitError === EINVAL || a.splitError === EIO, `errno ${a.splitError}`)
  a.close()
  b.close()
})

test('house 13: a name is whole in memory that held that of an IPv6 sender', () => {
  const arena = new Arena(1 << 20)
  const { u8, view } = arena
  const batch = new ReceiveBatch(arena, 1)
  const name = arena.reserve(32)
  const at = arena.reserve(64)
  const six = openUdp(arena, { family: 6 })
  const four = openUdp(arena, { family: 4, address: LOOPBACK })
  writeName(u8, view, name, { address: LOOPBACK, port: six.port }, 6)
  assert.equal(six.send(name, 0, at, 10, 0), 0)
  assert.equal(six.receive(batch), 1)
  writeName(u8, view, name, { address: LOOPBACK, port: four.port }, 4)
  assert.equal(four.send(name, 0, at, 10, 0), 0)
  assert.equal(four.receive(batch), 1)
  assert.deepEqual(u8.slice(batch.name[0]!, batch.name[0]! + 32), u8.slice(name, name + 32))
  six.close()
  four.close()
})

test('issue 13: in a network that translates, IPv4 addresses have its prefix in front, and come back without', () => {
  const arena = new Arena(1 << 16)
  const at = arena.reserve(32)
  const nat64 = Uint8Array.of(0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0)
  const write = (address: Uint8Array, prefix?: Uint8Array) =>
    writeName(arena.u8, arena.view, at, { address, port: 9 }, 6, prefix)
  const read = (prefix?: Uint8Array) => readName(arena.u8, arena.view, at, prefix)
  const [four, six] = [Uint8Array.of(192, 0, 2, 1), new Uint8Array(16).fill(7)]
  write(four, nat64)
  assert.deepEqual(read(), { address: Uint8Array.of(...nat64, ...four), port: 9 })
  assert.deepEqual(read(nat64), { address: four, port: 9 })
  write(six, nat64)
  assert.deepEqual(read(nat64), { address: six, port: 9 })
  write(four)
  assert.deepEqual(read(nat64), { address: four, port: 9 })
})

test('house 13: what is reserved is zeroed, released areas and a reset arena too', () => {
  const arena = new Arena(1 << 12)
  const at = arena.reserve(256)
  arena.u8.fill(0xff, at, at + 256)
  arena.release(at, 256)
  assert.equal(arena.reserve(256), at)
  assert.ok(arena.u8.subarray(at, at + 256).every((byte) => byte === 0))
  arena.u8.fill(0xff, at, at + 256)
  arena.reset()
  assert.equal(arena.reserve(100), at)
  assert.ok(arena.u8.subarray(at, at + 256).every((byte) => byte === 0))
})

test('house 13: this kernel sends and receives in batches, as doctor says', () => {
  assert.equal(udpBatchObstacle(), undefined)
})

test('a port that is taken, and a device that is not there, are said', () => {
  const arena = new Arena(1 << 20)
  const first = openUdp(arena, { family: 4, address: LOOPBACK })
  assert.throws(
    () => openUdp(arena, { family: 4, address: LOOPBACK, port: first.port }),
    (error) => error instanceof GodwitError && error.code === 'PORT_TAKEN',
  )
  assert.throws(() => openUdp(arena, { family: 4, device: 'nosuch0' }), /bind to nosuch0: ENODEV|EPERM/)
  first.close()
})

test('sockets that come and go take no packet memory for good', () => {
  const arena = new Arena(1 << 12)
  for (let n = 0; n < 100; n++) openUdp(arena, { family: 4, address: LOOPBACK }).close()
})

/** Which of the relay's channels the kernel gets (NT-24, NT-25): only what nodes have bound; bindings, routes and counts. */
import assert from 'node:assert/strict'
import { beforeEach, describe, it } from 'node:test'
import type { Endpoint } from '../../../src/core/endpoint.ts'
import type { Link, Route } from '../../../src/linux/rtnetlink/types.ts'
import type { Side } from '../../../src/overlay/machine/relay.ts'
import { RelayKernel, type RelayTables } from '../../../src/overlay/servers/relay-kernel.ts'
import { LAYOUT } from '../../../src/overlay/servers/relay-program.ts'

const PORTS = [7000, 7001]
const OURS = Uint8Array.of(192, 0, 2, 1)
const at = (last: number, local: Uint8Array | null = OURS): Endpoint => ({
  address: Uint8Array.of(198, 51, 100, last),
  port: 0x1234,
  ...(local !== null && { local }),
})
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

class FakeTables implements RelayTables {
  readonly elements = new Map<string, Uint8Array>()
  readonly devices: number[] = []
  attach(device: number): void {
    this.devices.push(device)
  }
  detach(device: number): void {
    this.devices.splice(this.devices.indexOf(device), 1)
  }
  put(_family: 4 | 6, key: Uint8Array, value: Uint8Array): void {
    this.elements.set(hex(key), value)
  }
  read(_family: 4 | 6, key: Uint8Array): Uint8Array | undefined {
    return this.elements.get(hex(key))
  }
  take(_family: 4 | 6, key: Uint8Array): Uint8Array | undefined {
    const value = this.elements.get(hex(key))
    this.elements.delete(hex(key))
    return value
  }
  close(): void {}
  /** As the kernel counts. */
  count(key: string, datagrams: number, bytes: number): void {
    const value = this.elements.get(key)!
    const view = new DataView(value.buffer)
    view.setBigUint64(LAYOUT[4].datagrams, BigInt(datagrams), true)
    view.setBigUint64(LAYOUT[4].bytes, BigInt(bytes), true)
  }
}

/** eth0 is device 2, eth1 3, tun0 4 without a hardware address. */
const LINKS: Readonly<Record<string, [number, string]>> = { eth0: [2, 'a'], eth1: [3, 'b'], tun0: [4, ''] }

let tables: FakeTables
let device: string
let kernel: RelayKernel
let a: Side
let b: Side

function side(port: number): Side {
  const no = { other: undefined, proven: undefined, bound: undefined }
  return {
    ...no,
    port,
    key: new Uint8Array(32),
    node: 1n,
    counter: 0,
    packets: 0,
    bytes: 0,
  } as unknown as Side
}

function set(one: Side, bound: Endpoint | undefined): void {
  one.bound = bound
  kernel.set(a)
  kernel.set(b)
}

describe('a relay in the kernel', () => {
  beforeEach(() => {
    tables = new FakeTables()
    device = 'eth0'
    kernel = new RelayKernel({
      tables,
      ports: PORTS,
      rate: 1e6,
      warn: assert.fail,
      rtnl: {
        lookup: () => ({ type: 'unicast', dev: device }) as Route,
        link: (name) => {
          const found = Object.entries(LINKS).find(([each, [index]]) => each === name || index === name)
          return found && ({ index: found[1][0], mac: found[1][1], loopback: false } as Link)
        },
        routes: () => [],
      },
    })
    a = side(0)
    b = side(1)
    a.other = b
    b.other = a
  })

  describe('elements', () => {
    it('one for each direction once both nodes have bound: from where and to where, by which device, at which rate', () => {
      set(a, at(1))
      assert.equal(tables.elements.size, 0, 'the other is nowhere yet')
      set(b, at(2))
      assert.deepEqual([...tables.elements.keys()].sort(), [
        'c6336401c000020112341b58',
        'c6336402c000020112341b59',
      ])
      const value = tables.elements.get('c6336401c000020112341b58')!
      assert.equal(hex(value.subarray(0, 16)), 'c0000201c63364021b59123402000000')
      // 1,024 bytes at a megabyte a second.
      assert.equal(new DataView(value.buffer).getBigUint64(LAYOUT[4].cost, true), 1_024_000n)
      assert.deepEqual(tables.devices, [2])
    })

    it('none for an address that only the coordinator has named, of two families, or behind a device without Ethernet', () => {
      set(a, at(1))
      set(b, at(2, null))
      assert.equal(tables.elements.size, 0)
      set(b, { address: new Uint8Array(16).fill(0x20), port: 1, local: new Uint8Array(16).fill(0x21) })
      assert.equal(tables.elements.size, 0)
      device = 'tun0'
      set(b, at(2))
      assert.equal(tables.elements.size, 0)
    })

    it('a side that is bound elsewhere takes both directions along; one that is not bound any more takes them out', () => {
      set(a, at(1))
      set(b, at(2))
      set(b, at(3))
      assert.deepEqual([...tables.elements.keys()].sort(), [
        'c6336401c000020112341b58',
        'c6336403c000020112341b59',
      ])
      const there = tables.elements.get('c6336401c000020112341b58')!
      assert.equal(hex(there.subarray(4, 8)), 'c6336403')
      set(b, undefined)
      assert.equal(tables.elements.size, 0)
    })

    it('follow the routes, a hundred sides in a turn', () => {
      set(a, at(1))
      set(b, at(2))
      device = 'eth1'
      kernel.reroute([...Array<Side>(100).fill(a), b])
      kernel.refresh()
      assert.equal(kernel.isStale, true)
      kernel.refresh()
      assert.equal(kernel.isStale, false)
      assert.deepEqual(
        [...tables.elements.values()].map((value) => value[12]),
        [3, 3],
      )
    })
  })

  it('what the kernel has forwarded is added to the side once, also when its element goes', () => {
    set(a, at(1))
    set(b, at(2))
    tables.count('c6336401c000020112341b58', 5, 6000)
    kernel.collect()
    kernel.collect()
    assert.deepEqual([a.packets, a.bytes], [5, 6000])
    tables.count('c6336401c000020112341b58', 7, 8000)
    set(b, at(3))
    assert.deepEqual([a.packets, a.bytes], [7, 8000])
    assert.deepEqual(kernel.counts, { forwarded: 7, bytes: 8000, limited: 0 })
    kernel.collect()
    assert.deepEqual([a.packets, a.bytes], [7, 8000])
  })
})

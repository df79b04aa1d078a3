/** Which packets are kept where more wait than there is room for. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Arena } from '../../../src/linux/arena.ts'
import { VNET_HEADER } from '../../../src/linux/tun.ts'
import { Parking } from '../../../src/tunnel/datapath/parking.ts'
import { udpPacket } from '../../support/udp-packet.ts'

const PLACES = 8
const ADDRESS = Uint8Array.of(10, 0, 0, 1)

/** Each packet is of a flow of its own. */
function bed() {
  const arena = new Arena(1 << 16)
  const at = arena.reserve(2048)
  const parking = new Parking(arena, PLACES)
  let port = 1
  /** `isKnown`: it is known which peer the packet is for. */
  const put = (peer: number, isKnown = true) => {
    const from = { address: ADDRESS, port: port++ }
    const packet = udpPacket(from, { address: Uint8Array.of(10, 0, 1, peer), port: 9 }, new Uint8Array(1))
    arena.u8.set(packet, at + VNET_HEADER)
    parking.put(at, VNET_HEADER + packet.length, port, isKnown ? peer : -1)
  }
  /** Last bytes of the destinations of all that is kept. */
  const destinations = () => {
    const all: number[] = []
    while (parking.take(at) > 0) all.push(arena.u8[at + VNET_HEADER + 19]!)
    return all
  }
  const taken = (peer: number) => {
    let n = 0
    while (parking.take(at, peer) > 0) n++
    return n
  }
  return { parking, put, taken, destinations }
}

test('NT-40: of what is held for several peers each has its share, whatever one of them sends', () => {
  const { parking, put, taken } = bed()
  for (let n = 0; n < 2; n++) put(1)
  for (let n = 0; n < 100; n++) put(2)
  put(3)
  assert.equal(parking.size, PLACES)
  assert.deepEqual([1, 3, 2].map(taken), [2, 1, PLACES - 3])
  assert.equal(parking.size, 0)
  // Afterwards as before.
  for (let n = 0; n < 100; n++) put(2)
  for (let n = 0; n < 100; n++) put(1)
  assert.ok(taken(2) >= PLACES / 2 - 1)
  assert.ok(taken(1) >= PLACES / 2)
})

test('NT-40: of packets without a path each destination has its share, whatever one of them gets', () => {
  const { parking, put, destinations } = bed()
  for (let n = 0; n < 2; n++) put(1, false)
  for (let n = 0; n < 100; n++) put(2, false)
  put(3, false)
  assert.equal(parking.size, PLACES)
  assert.deepEqual(destinations(), [1, 1, 2, 2, 2, 2, 2, 3])
})

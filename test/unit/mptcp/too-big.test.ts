/** ICMP errors about packets that were too big. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { viewOf } from '../../../src/core/bytes.ts'
import { TOO_BIG_MAX, writeTooBig } from '../../../src/core/icmp.ts'
import { packetOf } from '../../../src/mptcp/packets.ts'
import { readTooBig, type TooBig } from '../../../src/mptcp/too-big.ts'

const errors: readonly TooBig[] = [
  {
    tuple: {
      local: Uint8Array.of(10, 1, 0, 2),
      localPort: 40_000,
      remote: Uint8Array.of(10, 3, 0, 2),
      remotePort: 80,
    },
    seq: 0xfedcba98,
    mtu: 1372,
  },
  {
    tuple: {
      local: Uint8Array.of(0xfd, ...new Array(14).fill(0), 2),
      localPort: 40_001,
      remote: Uint8Array.of(0xfd, ...new Array(14).fill(3), 2),
      remotePort: 443,
    },
    seq: 7,
    mtu: 1280,
  },
]
function tooBigPacket({ tuple, seq, mtu }: TooBig): Uint8Array {
  const segment = { to: 'wire', tuple, seq, ack: 0, flags: 16, window: 0, payload: undefined } as const
  const rest = { options: new Uint8Array(0), access: undefined, segmentSize: 1432 }
  const sent = packetOf({ ...segment, ...rest }, new Uint8Array(0))
  const out = new Uint8Array(TOO_BIG_MAX)
  return out.slice(0, writeTooBig(sent, 0, sent.length, mtu, out, 0))
}

/** Where the ICMP header is. */
const icmpOf = ({ tuple }: TooBig) => (tuple.local.length === 4 ? 20 : 40)

test('the packet that an error is about, and what passes', () => {
  for (const error of errors) {
    const packet = tooBigPacket(error)
    assert.deepEqual(readTooBig(viewOf(packet), icmpOf(error), packet.length), error)
  }
})

test('no cut and no other byte makes reading fail; what quotes no ports and number, another error or another protocol is none', () => {
  for (const error of errors) {
    const icmp = icmpOf(error)
    const packet = tooBigPacket(error)
    const needed = icmp + 8 + (icmp === 20 ? 20 : 40) + 8
    for (let length = 0; length <= packet.length; length++)
      assert.equal(readTooBig(viewOf(packet.slice(0, length)), icmp, length) !== undefined, length >= needed)
    for (let at = icmp; at < packet.length; at++)
      for (const value of [0, 1, 0x45, 0x60, 0xff]) {
        const changed = packet.slice()
        changed[at] = value
        readTooBig(viewOf(changed), icmp, changed.length)
      }
    const protocol = packet.slice()
    protocol[icmp + 8 + (icmp === 20 ? 9 : 6)] = 17
    assert.equal(readTooBig(viewOf(protocol), icmp, protocol.length), undefined)
    const other = packet.slice()
    other[icmp]!++
    assert.equal(readTooBig(viewOf(other), icmp, other.length), undefined)
  }
})

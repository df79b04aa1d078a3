/** The error by which applications hear that a host cannot be reached (DI-32; translation/kernel/unreachable.ts). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { hostUnreachable } from '../../../src/translation/kernel/unreachable.ts'
import { flowId, type SocketRow } from '../../../src/translation/tables.ts'

const flow = (protocol: 6 | 17, local: string, foreign: string): SocketRow => ({
  id: flowId(protocol, local, 40000, foreign, 80),
  protocol,
  local,
  localPort: 40000,
  foreign,
  foreignPort: 80,
  hid: 1,
  inode: 0,
})

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** Internet checksum of whole messages: zero when theirs is right. */
function sum(bytes: Uint8Array, more = 0): number {
  let total = more
  for (let i = 0; i < bytes.length; i += 2) total += (bytes[i]! << 8) | (bytes[i + 1] ?? 0)
  while (total > 0xffff) total = (total & 0xffff) + (total >> 16)
  return ~total & 0xffff
}

test('DI-32: host unreachable (RFC 792): to itself, about the packet that its socket sends, checksums right', () => {
  const bytes = hostUnreachable(flow(6, '10.1.0.2', '10.3.0.2'), 0x01020304)
  assert.equal(sum(bytes.slice(0, 20)), 0)
  assert.equal(hex(bytes.slice(12, 20)), '0a0100020a010002')
  const icmp = bytes.slice(20)
  assert.equal(sum(icmp), 0)
  assert.equal(hex(icmp.slice(0, 2)), '0301')
  assert.equal(hex(icmp.slice(8 + 12, 8 + 28)), '0a0100020a0300029c40005001020304')
  assert.equal(icmp[8 + 9], 6)
})

test('DI-32: address unreachable (RFC 4443), of a datagram', () => {
  const bytes = hostUnreachable(flow(17, 'fd00:1::2', 'fd00:3::2'), 0)
  assert.equal(bytes[6], 58)
  const icmp = bytes.slice(40)
  assert.equal(sum(bytes.slice(8), 58 + icmp.length), 0)
  assert.equal(hex(icmp.slice(0, 2)), '0103')
  assert.equal(icmp[8 + 6], 17)
  assert.equal(hex(icmp.slice(8 + 40, 8 + 44)), '9c400050')
})

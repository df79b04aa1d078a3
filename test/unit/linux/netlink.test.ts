import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fromHex } from '../../../src/core/bytes.ts'
import {
  Attributes,
  NetlinkMessage,
  readAttributes,
  readError,
  readMessages,
} from '../../../src/linux/netlink.ts'

function hex(text: string): Uint8Array {
  const bytes = fromHex(text)
  assert.ok(bytes.ok)
  return bytes.value
}

test('a message is written as linux/netlink.h lays it out', () => {
  const message = new NetlinkMessage(0x10, 0x600).u8(2).zeros(3)
  message.attributeString(3, 'lo').attributeU32(4, 1500)
  message.nested(18, () => message.attributeU8(1, 7))
  const wanted = `
    30000000 1000 0106 09000000 00000000   length 48, type, flags with REQUEST, sequence 9, port 0
    02000000                               the body's own fields
    0700 0300 6c6f0000                     "lo" with its zero, padded
    0800 0400 dc050000                     1500
    0c00 1280 0500 0100 07000000           nested, the inner one padded`
  assert.deepEqual(message.finish(9), hex(wanted.replace(/(?<=\d) {3,}.*$/gm, '')))
})

test('a message grows, and comes back as it was written', () => {
  const long = new Uint8Array(1000).fill(9)
  const message = new NetlinkMessage(1).attribute(5, long).attributeU64(6, 2 ** 40 + 1)
  const [reply, ...more] = readMessages(message.finish(1))
  assert.equal(more.length, 0)
  const attributes = new Attributes(reply!.body)
  assert.deepEqual(attributes.bytes(5), long)
  assert.equal(attributes.u64(6), 2 ** 40 + 1)
  assert.equal(attributes.u32(7), undefined)
})

test('every truncation reads as less, never as an error', () => {
  const message = new NetlinkMessage(1).attributeU32(1, 1).attributeString(2, 'text').attributeU64(3, 3)
  const bytes = message.finish(1).slice()
  for (let length = 0; length < bytes.length; length++) {
    assert.deepEqual([...readMessages(bytes.subarray(0, length))], [])
    if (length < 16) continue
    const seen = [...readAttributes(bytes.subarray(0, length), 16)]
    assert.ok(seen.length < 3)
    new Attributes(bytes.subarray(0, length), 16).u64(3)
  }
  const lying = bytes.slice()
  lying[16] = 3 // an attribute shorter than its own header
  assert.deepEqual([...readAttributes(lying, 16)], [])
})

test('an error brings errno and the explanation of the kernel', () => {
  const text = new NetlinkMessage(0).attributeString(1, 'no').finish(0).slice(16)
  const capped = Uint8Array.of(...hex('eaffffff'), ...new Uint8Array(16), ...text)
  const reply = { type: 2, flags: 0x300, sequence: 1, body: capped }
  assert.deepEqual(readError(reply), { errno: 22, message: 'no' })
  assert.deepEqual(readError({ ...reply, body: new Uint8Array(36) }), { errno: 0, message: undefined })
  assert.deepEqual(readError({ ...reply, body: new Uint8Array(0) }), { errno: 0, message: undefined })
})

/** What a NAT that knows IHMP reads from the kernel (translation/nat.ts). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readConnection } from '../../../src/translation/nat.ts'
import { dump } from '../codec-suite.ts'

test('DI-42: a mapping stays what it was when the buffer of its event holds the next one', () => {
  const body = Buffer.from(
    dump(`
    02 00 00 00                # AF_INET, version, resource
    34 00 01 80                # CTA_TUPLE_ORIG
    14 00 01 80                #   CTA_TUPLE_IP
    08 00 01 00  0a 02 00 02   #     10.2.0.2
    08 00 02 00  0a 03 00 02   #     10.3.0.2
    1c 00 02 80                #   CTA_TUPLE_PROTO
    05 00 01 00  06 00 00 00   #     TCP
    06 00 02 00  9c 40 00 00   #     from 40000
    06 00 03 00  00 16 00 00   #     to 22
    34 00 02 80                # CTA_TUPLE_REPLY
    14 00 01 80
    08 00 01 00  0a 03 00 02   #     10.3.0.2
    08 00 02 00  0a 03 00 01   #     10.3.0.1
    1c 00 02 80
    05 00 01 00  06 00 00 00
    06 00 02 00  00 16 00 00   #     from 22
    06 00 03 00  4e 20 00 00   #     to 20000
  `),
  )
  const connection = readConnection({ type: 0, flags: 0, sequence: 0, body })
  body.fill(0xff) // a Buffer, as the socket gives it: its `slice` is no copy
  assert.deepEqual(connection, {
    remote: '10.3.0.2',
    mapping: {
      protocol: 6,
      host: Uint8Array.of(10, 2, 0, 2),
      hostPort: 40_000,
      nat: Uint8Array.of(10, 3, 0, 1),
      natPort: 20_000,
      remotePort: 22,
    },
  })
})

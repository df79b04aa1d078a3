/** Messages to ctnetlink (linux/conntrack.ts). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deletion, loosening } from '../../../src/linux/conntrack.ts'
import { dump } from '../codec-suite.ts'

test('linux/nfnetlink_conntrack.h: the request that forgets a TCP connection over IPv4', () => {
  const message = deletion({
    protocol: 6,
    localAddress: Uint8Array.of(192, 0, 2, 1),
    localPort: 40_000,
    remoteAddress: Uint8Array.of(198, 51, 100, 7),
    remotePort: 80,
  })
  assert.deepEqual(
    message.finish(5).slice(),
    dump(`
      48 00 00 00  02 01 01 00   # length, IPCTNL_MSG_CT_DELETE of ctnetlink, NLM_F_REQUEST
      05 00 00 00  00 00 00 00   # sequence, port
      02 00 00 00                # AF_INET, version, resource
      34 00 01 80                # CTA_TUPLE_ORIG
      14 00 01 80                #   CTA_TUPLE_IP
      08 00 01 00  c0 00 02 01   #     source
      08 00 02 00  c6 33 64 07   #     destination
      1c 00 02 80                #   CTA_TUPLE_PROTO
      05 00 01 00  06 00 00 00   #     TCP
      06 00 02 00  9c 40 00 00   #     source port
      06 00 03 00  00 50 00 00   #     destination port
    `),
  )
})

test('linux/nfnetlink_conntrack.h: the request that lets a TCP connection have any sequence numbers', () => {
  const message = loosening({
    protocol: 6,
    localAddress: Uint8Array.of(192, 0, 2, 1),
    localPort: 40_000,
    remoteAddress: Uint8Array.of(198, 51, 100, 7),
    remotePort: 80,
  })
  assert.deepEqual(
    message.finish(5).slice(),
    dump(`
      60 00 00 00  00 01 01 00   # length, IPCTNL_MSG_CT_NEW of ctnetlink, NLM_F_REQUEST: none is made
      05 00 00 00  00 00 00 00   # sequence, port
      02 00 00 00                # AF_INET, version, resource
      34 00 01 80                # CTA_TUPLE_ORIG
      14 00 01 80                #   CTA_TUPLE_IP
      08 00 01 00  c0 00 02 01   #     source
      08 00 02 00  c6 33 64 07   #     destination
      1c 00 02 80                #   CTA_TUPLE_PROTO
      05 00 01 00  06 00 00 00   #     TCP
      06 00 02 00  9c 40 00 00   #     source port
      06 00 03 00  00 50 00 00   #     destination port
      18 00 04 80                # CTA_PROTOINFO
      14 00 01 80                #   CTA_PROTOINFO_TCP
      06 00 04 00  08 08 00 00   #     flags of the original direction, and their mask: IP_CT_TCP_FLAG_BE_LIBERAL
      06 00 05 00  08 08 00 00   #     of the reply
    `),
  )
})

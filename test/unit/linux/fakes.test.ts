import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FakeNftables, FakeSocketTable, FakeSysctls } from '../../../src/linux/fakes.ts'
import { UDP } from '../../../src/linux/sockdiag.ts'
import { nftCompliance } from '../../suites/nftables.ts'
import { sysctlsCompliance } from '../../suites/sysctls.ts'

nftCompliance('the fake', () => new FakeNftables())
sysctlsCompliance('the fake', () => {
  const values = [
    ['net.ipv4.ip_forward', '0'],
    ['net.ipv4.conf.lo.rp_filter', '0'],
    ['net.ipv4.conf.lo.forwarding', '0'],
  ] as const
  return new FakeSysctls(values)
})

test('the fake finds an unconnected UDP socket by its port', () => {
  const sockets = new FakeSocketTable()
  const any = new Uint8Array(4)
  const bound = { localAddress: any, localPort: 53, remoteAddress: any, remotePort: 0 }
  const socket = sockets.add({ protocol: UDP, state: 'close', ...bound })
  const from = Uint8Array.of(192, 0, 2, 1)
  const flow = { localAddress: from, localPort: 53, remoteAddress: from, remotePort: 9 }
  assert.equal(sockets.find({ protocol: UDP, ...flow }), socket)
  assert.equal(sockets.destroy(socket), true)
  assert.equal(sockets.find({ protocol: UDP, ...flow }), undefined)
})

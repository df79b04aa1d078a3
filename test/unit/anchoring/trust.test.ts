/** Networks at which the tunnel rests. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatTrust, isTrusted, parseTrust } from '../../../src/anchoring/trust.ts'

const ACCESS = {
  addresses: [{ address: '192.168.178.20' }, { address: '2001:db8:1::20' }],
  gateways: [{ via: '192.168.178.1' }, { via: 'fe80::1' }, { via: undefined }],
}
const NEIGHBOURS = [
  { address: '192.168.178.1', mac: '02:00:5e:10:00:01' },
  { address: '192.168.178.30', mac: '02:00:5e:10:00:30' },
]

test('a network is known by its subnet, its gateway, or the hardware address of that; all that is joined must hold', () => {
  const trusts = (text: string) => {
    const parsed = parseTrust(text)
    assert.ok(parsed.ok, text)
    assert.equal(formatTrust(parsed.value), text.toLowerCase())
    return isTrusted(parsed.value, ACCESS, () => NEIGHBOURS)
  }
  for (const text of [
    'subnet:192.168.178.0/24',
    'subnet:2001:db8:1::/64',
    'gateway:192.168.178.1',
    'gateway:fe80::1',
    'gateway:02:00:5E:10:00:01',
    'subnet:192.168.178.0/24+gateway:02:00:5e:10:00:01',
  ])
    assert.equal(trusts(text), true, text)
  for (const text of [
    'subnet:192.168.0.0/24',
    'gateway:192.168.178.30',
    'gateway:02:00:5e:10:00:30',
    'subnet:192.168.178.0/24+gateway:02:00:5e:10:00:02',
  ])
    assert.equal(trusts(text), false, text)
})

test('what is no network is refused', () => {
  for (const text of [
    '',
    'Home',
    'ssid:Home',
    'subnet:',
    'subnet:192.168.0.0/33',
    'gateway:home',
    'subnet:10.0.0.0/8+',
  ])
    assert.equal(parseTrust(text).ok, false, text)
})

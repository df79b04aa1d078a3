/** What every `Sysctls` does, the kernel's and the fake. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Sysctls } from '../../src/linux/sysctl.ts'

export function sysctlsCompliance(name: string, make: () => Sysctls): void {
  test(`Sysctls: ${name}: settings are changed and put back`, () => {
    const sysctls = make()
    const [forward, filter] = ['net.ipv4.ip_forward', 'net.ipv4.conf.lo.rp_filter'] as const
    // A new namespace starts with what the machine has.
    const before = [sysctls.get(forward)!, sysctls.get(filter)!] as const
    const other = before[0] === '0' ? 1 : 0
    sysctls.set(forward, other)
    sysctls.set(filter, (Number(before[1]) + 1) % 3)
    sysctls.set(filter, (Number(before[1]) + 2) % 3)
    sysctls.set('net.ipv4.conf.lo.forwarding', sysctls.get('net.ipv4.conf.lo.forwarding')!)
    assert.equal(sysctls.get(forward), String(other))
    assert.equal(sysctls.get('net.none'), undefined)
    assert.throws(() => sysctls.set('net.none', 1), { code: 'ENOENT' })
    assert.deepEqual(
      [...sysctls.saved],
      [
        [forward, before[0]],
        [filter, before[1]],
      ],
    )
    sysctls.restore()
    assert.deepEqual([sysctls.get(forward), sysctls.get(filter)], before)
    assert.equal(sysctls.saved.size, 0)
  })
}

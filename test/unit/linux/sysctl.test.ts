/** Settings that cannot be written, as in a container. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { FakeSysctls } from '../../../src/linux/fakes.ts'
import { KernelError } from '../../../src/linux/libc.ts'
import { loosenReversePath } from '../../../src/linux/sysctl.ts'

const EROFS = 30
const OWN = 'net/ipv4/conf/godwit0/rp_filter'
const ALL = 'net/ipv4/conf/all/rp_filter'

function filters(own: string, all: string, isReadOnly: boolean): FakeSysctls {
  const sysctls = new FakeSysctls([
    [OWN, own],
    [ALL, all],
  ])
  if (isReadOnly)
    sysctls.set = (key) => {
      throw new KernelError(`set ${key}`, EROFS)
    }
  return sysctls
}

test('a reverse-path filter that cannot be changed is reported only if it is strict', () => {
  const table = [
    ['0', '0', false],
    ['2', '0', false],
    ['2', '1', false],
    ['0', '2', false],
    ['1', '2', false],
    ['1', '0', true],
    ['0', '1', true],
    ['1', '1', true],
  ] as const
  for (const [own, all, isStrict] of table) {
    const said = loosenReversePath(filters(own, all, true), 'godwit0')
    const what = `godwit0 ${own}, all ${all}`
    if (isStrict)
      assert.match(said!, /strict; .*docker run --sysctl net\.ipv4\.conf\.all\.rp_filter=2\)$/, what)
    else assert.equal(said, undefined, what)
    const sysctls = filters(own, all, false)
    assert.equal(loosenReversePath(sysctls, 'godwit0'), undefined, what)
    assert.equal(sysctls.get(OWN), '2', what)
  }
  assert.equal(loosenReversePath(new FakeSysctls(), 'godwit0'), undefined)
})

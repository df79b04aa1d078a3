/** What every `Cgroups` does, the kernel's and the fake. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Cgroups } from '../../src/linux/cgroup.ts'

export function cgroupsCompliance(name: string, make: () => Cgroups): void {
  test(`Cgroups: ${name}: groups are made once, have ids, and go`, (t) => {
    const groups = make()
    t.after(() => {
      for (const each of groups.list()) groups.remove(each)
      groups.prune()
    })
    assert.deepEqual(groups.list(), [])
    const id = groups.create('app')
    assert.equal(groups.create('app'), id)
    assert.equal(groups.id('app'), id)
    assert.notEqual(groups.create('other'), id)
    assert.match(groups.pathOf(id) ?? '', /^godwit\/.*\/app$/)
    assert.deepEqual(groups.list().sort(), ['app', 'other'])
    assert.equal(groups.remove('app'), true)
    assert.equal(groups.remove('app'), false)
    assert.equal(groups.id('app'), undefined)
    assert.equal(groups.pathOf(id), undefined)
    assert.deepEqual(groups.list(), ['other'])
  })
}

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { after, before, test } from 'node:test'
import { GodwitError } from '../../../src/core/errors.ts'
import {
  createNamespace,
  deleteNamespace,
  inNamespace,
  listNamespaces,
  namespaceId,
  spawnIn,
} from '../../../src/linux/netns.ts'
import { findProgram } from '../../../src/linux/packages.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { sysctlsCompliance } from '../../suites/sysctls.ts'

const name = `ns-${process.pid}`

test('namespaces are made by name, entered and left, inherited by children, and deleted', async (t) => {
  const home = namespaceId()
  createNamespace(name)
  t.after(() => deleteNamespace(name))
  assert.ok(listNamespaces().includes(name))
  assert.notEqual(namespaceId(name), home)
  assert.equal(namespaceId(), home)
  assert.throws(
    () => createNamespace(name),
    (error) => error instanceof GodwitError && error.code === 'NETNS_EXISTS',
  )
  assert.equal(
    inNamespace(name, () => namespaceId()),
    namespaceId(name),
  )
  assert.throws(
    () =>
      inNamespace(name, () => {
        throw new Error('inside')
      }),
    /inside/,
  )
  assert.equal(namespaceId(), home, 'back after an error')
  assert.equal(
    inNamespace(name, () => inNamespace(`/proc/${process.ppid}/ns/net`, () => namespaceId())),
    home,
  )

  const child = spawnIn(name, 'readlink', ['/proc/self/ns/net'], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [text] = await once(child.stdout!, 'data')
  assert.equal(String(text).trim(), `net:[${namespaceId(name)}]`)

  const ip = findProgram('ip')
  if (ip !== undefined)
    assert.match(
      execFileSync(ip, ['netns', 'exec', name, 'cat', '/proc/net/dev'], { encoding: 'utf8' }),
      /lo:/,
    )
  assert.equal(deleteNamespace(name), true)
  assert.equal(deleteNamespace(name), false)
  assert.throws(
    () => inNamespace(name, () => 0),
    (error) => error instanceof GodwitError && error.code === 'NETNS_MISSING',
  )
})

const settled = `sysctl-${process.pid}`
before(() => createNamespace(settled))
after(() => deleteNamespace(settled))
sysctlsCompliance('the kernel', () => new KernelSysctls(settled))

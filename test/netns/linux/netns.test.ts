import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { after, before, test } from 'node:test'
import { GodwitError } from '../../../src/core/errors.ts'
import { whoForwards } from '../../../src/linux/forwarding.ts'
import {
  createNamespace,
  deleteNamespace,
  inNamespace,
  listNamespaces,
  namespaceId,
  spawnIn,
} from '../../../src/linux/netns.ts'
import { findProgram, usesPrograms } from '../../../src/linux/packages.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { sysctlsCompliance } from '../../suites/sysctls.ts'

usesPrograms('ip', 'iptables', 'nft')

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
test('issue 10 B1: forwarding that was turned on stays on while another program masquerades, by nft or iptables; our own table does not count', () => {
  const inside = (command: string) =>
    execFileSync('ip', ['netns', 'exec', settled, 'sh', '-c', command], { encoding: 'utf8' })
  const own = 'godwit_main'
  const who = (key: string) => whoForwards(key, '0', own, settled)
  const [four, six] = ['net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding'] as const
  inside(`nft 'table ip ${own} { chain out { type nat hook postrouting priority srcnat; masquerade; }; }'`)
  assert.equal(who(four), undefined)
  inside(`nft 'table ip ${own}2 { chain out { type nat hook postrouting priority srcnat; masquerade; }; }'`)
  assert.equal(who(four), `table ${own}2`, 'of another instance')
  assert.equal(who(six), undefined)
  inside(`nft delete table ip ${own}2`)
  assert.equal(whoForwards(four, '1', own, settled), undefined)
  inside('ip6tables -t nat -A POSTROUTING -s fd00::/8 -j MASQUERADE')
  assert.equal(who(six), 'table nat')
  const sysctls = new KernelSysctls(
    settled,
    [],
    (key, value) => whoForwards(key, value, own, settled) !== undefined,
  )
  for (const key of [four, six]) {
    inside(`echo 0 > /proc/sys/${key.replaceAll('.', '/')}`)
    sysctls.set(key, 1)
  }
  sysctls.restore()
  assert.deepEqual([sysctls.get(four), sysctls.get(six)], ['0', '1'])
  inside(`echo 0 > /proc/sys/net/ipv6/conf/all/forwarding; ip6tables -t nat -F; nft delete table ip ${own}`)
})

sysctlsCompliance('the kernel', () => new KernelSysctls(settled))

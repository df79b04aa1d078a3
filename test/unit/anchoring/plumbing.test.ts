/** Which traffic a mobile host's rules lead to godwit. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HostPlumbing } from '../../../src/anchoring/plumbing.ts'
import { parsePrefix } from '../../../src/core/address.ts'
import { FakeSysctls } from '../../../src/linux/fakes.ts'
import { FakeNetwork, FakeRtnl } from '../../../src/linux/rtnetlink/index.ts'

function prefix(text: string) {
  const parsed = parsePrefix(text)
  assert.ok(parsed.ok)
  return parsed.value
}

/** Where rules lead to the UPMT table: `family destination`. */
function controlled(...destinations: string[]): string[] {
  const rtnl = new FakeRtnl(new FakeNetwork(), 'host')
  rtnl.createLink({ kind: 'dummy', name: 'godwit0' })
  const plumbing = new HostPlumbing(rtnl, new FakeSysctls([]), undefined, {
    device: 'godwit0',
    base: 5200,
    fix4: prefix('198.19.0.1/32'),
    fix6: prefix('fd67:6f64:7769::1/128'),
    control: 'all',
    destinations: destinations.map(prefix),
    except: [],
    selected: [],
  })
  plumbing.apply(1400)
  plumbing.apply(1400) // repeatable
  const rules = rtnl.rules().filter(({ table }) => table === 5200)
  plumbing.cleanUp()
  assert.deepEqual(
    rtnl.rules().filter(({ priority }) => priority >= 5200 && priority < 5300),
    [],
  )
  return rules.map(({ family, to }) => `${family} ${to ?? 'all'}`).sort()
}

test('with destinations only what goes there is put under control, without all', () => {
  assert.deepEqual(controlled(), ['4 all', '6 all'])
  assert.deepEqual(controlled('0.0.0.0/0', '::/0'), ['4 all', '6 all'])
  assert.deepEqual(controlled('10.0.0.0/8', '192.0.2.0/24'), ['4 10.0.0.0/8', '4 192.0.2.0/24'])
  assert.deepEqual(controlled('0.0.0.0/0', 'fd00::/8'), ['4 all', '6 fd00::/8'])
})

/** The kernel's table of connections, which an anchor fills for its hosts. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FakeSysctls } from '../../../src/linux/fakes.ts'
import { ConnectionTableWatch, connectionTable, moreRoom } from '../../../src/mechanism/connection-table.ts'

const COUNT = 'net.netfilter.nf_conntrack_count'
const MAX = 'net.netfilter.nf_conntrack_max'

test('UP-32: a full table of connections is told with its mend, once; and when it has room again', () => {
  const sysctls = new FakeSysctls([
    [COUNT, '7000'],
    [MAX, '7680'],
  ])
  const told: [string, string][] = []
  const watch = new ConnectionTableWatch(sysctls, (level, message) => told.push([level, message]))
  const at = (count: number) => {
    sysctls.values.set(COUNT, String(count))
    watch.check()
    watch.check()
    return told.splice(0)
  }
  assert.deepEqual(at(7295), [])
  const [[level, message] = []] = at(7296)
  assert.equal(level, 'warn')
  assert.match(message!, /is full \(7296 of 7680 entries in use\): .*nf_conntrack_max=30720$/)
  assert.deepEqual([at(7680), at(7296), at(6600)], [[], [], []])
  assert.match(at(6000)[0]![1], /has room again/)
  assert.equal(at(7680).length, 1)
  assert.match(moreRoom({ used: 1, room: 100 }), /=400$/)
})

test('a machine that tracks nothing, or without a limit, is never full', () => {
  assert.equal(connectionTable(new FakeSysctls()), undefined)
  assert.equal(
    connectionTable(
      new FakeSysctls([
        [COUNT, '5'],
        [MAX, '0'],
      ]),
    ),
    undefined,
  )
  new ConnectionTableWatch(new FakeSysctls(), () => assert.fail('nothing to tell')).check()
})

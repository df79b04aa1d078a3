/** When the fast path is taken (ADR 0022): the conditions, without a kernel. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KernelError } from '../../../src/linux/libc.ts'
import { FastPath } from '../../../src/translation/kernel/fast-path.ts'
import { flowId, type SocketRow, Tables } from '../../../src/translation/tables.ts'

const WIRE = { local: '10.2.0.2', foreign: '10.3.0.2' }

function bed(t: { mock: { timers: { enable(o: { apis: 'setTimeout'[] }): void; tick(ms: number): void } } }) {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const kernel = { attached: false, tracked: false, loose: true, same: true, refuses: false }
  const tables = new Tables()
  const { hid } = tables.addHost()
  const warnings: string[] = []
  const devices = {
    get attached() {
      return kernel.attached
    },
    prepare: () => {},
    add: () => {
      if (kernel.refuses) throw new KernelError('make an eBPF map', 12)
    },
    clear: () => {},
    trim: () => {},
    cover: () => {
      kernel.attached = true
      return true
    },
    covers: () => kernel.attached,
    uncover: () => {
      kernel.attached = false
    },
  }
  const network = {
    isTracked: () => kernel.tracked,
    isLoose: () => kernel.loose,
    sameWay: () => kernel.same,
    routesChanged: () => {},
  }
  const path = new FastPath(devices, network, tables, {
    allowed: true,
    accesses: () => new Map([[WIRE.local, 'acc2']]),
    translating: () => true,
    changed: () => {},
    warn: (text) => warnings.push(text),
  })
  const add = (port: number): SocketRow => {
    const row = {
      id: flowId(6, '10.1.0.2', port, WIRE.foreign, 80),
      protocol: 6,
      local: '10.1.0.2',
      localPort: port,
      foreign: WIRE.foreign,
      foreignPort: 80,
      hid,
      inode: 1,
      taken: 'both' as const,
    }
    tables.addSocket(row)
    return row
  }
  /** As after a change of the tables: nf_tables at once, the devices a moment later. */
  const apply = (): void => {
    for (let i = 0; i < 2; i++) {
      path.switches()
      path.begin(hid)
      path.add([])
      path.trim()
      t.mock.timers.tick(1_000)
    }
    path.switches()
    path.begin(hid)
  }
  return { kernel, path, hid, add, apply, warnings }
}

test('a move waits for no program: nf_tables first, then the devices', (t) => {
  const { path, hid, add, apply, kernel } = bed(t)
  const flow = add(1)
  path.switches()
  assert.equal(path.takes(hid, flow, WIRE), false)
  apply()
  assert.equal(path.takes(hid, flow, WIRE), true)
  assert.equal(path.takes(hid, { ...flow, protocol: 17 }, WIRE), false, 'UDP may be in fragments')
  path.begin(hid)
  kernel.same = false
  assert.equal(path.takes(hid, flow, WIRE), false)
})

for (const change of ['tracked', 'strict', 'refused'] as const)
  test(`nf_tables translates all again: ${change}`, (t) => {
    const { path, hid, add, apply, kernel, warnings } = bed(t)
    const flow = add(1)
    apply()
    assert.equal(path.takes(hid, flow, WIRE), true)
    if (change === 'tracked') kernel.tracked = true
    if (change === 'strict') kernel.loose = false
    if (change === 'refused') kernel.refuses = true
    apply()
    assert.equal(path.takes(hid, flow, WIRE), false)
    assert.equal(kernel.attached, false)
    assert.equal(warnings.length, change === 'refused' ? 1 : 0)
  })

test('a thousand connections take it, and it ends above two thousand', (t) => {
  const { path, hid, add, apply } = bed(t)
  const flow = add(1)
  for (let port = 2; port <= 1_000; port++) add(port)
  apply()
  assert.equal(path.takes(hid, flow, WIRE), true)
  for (let port = 1_001; port <= 2_000; port++) add(port)
  apply()
  assert.equal(path.takes(hid, flow, WIRE), true)
  add(2_001)
  apply()
  assert.equal(path.takes(hid, flow, WIRE), false)
})

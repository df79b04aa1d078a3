/** What the kernel's maps are given (translation/kernel/maps.ts): what the tables compile to, and nothing else. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { ENOENT } from '../../../src/core/errno.ts'
import { KernelError } from '../../../src/linux/libc.ts'
import { encodeElement, NfBatch } from '../../../src/linux/nf_tables.ts'
import { StackTransKernel } from '../../../src/translation/kernel/maps.ts'
import { compile, flowId, type Ip, pairKey, type SocketRow, Tables } from '../../../src/translation/tables.ts'

const [A, B, F] = ['10.1.0.2', '10.2.0.2', '10.3.0.2'] as const

/** A host that is reached from A and B, with one connection over A; what is put into the maps, as hexadecimal text. */
function host(t: TestContext) {
  const tables = new Tables()
  const row = tables.addHost()
  for (const local of [A, B]) row.accepted.set(pairKey({ local, foreign: F }), { local, foreign: F })
  row.current[4] = { local: A, foreign: F }
  const id = flowId(6, A, 40000, F, 80)
  const flow: SocketRow = {
    ...{ id, protocol: 6, local: A, localPort: 40000, foreign: F, foreignPort: 80 },
    ...{ hid: row.hid, inode: 1, taken: 'both' },
  }
  tables.addSocket(flow)
  const put: [string, string][] = []
  const elements = t.mock.method(NfBatch.prototype, 'elements', function (this: NfBatch, ...args: unknown[]) {
    const [, , name, added, , gone] = args as [unknown, unknown, string, Uint8Array[], unknown, boolean]
    for (const bytes of added) put.push([gone ? `- ${name}` : name, hex(bytes)])
    return this
  })
  assert.ok(elements)
  const state = { missing: false }
  const kernel = new StackTransKernel(
    { table: 'dime', watch: false },
    {
      commit: (_: NfBatch, what: string) => {
        if (state.missing && what.startsWith('change')) throw new KernelError(what, ENOENT)
        state.missing = false
      },
      dump: () => undefined,
      hasTable: () => !state.missing,
    },
  )
  /** What is put into the maps meanwhile. */
  const putBy = (work: () => void): Map<string, string> => {
    put.length = 0
    work()
    return new Map(put)
  }
  const apply = () => putBy(() => kernel.apply([[row.hid, compile(tables, [row.hid])]]))
  return { tables, row, flow, apply, putBy, kernel, state }
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const ip = (text: Ip): number[] => text.split('.').map(Number)
const port = (number: number): number[] => [number >> 8, number & 255, 0, 0]
const element = (key: number[], data: number[]): string =>
  hex(encodeElement(Uint8Array.from(key), Uint8Array.from(data)))

const TUPLE = [...ip(A), ...ip(F), 6, 0, 0, 0, ...port(40000), ...port(80)]

test('Table III, multipath: a flow on a pair of its own is in the map that overrules the others', (t) => {
  const { row, flow, apply } = host(t)
  assert.equal(apply().get('out_one'), undefined)
  row.overrides.set(flow.id, { local: B, foreign: F })
  assert.equal(apply().get('out_one'), element(TUPLE, [...ip(B), ...ip(F)]))
  row.overrides.delete(flow.id)
  assert.equal(apply().get('- out_one'), element(TUPLE, [...ip(B), ...ip(F)]))
})

test('issue 10, C 2: a renumbered connection: both ports of what leaves and of what arrives', (t) => {
  const { row, flow, apply } = host(t)
  row.numbers.set(flow.id, { own: 50001, other: 8080, known: true, since: 0 })
  const put = apply()
  assert.equal(put.get('out_port'), element(TUPLE, [...port(50001), ...port(8080)]))
  assert.equal(put.get('out_one'), element(TUPLE, [...ip(A), ...ip(F)]))
  const arriving = [row.hid, 0, 0, 0, 6, 0, 0, 0, ...port(8080), ...port(50001)]
  assert.equal(put.get('in_port'), element(arriving, [...port(80), ...port(40000)]))
})

test('tables that another program removed come back with all elements, also when a change finds it out', (t) => {
  const { row, flow, apply, putBy, kernel, state } = host(t)
  const first = apply()
  state.missing = true
  const again = putBy(() => assert.deepEqual(kernel.restore(), ['table ip dime']))
  assert.equal(state.missing, false)
  assert.deepEqual(again, first)
  assert.deepEqual(kernel.restore(), [], 'nothing is missing')
  state.missing = true
  row.overrides.set(flow.id, { local: B, foreign: F })
  const all = apply()
  assert.equal(all.get('out_one'), element(TUPLE, [...ip(B), ...ip(F)]))
  for (const name of first.keys()) assert.ok(all.has(name), name)
})

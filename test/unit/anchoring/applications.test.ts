/** Whose flows these are, over many of them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FlowApplications } from '../../../src/anchoring/applications.ts'
import type { FlowOwners } from '../../../src/anchoring/owners.ts'
import type { FlowTuple } from '../../../src/anchoring/tables/flow-key.ts'

const owners = {
  find: (id: string) => ({ facts: { id, proto: 6 }, cgroupId: undefined, app: 'curl', pid: 1 }),
} as unknown as FlowOwners
const anyFlow = {} as FlowTuple
const policy = { name: 'default', prefer: ['*'], fallback: 'any', moveUp: true, match: [] } as const

test('flows that ended are not remembered for ever: it is asked which live, ever more rarely as more do', () => {
  const applications = new FlowApplications(owners, [policy])
  const asked: number[] = []
  for (let i = 0; i < 100_000; i++) {
    applications.identify([{ id: String(i), flow: anyFlow }], 0)
    if (applications.crowded) asked.push(i)
  }
  assert.ok(asked.length >= 3 && asked.length <= 5, asked.join())
  assert.ok(applications.why('0', 'anchoring') !== undefined, 'nobody has said that it ended')
  applications.keep(new Set(['99999']))
  assert.equal(applications.why('0', 'anchoring'), undefined)
  assert.ok(applications.why('99999', 'anchoring') !== undefined)
  // What cannot be listed whole: the oldest give way.
  for (let i = 0; i < 200_000; i++) applications.identify([{ id: `more ${i}`, flow: anyFlow }], 0)
  assert.equal(applications.why('more 0', 'anchoring'), undefined)
  assert.ok(applications.why('more 199999', 'anchoring') !== undefined)
})

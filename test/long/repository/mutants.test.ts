/**
 * Of the ways to break protocol cores and tables, tests should notice four in five (issue 11); what has been reached must not
 * fall again. GODWIT_MUTANTS: how many of each area are tried; with 60 the measured share is within 10 percentage points of
 * the whole's.
 */
import assert from 'node:assert/strict'
import { resolve } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { AREAS } from '../../../scripts/mutants/areas.ts'
import { measureAreas } from '../../../scripts/mutants/run.ts'

const root = resolve(fileURLToPath(new URL('../../../../', import.meta.url)))
const sample = Number(process.env.GODWIT_MUTANTS ?? 60)

for (const { name, least = 0 } of AREAS)
  test(`issue 11: tests notice when ${name} is broken`, async (t) => {
    const [score] = await measureAreas({
      root,
      areas: [name],
      sample,
      seed: 1,
      say: (line) => t.diagnostic(line),
    })
    const { killed, tried, survivors } = score!
    const listed = survivors.map(
      ({ where, what, unseen }) => `${where}: ${what}${unseen ? ' (not run)' : ''}`,
    )
    t.diagnostic(`${name}: ${killed} of ${tried} killed; wanted: four in five`)
    assert.ok(killed >= least * tried, `${killed} of ${tried}; these survive:\n${listed.join('\n')}`)
  })

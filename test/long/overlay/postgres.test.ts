/**
 * The durable state in PostgreSQL through 200 failures of every kind (GODWIT_POSTGRES_RUNS: another number; GODWIT_POSTGRES_SEED: the first
 * seed): primary and standby killed, stopped and cut off at a random moment under load, promotion, coordinators killed.
 */
import { after, before, describe, it } from 'node:test'
import { FAULTS, runWithFault } from '../../suites/postgres-failures.ts'
import { cannotRun, PostgresBed } from '../../support/postgres.ts'

const RUNS = Number(process.env.GODWIT_POSTGRES_RUNS ?? 200)
const SEED = Number(process.env.GODWIT_POSTGRES_SEED ?? 1)

describe('NT-10, NT-13, NT-16: state in PostgreSQL', { skip: cannotRun() }, () => {
  const bed = new PostgresBed()
  before(() => bed.make())
  after(() => bed.end())

  for (let seed = SEED; seed < SEED + RUNS; seed++) {
    const fault = FAULTS[seed % FAULTS.length]!
    it(`seed ${seed}: ${fault}`, async (t) => {
      t.diagnostic(JSON.stringify(await runWithFault(bed, fault, seed)))
    })
  }
})

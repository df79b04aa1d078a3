/**
 * Who has which node, through 200 failures of every kind of a cluster of NATS (GODWIT_NATS_RUNS: another number; GODWIT_NATS_SEED: the
 * first seed): servers killed and stopped at a random moment under load, one, two and all, and the bucket lost.
 */
import { after, before, describe, it } from 'node:test'
import { FAULTS, NatsBed, runWithNatsFault } from '../../suites/nats-failures.ts'
import { cannotRunNats } from '../../support/nats.ts'

const RUNS = Number(process.env.GODWIT_NATS_RUNS ?? 200)
const SEED = Number(process.env.GODWIT_NATS_SEED ?? 1)

describe('NT-15: several coordinators over NATS', { skip: cannotRunNats() }, () => {
  let bed: NatsBed
  before(async () => {
    bed = new NatsBed()
    await bed.start()
  })
  after(() => bed?.end())

  for (let seed = SEED; seed < SEED + RUNS; seed++) {
    const fault = FAULTS[seed % FAULTS.length]!
    it(`seed ${seed}: ${fault}`, async (t) => {
      t.diagnostic(JSON.stringify(await runWithNatsFault(bed, fault, seed)))
    })
  }
})

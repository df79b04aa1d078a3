/**
 * The daemon of an anchor, or of its host, is stopped or killed and starts again: a single packet that the other end sends meanwhile
 * arrives once both have a session again, also if it was on its way when the process ended. Whole engines.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seeded } from '../../../lab/seeded.ts'
import { extent } from '../../support/extent.ts'
import { Nat, Network } from '../overlay/network.ts'
import { AnchoredFlow } from './engine-ends.ts'

/** Until it arrives, from the start of the process on (ms): the other end may have to find out that nobody was there. */
const MOST = 4_000

/** In the first the packet left within 20 ms of something that was heard of the process that was ending. */
const SEEDS = extent(3)

for (const who of ['anchor', 'host'] as const)
  for (const signal of ['SIGTERM', 'SIGKILL'] as const)
    test(`issue 13: the ${who} restarts after ${signal}: a single packet that was sent to it meanwhile arrives, once`, () => {
      for (let seed = 4; seed < 4 + SEEDS; seed++)
        for (const down of [200, 3_000]) {
          const random = seeded(seed)
          const net = new Network(seed + 1)
          net.delay = 5 + random() * 20
          const nat = seed % 2 === 0 ? undefined : new Nat('port-restricted', '203.0.113.1')
          const flow = new AnchoredFlow(net, nat, nat === undefined ? '203.0.113.9' : '10.1.0.2')
          flow.run(500 + random() * 2000, 50)
          net.run(random() * 3000)
          flow.end(who, signal)
          net.run(down * random())
          const number = flow.sendOne(who === 'anchor' ? 'host' : 'anchor')
          net.run(down * random())
          flow.begin(who)
          const began = net.now
          while (!flow[who].received.has(number)) {
            assert.ok(net.now - began < MOST, `seed ${seed}, down for ${down} ms at most: lost`)
            net.run(1)
          }
          net.run(1_000)
          assert.equal(flow[who].duplicates, 0, `seed ${seed}`)
        }
    })

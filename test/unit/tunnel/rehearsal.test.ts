import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FixedMachine } from '../../../bench/fixed-machine.ts'
import { anchorRehearsal, hostRehearsal } from '../../../src/anchoring/rehearsals.ts'
import { Arena } from '../../../src/linux/arena.ts'
import { routerRehearsal } from '../../../src/routing/rehearsal.ts'
import { Datapath } from '../../../src/tunnel/datapath/datapath.ts'
import { type Rehearsal, rehearse } from '../../../src/tunnel/engine/rehearsal.ts'

const FIX4 = Uint8Array.of(198, 19, 0, 1)
const FIX6 = Uint8Array.of(0xfd, 0x67, 0x6f, 0x64, 0x77, 0x69, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
/** One of each kind of packet at least: small ones, and a super-packet every fortieth turn. */
const TURNS = 160

const rehearsals: Record<string, () => Rehearsal> = {
  'a mobile host': () => hostRehearsal(FIX4, FIX6),
  'an anchor': anchorRehearsal,
  'a router': routerRehearsal,
}

for (const [whose, make] of Object.entries(rehearsals))
  test(`house 14: the engine of ${whose} rehearses with packets of its own, and leaves its memory as it was`, {
    skip: process.getuid?.() !== 0 && 'needs root',
  }, () => {
    const arena = new Arena(Datapath.arenaBytes(1 << 20))
    const build = (seam: ConstructorParameters<typeof FixedMachine>[0]) => {
      const machine = new FixedMachine(seam)
      return { machine: { poll: () => undefined }, driven: machine }
    }
    let now = 0
    // A clock that stands nearly still: the test is not to depend on the machine's speed.
    const back = rehearse(arena, make, build, () => (now += 0.001), TURNS)
    assert.equal(back, TURNS, 'each packet comes out as one, super-packets put together again')
    assert.ok(
      arena.u8.every((byte) => byte === 0),
      'zeroed',
    )
    assert.equal(arena.reserve(64), 0)
  })

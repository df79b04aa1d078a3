/** Random handovers in virtual time. */
import assert from 'node:assert/strict'
import { Pair } from './network.ts'

const SETTLED = 8000

/** Transfers both ways with random handovers, accesses that come and go and black holes, until there were `count` handovers. */
/** `kills`: proxies are killed, too, and taken over from. */
export function randomHandovers(
  count: number,
  first: number,
  kills = false,
  look?: (pair: Pair) => void,
): void {
  let handovers = 0
  for (let seed = first; handovers < count; seed++) {
    const pair = new Pair({
      seed,
      bytes: [1_000_000, 1_000_000],
      paths: 3,
      sack: seed % 4 !== 0,
      conditions: { loss: 0.01, jitter: 8 },
      init: { standby: seed % 3 !== 0 },
      keep: kills,
    })
    look?.(pair)
    pair.client.tcp!.connect(0)
    const act = () => {
      const path = Math.floor(pair.random() * 3)
      const conditions = pair.paths[path]!
      switch (Math.floor(pair.random() * (kills && pair.now < SETTLED ? 5 : 4))) {
        case 0: // the access goes, or comes back
          conditions.works = !pair.usable.has(path)
          if (conditions.works) pair.setAccesses(new Set([...pair.usable, path]))
          else pair.setAccesses(new Set([...pair.usable].filter((each) => each !== path)))
          break
        case 1: // silence, and its end
          conditions.works = !conditions.works
          break
        case 4:
          pair.killed(pair.random() < 0.5 ? 'client' : 'server', pair.random() * 1500)
          break
        default:
          if (pair.client.dead) break
          pair.client.machine.handover(0, `acc${path + 1}`, pair.now)
          pair.client.flush()
      }
      if (!pair.done) pair.at(pair.now + 50 + pair.random() * 200, act)
    }
    pair.at(150, act)
    // In the end there is a network, and proxies live.
    pair.at(SETTLED, () => {
      for (const each of pair.paths) each.works = true
      pair.setAccesses(new Set([0, 1, 2]))
    })
    const ok = pair.run(() => pair.done || pair.problem !== '', 120_000)
    assert.equal(pair.problem, '', `seed ${seed}`)
    const { client, server } = pair
    assert.ok(
      ok,
      `seed ${seed} at ${pair.now}: ${client.tcp!.state}/${server.tcp!.state} up ${client.tcp!.acknowledged} down ${client.tcp!.received}`,
    )
    assert.equal(pair.refused, false, `seed ${seed}`)
    handovers += client.machine.counts.handovers
  }
}

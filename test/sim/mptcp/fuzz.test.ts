/** Random networks and everything that may happen to a connection on them (fuzz.ts): a few seeds of many. */
import { test } from 'node:test'
import { extent } from '../../support/extent.ts'
import { LINKS, survives } from './fuzz.ts'

/** Those that once failed: joins that nobody finished kept out others; a FIN over a path that was silent was never sent over another. */
const FOUND = [9, 1689, 2682, 3447]

test('issue 12: what random networks once broke', () => {
  for (const seed of FOUND) survives(seed)
})

for (const [i, link] of [...Object.keys(LINKS), undefined].entries())
  test(`issue 12: ${link === undefined ? 'links of all kinds' : `links as ${link}`}, NATs, moves, kills, silence: every byte arrives, data flow while a path stands, nothing is left`, () => {
    for (let seed = 10_000 * (i + 1); seed < 10_000 * (i + 1) + extent(25); seed++)
      survives(seed, link === undefined ? {} : { links: [link] })
  })

test('issue 12: the same with a server that takes what comes on a subflow in order, as a native peer does', () => {
  for (let seed = 70_000; seed < 70_000 + extent(25); seed++) survives(seed, { inOrder: true })
})

/** Ten minutes of an invited host that does what it can against a live anchor. */
import { test } from 'node:test'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { attackAnchor, holds } from '../../suites/hostile-anchor.ts'

/** GODWIT_HOSTILE_SECONDS shortens it. */
const SECONDS = Number(process.env.GODWIT_HOSTILE_SECONDS ?? 600)

usePrivateNames()

test('an invited host at full rate: the anchor lives in bounded memory, ten flows of another host go on', async () => {
  const outcome = await attackAnchor(SECONDS)
  console.log(`# ${JSON.stringify(outcome)}`)
  holds(outcome)
})

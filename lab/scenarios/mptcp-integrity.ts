/**
 * Transfers over links that lose, reorder and double packets, with a handover of a random kind every second or so: by hand, a lost link, a black
 * hole. Nothing may be lost, changed or reordered.
 */

import type { Program } from '../hosts.ts'
import { Meter } from '../meter.ts'
import { Godwit, type StatusReport } from '../product.ts'
import type { Scenario, ScenarioContext } from '../scenario.ts'
import { seeded } from '../seeded.ts'
import { namespaceOf } from '../topology.ts'
import { EndlessDownload, EndlessUpload } from '../traffic.ts'
import { handoverCount } from './handovers.ts'
import { Download, NATIVE, PROGRAMS, pathManagers } from './mptcp-kit.ts'

const CONDITIONS = {
  rateMbps: 1000,
  delayMs: 2,
  jitterMs: 1,
  loss: 0.0002,
  reorder: 0.002,
  duplicate: 0.0005,
}
const LINKS = { acc1: CONDITIONS, acc2: CONDITIONS }
const ACCESSES = ['acc1', 'acc2'] as const
/** Pauses before a handover, and how long an access is away (ms). */
const PAUSE_MS = [300, 1000] as const
const GONE_MS = [300, 1500] as const
/** Before the first: the subflows are there. */
const START_MS = 1500
/** Handovers between two lines that say how far it is. */
const PROGRESS = 10
const KINDS = ['by hand', 'by hand', 'down', 'blackhole'] as const

const PARTS = (['proxy-kernel', 'proxy-proxy'] as const).flatMap((ends) =>
  (['down', 'up'] as const).map((way) => ({ name: `${ends}, ${way}`, ends, way })),
)
type Part = (typeof PARTS)[number]

export const mptcpIntegrity: Scenario = {
  name: 'mptcp-integrity',
  summary: 'MPTCP proxy: random handovers over links that lose, reorder and double; every byte compared',
  topology: 'mptcp',
  programs: PROGRAMS,
  parts: PARTS.map(({ name }) => name),
  links: LINKS,
  paper: { result: 'not measured' },
  async run(context) {
    const count = handoverCount(context, 4)
    const random = seeded(context.seed)
    context.start()
    let total = 0
    for (const part of PARTS) {
      if (!context.parts.includes(part.name)) continue
      const { bytes, moves } = await transfer(context, part, count, random)
      total += bytes
      const name = part.name.replaceAll(/\W+/g, '_')
      context.metric(`${name}_gigabytes`, bytes / 1e9)
      context.metric(`${name}_moves`, moves)
    }
    context.metric('handovers_a_part', count)
    context.metric('gigabytes', total / 1e9)
  },
}

async function transfer(
  context: ScenarioContext,
  { name, ends, way }: Part,
  count: number,
  random: () => number,
): Promise<{ readonly bytes: number; readonly moves: number }> {
  const mobile = new Godwit(context, 'mh')
  const meter = new Meter(namespaceOf('mh'), 50)
  const daemons: Program[] = []
  try {
    await pathManagers(context, ends, true)
    daemons.push(await mobile.daemon('mptcp', 'up'))
    if (ends === 'proxy-proxy') daemons.push(await new Godwit(context, 'ch1').daemon('mptcp', 'up'))
    const server = ends === 'proxy-proxy' ? [] : NATIVE
    const stream =
      way === 'down'
        ? await EndlessDownload.start(context, 'ch1', { server, client: [] }, true)
        : await EndlessUpload.start(context, 'ch1', server)
    context.note(`${name}: started`)
    const download = new Download(context, ends, mobile, meter)
    await download.begun()
    await context.sleep(START_MS)
    for (let index = 1; index <= count; index++) {
      await disturb(context, download, random)
      if (index % PROGRESS === 0) context.note(`${name}: ${index} of ${count} handovers`)
    }
    const { ok, value, bytes } = await stream.finish()
    context.check(`${name}: every byte as sent`, ok, value, 'the sha256 of what was sent')
    const { handovers } = await mobile.json<StatusReport>('status')
    return { bytes, moves: handovers.length }
  } finally {
    meter.stop()
    for (const daemon of daemons) await daemon.stop()
  }
}

/** One handover, of a random kind; both accesses work afterwards. */
async function disturb(context: ScenarioContext, download: Download, random: () => number): Promise<void> {
  const between = ([least, most]: readonly [number, number]) => least + random() * (most - least)
  await context.sleep(between(PAUSE_MS))
  const kind = KINDS[Math.floor(random() * KINDS.length)]!
  const { id, subflows, active } = await download.connection()
  const used = subflows.find((each) => each.id === active)?.access
  const other = ACCESSES.find((access) => access !== used)!
  if (kind === 'by hand') {
    const ready = subflows.some((each) => each.access === other && each.state === 'active')
    const asked = ready ? download.mobile.run('mptcp', 'handover', id, other) : download.join(other)
    // What was ready a moment ago may be lost by now: then it is refused, and nothing has to come of it but intact bytes.
    await asked.catch((error: unknown) => context.note(`${other}: ${String(error)}`))
    return
  }
  const access = used ?? other
  context.lab.setLink(access, { state: kind })
  await context.sleep(between(GONE_MS))
  context.lab.setLink(access, { state: 'up' })
  if (kind === 'blackhole')
    await download.join(access).catch((error: unknown) => context.note(`${access}: ${String(error)}`))
}

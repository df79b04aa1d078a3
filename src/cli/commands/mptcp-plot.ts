/** `mptcp connections --plot`: what the subflows of one connection carry from now on, drawn as an SVG. */
import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { GodwitError } from '../../core/errors.ts'
import type { ControlClient } from '../../host/control/client.ts'
import type { ConnectionView } from '../../host/provisioning/mptcp.ts'

const INTERVAL_MS = 100
/** Mbit/s of bytes in ms. */
const MBPS = 8 / 1000

/** One connection as it was at a moment (seconds). */
export interface Sample {
  readonly at: number
  readonly connection: ConnectionView
}

interface Line {
  readonly name: string
  readonly points: (readonly [number, number])[]
}

export interface SubflowChart {
  readonly title: string
  readonly panels: readonly { readonly unit: string; readonly series: readonly Line[] }[]
  readonly marks: readonly { readonly at: number; readonly label: string }[]
}

export interface PlotOptions {
  readonly file: string
  readonly seconds: number
  /** Default: the one that has carried the most. */
  readonly connection?: string
}

/** Watches a connection until it ends or the time is over, and writes the picture. Returns the connection's id. */
export async function plotConnection(client: ControlClient, options: PlotOptions): Promise<string> {
  const { drawSvg } = await import('../../../lab/plot.ts')
  const look = async () =>
    (await client.get<{ connections: ConnectionView[] }>('/v1/mptcp/connections')).connections
  const chosen = choose(await look(), options.connection)
  const began = performance.now()
  const samples: Sample[] = []
  for (;;) {
    const connection = (await look()).find(({ id }) => id === chosen)
    const at = (performance.now() - began) / 1000
    if (connection === undefined) break
    samples.push({ at, connection })
    if (at >= options.seconds) break
    await sleep(INTERVAL_MS)
  }
  writeFileSync(options.file, await drawSvg(chartOf(samples)))
  return chosen
}

function choose(connections: readonly ConnectionView[], wanted: string | undefined): string {
  const carried = (each: ConnectionView) => each.acknowledged_bytes + each.received_bytes
  const found =
    wanted === undefined
      ? [...connections].sort((a, b) => carried(b) - carried(a))[0]
      : connections.find(({ id }) => id === wanted)
  if (found === undefined)
    throw new GodwitError('NO_PATH', `${wanted ?? 'no connection'} is translated`, {
      hint: '`godwit mptcp connections` shows what there is',
    })
  return found.id
}

/** Rates and round trips by subflow; a mark where another begins to carry the data. */
export function chartOf(samples: readonly Sample[]): SubflowChart {
  const rates = new Map<number, Line>()
  const trips = new Map<number, Line>()
  const marks: { at: number; label: string }[] = []
  let before: Sample | undefined
  for (const sample of samples) {
    const { at, connection } = sample
    for (const { id, access, rtt_ms, sent_bytes, received_bytes } of connection.subflows) {
      const name = `${id} ${access}`
      if (rtt_ms !== null) lineOf(trips, id, name).points.push([at, rtt_ms])
      const then = before?.connection.subflows.find((each) => each.id === id)
      if (then === undefined) continue
      const bytes = sent_bytes + received_bytes - then.sent_bytes - then.received_bytes
      lineOf(rates, id, name).points.push([at, (bytes * MBPS) / ((at - before!.at) * 1000)])
    }
    if (before !== undefined && connection.active !== before.connection.active) {
      const active = connection.subflows.find(({ id }) => id === connection.active)
      marks.push({ at, label: active === undefined ? 'no subflow' : `to ${active.access}` })
    }
    before = sample
  }
  const { local = '', remote = '', id = '' } = before?.connection ?? {}
  return {
    title: `${id}: ${local} → ${remote}`,
    panels: [
      { unit: 'Mbit/s, by subflow', series: [...rates.values()] },
      { unit: 'ms, round trip', series: [...trips.values()] },
    ],
    marks,
  }
}

function lineOf(lines: Map<number, Line>, id: number, name: string): Line {
  const line = lines.get(id) ?? { name, points: [] }
  lines.set(id, line)
  return line
}

/** A flow of datagrams through a NAT that ends mappings at an age (lab/programs/mapping-ages.ts). */
import assert from 'node:assert/strict'
import { setTimeout as delay } from 'node:timers/promises'
import type { Programs } from '../../lab/hosts.ts'

const PORT = 5005
const EVERY_MS = 5
/** From the second socket on its mapping is known; what was under way has arrived. */
const SETTLE_MS = 3_000

interface Report {
  readonly sent: number
  readonly arrivals: readonly (readonly [number, number])[]
}

export interface CarrierFlow {
  readonly programs: Programs
  /** Hosts: the one that becomes such a NAT, the one behind it, and the other end of the flow with its address. */
  readonly nat: string
  readonly client: string
  readonly server: string
  readonly address: string
  /** What the daemon on `client` has written. */
  readonly log: () => string
  readonly lifetimeMs: number
  readonly ms: number
}

type Counts = readonly [number, number]

/** Datagrams lost in `ms` after the lifetime was learned, towards the server and back, and before that. */
export async function carrierFlow(
  flow: CarrierFlow,
): Promise<{ readonly lost: Counts; readonly before: Counts }> {
  const { programs, lifetimeMs } = flow
  const ages = await programs.own(flow.nat, 'mapping-ages', { lifetimeMs })
  const server = await programs.own(flow.server, 'udp-flow', {
    role: 'server',
    port: PORT,
    intervalMs: EVERY_MS,
  })
  const words = { role: 'client', port: PORT, host: flow.address, intervalMs: EVERY_MS }
  const client = await programs.own(flow.client, 'udp-flow', words)
  const learned = () => flow.log().includes('its NAT ends mappings')
  for (const end = performance.now() + 3 * lifetimeMs; !learned(); await delay(100))
    assert.ok(performance.now() < end, `nothing was learned\n${flow.log().slice(-3000)}`)
  await delay(SETTLE_MS)
  const began = Number(process.hrtime.bigint()) / 1e6
  await delay(flow.ms)
  for (const end of [client, server]) end.tell('stop')
  await delay(1_000)
  const reports: Report[] = []
  for (const end of [server, client]) {
    end.tell('report')
    reports.push(JSON.parse((await end.expect((line) => line.startsWith('{"sent"'), 10_000)) ?? '') as Report)
  }
  await ages.stop()
  const [atBob, atAlice] = reports as [Report, Report]
  const lost = (sent: number, { arrivals }: Report) => {
    const first = Math.min(...arrivals.filter(([, at]) => at >= began).map(([sequence]) => sequence))
    const there = new Set(arrivals.map(([sequence]) => sequence))
    const missing = (from: number, to: number) => {
      let n = 0
      for (let i = from; i < to; i++) if (!there.has(i)) n++
      return n
    }
    return [missing(first, sent), missing(0, first)] as const
  }
  const up = lost(atAlice.sent, atBob)
  const down = lost(atBob.sent, atAlice)
  return { lost: [up[0], down[0]], before: [up[1], down[1]] }
}

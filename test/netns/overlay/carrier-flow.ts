/** A flow of datagrams between two nodes, the first behind a NAT that ends mappings at an age (lab/programs/mapping-ages.ts). */
import assert from 'node:assert/strict'
import { setTimeout as delay } from 'node:timers/promises'
import type { OverlayBed } from './bed.ts'

const PORT = 5005
const EVERY_MS = 5
/** From the second socket on its mapping is known; what was under way has arrived. */
const SETTLE_MS = 3_000

interface Report {
  readonly sent: number
  readonly arrivals: readonly (readonly [number, number])[]
}

/** Over this way: datagrams lost in `ms` after the lifetime was learned, towards bob and towards alice, and before that. */
export async function carrierFlow(
  bed: OverlayBed,
  way: string,
  lifetimeMs: number,
  ms: number,
): Promise<{ readonly lost: readonly [number, number]; readonly before: readonly [number, number] }> {
  const { programs } = bed.lab
  const ages = await programs.own('na1', 'mapping-ages', { lifetimeMs })
  await bed.godwit('alice', 'overlay', 'resolve', 'bob')
  await bed.untilWay('alice', way)
  const address = (await bed.view('bob')).addresses.find((each) => each.includes('.'))!
  const server = await programs.own('bob', 'udp-flow', { role: 'server', port: PORT, intervalMs: EVERY_MS })
  const words = { role: 'client', port: PORT, host: address, intervalMs: EVERY_MS }
  const client = await programs.own('alice', 'udp-flow', words)
  const learned = () => bed.log('alice').includes('its NAT ends mappings')
  for (const end = performance.now() + 3 * lifetimeMs; !learned(); await delay(100))
    assert.ok(performance.now() < end, `nothing was learned\n${bed.log('alice').slice(-3000)}`)
  await delay(SETTLE_MS)
  const began = Number(process.hrtime.bigint()) / 1e6
  await delay(ms)
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

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { natRules } from '../../../lab/nat.ts'
import { drawSvg } from '../../../lab/plot.ts'
import { driveBy, NO_SIGNAL_DBM, radioConditions, signalAt } from '../../../lab/radio.ts'
import { partsOf, percentile } from '../../../lab/scenario.ts'
import { scenarios } from '../../../lab/scenarios/index.ts'
import { LOST_MS, roamingDb, SCAN_MS } from '../../../lab/stock-client.ts'
import { topologies } from '../../../lab/topologies/index.ts'
import { namespaceOf } from '../../../lab/topology.ts'
import { figuresOf, longestGap } from '../../../lab/traffic.ts'
import type { GodwitError } from '../../../src/core/errors.ts'

test('OH-32, OH-33, OH-36: figures of a flow: lost, duplicated, out of order', () => {
  const arrivals = [
    [0, 0],
    [1, 5],
    [3, 10],
    [2, 11],
    [3, 12],
    [6, 30],
  ] as const
  assert.deepEqual(figuresOf({ sent: 8, arrivals }), { sent: 8, lost: 3, duplicated: 1, reordered: 1 })
})

test('issue 12: --only chooses parts by whole words, and names the parts when there is none', () => {
  const scenario = { ...scenarios.find(({ name }) => name === 'mptcp-break')! }
  assert.equal(partsOf(scenario).length, 8)
  assert.deepEqual(partsOf(scenario, ['proxy-kernel', 'SACK', 'standby']), ['proxy-kernel, SACK, standby'])
  assert.equal(partsOf(scenario, ['no SACK']).length, 4)
  const hint = /proxy-proxy, SACK, none ready/
  assert.throws(
    () => partsOf(scenario, ['kernel']),
    (error: GodwitError) => error.kind === 'usage' && hint.test(error.hint ?? ''),
  )
  const whole = scenarios.find(({ parts }) => parts === undefined)!
  assert.throws(() => partsOf(whole, ['SACK']), /has no such part/)
})

test('the longest silence around a moment; a flow that never came back is silent to the end', () => {
  const arrivals = [
    [0, 0],
    [1, 5],
    [2, 10],
    [3, 95],
    [4, 100],
  ] as const
  assert.equal(longestGap({ sent: 5, arrivals }, 20, 50, 5), 80)
  assert.equal(longestGap({ sent: 5, arrivals }, 96, 99, 5), 0)
  assert.equal(longestGap({ sent: 9, arrivals }, 90, 400, 5), 295)
})

test('percentile: nearest rank', () => {
  assert.equal(percentile([4, 1, 3, 2], 0.5), 2)
  assert.equal(percentile([4, 1, 3, 2], 0.95), 4)
  assert.equal(percentile([], 0.5), 0)
})

test('OH-38: a drive past two access points fades one into the other; no signal is no carrier', () => {
  const trace = driveBy({ a: 0, b: 100 }, { speedMps: 10, lengthM: 100 })
  assert.ok(signalAt(trace, 'a', 0) > signalAt(trace, 'b', 0))
  assert.ok(signalAt(trace, 'a', 10) < signalAt(trace, 'b', 10))
  assert.ok(Math.abs(signalAt(trace, 'a', 5) - signalAt(trace, 'b', 5)) < 0.5)
  assert.equal(signalAt(trace, 'c', 5), NO_SIGNAL_DBM)
  assert.deepEqual(radioConditions(NO_SIGNAL_DBM, 50), { state: 'down' })
  assert.equal(radioConditions(-50, 50).rateMbps, 50)
  assert.ok(radioConditions(-90, 50).loss! > 0)
})

test('OH-34: a drive stands first if it is told to, then takes its speeds in turn', () => {
  const points = { a: 0, b: 40 }
  const trace = driveBy(points, { speedMps: [10, 20], stretchM: 20, standS: 3, lengthM: 40 })
  const strongest = (at: number) => signalAt(trace, 'a', at)
  assert.equal(strongest(0), strongest(2.9))
  // 20 m at 10 m/s, then 20 m at 20 m/s: halfway, both are as strong; at the end the second is as the first was.
  assert.ok(Math.abs(signalAt(trace, 'a', 5) - signalAt(trace, 'b', 5)) < 1)
  assert.ok(Math.abs(signalAt(trace, 'b', 6) - strongest(0)) < 1)
  assert.ok(Math.abs((trace.samples.at(-1)?.at ?? 0) - 6) < 0.3)
})

test('a stock client takes as long as its sources say: about three seconds for a scan, two to know that it is alone', () => {
  assert.ok(SCAN_MS > 2500 && SCAN_MS < 3000)
  assert.ok(LOST_MS > 1600 && LOST_MS < 1800)
  for (let dbm = -90; dbm < -60; dbm++) assert.ok(roamingDb(dbm + 1) >= roamingDb(dbm))
})

test('topologies: names are unique, links end at hosts that exist, addresses are used once a link', () => {
  assert.equal(new Set(topologies.map((t) => t.name)).size, topologies.length)
  for (const { name, hosts, links } of topologies) {
    for (const role of Object.keys(hosts)) assert.match(namespaceOf(role), /^gw-[a-z0-9]+$/)
    const ends = links.flatMap((link) => link.ends)
    for (const end of ends) assert.ok(end.host in hosts, `${name}: ${end.host}`)
    const places = ends.map((end) => `${end.host} ${end.iface}`)
    assert.equal(new Set(places).size, places.length, name)
  }
})

test('NAT kinds differ where RFC 4787 says they do', () => {
  assert.match(natRules({ kind: 'symmetric', outside: 'wan' }), /masquerade fully-random/)
  assert.match(natRules({ kind: 'counting', outside: 'wan' }), /masquerade to :numgen inc/)
  assert.match(natRules({ kind: 'endpoint-independent', outside: 'wan' }), /dnat to udp dport map @open/)
  assert.doesNotMatch(natRules({ kind: 'port-restricted', outside: 'wan' }), /dnat to|fully-random/)
})

test('a chart becomes an SVG with its title, its marks and its lines', async () => {
  const svg = await drawSvg({
    title: 'Swap',
    marks: [{ at: 1, label: 'moved' }],
    panels: [
      {
        unit: 'Mbit/s',
        series: [
          {
            name: 'acc1',
            points: [
              [0, 1],
              [2, 3],
            ],
          },
        ],
      },
    ],
  })
  assert.match(svg, /^<svg/)
  for (const text of ['Swap', 'moved', 'Mbit/s', 'acc1']) assert.ok(svg.includes(text), text)
})

/** The catalogue of topologies. */
import { usageError } from '../../src/core/errors.ts'
import type { TopologySpec } from '../topology.ts'
import { dime } from './dime.ts'
import { mptcp } from './mptcp.ts'
import { ntm } from './ntm.ts'
import { ntmNats } from './ntm-nats.ts'
import { roam } from './ntm-roam.ts'
import { pair } from './pair.ts'
import { router } from './router.ts'
import { upmt } from './upmt.ts'

export const topologies: readonly TopologySpec[] = [
  upmt({
    name: 'upmt',
    summary:
      'mobile host with two access networks behind NATs, two anchors, two correspondents (UPMT, Figure 4)',
  }),
  upmt({
    name: 'upmt-overlap',
    summary: 'as upmt, but both access networks give the mobile host the same private address',
    overlap: true,
  }),
  upmt({
    name: 'upmt-open',
    summary: 'as upmt, behind endpoint-independent NATs',
    nats: ['endpoint-independent', 'endpoint-independent'],
  }),
  upmt({
    name: 'upmt-symmetric',
    summary: 'as upmt, behind symmetric NATs',
    nats: ['symmetric', 'symmetric'],
  }),
  upmt({
    name: 'upmt-carrier',
    summary: 'as upmt, each access network behind a carrier-grade NAT as well',
    carrierGrade: true,
  }),
  pair,
  dime,
  mptcp,
  ntm,
  ntmNats,
  roam('ntm-roam', ['mh', 'cn']),
  router({
    name: 'router',
    summary:
      'terminal behind a mobile router with two radios, access points, home gateway, server (Ohshima, Figure 2)',
    radios: 2,
  }),
  router({ name: 'router-four', summary: 'as router, with four radios', radios: 4 }),
]

export function topologyNamed(name: string): TopologySpec {
  const found = topologies.find((topology) => topology.name === name)
  if (found === undefined)
    throw usageError(`no topology ${name}; there are ${topologies.map((t) => t.name).join(', ')}`)
  return found
}

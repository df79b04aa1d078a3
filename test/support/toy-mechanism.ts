/** A mechanism that carries nothing, as CONTRIBUTING.md walks through it: one line in a list is all that it needs. */
import * as z from 'zod'
import type { Mechanism } from '../../src/core/mechanism.ts'
import type { ConfigWith, MechanismDescriptor } from '../../src/mechanism/descriptor.ts'
import type { Need } from '../../src/mechanism/needs.ts'
import type { Services } from '../../src/mechanism/services.ts'

const toySections = {
  toy: z
    .strictObject({
      enabled: z.boolean().default(false).describe('Carries nothing beside the other mechanisms.'),
      marbles: z.int().min(0).default(3).describe('How many it has.'),
    })
    .describe('A mechanism that carries nothing.')
    .prefault({}),
}

const BOX: Need = {
  name: 'a box of marbles',
  required: false,
  look: () => ({ ok: true, value: 'full' }),
  mend: 'buy one',
}

/** What the toys of this process have done, for tests. */
export const toyCalls: string[] = []

export const toyDescriptor: MechanismDescriptor<typeof toySections> = {
  name: 'toying',
  role: 'toy',
  summary: 'Carries nothing.',
  sections: toySections,
  claims: () => false,
  runsBeside: ({ toy }) => toy.enabled,
  needsNoFile: true,
  compose: composeToy,
  needs: [BOX],
}

function composeToy({ toy }: ConfigWith<typeof toySections>, services: Services): Mechanism {
  const call = (what: string) => toyCalls.push(`${what} ${services.ledger.instance} ${toy.marbles}`)
  return {
    name: 'toying',
    start: async () => void call('start'),
    stop: async () => void call('stop'),
    cleanUp: async () => void call('cleanUp'),
    peers: () => [{ name: 'nobody', kind: 'node', state: 'down', paths: [] }],
    flows: () => [],
    move: async () => undefined,
    why: () => undefined,
    offer: () => ({
      mechanism: 'toying',
      carries: false,
      reason: 'it is a toy',
      cost: { bytes: 0, rtt_ms: null },
      survives: [],
      needs: [],
    }),
    routes: [{ method: 'GET', path: '/v1/toy', handle: () => ({ marbles: toy.marbles }) }],
    metrics: () => [{ name: 'godwit_toy_marbles', help: 'Marbles.', type: 'gauge', value: toy.marbles }],
  }
}

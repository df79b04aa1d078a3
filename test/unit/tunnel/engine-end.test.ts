/** House, point 5: an engine worker that ends by itself is the same matter for a host, an anchor and a router. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AnchorKeys } from '../../../src/anchoring/anchor-keys.ts'
import { type AnchorComponents, AnchorService } from '../../../src/anchoring/anchor-service.ts'
import { type MobileHostComponents, MobileHostService } from '../../../src/anchoring/host-service.ts'
import { KeyRotation } from '../../../src/anchoring/key-rotation.ts'
import type { Prefix } from '../../../src/core/address.ts'
import { GodwitError } from '../../../src/core/errors.ts'
import type { Mechanism } from '../../../src/core/mechanism.ts'
import { Ledger } from '../../../src/linux/ledger.ts'
import { type RouterComponents, RouterService } from '../../../src/routing/service.ts'
import { FakeEngine, recorderTo } from '../../support/fake-engine.ts'

const prefix = (...address: number[]): Prefix => ({ address: Uint8Array.from(address), length: 24 })
const key = new Uint8Array(32).fill(7)

/** Every method is there and does nothing but note its name. */
function quiet(calls: string[], answers: Record<string, unknown> = {}): never {
  return new Proxy(answers, {
    get: (target, name) => (name in target ? target[name as string] : () => calls.push(String(name))),
  }) as never
}

interface Case {
  readonly mechanism: Mechanism
  readonly engine: FakeEngine
  /** What was done to the kernel. */
  readonly calls: string[]
}

function common() {
  const engine = new FakeEngine()
  const calls: string[] = []
  return {
    engine,
    calls,
    parts: {
      plumbing: quiet(calls, { missingSources: () => [] }),
      recorder: recorderTo([]),
      wall: () => 0,
      endpoints: { get: () => [], set: () => {} },
      names: { resolve: async () => ({ addresses: [], synthesised: [], validMs: 0 }) },
      timestamp: { get: () => undefined, set: () => {} },
      protect: () => () => {},
      forwards: { apply: () => {}, restore: () => [], cleanUp: () => {} },
      passage: { restore: () => [], cleanUp: () => {}, watch: () => () => {} },
      startEngine: engine.start,
    },
  }
}

const cases: Record<string, () => Case> = {
  'a mobile host': () => {
    const { engine, calls, parts } = common()
    const monitor = quiet([], {
      accesses: () => [],
      subscribe: () => () => {},
      useRouting: () => () => {},
      watch: () => () => {},
    })
    const quietly = { monitor, owners: quiet([]), nameServers: quiet([]), cgroups: undefined }
    const components = { ...parts, ...quietly } as MobileHostComponents
    const mechanism = new MobileHostService(components, {
      device: 'godwit0',
      ledger: new Ledger(),
      privateKey: key,
      fix4: prefix(198, 19, 0, 1),
      fix6: prefix(...new Array<number>(16).fill(0)),
      peers: [],
      policies: [],
      rotation: new KeyRotation({ keyFile: '/nowhere/private.key', end: 'host', log: () => {} }),
      anchorKeys: new AnchorKeys('/nowhere/anchor-keys.json'),
      accesses: [],
    })
    return { mechanism, engine, calls }
  },
  'an anchor': () => {
    const { engine, calls, parts } = common()
    const components = { ...parts, hosts: quiet([], { list: () => [], gone: () => [] }) } as AnchorComponents
    const mechanism = new AnchorService(components, {
      device: 'gwan0',
      mtu: 1420,
      privateKey: key,
      listenPorts: [51820],
      rotation: new KeyRotation({ keyFile: '/nowhere/private.key', end: 'anchor', log: () => {} }),
      pool4: prefix(198, 18, 0, 0),
      invitationHours: 24,
      pool6: prefix(...new Array<number>(16).fill(0)),
    })
    return { mechanism, engine, calls }
  },
  'a router': () => {
    const { engine, calls, parts } = common()
    const usage = { used: () => 0, update: () => 0, write: () => {} }
    const components = { ...parts, usage, monitor: undefined, radios: undefined } as RouterComponents
    const site = { name: 'home', publicKey: key, keepalive: 0, subnets: [] }
    const mechanism = new RouterService(components, {
      device: 'gwrt0',
      privateKey: key,
      mark: 1,
      sites: [{ ...site, endpoint: { host: '192.0.2.1', port: 51820 } }],
      own: [],
      accesses: [],
      rules: [],
      classes: [],
    })
    return { mechanism, engine, calls }
  },
}

const WORKING = {
  type: 'status',
  peers: [{ name: 'home', established: true, v4: Uint8Array.of(198, 18, 0, 2) }],
  paths: [
    { peer: 'home', access: 'wlan0', state: 'up', mtu: 1500, remote: '192.0.2.1:51820', rttMs: 1, loss: 0 },
  ],
  classes: [],
  counters: {},
}

for (const [who, build] of Object.entries(cases)) {
  test(`${who}: the worker is killed: the reason is the mechanism’s failure, and stopping still cleans up`, async () => {
    const { mechanism, engine, calls } = build()
    const starting = mechanism.start()
    await new Promise(setImmediate)
    engine.emit(WORKING)
    await starting
    engine.end(new GodwitError('ENODEV', 'interface is gone'))
    assert.equal((await mechanism.failure)?.message, 'interface is gone')
    const posted = engine.commands.length
    if (mechanism.name !== 'routing') await assert.rejects(async () => mechanism.flows(), { code: 'ENODEV' })
    assert.equal(engine.commands.length, posted, 'a dead worker is told nothing')
    calls.length = 0
    await mechanism.stop()
    assert.ok(calls.includes('cleanUp'))
    assert.equal(engine.commands.length, posted)
  })

  test(`${who}: the worker is killed before traffic flows: who waits for that is told the reason`, async () => {
    const { mechanism, engine, calls } = build()
    await mechanism.start()
    const ready = mechanism.untilReady?.()
    engine.end(new GodwitError('ENODEV', 'interface is gone'))
    if (ready !== undefined) await assert.rejects(ready, { code: 'ENODEV' })
    await mechanism.stop()
    assert.ok(calls.includes('cleanUp'))
    assert.equal((await mechanism.failure)?.code, 'ENODEV')
    await mechanism.stop()
  })

  test(`${who}: another daemon’s device is left alone, anything else that a start made is removed`, async () => {
    for (const [code, cleans] of [
      ['TUN_BUSY', false],
      ['PORT_TAKEN', true],
    ] as const) {
      const { mechanism, engine, calls } = build()
      engine.refusal = new GodwitError(code, 'no')
      await assert.rejects(mechanism.start(), { code })
      assert.equal(calls.includes('cleanUp'), cleans, code)
    }
  })
}

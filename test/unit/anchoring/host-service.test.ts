/** The mobile host on the main thread, with an engine that only writes down what it is told: settings that are read again, lists, keys. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AnchorKeys } from '../../../src/anchoring/anchor-keys.ts'
import {
  type LiveSettings,
  type MobileHostComponents,
  type MobileHostInit,
  MobileHostService,
} from '../../../src/anchoring/host-service.ts'
import type { KeyRotation } from '../../../src/anchoring/key-rotation.ts'
import type { HostCommand, HostEvent } from '../../../src/anchoring/protocol.ts'
import { publicKeyOf } from '../../../src/crypto/keys.ts'
import { Ledger } from '../../../src/linux/ledger.ts'
import { answer, failed } from '../../../src/tunnel/engine/outcome.ts'
import type { EngineWorkerEvents } from '../../../src/tunnel/engine/thread.ts'

const policy = (name: string) => ({
  name,
  prefer: ['*'],
  fallback: 'any' as const,
  moveUp: true,
  match: [],
})
const settings = (name: string): LiveSettings => ({ policies: [policy(name)], accesses: [], except: [] })

const nothing = () => {}
const access = { name: 'eth0', state: 'up', reason: '', families: [4], addresses: [] }

async function started(init: Partial<MobileHostInit> = {}) {
  let hear: (event: HostEvent) => void = nothing
  const commands: HostCommand[] = []
  const broken = { kernel: false, list: false, move: false }
  const outcomeOf = ({ type }: HostCommand) => {
    if (type === 'move') return broken.move ? failed('ACCESS_DOWN', 'eth0 is down') : answer({ flows: 0 })
    return broken.list ? failed('BUSY', 'not now') : answer({ flows: [], total: 0 })
  }
  const parts = {
    monitor: {
      start: nothing,
      useRouting: () => nothing,
      watch: () => nothing,
      subscribe: () => nothing,
      accesses: () => [access],
      access: () => access,
      table: nothing,
      setQuality: nothing,
    },
    plumbing: {
      apply: nothing,
      cleanUp: nothing,
      change: () => {
        if (broken.kernel) throw new Error('no buffer space')
      },
    },
    nameServers: { start: nothing, stop: nothing, cleanUp: nothing },
    owners: {},
    protect: () => nothing,
    recorder: { log: nothing, handover: nothing, decision: nothing },
    startEngine: async (_: URL, __: unknown, { onEvent }: EngineWorkerEvents) => {
      hear = onEvent
      return {
        post: (command: HostCommand & { readonly request?: number }) => {
          commands.push(command)
          const { request } = command
          if (request !== undefined)
            onEvent({ type: 'answer', request, outcome: outcomeOf(command) } as never)
        },
        stop: async () => {},
      }
    },
  }
  const service = new MobileHostService(parts as unknown as MobileHostComponents, {
    device: 'godwit0',
    ledger: new Ledger({ instance: 'main', base: 6700 } as never),
    privateKey: new Uint8Array(32),
    fix4: { address: new Uint8Array(4), length: 32 },
    fix6: { address: new Uint8Array(16), length: 128 },
    mtu: 1400,
    peers: [],
    rotation: {} as KeyRotation,
    anchorKeys: new AnchorKeys('/nowhere/anchor-keys.json'),
    ...settings('before'),
    ...init,
  })
  await service.start()
  const names = () =>
    commands.flatMap((command) =>
      command.type === 'policies' ? command.policies.map(({ name }) => name) : [],
    )
  commands.length = 0
  return { service, broken, names, commands, hear: (event: HostEvent) => hear(event) }
}

test('issue 14, point 8: a reload that failed half way is done by the next one', async () => {
  const { service, broken, names } = await started()
  broken.kernel = true
  await assert.rejects(service.reload(settings('after')), /no buffer space/)
  broken.kernel = false
  broken.list = true
  await assert.rejects(service.reload(settings('after')), /not now/)
  assert.deepEqual(names(), [])
  broken.list = false
  await service.reload(settings('after'))
  await service.reload(settings('after'))
  assert.deepEqual(names(), ['after'])
  await service.stop()
})

test('issue 14, point 8: policies are read again while everything was moved by hand to an access that is down since', async () => {
  const { service, broken, names, commands } = await started()
  await service.move({ kind: 'all' }, 'eth0')
  broken.move = true
  await service.reload(settings('after'))
  assert.deepEqual(names(), ['after'])
  assert.equal(commands.at(-1)?.type, 'identify', 'flows that are known hear of it too')
  assert.deepEqual(service.pins(), [{ what: 'all', access: 'eth0' }])
  await service.stop()
})

test('issue 14, point 9: however many watch, they share a list of flows: each one keeps the engine from its packets', async () => {
  const { service, commands } = await started()
  await Promise.all(Array.from({ length: 64 }, (_, i) => service.flows(i % 2 === 0)))
  const lists = () => commands.flatMap((each) => (each.type === 'list' ? [each.watched] : []))
  assert.deepEqual(lists().sort(), [false, true])
  const first = service.flows()
  await Promise.resolve()
  const later = [service.flows(), service.flows()]
  await Promise.all([first, ...later])
  assert.equal(lists().length, 4, 'who asks while one is made shares the next')
  await service.stop()
})

test('`godwit ping` names the port that did not answer, not the configured one', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout'] })
  const endpoints = [{ host: 'anchor.example.org', port: 51820 }]
  const peer = {
    name: 'anchor',
    kind: 'anchor',
    endpoints,
    publicKey: new Uint8Array(32),
    keepalive: 0,
  } as const
  const { service, hear } = await started({ peers: [peer] })
  const path = { peer: 'anchor', id: 1, access: 'eth0', state: 'dead', rttMs: Number.NaN, loss: 0, mtu: 0 }
  const counted = { sentBytes: 0, receivedBytes: 0, lastReceivedAt: 0 }
  const paths = [{ ...path, ...counted, remote: '192.0.2.1:443' }]
  hear({ type: 'status', peers: [], paths } as never)
  const ways = service.ping()
  context.mock.timers.tick(1500)
  const [way] = await ways
  assert.equal(way?.reason, 'no answer: UDP port 443 is blocked, or the anchor is down')
  await service.stop()
})

test('`godwit rekey` while a host joins: the key that the anchor may have stored comes first, then the new one', async () => {
  const own = new Uint8Array(32).fill(1)
  const next = new Uint8Array(32).fill(2)
  const rotation = {
    next,
    begin: () => next,
    state: (names: readonly string[]) => names.map((name) => ({ name, state: 'waiting' })),
    confirmed: nothing,
    settle: nothing,
  }
  let replaced = 0
  const peer = { kind: 'anchor', endpoints: [], publicKey: new Uint8Array(32), keepalive: 0 } as const
  const invitation = { privateKey: new Uint8Array(32), replaced: () => void replaced++ }
  const { service, commands, hear } = await started({
    privateKey: own,
    rotation: rotation as unknown as KeyRotation,
    peers: [
      { ...peer, name: 'joined' },
      { ...peer, name: 'joining', invitation },
    ],
  })
  const [route] = service.routes
  const rekey = () => route!.handle({ body: { wait_ms: 0 } } as never)
  const offered = () => commands.flatMap((each) => (each.type === 'replace-key' ? [each.name] : []))
  await rekey()
  assert.deepEqual(offered(), ['joined'])
  hear({ type: 'key-confirmed', name: 'joining', whose: 'own', publicKey: publicKeyOf(own) })
  assert.deepEqual([offered(), replaced], [['joined', 'joining'], 1])
  hear({ type: 'key-confirmed', name: 'joining', whose: 'own', publicKey: publicKeyOf(next) })
  assert.equal(replaced, 1, 'the invitation is used up once')
  await service.stop()
})

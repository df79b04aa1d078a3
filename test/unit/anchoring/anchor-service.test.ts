/** The anchor on the main thread, with an engine that only writes down what it is told. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { type AnchorHosts, AnchorService, type KnownHost } from '../../../src/anchoring/anchor-service.ts'
import { KeyRotation } from '../../../src/anchoring/key-rotation.ts'
import type { AnchorPlumbing } from '../../../src/anchoring/plumbing.ts'
import type { AnchorEvent } from '../../../src/anchoring/protocol.ts'
import { EngineWorker, type EngineWorkerEvents } from '../../../src/tunnel/engine/thread.ts'

const INVITATION = new Uint8Array(32).fill(1)
const OWN = new Uint8Array(32).fill(2)

/** A service that runs, and a store whose disk is full until `disk.full` says otherwise. */
async function started(t: TestContext, first: Pick<KnownHost, 'expires'>) {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  const commands: unknown[] = []
  const lines: string[] = []
  let hear: (event: AnchorEvent) => void = () => {}
  t.mock.method(EngineWorker, 'start', async (_: URL, __: unknown, { onEvent }: EngineWorkerEvents) => {
    hear = onEvent
    return { post: (command: unknown) => commands.push(command), stop: async () => {} }
  })
  const disk = { full: true, tries: 0 }
  let known: KnownHost = {
    name: 'first',
    kind: 'godwit',
    publicKey: INVITATION,
    presharedKey: new Uint8Array(32),
    number: 2,
    ...first,
  }
  const write = () => {
    disk.tries++
    if (disk.full) throw new Error('no space left')
  }
  const hosts: AnchorHosts = {
    list: () => [known],
    gone: () => [],
    offerKey: (_, nextPublicKey) => {
      known = { ...known, nextPublicKey }
      write()
    },
    confirmKey: (_, publicKey) => {
      const { nextPublicKey: __, expires: ___, ...joined } = known
      known = { ...joined, publicKey }
      write()
    },
    write,
  }
  const nothing = () => {}
  const service = new AnchorService(
    {
      plumbing: { apply: nothing, restore: nothing, cleanUp: nothing } as unknown as AnchorPlumbing,
      forwards: { apply: nothing, restore: () => [], cleanUp: nothing },
      passage: { restore: () => [], cleanUp: nothing, watch: () => nothing },
      protect: () => nothing,
      hosts,
      recorder: {
        log: (level, message) => lines.push(`${level} ${message}`),
        handover: nothing,
        decision: nothing,
      },
      wall: () => 0,
    },
    {
      device: 'anchor0',
      mtu: 1420,
      privateKey: new Uint8Array(32),
      listenPorts: [51820],
      rotation: new KeyRotation({ keyFile: '/nowhere/private.key', end: 'anchor', log: nothing }),
      invitationHours: 24,
      pool4: { address: new Uint8Array(4), length: 8 },
      pool6: { address: new Uint8Array(16), length: 64 },
    },
  )
  await service.start()
  commands.length = 0
  return { service, disk, commands, lines, hear: (event: AnchorEvent) => hear(event) }
}

test('a full disk keeps no host from its anchor: its key counts, that is said once, and it is written when it can be', async (t) => {
  const { service, disk, commands, lines, hear } = await started(t, { expires: 1_000 })
  hear({ type: 'key-offered', name: 'first', publicKey: OWN })
  assert.deepEqual(commands, [{ type: 'accept-key', name: 'first', publicKey: OWN }])
  hear({ type: 'key-confirmed', name: 'first', whose: 'remote', publicKey: OWN })
  service.refresh()
  assert.equal(commands.length, 1, 'it stays served')
  assert.equal(disk.tries, 2)
  for (let n = 1; n <= 3; n++) {
    t.mock.timers.tick(5_000)
    assert.equal(disk.tries, 2 + n, 'one try in five seconds')
  }
  assert.deepEqual(lines, [
    'error the key of first cannot be stored: no space left; godwit tries again, but the key is lost if the anchor stops before',
    'info first has joined',
  ])

  disk.full = false
  t.mock.timers.tick(5_000)
  assert.deepEqual(lines.slice(2), ['info the key of first is stored'])
  t.mock.timers.tick(60_000)
  assert.equal(disk.tries, 6, 'and then no more')
  await service.stop()
})

test('a host that has joined keeps its old key until the new one is on the anchor’s disk', async (t) => {
  const { service, disk, commands, hear } = await started(t, {})
  hear({ type: 'key-offered', name: 'first', publicKey: OWN })
  assert.deepEqual(commands, [], 'an anchor that ends now would know neither key')
  disk.full = false
  hear({ type: 'key-offered', name: 'first', publicKey: OWN })
  assert.deepEqual(commands, [{ type: 'accept-key', name: 'first', publicKey: OWN }])
  await service.stop()
})

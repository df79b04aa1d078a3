/** How many nodes a coordinator holds: heap that each of them takes, and the answer to those that there is no room for. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { toHex } from '../../../src/core/bytes.ts'
import { nodeRandom } from '../../../src/crypto/node-crypto.ts'
import { Asker } from '../../../src/overlay/machine/asker.ts'
import { Coordinator, type CoordinatorInit } from '../../../src/overlay/machine/coordinator.ts'
import { LIFETIME_SECONDS } from '../../../src/overlay/machine/locations.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import type { NodeRecord } from '../../../src/overlay/tables.ts'
import { datagramCodec } from '../../../src/overlay/wire/datagram.ts'
import { type Message, Status, Type } from '../../../src/overlay/wire/message.ts'
import { MemoryDirectory, ZONE } from '../../support/overlay-servers.ts'

class IndexedDirectory extends MemoryDirectory {
  readonly #names = new Map<string, string>()

  override putNode(node: NodeRecord): boolean {
    this.#names.set(toHex(node.keyId), node.name)
    return super.putNode(node)
  }

  override nodeByKeyId(keyId: Uint8Array): NodeRecord | undefined {
    return this.nodeByName(this.#names.get(toHex(keyId)) ?? '')
  }

  // The numbers that it takes are free.
  override setNumber(name: string, number: number): boolean {
    this.numbers.set(name, number)
    return true
  }
}

function bed(init: Partial<CoordinatorInit> = {}) {
  const parts = { crypto: overlayCrypto, random: nodeRandom, wall: () => 1_700_000_000_000 }
  const directory = new IndexedDirectory()
  const coordinator = new Coordinator(parts, directory, { ...ZONE, relays: false, trace: false, ...init })
  const logged: string[] = []
  const way = { socket: 0, to: { address: Uint8Array.of(192, 0, 2, 1), port: 6741 } }

  const bytesOf = (i: number, what: number, length: number) => {
    const bytes = new Uint8Array(length).fill(what)
    new DataView(bytes.buffer).setUint32(0, i)
    return bytes
  }

  /** The answer to a first registration of node `i`. */
  const register = (i: number, now: number): Message | undefined => {
    const name = `n${i}.${ZONE.zone}`
    const [publicKey, keyId, key] = [bytesOf(i, 1, 32), bytesOf(i, 2, 16), bytesOf(i, 3, 32)]
    directory.putNode({ name, account: 'a', accountId: '00', publicKey, keyId, key })
    const inbox: Uint8Array[] = []
    let answered: Message | undefined
    const asker = new Asker({
      ...{ ...parts, identity: { type: 'key', id: keyId }, key, send: (bytes) => inbox.push(bytes.slice()) },
      ...{ onMessage: () => {}, onOpened: () => {}, onSilence: () => {} },
    })
    asker.setWays([way], now)
    const request = { type: Type.REGISTRATION_REQUEST, candidates: [], padding: 300 }
    asker.request(request, 5000, (answer) => (answered = answer), now)
    for (let bytes = inbox.shift(); bytes !== undefined; bytes = inbox.shift()) {
      const from = { address: Uint8Array.of(10, i >> 16, (i >> 8) & 255, i & 255), port: 5000 }
      coordinator.handleDatagram(bytes, from, 0, now)
      for (let output = coordinator.poll(); output !== undefined; output = coordinator.poll()) {
        if (output.type === 'log') logged.push(output.message)
        if (output.type !== 'send') continue
        const datagram = datagramCodec.decode(output.bytes)
        if (datagram.ok) asker.handle(datagram.value, way, now)
      }
    }
    return answered
  }
  return { coordinator, register, logged }
}

test('a registered node takes less heap than what the room for nodes is counted with', () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const used = () => {
    collect()
    const { heapUsed, arrayBuffers } = process.memoryUsage()
    return heapUsed + arrayBuffers
  }
  const { coordinator, register } = bed()
  const pause = 10 // ms between two of them
  for (let i = 0; i < 500; i++) register(i, pause * i)
  const before = used()
  const count = 3000
  for (let i = 500; i < 500 + count; i++) register(i, pause * i)
  const bytes = (used() - before) / count
  assert.equal(coordinator.counts.nodes, 500 + count)
  assert.ok(bytes < 4096, `${Math.round(bytes)} bytes`)
})

test('where there is no room, a node is refused and keeps no session; what is registered stays, and what ends makes room', () => {
  const { coordinator, register, logged } = bed({ maxNodes: 3 })
  for (let i = 0; i < 3; i++) assert.equal(register(i, 1000)?.status, Status.DONE)
  for (let i = 3; i < 10; i++) assert.equal(register(i, 1000)?.status, Status.TOO_MANY)
  assert.equal(register(1, 2000)?.status, Status.DONE)
  const { nodes, sessions, refused } = coordinator.counts
  assert.deepEqual([nodes, refused], [3, 7])
  assert.ok(sessions! <= 4, `${sessions} sessions`)
  assert.equal(logged.length, 1)
  assert.match(logged[0]!, /^3 nodes are registered/)
  const later = 1000 + 1000 * LIFETIME_SECONDS
  coordinator.handleTimeout(later)
  assert.equal(register(11, later)?.status, Status.DONE)
})

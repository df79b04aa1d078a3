/** Which paths a mobile end has: one over each access to each peer, to an address that the peer has now. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatAddress, parseAddress } from '../../../src/core/address.ts'
import type { Endpoint } from '../../../src/core/endpoint.ts'
import { AccessPaths } from '../../../src/tunnel/engine/access-paths.ts'
import type { AccessSockets, OpenAccess } from '../../../src/tunnel/engine/access-sockets.ts'
import type { SocketSetup } from '../../../src/tunnel/engine/events.ts'
import type { TunnelMachine } from '../../../src/tunnel/protocol/machine.ts'

const PEER = 3

function endpoint(text: string): Endpoint {
  const parsed = parseAddress(text)
  assert.ok(parsed.ok)
  return { address: parsed.value, port: 51820 }
}

/** A tunnel machine that only keeps a list of paths. */
class Bench {
  readonly open: { slot: number; socket: number; remote: Endpoint; state: { name: string } }[] = []
  readonly accesses: OpenAccess<SocketSetup>[] = []
  readonly paths: AccessPaths<SocketSetup>
  #slots = 0
  woken = 0

  constructor() {
    const machine = {
      peer: (index: number) => (index === PEER ? { paths: this.open } : undefined),
      removePath: (slot: number) => {
        const at = this.open.findIndex((path) => path.slot === slot)
        this.open.splice(at, 1)
      },
      wake: () => this.woken++,
    } as unknown as TunnelMachine
    const sockets = {
      all: () => this.accesses.values(),
      freePathId: () => 1,
    } as unknown as AccessSockets<SocketSetup>
    this.paths = new AccessPaths({
      machine,
      sockets,
      open: (peer, _access, { socket, remote }) => {
        assert.equal(peer, PEER)
        this.open.push({ slot: this.#slots++, socket, remote, state: { name: 'validating' } })
      },
    })
  }

  access(name: string, ...families: (4 | 6)[]): void {
    const index = this.accesses.length
    const access = { setup: { name, up: true, families, mtu: 1500, generation: 1 }, index, port: 1 }
    this.accesses.push(access)
    this.paths.accessOpened(access, 0)
  }

  remotes(now: number, ...texts: string[]): void {
    this.paths.setRemotes(PEER, texts.map(endpoint), undefined, now)
  }

  remotesOver(access: string, now: number, ...texts: string[]): void {
    this.paths.setRemotes(PEER, texts.map(endpoint), access, now)
  }

  get list(): string[] {
    return this.open.map(({ socket, remote }) => `${socket} ${formatAddress(remote.address)}`)
  }
}

test('a path over each access, to the first address that it reaches; addresses may come before or after it', () => {
  const bench = new Bench()
  bench.access('wlan0', 4, 6)
  assert.deepEqual(bench.list, [])
  bench.remotes(0, '2001:db8::1', '192.0.2.1')
  bench.access('wwan0', 4)
  bench.remotes(0, '2001:db8::1', '192.0.2.1')
  assert.deepEqual(bench.list, ['0 2001:db8::1', '1 192.0.2.1'])
})

test('a path to an address that the peer has no more is replaced, unless it works', () => {
  const bench = new Bench()
  bench.access('wlan0', 4)
  bench.access('wwan0', 4)
  bench.remotes(0, '192.0.2.1')
  bench.open[1]!.state.name = 'up'
  bench.remotes(10_000, '192.0.2.9')
  assert.deepEqual(bench.list.sort(), ['0 192.0.2.9', '1 192.0.2.1'])
  assert.equal(bench.woken, 1, 'the one that works is asked whether it still does')
  bench.paths.tryOtherEndpoints(11_000)
  assert.ok(bench.list.includes('1 192.0.2.1'))
  bench.open.find(({ socket }) => socket === 1)!.state.name = 'down'
  bench.paths.tryOtherEndpoints(12_000)
  assert.deepEqual(bench.list.sort(), ['0 192.0.2.9', '1 192.0.2.9'], 'it does not: the new address is tried')
})

test('a path that does not come up is tried towards the next address, over the other family too, to and fro', () => {
  const bench = new Bench()
  bench.access('wlan0', 4, 6)
  bench.access('wwan0', 4)
  bench.remotes(0, '2001:db8::1', '192.0.2.1', '192.0.2.2')
  const seen: string[] = []
  for (let now = 0; now <= 9_000; now += 1_000) {
    bench.paths.tryOtherEndpoints(now)
    seen.push(bench.list.find((path) => path.startsWith('0'))!)
  }
  assert.deepEqual(
    [2, 3, 6, 9].map((second) => seen[second]),
    ['0 2001:db8::1', '0 192.0.2.1', '0 192.0.2.2', '0 2001:db8::1'],
  )
  bench.open.find(({ socket }) => socket === 0)!.state.name = 'up'
  for (let now = 10_000; now <= 20_000; now += 1_000) bench.paths.tryOtherEndpoints(now)
  assert.ok(bench.list.includes('0 2001:db8::1'))
})

test('issue 10, A2: an access has endpoints of its own; one that has none takes what is known for all', () => {
  const bench = new Bench()
  bench.access('wlan0', 4)
  bench.access('wwan0', 6)
  bench.remotes(0, '192.0.2.1')
  assert.deepEqual(bench.list, ['0 192.0.2.1'])
  bench.remotesOver('wwan0', 0, '192.0.2.1', '64:ff9b::c000:201')
  assert.deepEqual(bench.list, ['0 192.0.2.1', '1 64:ff9b::c000:201'])
  bench.remotesOver('wwan0', 0, '64:ff9b::c000:209')
  assert.deepEqual(bench.list, ['0 192.0.2.1', '1 64:ff9b::c000:209'])
  bench.paths.accessGone('wwan0')
  bench.remotes(0, '192.0.2.1')
  assert.deepEqual(bench.list, ['0 192.0.2.1'], 'the next network there is another one')
})

/** The anchor's core by itself: what a host that is refused, or comes by several tunnels, gets. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AnchorForwarder } from '../../../src/anchoring/forwarders/anchor.ts'
import { AnchorMachine } from '../../../src/anchoring/machine/anchor.ts'
import { Groups } from '../../../src/anchoring/tables/groups.ts'
import { Paft } from '../../../src/anchoring/tables/paft.ts'
import { VipaPool } from '../../../src/anchoring/tables/pool.ts'
import { TunnelTable, tidOf } from '../../../src/anchoring/tables/tunnels.ts'
import { Status } from '../../../src/anchoring/wire.ts'
import type { PathView, TunnelCommands } from '../../../src/tunnel/protocol/api.ts'

const PEER = 7
const HOST = { name: 'laptop', kind: 'godwit', publicKey: new Uint8Array(32), number: 2 } as const

function bed() {
  const paft = new Paft({ allocate: (bytes) => new ArrayBuffer(bytes), rows: 64 })
  const groups = new Groups(paft)
  const tunnels = new TunnelTable()
  const pool = new VipaPool({
    v4: { address: Uint8Array.of(198, 18, 0, 0), prefix: 24 },
    v6: { address: new Uint8Array(16).fill(1), prefix: 96 },
  })
  const forwarder = new AnchorForwarder({
    ...{ paft, groups, tunnels, v4Base: pool.v4Base, numbers: pool.last + 1 },
    v6Prefix: new Uint8Array(16).fill(1),
    secret: new Uint8Array(8),
  })
  const machine = new AnchorMachine({
    ...{ tunnel: {} as TunnelCommands, tunnels, groups, forwarder, pool },
    tally: () => ({ sent: 1, received: 2 }),
  })
  const path = (slot: number, state: 'up' | 'suspect' | 'down') =>
    machine.handleTunnelEvent(
      {
        type: 'path',
        peer: PEER,
        path: {
          ...{ slot, peer: PEER, socket: 3, pathId: slot + 1, rttMs: 1, loss: 0, mtu: 1500 },
          remote: { address: Uint8Array.of(192, 0, 2, slot), port: 1000 + slot },
          state: { name: state, since: 0 },
        } as unknown as PathView,
      } as never,
      0,
    )
  const closed = (slot: number) =>
    machine.handleTunnelEvent({ type: 'path-closed', peer: PEER, slot } as never, 0)
  return {
    machine,
    tunnels,
    forwarder,
    groups,
    paft,
    path,
    closed,
    byDefault: () => forwarder.defaultTid(PEER),
  }
}

test('UP-30: the first tunnel of a host gets what it has not placed; it is replaced when it goes, and only then', () => {
  const { machine, path, closed, byDefault, tunnels } = bed()
  path(1, 'up')
  assert.equal(tunnels.size, 0, 'nobody knows this peer')
  machine.addHost(PEER, HOST)
  for (const slot of [1, 2, 3]) path(slot, 'up')
  assert.equal(byDefault(), tidOf(1))
  assert.deepEqual(tunnels.atSlot(2), {
    ...{ slot: 2, peer: PEER, localTid: tidOf(2), unTid: 3 },
    localTun: { interface: '', index: 3 },
    remoteTun: { endPoint: '192.0.2.2', index: 1002 },
    vipNat: {
      v4: Uint8Array.of(198, 18, 0, 2),
      v6: Uint8Array.of(...new Uint8Array(12).fill(1), 0, 0, 0, 2),
    },
  })
  path(1, 'suspect')
  assert.equal(byDefault(), tidOf(1), 'it still carries packets')
  path(1, 'down')
  assert.equal(byDefault(), tidOf(2))
  path(1, 'up')
  closed(1)
  assert.equal(byDefault(), tidOf(2), 'another one went')
  path(3, 'up')
  closed(2)
  assert.equal(byDefault(), tidOf(3))
  machine.handleTunnelEvent(
    {
      type: 'remote',
      peer: PEER,
      slot: 3,
      remote: { address: Uint8Array.of(203, 0, 113, 9), port: 9 },
    } as never,
    0,
  )
  assert.deepEqual(tunnels.atSlot(3)?.remoteTun, { endPoint: '203.0.113.9', index: 9 })
  machine.removeHost(PEER)
  assert.deepEqual([tunnels.size, byDefault(), machine.nameOf(PEER)], [0, 0, undefined])
})

test('UP-31: a handover to a tunnel that a host does not have, or that does not work, changes nothing', () => {
  const { machine, path, byDefault } = bed()
  machine.addHost(PEER, HOST)
  path(1, 'up')
  path(2, 'down')
  assert.equal(machine.handOver(PEER, 9, 'all', [], 1, 0), undefined)
  assert.equal(machine.handOver(PEER, 3, 'all', [], 1, 0), undefined)
  assert.equal(machine.handOver(8, 2, 'all', [], 1, 0), undefined)
  path(2, 'up')
  assert.equal(machine.handOver(PEER, 3, 'all', [], 1, 0), 0)
  assert.equal(byDefault(), tidOf(2))
  assert.deepEqual(machine.tally(PEER), { sent: 1, received: 2 })
})

test('UP-8: a host gets the addresses of its number; one that is refused the reason, and the log has it once', () => {
  const { machine } = bed()
  machine.addHost(PEER, HOST)
  machine.addHost(8, { ...HOST, name: 'gone', number: 0, refused: Status.OVERLOAD, calls: 'phone' })
  assert.deepEqual(machine.associate(PEER), {
    v4: Uint8Array.of(198, 18, 0, 2),
    v6: Uint8Array.of(...new Uint8Array(12).fill(1), 0, 0, 0, 2),
  })
  assert.equal(machine.associate(8), Status.OVERLOAD)
  assert.equal(machine.associate(8), Status.OVERLOAD)
  const event = machine.poll()
  assert.equal(event?.type, 'log')
  assert.match((event as { message: string }).message, /^refused a host that was invited as phone: /)
  assert.equal(machine.poll(), undefined)
  assert.equal(machine.associate(99), Status.OVERLOAD, 'nobody')
  machine.handleTunnelEvent({ type: 'session', peer: PEER, up: true } as never, 0)
  assert.deepEqual(
    [...machine.peerReports()].map(({ name, established }) => [name, established]),
    [['laptop', true]],
    'one that is refused is no peer',
  )
  assert.equal(machine.nameOf(PEER), 'laptop')
})

/** A TCP packet of 40 bytes between a host's address and a server's, with these flags. */
function tcp(
  from: readonly number[],
  to: readonly number[],
  ports: readonly [number, number],
  flags: number,
) {
  const bytes = Uint8Array.of(0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, ...from, ...to, ...new Uint8Array(20))
  const view = new DataView(bytes.buffer)
  view.setUint16(20, ports[0])
  view.setUint16(22, ports[1])
  bytes[32] = 0x50
  bytes[33] = flags
  return [bytes, view, 0, 40, false] as const
}

test('UP-11: of hundreds of hosts each has its own packets, and a connection that both ends have closed is soon forgotten', () => {
  const { machine, forwarder, paft } = bed()
  const server = [203, 0, 113, 7]
  const hosts = [2, 100, 200]
  for (const number of hosts) {
    const peer = 2 * number
    machine.addHost(peer, { ...HOST, name: `h${number}`, number })
    machine.handleTunnelEvent(
      {
        type: 'path',
        peer,
        path: {
          ...{ slot: number, peer, socket: 3, pathId: 1, rttMs: 1, loss: 0, mtu: 1500 },
          remote: { address: Uint8Array.of(192, 0, 2, 1), port: number },
          state: { name: 'up', since: 0 },
        } as unknown as PathView,
      } as never,
      0,
    )
  }
  const vipa = (number: number) => [198, 18, 0, number]
  const FIN = 1
  for (const number of hosts) {
    const up = (flags: number, source = number) =>
      forwarder.inbound(...tcp(vipa(source), server, [4000, 443], flags), 2 * number, number, 10, 0)
    assert.equal(up(0), true)
    assert.equal(up(0, hosts.find((each) => each !== number)!), false, "another host's address")
    const down = (flags: number) => forwarder.outbound(...tcp(server, vipa(number), [443, 4000], flags), 0)
    assert.equal(down(0), number)
    if (number === 100) continue
    down(FIN)
    if (number === 2) up(FIN)
  }
  assert.equal(paft.size, 3)
  for (let i = 0; i < 4; i++) forwarder.sweep(1000, { tcp: 7_440_000, udp: 180_000, other: 60_000 }, 30_000)
  assert.equal(paft.size, 2, 'closed by both ends; one that is half closed stays')
  assert.ok(forwarder.outbound(...tcp(server, vipa(77), [443, 4000], 0), 0) < 0)
  assert.equal(forwarder.unroutable, 1)
})

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { test } from 'node:test'
import { FakeSocketTable } from '../../../src/linux/fakes.ts'
import { tcpCounts } from '../../../src/linux/proc.ts'
import type { SocketProtocol } from '../../../src/linux/sockdiag.ts'
import type { Seen } from '../../../src/translation/kernel/maps.ts'
import { FlowTable } from '../../../src/translation/kernel/sockets.ts'
import { ipOf } from '../../../src/translation/tables.ts'

const HERE = Uint8Array.of(192, 0, 2, 1)
const THERE = Uint8Array.of(198, 51, 100, 1)
const NOBODY = new Uint8Array(4)
const IHMP_PORT = 3463

function socket(protocol: SocketProtocol, inode: number, localPort: number, remotePort: number) {
  const ends = { localAddress: HERE, localPort, remoteAddress: THERE, remotePort }
  if (remotePort !== 0) return { protocol, inode, ...ends }
  return { protocol, inode, ...ends, remoteAddress: NOBODY, state: 'close' as const }
}

const seen = (localPort: number, foreignPort: number): Seen => ({
  local: ipOf(HERE),
  localPort,
  foreign: ipOf(THERE),
  foreignPort,
})

test("house 1: this process's own sockets are no flows: those of a tunnel beside DIME stay on their access", () => {
  const table = new FakeSocketTable()
  const exchanges = [seen(40_000, 51_820), seen(5004, 5004)]
  table.add(socket(6, 1, 5000, 443)) // a tunnel by WebSocket
  table.add(socket(6, 2, 5001, 22))
  const tunnel = table.add(socket(17, 3, 40_000, 0))
  table.add(socket(17, 4, 5004, 0))
  const flows = new FlowTable(
    table,
    () => exchanges,
    IHMP_PORT,
    () => new Set([1, 3]),
  )
  const ports = () => [...flows.all()].map(({ localPort }) => localPort).sort()
  for (let look = 0; look < 2; look++) {
    flows.update(new Set([ipOf(HERE)]))
    assert.deepEqual(ports(), [5001, 5004])
  }
  // The tunnel closes its socket; what was seen of it is remembered longer.
  table.remove(tunnel)
  flows.update(new Set([ipOf(HERE)]))
  assert.deepEqual(ports(), [5001, 5004])
})

test("another program's exchanges are flows where this process has the same port at another address", () => {
  const table = new FakeSocketTable()
  const elsewhere = Uint8Array.of(127, 0, 0, 1)
  table.add({ ...socket(17, 1, 53, 0), localAddress: elsewhere }) // the overlay's names for this machine
  table.add(socket(17, 2, 53, 0)) // another name server
  table.add({ ...socket(17, 3, 51_820, 0), localAddress: new Uint8Array(16) }) // a tunnel, of both families
  const flows = new FlowTable(
    table,
    () => [seen(53, 5353), seen(51_820, 51_820)],
    IHMP_PORT,
    () => new Set([1, 3]),
  )
  flows.update(new Set([ipOf(HERE)]))
  assert.deepEqual(
    [...flows.all()].map(({ localPort }) => localPort),
    [53],
  )
})

test('connections are listed when the kernel has counted a change, while one repeats itself, and now and then', () => {
  const table = new FakeSocketTable()
  let counts: string | undefined = 'a'
  let lists = 0
  const counted: Pick<FakeSocketTable, 'sockets'> = {
    sockets: (filter) => {
      if (filter?.protocols?.includes(6)) lists++
      return table.sockets(filter)
    },
  }
  const flows = new FlowTable(
    Object.assign(Object.create(table), counted),
    () => [],
    IHMP_PORT,
    () => new Set(),
    () => counts,
  )
  const look = (times: number): number => {
    lists = 0
    for (let i = 0; i < times; i++) flows.update(new Set([ipOf(HERE)]))
    return lists
  }
  const connection = table.add(socket(6, 2, 5001, 22))
  assert.equal(look(2), 2)
  assert.equal(look(15), 0)
  assert.equal(flows.has(ipOf(HERE), ipOf(THERE)), true)
  // One that was over disappears without being counted.
  table.remove(connection)
  assert.equal(look(20), 1)
  assert.equal(flows.has(ipOf(HERE), ipOf(THERE)), false)
  counts = 'b'
  table.add({ ...socket(6, 3, 5002, 22), retransmits: 1 })
  assert.equal(look(1), 1)
  assert.equal(look(10), 10)
  counts = undefined
  assert.equal(look(10), 10)
})

test('the kernel counts what happens to connections', async () => {
  const before = tcpCounts()
  assert.match(before!, /^(\d+ ){5}\d+$/)
  const server = createServer((socket) => socket.end()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
  await once(client, 'connect')
  assert.notEqual(tcpCounts(), before)
  client.destroy()
  server.close()
})

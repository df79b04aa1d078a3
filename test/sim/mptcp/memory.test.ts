/** What the machine keeps of each connection. The whole daemon's is measured by `godwit bench mptcp-memory`. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { TcpFlag } from '../../../src/core/tcp.ts'
import type { Connection } from '../../../src/mptcp/machine/connection.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import { Alone, CAPABLE } from './alone.ts'

const { SYN, ACK } = TcpFlag
const COUNT = 2000
const LOCAL = Uint8Array.of(203, 0, 113, 1)

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** Bytes that are in use. */
function inUse(): number {
  collect()
  collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

/** Connections that had an exchange, from `first` on. */
function open(proxy: Alone, first: number, count: number): void {
  for (let i = first; i < first + count; i++) {
    const remote = Uint8Array.of(198, 51, 100 + (i >> 8), i & 255)
    const tuple = { local: LOCAL, localPort: 40_000, remote, remotePort: 80 }
    proxy.out(tuple, SYN, { seq: 99 })
    const key = Uint8Array.from({ length: 8 }, (_, at) => (i >> at) & 255)
    proxy.in(tuple, SYN | ACK, { seq: 499, ack: 100, options: [{ ...CAPABLE, key }] })
    proxy.out(tuple, ACK, { seq: 100, ack: 500 })
    proxy.out(tuple, ACK, { seq: 100, ack: 500, payload: new Uint8Array(1000) })
    const connection = proxy.machine.connections.at(-1)!
    const dss = (dsn: number, length: number) => ({
      type: 'dss' as const,
      dataFin: false,
      ack: dsnAt(connection.localKey, 1001),
      ...(length > 0 && { map: { dsn: dsnAt(connection.remoteKey!, dsn), ssn: dsn, length } }),
    })
    proxy.in(tuple, ACK, { seq: 500, ack: 1100, options: [dss(1, 1400)], payload: new Uint8Array(1400) })
    proxy.out(tuple, ACK, { seq: 1100, ack: 1900 })
    while (proxy.machine.pollEvent() !== undefined) {}
  }
}

/** All connections end, and are forgotten. */
function end(proxy: Alone, from: number): void {
  proxy.machine.resetAll(from)
  while (proxy.machine.poll() !== undefined) {}
  while (proxy.machine.pollEvent() !== undefined) {}
  for (let i = 1; i <= 3; i++) proxy.machine.handleTimeout(from + 600_000 * i)
  while (proxy.machine.pollEvent() !== undefined) {}
  assert.equal(proxy.machine.connections.length, 0)
}

test('issue 12: a connection that had an exchange takes at most 4 KB of the heap, and nothing once it is over', () => {
  const proxy = new Alone({ connections: 2 * COUNT })
  open(proxy, 0, 100)
  const before = inUse()
  open(proxy, 100, COUNT)
  const each = (inUse() - before) / COUNT
  const isIdle = ({ state, held, tan }: Connection) => state === 'established' && !held && tan === 1401
  assert.equal(proxy.machine.connections.filter(isIdle).length, COUNT + 100)
  assert.ok(each > 500 && each < 4096, `${each.toFixed(0)} bytes`)
  end(proxy, proxy.now)
  // Tables keep the room that they once took: as many connections again need no more.
  const empty = inUse()
  proxy.now = 10_000_000
  open(proxy, 0, COUNT + 100)
  end(proxy, proxy.now)
  const left = (inUse() - empty) / COUNT
  assert.ok(left < 400, `${left.toFixed(0)} bytes of each are left`)
})

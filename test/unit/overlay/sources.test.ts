/** What one source may take of a TCP server: connections at a time, new ones, and for how long. */
import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { Connections } from '../../../src/overlay/servers/sources.ts'

class Connection extends EventEmitter {
  destroyed = false
  readonly remoteAddress: string

  constructor(remoteAddress: string) {
    super()
    this.remoteAddress = remoteAddress
  }

  destroy(): void {
    this.destroyed = true
    this.emit('close')
  }
}

test('a source has few connections; where there is no room the oldest of the one with most goes, and never others', () => {
  let now = 0
  const all = new Connections({ connections: 6, ofSource: 4, rate: 1, burst: 8, longestMs: 1000 }, () => now)
  const open = (address: string) => {
    const socket = new Connection(address)
    const admitted = all.admit(socket as unknown as Socket)
    assert.equal(socket.destroyed, !admitted)
    return socket
  }
  const greedy = Array.from({ length: 6 }, () => open('::ffff:192.0.2.1'))
  assert.deepEqual(
    greedy.map(({ destroyed }) => destroyed),
    [false, false, false, false, true, true],
  )
  const others = ['192.0.2.2', '2001:db8::1', '2001:db8:0:1::1'].map(open)
  assert.equal(all.size, 6)
  assert.deepEqual(
    greedy.map(({ destroyed }) => destroyed),
    [true, false, false, false, true, true],
  )
  assert.ok(others.every(({ destroyed }) => !destroyed))
  others[0]!.destroy()
  assert.equal(all.size, 5)
  // Of its eight at once four are used.
  for (let i = 0; i < 4; i++) {
    const socket = open('192.0.2.1')
    assert.equal(socket.destroyed, false)
    socket.destroy()
  }
  assert.equal(open('192.0.2.1').destroyed, true)
  now = 1000
  assert.equal(open('192.0.2.1').destroyed, false)
  all.close()
  assert.equal(all.size, 0)
})

test('sources without a connection are not remembered, however many come one after the other and give way', () => {
  let now = 0
  const all = new Connections({ connections: 3, ofSource: 2, rate: 1, burst: 8, longestMs: 1000 }, () => now)
  const open = (address: string) => {
    const socket = new Connection(address)
    all.admit(socket as unknown as Socket)
    return socket
  }
  const sockets = Array.from({ length: 500 }, (_, i) => {
    now += 10
    return open(`2001:db8:${i.toString(16)}::1`)
  })
  assert.deepEqual(
    sockets.map(({ destroyed }) => destroyed),
    sockets.map((_, i) => i < 497),
  )
  assert.deepEqual([all.size, all.sources], [3, 3])
  for (const socket of sockets) socket.destroy()
  assert.deepEqual([all.size, all.sources], [0, 0])
  all.close()
})

test('a site with a network of sources has a quarter of the places; where all are taken, it gives way first', () => {
  const all = new Connections({ connections: 40, ofSource: 4, rate: 5, burst: 40, longestMs: 1000 }, () => 0)
  const open = (address: string) => {
    const socket = new Connection(address)
    all.admit(socket as unknown as Socket)
    return socket
  }
  const crowd = Array.from({ length: 400 }, (_, i) => open(`2001:db8:0:${i.toString(16)}::1`))
  assert.equal(all.size, 10)
  // Of one site 320 come at once, and each takes the place of one before.
  assert.deepEqual(
    crowd.map(({ destroyed }) => destroyed),
    crowd.map((_, i) => i < 310 || i >= 320),
  )
  const others = Array.from({ length: 30 }, (_, i) => open(`192.0.${i}.1`))
  assert.equal(all.size, 40)
  others.push(open('198.51.100.1'))
  assert.equal(crowd.filter(({ destroyed }) => !destroyed).length, 9)
  assert.ok(others.every(({ destroyed }) => !destroyed))
  all.close()
  assert.deepEqual([all.size, all.sources], [0, 0])
})

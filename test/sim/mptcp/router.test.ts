/** The proxy on a router: which connections of others it takes, how many, and when it steps aside. Segments by hand. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import type { Tuple } from '../../../src/mptcp/machine/segment.ts'
import type { Passage } from '../../../src/mptcp/machine/types.ts'
import { Alone, back, CAPABLE } from './alone.ts'

const { SYN, ACK } = TcpFlag
const OUT: Passage = { from: undefined, to: 'acc1' }
const IN: Passage = { from: 'acc1', to: undefined }

/** From its sender's side. */
function from(host: number, port: number): Tuple {
  return {
    local: Uint8Array.of(192, 168, 0, host),
    localPort: port,
    remote: Uint8Array.of(198, 51, 100, 7),
    remotePort: 80,
  }
}

test('MP-9: a plain SYN of a host behind the router leaves with MP_CAPABLE, at most `perHost` of each host', () => {
  const router = new Alone({ perHost: 10 })
  const [syn] = router.forward(OUT, from(2, 1000), SYN)!
  assert.equal(syn!.to, 'wire')
  assert.deepEqual([...syn!.options.slice(-4)], [30, 4, 1, 1])
  for (let port = 1001; port < 2000; port++) router.forward(OUT, from(2, port), SYN)
  assert.equal(router.machine.connections.length, 10)
  assert.ok(router.forward(OUT, from(3, 1000), SYN), 'another host has places of its own')
  assert.equal(router.machine.counts.refused, 990)
})

test('nothing unproven: SYNs of hosts behind that nobody answers take a quarter of the places', () => {
  const router = new Alone({ connections: 100, perHost: 100 })
  for (let host = 1; host < 255; host++) router.forward(OUT, from(host, 1000), SYN)
  assert.equal(router.machine.connections.length, 25)
})

test('MP-12: what does not leave by an access, and what speaks MPTCP already, is left alone', () => {
  const router = new Alone()
  const none = { from: undefined, to: undefined }
  assert.equal(router.forward(none, from(2, 1000), SYN), undefined, 'between networks behind it')
  assert.equal(router.forward({ from: 'acc1', to: 'acc2' }, from(2, 1000), SYN), undefined, 'in transit')
  assert.equal(router.forward(IN, from(2, 1000), SYN), undefined, 'a plain peer outside')
  assert.equal(router.forward(OUT, from(2, 1000), SYN, { options: [CAPABLE] }), undefined)
  assert.equal(router.machine.connections.length, 0)
  const off = new Alone({ forward: false })
  assert.equal(off.forward(OUT, from(2, 1000), SYN), undefined)
  assert.equal(off.forward(IN, from(2, 1000), SYN, { options: [CAPABLE] }), undefined)
})

test('MP-12: MP_CAPABLE of a peer stays in the SYN, and a server behind that answers it is left to itself', () => {
  const router = new Alone()
  const peer = from(9, 1000)
  const [syn] = router.forward(IN, peer, SYN, { seq: 5, options: [CAPABLE] })!
  assert.equal(syn!.to, 'local')
  assert.deepEqual([...syn!.options.slice(-4)], [30, 4, 1, 1])
  const answer = { ...CAPABLE, key: new Uint8Array(8) }
  const synAck = { seq: 70, ack: 6, options: [answer] }
  assert.equal(router.forward(OUT, back(peer), SYN | ACK, synAck), undefined)
  assert.equal(router.machine.connections.length, 0)
})

test('MP-9: for a plain server behind the router the proxy answers MP_CAPABLE with a key of its own', () => {
  const router = new Alone()
  const peer = from(9, 1000)
  router.forward(IN, peer, SYN, { seq: 5, options: [CAPABLE] })
  const [synAck] = router.forward(OUT, back(peer), SYN | ACK, { seq: 70, ack: 6 })!
  const [connection] = router.machine.connections
  const key = connection!.localKey.bytes
  assert.equal(Buffer.from(synAck!.options).includes(Buffer.from(key)), true)
  assert.deepEqual([connection!.forwarded, connection!.role], [true, 'server'])
})

test('a join to the router itself does not reach a connection of a host behind it', () => {
  const router = new Alone()
  const peer = from(9, 1000)
  router.forward(IN, peer, SYN, { seq: 5, options: [CAPABLE] })
  router.forward(OUT, back(peer), SYN | ACK, { seq: 70, ack: 6 })
  const [connection] = router.machine.connections
  const keys = { ...CAPABLE, key: new Uint8Array(8).fill(7), peerKey: connection!.localKey.bytes }
  router.forward(IN, peer, ACK, { seq: 6, ack: 71, options: [keys] })
  assert.equal(connection!.state, 'established')
  const { token } = connection!.localKey
  const join = { type: 'join', backup: false, id: 1, token, nonce: 1 } as const
  const elsewhere = { ...from(9, 2000), remote: Uint8Array.of(203, 0, 113, 1) }
  router.forward(IN, elsewhere, SYN, { options: [join] })
  assert.equal(connection!.subflows.length, 1)
  router.forward(IN, from(9, 2000), SYN, { options: [join] })
  assert.equal(connection!.subflows.length, 2)
})

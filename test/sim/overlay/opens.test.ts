/** A device that starts again and again: its coordinator answers each start, and an OPEN of one before makes nothing. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { Kind } from '../../../src/overlay/wire/datagram.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { at, Network, SimNode } from './network.ts'

/** A network whose device keeps its login over its starts. */
function world() {
  const net = new Network(1, (parts) => new MachineServers(parts))
  const servers = net.servers as MachineServers
  const login = servers.add('alice.test.example', nodeCrypto.publicKey(new Uint8Array(32).fill(11)))
  servers.add = () => login
  const start = (n: number) => {
    const node = new SimNode(net, 'alice.test.example', 11)
    node.use({ socket: 0, address: '198.51.100.1', port: 5000 + n })
    return node
  }
  return { net, servers, start }
}

test('NT-39: a device that starts forty times within two minutes is answered each time within a second', () => {
  const { net, start } = world()
  for (let n = 0; n < 40; n++) {
    const node = start(n)
    const began = net.now
    net.until(() => node.of('registered').length > 0, 150_000)
    assert.ok(net.now - began < 1000, `start ${n}: ${net.now - began} ms`)
    net.nodes.splice(net.nodes.indexOf(node), 1)
    net.run(3_000 - (net.now - began))
  }
})

test('NT-39: an OPEN of a process before is answered by nothing once newer ones have taken its place', () => {
  const { net, servers, start } = world()
  const opens: { from: string; bytes: Uint8Array }[] = []
  net.filter = (from, _to, bytes) => {
    if (bytes[2] === Kind.OPEN) opens.push({ from, bytes: bytes.slice() })
    return true
  }
  for (let n = 0; n < 24; n++) {
    const node = start(n)
    net.until(() => node.of('registered').length > 0)
    net.nodes.splice(net.nodes.indexOf(node), 1)
    net.run(500)
  }
  let answers = 0
  net.serverFilter = () => {
    answers++
    return true
  }
  const place = servers.coordinator.location('alice.test.example')!.observed
  const before = servers.coordinator.counts.registrations
  for (const { from, bytes } of opens.slice(0, 8)) servers.receive(0, bytes, at(from))
  assert.equal(answers, 0)
  assert.equal(servers.coordinator.counts.registrations, before)
  assert.deepEqual(servers.coordinator.location('alice.test.example')!.observed, place)
  // What is still remembered is a repetition, which is answered again and moves nothing.
  const last = opens.at(-1)!
  servers.receive(0, last.bytes, at(last.from))
  assert.equal(answers, 1)
  assert.deepEqual(servers.coordinator.location('alice.test.example')!.observed, place)
})

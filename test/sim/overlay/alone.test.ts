/** Issue 13, part 5: nodes without any server, restarted and moved, find each other where they were, or through a common peer. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Memory } from '../../../src/overlay/machine/memory.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { Type } from '../../../src/overlay/wire/message.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { at, Nat, Network, SimNode, text } from './network.ts'

let outside = 1

/** At an address of its own, behind a NAT or not. */
function place(node: SimNode, kind: 'port-restricted' | 'none' = 'port-restricted'): void {
  const n = outside++
  if (kind === 'none') node.use({ socket: n, address: `198.51.100.${n}`, port: 5000 + n })
  else node.use({ socket: n, address: `192.168.${n}.10`, port: 5000, nat: new Nat(kind, `203.0.113.${n}`) })
}

function world(...names: string[]) {
  outside = 1
  const net = new Network(1, (parts) => new MachineServers(parts, {}))
  const nodes = names.map((name) => net.node(name))
  return { net, servers: net.servers as MachineServers, nodes }
}

function meet(net: Network, a: SimNode, b: SimNode): void {
  a.resolve(b.name)
  net.until(() => direct(a, b) && direct(b, a))
}

const direct = (node: SimNode, peer: SimNode) =>
  node.machine
    .rows()
    .some(({ peer: name, ways }) => name === peer.name && ways.some(({ kind }) => kind === 'direct'))

/** The daemon was killed, and runs again with what it has kept. */
function restart(net: Network, node: SimNode): SimNode {
  const index = net.nodes.indexOf(node)
  const kept = node.of('keep').at(-1)?.pairs
  const lease = node.of('registered').at(-1)?.encoded
  const again = new SimNode(net, node.name, index + 1, net.sites[0], undefined, {
    ...(kept !== undefined && { kept }),
    ...(lease !== undefined && { lease }),
  })
  net.nodes.splice(net.nodes.length - 1, 1)
  net.nodes[index] = again
  return again
}

function killServers(net: Network): void {
  net.serverDown = true
  net.relayDown = true
}

describe('issue 13: nodes without any server', () => {
  it('issue 13: both restarted, one of them moved: they find each other by the last address of the other', () => {
    const { net, nodes } = world('alice', 'bob')
    for (const node of nodes) place(node, 'none')
    net.until(() => nodes.every((node) => node.of('registered').length > 0))
    meet(net, nodes[0]!, nodes[1]!)
    net.run(3000)
    killServers(net)
    const places = nodes[1]!.sockets.map(({ down: _, ...socket }) => socket)
    const [a, b] = [restart(net, nodes[0]!), restart(net, nodes[1]!)]
    b.use(...places)
    place(a)
    const began = net.now
    a.resolve(b.name)
    net.until(() => direct(a, b) && direct(b, a), 8000)
    assert.ok(net.now - began < 5000, `${net.now - began} ms`)
    assert.equal(a.of('alone').length, 1)
    assert.equal(a.of('alone')[0]!.lease.name, a.name)
    assert.equal(a.of('direction').at(-1)!.peer, b.name)
  })

  it('issue 13: both restarted and moved behind other NATs: a common peer that has not moved brings them together', () => {
    const { net, nodes } = world('alice', 'bob', 'carol')
    for (const node of nodes) place(node, node.name.startsWith('carol') ? 'none' : 'port-restricted')
    net.until(() => nodes.every((node) => node.of('registered').length > 0))
    const carol = nodes[2]!
    meet(net, nodes[0]!, nodes[1]!)
    meet(net, nodes[0]!, carol)
    meet(net, nodes[1]!, carol)
    net.run(3000)
    killServers(net)
    const [a, b] = [restart(net, nodes[0]!), restart(net, nodes[1]!)]
    place(a)
    place(b)
    net.until(() => direct(a, carol) && direct(b, carol), 20_000)
    a.resolve(b.name)
    net.until(() => direct(a, b) && direct(b, a), 8000)
    const steps = a.of('step').map(({ what }) => what)
    assert.ok(steps.includes('MEETING'))
    // Also minutes later: the common peer still reaches both.
    net.run(300_000)
    assert.ok(direct(a, carol) && direct(b, carol))
  })

  it('the common peer restarted too, at the same place', () => {
    const { net, nodes } = world('alice', 'bob', 'carol')
    for (const node of nodes) place(node, node.name.startsWith('carol') ? 'none' : 'port-restricted')
    net.until(() => nodes.every((node) => node.of('registered').length > 0))
    meet(net, nodes[0]!, nodes[1]!)
    meet(net, nodes[0]!, nodes[2]!)
    meet(net, nodes[1]!, nodes[2]!)
    net.run(3000)
    killServers(net)
    const where = nodes[2]!.sockets.map(({ down: _, ...socket }) => socket)
    const [a, b, c] = [restart(net, nodes[0]!), restart(net, nodes[1]!), restart(net, nodes[2]!)]
    c.use(...where)
    place(a)
    place(b)
    a.resolve(b.name)
    net.until(() => direct(a, b) && direct(b, a), 30_000)
  })

  it('when the coordinator is there again, nodes register and go on with the same pairs', () => {
    const { net, nodes } = world('alice', 'bob')
    for (const node of nodes) place(node, 'none')
    net.until(() => nodes.every((node) => node.of('registered').length > 0))
    meet(net, nodes[0]!, nodes[1]!)
    net.run(3000)
    killServers(net)
    const where = nodes[0]!.sockets.map(({ down: _, ...socket }) => socket)
    const a = restart(net, nodes[0]!)
    a.use(...where)
    a.resolve(nodes[1]!.name)
    net.until(() => direct(a, nodes[1]!), 8000)
    net.serverDown = false
    net.relayDown = false
    net.until(() => a.of('registered').length > 0, 120_000)
    assert.ok(direct(a, nodes[1]!))
    assert.equal(a.of('way-gone').length, 0)
  })
})

describe('hostile peers and strangers, without any server', () => {
  it('what a common peer brings that the other has not sealed, or for another pair, draws nothing', () => {
    const { net, nodes } = world('alice', 'bob', 'mallory')
    for (const node of nodes) place(node, 'none')
    net.until(() => nodes.every((node) => node.of('registered').length > 0))
    const [a, b, mallory] = nodes as [SimNode, SimNode, SimNode]
    meet(net, a, b)
    meet(net, a, mallory)
    meet(net, b, mallory)
    net.run(3000)
    const sealed: Uint8Array[] = []
    const pair = mallory.machine.pairs().find(({ peer }) => peer === b.name)!
    const bring = (datagram: Uint8Array, nodeName: string) => {
      pair.checks.sendMeeting(pair.meetingWay!, { nodeName, datagram })
      mallory.drain()
    }
    net.filter = (from, _to, bytes) => {
      if (from.startsWith('198.51.100.1:') && bytes[2] === 7) sealed.push(bytes.slice())
      return true
    }
    a.machine.wake(net.now)
    a.drain()
    net.run(2000)
    const victim = '203.0.113.250'
    const before = [...net.sentBytes.entries()].filter(([to]) => to.startsWith(victim)).length
    const own = pair.checks.sealedRequest([at(`${victim}:9`)], true)
    bring(own, a.name) // sealed with the key of mallory and bob, said to be alice's
    bring(new Uint8Array(100).fill(7), a.name)
    for (const bytes of sealed) bring(bytes, a.name) // alice's own, but no naming requests
    net.run(5000)
    assert.equal([...net.sentBytes.entries()].filter(([to]) => to.startsWith(victim)).length, before)
  })

  it('a peer that names a victim through another draws no more than three times its bytes there', () => {
    const { net, nodes } = world('alice', 'bob', 'carol')
    for (const node of nodes) place(node, 'none')
    net.until(() => nodes.every((node) => node.of('registered').length > 0))
    const [a, b, c] = nodes as [SimNode, SimNode, SimNode]
    meet(net, a, b)
    meet(net, a, c)
    meet(net, b, c)
    net.run(3000)
    const toB = a.machine.pairs().find(({ peer }) => peer === b.name)!
    const toC = a.machine.pairs().find(({ peer }) => peer === c.name)!
    const victim = '203.0.113.250:9'
    const headers = 28
    let [paid, drawn] = [0, 0]
    net.filter = (_from, to, { length }) => {
      if (to === text(toC.meetingWay!.remote)) paid += length + headers
      if (to === victim) drawn += length + headers
      return true
    }
    for (let i = 0; i < 50; i++) {
      const datagram = toB.checks.sealedRequest([at(victim)], true)
      toC.checks.sendMeeting(toC.meetingWay!, { name: b.name, datagram })
      a.drain()
      net.run(20)
    }
    net.run(5000)
    assert.ok(drawn > 0 && drawn <= 3 * paid, `${drawn} for ${paid}`)
    assert.ok(drawn < 20_000, `${drawn}`)
  })

  it('a CHECK that was captured wakes a kept pair once, and moves nothing', () => {
    const { net, nodes } = world('alice', 'bob')
    for (const node of nodes) place(node, 'none')
    net.until(() => nodes.every((node) => node.of('registered').length > 0))
    const captured: Uint8Array[] = []
    net.filter = (from, _to, bytes) => {
      if (from.startsWith('198.51.100.1:') && bytes[2] === 7) captured.push(bytes.slice())
      return true
    }
    meet(net, nodes[0]!, nodes[1]!)
    net.run(3000)
    killServers(net)
    nodes[0]!.sockets[0]!.down = true
    const where = nodes[1]!.sockets.map(({ down: _, ...socket }) => socket)
    const b = restart(net, nodes[1]!)
    b.use(...where)
    for (let i = 0; i < 200; i++) {
      b.machine.handleDatagram(
        captured[i % captured.length]!,
        at('203.0.113.77:7'),
        b.sockets[0]!.socket,
        net.now,
      )
      b.drain()
    }
    net.run(60_000)
    const drawn = net.sentBytes.get('203.0.113.77:7') ?? 0
    assert.ok(drawn <= 3 * captured.reduce((sum, { length }) => sum + length, 0) * (200 / captured.length))
    assert.equal(
      b.machine.rows().every(({ ways }) => ways.length === 0),
      true,
    )
  })

  it('keeps the pairs that were used last, and knows them by the tag of their datagrams', () => {
    const pair = (n: number) => ({
      ...{ name: `n${n}.test`, lease: Uint8Array.of(n), pairKey: new Uint8Array(32).fill(n) },
      places: Array.from({ length: 20 }, (_, i) => at(`198.51.100.${i}:${n}`)),
    })
    const memory = new Memory(overlayCrypto, [pair(2), pair(1)])
    for (let n = 3; n < 100; n++) memory.keep(pair(n))
    assert.equal(memory.all().length, 64)
    assert.equal(memory.all()[0]!.name, 'n99.test')
    assert.equal(memory.all()[0]!.places.length, 8)
    assert.equal(memory.get('n2.test'), undefined)
    memory.drop('n99.test')
    assert.equal(memory.all()[0]!.name, 'n98.test')
    assert.equal(Type.MEETING, 33)
  })
})

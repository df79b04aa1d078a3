/** The overlay's node on a virtual network: signalling, routes, moves, and what strangers send. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Checks } from '../../../src/overlay/machine/checks.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { Kind, SIGN, VERSION } from '../../../src/overlay/wire/datagram.ts'
import { LEAST_DIRECTION, Status, Type } from '../../../src/overlay/wire/message.ts'
import { at, Nat, type NatKind, Network, SimNode, text } from './network.ts'

/** Two nodes, each behind a NAT of this kind or none, registered. */
function pair(kindA: NatKind | undefined, kindB: NatKind | undefined, sameInside = false) {
  const net = new Network()
  const a = net.node('alice')
  const b = net.node('bob')
  const place = (kind: NatKind | undefined, n: number) =>
    kind === undefined
      ? { socket: 0, address: `198.51.100.${n}`, port: 5000 + n }
      : {
          ...{ socket: 0, address: sameInside ? '192.168.1.10' : `192.168.${n}.10`, port: 5000 },
          nat: new Nat(kind, `203.0.113.${n}`),
        }
  a.use(place(kindA, 1))
  b.use(place(kindB, 2))
  net.until(() => a.of('registered').length > 0 && b.of('registered').length > 0)
  return { net, a, b }
}

const openWays = (node: SimNode) => node.of('way').map(({ kind, remote }) => `${kind} ${text(remote)}`)

describe('NT-39 registration', () => {
  it('takes two round trips from the first socket on, and gives the lease', () => {
    const net = new Network()
    const a = net.node('alice')
    a.use({ socket: 0, address: '198.51.100.1', port: 5000 })
    const began = net.now
    net.until(() => a.of('registered').length > 0)
    assert.equal(net.now - began, 40)
    const [registered] = a.of('registered')
    assert.equal(registered!.lease.name, 'alice.test.example')
    assert.equal(text(registered!.observed), '198.51.100.1:5000')
  })

  it('goes on over the next socket where the first reaches nobody', () => {
    const net = new Network()
    const a = net.node('alice')
    net.filter = (from) => !from.startsWith('198.51.100.1:')
    a.use(
      { socket: 0, address: '198.51.100.1', port: 5000 },
      { socket: 1, address: '198.51.100.9', port: 5001 },
    )
    net.until(() => a.of('registered').length > 0, 1000)
    assert.equal(text(a.of('registered')[0]!.observed), '198.51.100.9:5001')
  })

  it('comes back by itself after the coordinator restarted, and after it was away', () => {
    const { net, a } = pair(undefined, undefined)
    net.server.restart()
    net.until(() => net.server.located.has(a.name), 60_000)
    net.serverDown = true
    net.run(60_000)
    assert.equal(a.of('unregistered').length, 1)
    net.serverDown = false
    const before = a.of('registered').length
    net.until(() => a.of('registered').length > before, 31_000)
  })

  it('is there again within seconds when the coordinator forgot everything and does not say so', () => {
    const { net, a } = pair(undefined, undefined)
    net.server.hints = false
    net.server.restart()
    net.until(() => net.server.located.has(a.name), 25_000)
  })

  it('an address is proven anew after a move: the coordinator tells nobody before', () => {
    const { net, a } = pair(undefined, undefined)
    a.use({ socket: 1, address: '198.51.100.77', port: 5001 })
    net.until(() => net.server.located.get(a.name)?.observed.address[3] === 77)
    assert.equal(net.server.located.get(a.name)?.proven, false)
    net.until(() => net.server.located.get(a.name)?.proven === true)
  })

  it('keeps the mapping of its NAT alive as often as the coordinator says, unless it is notified', () => {
    const { net, a } = pair('port-restricted', undefined)
    const heard = () => net.server.heard.filter((line) => line === `${a.name} ${Type.KEEP_ALIVE}`).length
    const before = heard()
    net.run(101_000)
    assert.equal(heard() - before, 5)
    a.machine.setNotified(true, net.now)
    net.run(100_000)
    assert.equal(heard() - before, 5)
  })
})

describe('NT-40, NT-45 … NT-48 ways to a peer', () => {
  const cases: readonly [NatKind | undefined, NatKind | undefined, boolean][] = [
    [undefined, undefined, true],
    [undefined, 'port-restricted', true],
    ['port-restricted', undefined, true],
    ['port-restricted', 'port-restricted', true],
    ['full-cone', 'symmetric', true],
    [undefined, 'symmetric', true],
    ['symmetric', 'symmetric', false],
    ['port-restricted', 'symmetric', false],
  ]
  for (const [kindA, kindB, direct] of cases)
    it(`${kindA ?? 'public'} and ${kindB ?? 'public'}: by the relay${direct ? ', then direct' : ' alone'}`, () => {
      const { net, a, b } = pair(kindA, kindB)
      a.resolve(b.name)
      net.until(() => a.ways().includes('relay') && b.ways().includes('relay'), 500)
      net.run(5_000)
      for (const node of [a, b]) assert.equal(node.ways().includes('direct'), direct)
      // One end opens what connects them first.
      const openers = [a, b].map((node) => node.of('way').some(({ open }) => open))
      assert.deepEqual(openers.filter(Boolean).length, 1)
      assert.equal(a.of('direction')[0]!.leads, !b.of('direction')[0]!.leads)
      assert.equal(a.of('direction')[0]!.asked, true)
      assert.equal(b.of('direction')[0]!.asked, false)
    })

  it('NT-40: message 1 of the peer, however often it comes, opens a hoped way there twice at most for one direction', () => {
    for (const kind of [undefined, 'port-restricted'] as const) {
      const { net, a, b } = pair(undefined, kind)
      const hoped = () => a.of('way').filter(({ known }) => known === 'hoped')
      const ask = () => {
        a.outputs.length = 0
        // The peer answers nothing.
        net.filter = (from, to) => from.startsWith('192.0.2.') || to.startsWith('192.0.2.')
        net.relayDown = true
        a.resolve(b.name)
        net.until(() => a.of('direction').length > 0)
      }
      const greet = (from: string, times: number) => {
        for (let n = 0; n < times; n++) a.machine.noteGreeted(b.name, at(from), a.sockets[0]!.socket)
        a.drain()
      }
      ask()
      const [candidate] = a.machine.rows()[0]!.candidates
      const there = text(candidate!.endpoint)
      greet('198.51.100.66:999', 3)
      assert.equal(hoped().length, 0, 'from elsewhere')
      greet(there, 10)
      assert.equal(hoped().length, 2)
      net.run(2_000)
      greet(there, 10)
      assert.equal(hoped().length, 2)
      assert.deepEqual([...new Set(hoped().map(({ remote }) => text(remote)))], [there])
      ask()
      greet(there, 10)
      assert.equal(hoped().length, 2, 'another direction')
    }
  })

  it('NT-40: of a peer that was restarted the direct ways go that have not answered since the last direction, and no others', () => {
    for (const hasAnswered of [false, true]) {
      const { net, a, b } = pair('port-restricted', 'port-restricted')
      a.resolve(b.name)
      net.run(5_000)
      assert.deepEqual(new Set(a.ways()), new Set(['relay', 'direct']))
      const directions = a.of('direction').length
      // Its requests of the new direction are not answered, or are.
      if (!hasAnswered) net.filter = (_from, _to, bytes) => bytes[2] !== Kind.CHECK
      a.resolve(b.name)
      net.until(() => a.of('direction').length > directions)
      net.run(hasAnswered ? 1_000 : 0)
      a.machine.noteRestart(b.name)
      a.drain()
      assert.equal(a.ways().includes('direct'), hasAnswered)
      assert.ok(a.ways().includes('relay'))
    }
  })

  it('the relayed way is there one round trip after the direction', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted')
    const began = net.now
    a.resolve(b.name)
    net.until(() => a.ways().includes('relay'))
    assert.ok(net.now - began <= 6 * net.delay, `${net.now - began} ms`)
  })

  it('NT-47: both nodes with the same private address and port do not take themselves for the other', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted', true)
    a.resolve(b.name)
    net.run(5_000)
    for (const node of [a, b]) assert.ok(openWays(node).every((way) => !way.includes('192.168.1.10')))
    assert.ok(a.ways().includes('direct'))
  })

  it('NT-49: behind two NATs one after the other a direct way is found as behind one', () => {
    const net = new Network()
    const [a, b] = [net.node('alice'), net.node('bob')]
    // The home's outside, 100.64.0.2, is the carrier's inside.
    const carrier = new Nat('full-cone', '203.0.113.1')
    const home = new Nat('port-restricted', '203.0.113.1')
    const cascade: Pick<Nat, 'out' | 'in'> = {
      out: (inside, to) => carrier.out(home.out(inside, to).replace('203.0.113.1', '100.64.0.2'), to),
      in: (from, port) => {
        const middle = carrier.in(from, port)
        return middle === undefined ? undefined : home.in(from, Number(middle.split(':')[1]))
      },
    }
    a.use({
      socket: 0,
      address: '192.168.1.10',
      port: 5000,
      nat: Object.assign(new Nat('full-cone', '203.0.113.1'), cascade),
    })
    b.use({ socket: 0, address: '192.168.2.10', port: 5000, nat: new Nat('port-restricted', '203.0.113.2') })
    net.until(() => a.of('registered').length > 0 && b.of('registered').length > 0)
    a.resolve(b.name)
    net.run(5_000)
    for (const node of [a, b]) assert.ok(node.ways().includes('direct'))
  })

  it('two nodes of one local network find each other there', () => {
    const net = new Network()
    const nat = new Nat('port-restricted', '203.0.113.1')
    const a = net.node('alice')
    const b = net.node('bob')
    a.use({ socket: 0, address: '192.168.1.10', port: 5000, nat })
    b.use({ socket: 0, address: '192.168.1.11', port: 5000, nat })
    net.until(() => a.of('registered').length > 0 && b.of('registered').length > 0)
    a.resolve(b.name)
    net.until(() => a.ways().includes('lan') && b.ways().includes('lan'), 1_000)
  })

  it('a name is refused with the reason, and one that nobody answers for after ten seconds', () => {
    const { net, a, b } = pair(undefined, undefined)
    a.resolve('nobody.test.example')
    net.until(() => a.of('refused').length === 1)
    assert.equal(a.of('refused')[0]!.status, Status.UNKNOWN_NAME)
    net.serverDown = true
    a.resolve(b.name)
    net.until(() => a.of('refused').length === 2, 11_000)
  })

  it('names asked for before the registration are directed after it', () => {
    const net = new Network()
    const a = net.node('alice')
    const b = net.node('bob')
    b.use({ socket: 0, address: '198.51.100.2', port: 5002 })
    net.run(100)
    a.resolve(b.name)
    a.use({ socket: 0, address: '198.51.100.1', port: 5001 })
    net.until(() => a.of('direction').length === 1, 500)
  })
})

describe('NT-43, NT-44 moves', () => {
  it('one end moves: the relay is bound anew at once, the direct way tried, a direction asked for', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted')
    a.resolve(b.name)
    net.run(5_000)
    const directions = b.of('direction').length
    a.outputs.length = 0
    const moved = net.now
    a.use({ socket: 1, address: '10.0.0.5', port: 5100, nat: new Nat('port-restricted', '203.0.113.99') })
    assert.ok(a.of('way').some(({ kind, socket, open }) => kind === 'direct' && socket === 1 && open))
    net.until(() => a.of('way').some(({ kind, socket }) => kind === 'relay' && socket === 1))
    // From an address that is not proven yet: two round trips to the relay.
    assert.ok(net.now - moved <= 4 * net.delay, `${net.now - moved} ms`)
    net.until(() => b.of('direction').length > directions, 1_000)
    net.run(3_000)
    assert.ok(
      b.of('way').some(({ kind, remote }) => kind === 'direct' && text(remote).startsWith('203.0.113.99')),
    )
    assert.deepEqual([...new Set(a.of('way-gone').map(({ socket }) => socket))], [0])
  })

  it('a direct way stands ready over every access of both ends, also to those that the coordinator does not know', () => {
    const net = new Network()
    const nodes = ['alice', 'bob'].map((name) => net.node(name))
    for (const [n, node] of nodes.entries())
      node.use(
        ...[0, 1].map((socket) => ({
          ...{ socket, address: `192.168.${socket}.10`, port: 5000 + socket },
          nat: new Nat('port-restricted', `203.0.113.${10 * n + socket}`),
        })),
      )
    const [a, b] = nodes as [SimNode, SimNode]
    net.until(() => nodes.every((node) => node.of('registered').length > 0))
    const located = net.server.located.get(a.name)?.observed
    a.resolve(b.name)
    net.run(3_000)
    for (const [node, n] of [
      [a, 1],
      [b, 0],
    ] as const) {
      const direct = node.of('way').filter(({ kind }) => kind === 'direct')
      const ways = new Set(direct.map(({ socket, remote }) => `${socket} ${text(remote).split(':')[0]}`))
      assert.deepEqual(
        [...ways].sort(),
        [0, 1].flatMap((socket) => [0, 1].map((m) => `${socket} 203.0.113.${10 * n + m}`)),
      )
      assert.ok(direct.every(({ known }) => known === 'proven'))
      assert.equal(node.of('places').at(-1)?.remotes.length, 2)
    }
    // Asking where it sees the other access has not located the node there.
    assert.deepEqual(net.server.located.get(a.name)?.observed, located)
  })

  it('both ends move at the same time and find each other', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted')
    a.resolve(b.name)
    net.run(5_000)
    a.outputs.length = 0
    b.outputs.length = 0
    a.use({ socket: 1, address: '10.0.0.5', port: 5100, nat: new Nat('port-restricted', '203.0.113.98') })
    b.use({ socket: 1, address: '10.0.0.6', port: 5100, nat: new Nat('port-restricted', '203.0.113.99') })
    net.run(5_000)
    for (const [node, other] of [
      [a, '203.0.113.99'],
      [b, '203.0.113.98'],
    ] as const) {
      assert.ok(node.of('way').some(({ kind, socket }) => kind === 'relay' && socket === 1))
      assert.ok(
        node.of('way').some(({ kind, remote }) => kind === 'direct' && text(remote).startsWith(other)),
      )
    }
  })

  it('a better network beside the old one: another channel, and the old one stays', () => {
    const { net, a, b } = pair('port-restricted', 'symmetric')
    a.resolve(b.name)
    net.run(5_000)
    const [old] = a.sockets
    a.outputs.length = 0
    a.use(
      { socket: 1, address: '10.0.0.5', port: 5100, nat: new Nat('port-restricted', '203.0.113.98') },
      old!,
    )
    net.run(3_000)
    const relays = a.of('way').filter(({ kind }) => kind === 'relay')
    assert.deepEqual([...new Set(relays.map(({ socket }) => socket))], [1])
    assert.equal(a.of('way-gone').filter(({ socket }) => socket === 0).length, 0)
    assert.equal(net.server.channels.length, 2)
  })

  it('all servers gone: what stands is not taken down, and moves still rebind the relay', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted')
    a.resolve(b.name)
    net.run(5_000)
    net.serverDown = true
    net.relayDown = true
    net.run(120_000)
    for (const node of [a, b]) {
      assert.equal(node.of('way-gone').length, 0)
      assert.ok(node.ways().includes('direct'))
    }
  })

  it('all servers gone: a node that returns to where it was is found there by what is remembered', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted')
    a.resolve(b.name)
    net.run(5_000)
    const { address, port, nat } = b.sockets[0]!
    b.use({ socket: 1, address: '10.0.0.5', port: 5100, nat: new Nat('port-restricted', '203.0.113.99') })
    net.run(5_000)
    net.serverDown = true
    net.relayDown = true
    for (const each of [a.sockets[0]!.nat, nat]) each!.forgetSent()
    a.outputs.length = 0
    b.use({ socket: 2, address, port, nat: nat! })
    net.run(1_000)
    a.machine.noteNoPath(b.name, net.now)
    a.drain()
    net.run(3_000)
    const found = a.of('way').map(({ kind, remote }) => `${kind} ${text(remote).split(':')[0]}`)
    assert.ok(found.includes('direct 203.0.113.2'), found.join())
  })

  it('NT-47: tunnel requests that all missed are sent again while packets go by the relay, at growing pauses', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted')
    net.filter = (_from, _to, bytes) => bytes[2] !== 7
    a.resolve(b.name)
    net.run(5_000)
    assert.ok(!a.ways().includes('direct'))
    net.filter = () => true
    const leader = a.of('direction')[0]!.leads ? a : b
    const follower = leader === a ? b : a
    for (let i = 0; i < 50 && !a.ways().includes('direct'); i++) {
      leader.machine.noteRelayed(follower.name, net.now)
      leader.drain()
      net.run(100)
    }
    for (const node of [a, b]) assert.ok(node.ways().includes('direct'))
    const directed = () =>
      net.server.heard.filter((line) => line === `${leader.name} ${Type.DIRECTION_REQUEST}`)
    const before = directed().length
    for (let i = 0; i < 600; i++) {
      leader.machine.noteRelayed(follower.name, net.now)
      leader.drain()
      net.run(100)
    }
    assert.ok(directed().length - before <= 5)
  })

  it('a peer without a path is directed anew, by a relay, at growing pauses', () => {
    const { net, a, b } = pair(undefined, undefined)
    net.server.useRelay = false
    a.resolve(b.name)
    net.run(1_000)
    assert.deepEqual(a.ways(), ['direct'])
    net.server.useRelay = true
    for (let i = 0; i < 60; i++) {
      a.machine.noteNoPath(b.name, net.now)
      a.drain()
      net.run(100)
    }
    assert.ok(a.ways().includes('relay'))
    const asked = net.server.heard.filter((line) => line === `${a.name} ${Type.DIRECTION_REQUEST}`)
    assert.ok(asked.length <= 5, `${asked.length}`)
  })
})

it('NT-40: a fresh key goes to the coordinator for a direction that was followed, the same where that is repeated', () => {
  const net = new Network()
  const a = net.node('alice')
  let made = 0
  const prekey = () => ({ index: ++made, publicKey: new Uint8Array(32).fill(made) })
  const b = new SimNode(net, 'bob.test.example', 2, net.sites[0]!, undefined, { prekey })
  for (const [n, node] of [a, b].entries())
    node.use({ socket: 0, address: `198.51.100.${n + 1}`, port: 5000 })
  net.until(() => [a, b].every((node) => node.of('registered').length > 0))
  const { nodes, acknowledged } = net.server
  const direct = (transaction: number, fields: { prekeyIndex: number; lease?: Uint8Array }) => {
    net.server.directTo(nodes.get(b.name)!, nodes.get(a.name)!, undefined, { transaction, ...fields })
    net.run(100)
    const { status, prekeys = [] } = acknowledged.at(-1)!
    return [status, ...prekeys.map(({ index }) => index)]
  }
  assert.deepEqual(direct(7, { prekeyIndex: 1 }), [Status.DONE, 3])
  assert.deepEqual(direct(8, { prekeyIndex: 2 }), [Status.DONE, 4])
  const forged = net.server.lease(nodes.get(a.name)!)
  forged.set([1, 2, 3], forged.length - 3)
  assert.deepEqual(direct(9, { prekeyIndex: 3, lease: forged }), [Status.LEASE_REFUSED])
  const followed = b.of('direction').length
  assert.deepEqual(direct(7, { prekeyIndex: 1 }), [Status.DONE, 3], 'repeated')
  assert.deepEqual(direct(8, { prekeyIndex: 2 }), [Status.DONE, 4], 'repeated')
  assert.equal(b.of('direction').length, followed)
  assert.deepEqual(direct(10, { prekeyIndex: 99 }), [Status.DONE], 'none of its own')
  assert.equal(acknowledged.length, 6)
})

describe('nothing unproven', () => {
  it('forged, replayed and random datagrams change nothing and get nothing', () => {
    const { net, a, b } = pair(undefined, undefined)
    const captured: Uint8Array[] = []
    net.filter = (_from, _to, bytes) => {
      captured.push(bytes.slice())
      return true
    }
    a.resolve(b.name)
    net.run(3_000)
    const outputs = a.outputs.length
    const before = JSON.stringify(a.machine.rows().map(({ ways }) => ways.length))
    const random = new Uint8Array(100)
    for (let i = 0; i < 2_000; i++) {
      net.fill(random)
      random.set([SIGN, VERSION, 1 + (i % 9), 0])
      a.machine.handleDatagram(random.slice(0, 8 + (i % 92)), at('203.0.113.66:1'), 0, net.now)
    }
    a.drain()
    assert.equal(a.outputs.length, outputs)
    // What a node sent, sent back to it, from elsewhere.
    net.filter = () => true
    net.sentBytes.clear()
    for (const bytes of captured) a.machine.handleDatagram(bytes, at('203.0.113.66:1'), 0, net.now)
    a.drain()
    net.run(3_000)
    const received = captured.reduce((sum, { length }) => sum + length, 0)
    assert.ok((net.sentBytes.get('203.0.113.66:1') ?? 0) <= 3 * received)
    assert.equal(JSON.stringify(a.machine.rows().map(({ ways }) => ways.length)), before)
  })

  it('captured tunnel requests from another address bring at most three times their bytes and no way', () => {
    const { net, a, b } = pair(undefined, undefined)
    const captured: Uint8Array[] = []
    net.filter = (from, _to, bytes) => {
      if (from.startsWith('198.51.100.2:') && bytes[2] === 7) captured.push(bytes.slice())
      return true
    }
    a.resolve(b.name)
    net.run(3_000)
    assert.ok(captured.length > 0)
    net.sentBytes.clear()
    let received = 0
    for (let i = 0; i < 500; i++) {
      const bytes = captured[i % captured.length]!
      received += bytes.length
      a.machine.handleDatagram(bytes, at('203.0.113.66:1'), 0, net.now)
      a.drain()
      net.run(10)
    }
    const sent = net.sentBytes.get('203.0.113.66:1') ?? 0
    assert.ok(sent > 0 && sent <= 3 * received, `${sent} for ${received}`)
    assert.ok(a.of('way').every(({ remote }) => !text(remote).startsWith('203.0.113.66')))
  })

  it('places that a peer names get at most three times the bytes that named them, and only some rounds', () => {
    const { net, a, b } = pair(undefined, undefined)
    a.resolve(b.name)
    net.run(10_000)
    const { pairKey, leads } = b.of('direction')[0]!
    let named = 0
    const [from] = b.sockets
    const peer = new Checks({
      ...{ crypto: overlayCrypto, random: { fill: (out) => net.fill(out) }, pairKey, leads },
      ...{
        onAnswer: () => {},
        onStep: () => {},
        onObserved: () => {},
        onMeeting: () => {},
        onNamed: () => undefined,
      },
      send: (socket, to, bytes) => {
        named += bytes.length
        net.send(b, socket, to, bytes)
      },
    })
    const victims = [1, 2, 3, 4, 5, 6].map((n) => at(`203.0.113.20${n}:9`))
    const total = () => [...net.sentBytes].reduce((sum, [to, n]) => sum + (to.includes('.20') ? n : 0), 0)
    net.sentBytes.clear()
    for (let i = 0; i < 40; i++) {
      peer.tell({ socket: from!.socket, remote: at('198.51.100.1:5001') }, victims, net.now)
      net.run(50)
      assert.ok(total() <= 3 * named, `${total()} for ${named}`)
    }
    net.run(20_000)
    assert.ok(total() > 0 && total() <= 7 * 2_400, `${total()} bytes`)
    // From where the peer has not answered it is worth nothing.
    const before = a.of('places').length
    assert.ok(before > 0)
    net.run(20_000)
    const copies: Uint8Array[] = []
    const other = new Checks({
      ...{ crypto: overlayCrypto, random: { fill: (out) => net.fill(out) }, pairKey, leads },
      ...{
        onAnswer: () => {},
        onStep: () => {},
        onObserved: () => {},
        onMeeting: () => {},
        onNamed: () => undefined,
      },
      send: (_socket, _to, bytes) => copies.push(bytes),
    })
    other.tell({ socket: 0, remote: at('198.51.100.1:5001') }, victims, net.now)
    net.sentBytes.clear()
    for (const bytes of copies) a.machine.handleDatagram(bytes, at('203.0.113.66:1'), 0, net.now)
    a.drain()
    net.run(3_000)
    assert.equal(a.of('places').length, before)
    assert.equal(net.sentBytes.get('203.0.113.66:1') ?? 0, 0)
  })

  it('NT-40: whoever asks sends message 1 behind the binding and to where the coordinator sees the peer, once each', () => {
    const { net, a, b } = pair('port-restricted', 'port-restricted')
    const began = net.now
    a.resolve(b.name)
    net.until(() => a.of('introduce').length > 0)
    // One round trip: with the direction.
    assert.ok(net.now - began <= 2 * net.delay + 1)
    net.run(5_000)
    const to = a.of('introduce').map(({ remote }) => text(remote).split(':')[0])
    assert.deepEqual([...to].sort(), ['192.0.2.2', '203.0.113.2'])
    // Bindings and answers are proofs: the tunnel asks for none.
    for (const node of [a, b])
      assert.ok(
        node.of('way').every(({ known }) => known === 'proven'),
        JSON.stringify(node.of('way')),
      )
    assert.ok(a.of('way')[0]!.open)
  })

  it('a candidate that never answers gets few datagrams', () => {
    const { net, a, b } = pair(undefined, undefined)
    net.server.located.get(b.name)!.hosts = [{ kind: 'host', endpoint: at('203.0.113.200:9') }]
    net.sentBytes.clear()
    a.resolve(b.name)
    net.run(60_000)
    assert.ok((net.sentBytes.get('203.0.113.200:9') ?? 0) <= 6 * 64)
  })

  it('however many places a peer names, those that do not answer get at most three times the bytes of its request', () => {
    const { net, a, b } = pair(undefined, undefined)
    const second = { socket: 1, address: '198.51.100.9', port: 5009 }
    a.use({ socket: 0, address: '198.51.100.1', port: 5001 }, second)
    net.run(2_000)
    net.server.located.get(b.name)!.hosts = Array.from({ length: 14 }, (_, i) => ({
      kind: 'host' as const,
      endpoint: at(`203.0.113.200:${1000 + i}`),
    }))
    const headers = 28
    let victim = 0
    const requests = { bytes: 0 }
    net.filter = (from, to, { length }) => {
      if (from.startsWith('198.51.100.2:') && length > LEAST_DIRECTION) requests.bytes += length + headers
      if (to.startsWith('203.0.113.200:')) victim += length + headers
      return true
    }
    for (let i = 0; i < 40; i++) {
      b.resolve(a.name)
      net.run(1_000)
    }
    assert.ok(requests.bytes > 30 * LEAST_DIRECTION)
    assert.ok(victim > 0 && victim <= 3 * requests.bytes, `${victim} for ${requests.bytes}`)
    // And who directs others again and again has them ask no more than now and then.
    assert.ok(victim <= 25 * 3 * (LEAST_DIRECTION + headers), `${victim}`)
  })

  it('no datagram goes to loopback, multicast, broadcast, or an address of this node, whoever names it', () => {
    const { net, a, b } = pair(undefined, undefined)
    const places = [
      ...['127.0.0.1:53', '224.0.0.1:53', '255.255.255.255:53', '0.0.0.0:53', '169.254.169.254:80'],
      ...['198.51.100.1:53', '203.0.113.9:0', '[::1]:53', '[ff02::1]:53', '[fe80::1]:53'],
    ]
    net.server.located.get(b.name)!.hosts = places.map((place) => ({ kind: 'host', endpoint: at(place) }))
    net.sentBytes.clear()
    a.resolve(b.name)
    net.run(10_000)
    assert.ok(a.ways().includes('direct'))
    for (const place of places) assert.equal(net.sentBytes.get(place), undefined, place)
  })

  it('a lease draws nothing but private addresses of the zone, and none that is another’s', () => {
    const own = (text: string) => at(`${text}:1`).address
    const six = (first: number, last: number) =>
      Uint8Array.of(first, 0x67, 1, 2, 3, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, last)
    const bad = [
      ...['8.8.8.8', '127.0.0.1', '169.254.169.254', '224.0.0.1', '0.0.0.0', '198.51.100.1'].map((v4) => ({
        v4: own(v4),
      })),
      ...[six(0x20, 9), six(0xfe, 9), six(0, 9), new Uint8Array(16)].map((v6) => ({ v6 })),
      { v6: Uint8Array.of(0xfd, 0x67, 1, 2, 3, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9) },
    ]
    for (const addresses of bad) {
      const { net, a, b } = pair(undefined, undefined)
      const lease = net.server.lease.bind(net.server)
      const isBob = (node: { credentials: { name: string } }) => node.credentials.name === b.name
      net.server.lease = (node) => lease(isBob(node) ? { ...node, ...addresses } : node)
      a.resolve(b.name)
      net.run(3_000)
      assert.equal(a.of('direction').length, 0, JSON.stringify(addresses))
      const { v4, v6 } = net.server.nodes.get(a.name)!
      net.server.lease = (node) => lease(isBob(node) ? { ...node, v4, v6 } : node)
      a.resolve(b.name)
      net.run(3_000)
      assert.equal(a.of('direction').length, 0, 'our own')
      if (addresses === bad.at(-1)) continue
      net.server.lease = (node) => lease({ ...node, ...addresses })
      const before = a.of('registered').length
      a.machine.wake(net.now)
      a.drain()
      net.run(3_000)
      assert.equal(a.of('registered').length, before, 'our own lease')
    }
  })

  it('a node with another name than before: the peer of the old one is forgotten', () => {
    const { net, a, b } = pair(undefined, undefined)
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
    const robert = new SimNode(net, 'robert.test.example', 2)
    robert.use({ socket: 0, address: '198.51.100.3', port: 5003 })
    net.until(() => robert.of('registered').length > 0)
    a.resolve(robert.name)
    net.until(() => a.of('direction').length > 1)
    assert.deepEqual(
      a.of('forgotten').map(({ peer }) => peer),
      [b.name],
    )
    assert.deepEqual(
      a.machine.rows().map(({ peer }) => peer),
      [robert.name],
    )
  })

  it('a direction whose lease is of another key, name or zone is not followed', () => {
    const { net, a, b } = pair(undefined, undefined)
    const lease = net.server.lease.bind(net.server)
    net.server.lease = (node) => {
      const bytes = lease(node)
      if (node.credentials.name === b.name) bytes[30] = bytes[30]! ^ 1
      return bytes
    }
    a.resolve(b.name)
    net.run(3_000)
    assert.equal(a.of('direction').length, 0)
    net.server.lease = (node) =>
      lease(node.credentials.name === b.name ? net.server.nodes.get(a.name)! : node)
    a.machine.forget(b.name, net.now)
    a.resolve(b.name)
    net.run(3_000)
    assert.equal(a.of('direction').length, 0)
  })
})

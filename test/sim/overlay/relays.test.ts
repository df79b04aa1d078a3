/** Relays apart from their coordinator, on a virtual network: which a pair gets, and what happens when one dies or is full. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { networkOf, type RelayView, rankRelays } from '../../../src/overlay/machine/relays.ts'
import { SimRelay } from '../../support/overlay-relay.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { at, Nat, Network, type SimNode, text } from './network.ts'

function world(relays: readonly string[], seed = 1) {
  const net = new Network(seed, (parts) => new MachineServers(parts, { relays: false }))
  const servers = net.servers as MachineServers
  const made = relays.map((name, i) => new SimRelay(net, name, `192.0.2.${21 + i}`))
  net.until(() => servers.coordinator.counts.relays === relays.length, 3000)
  return { net, servers, relays: made }
}

/** Behind a NAT of its own that maps by destination: only a relay connects two of these. */
function place(node: SimNode, n: number): void {
  const nat = new Nat('symmetric', `203.0.${n}.1`)
  node.use({ socket: 0, address: `192.168.${n}.10`, port: 5000, nat })
}

function pair(net: Network, n = 1) {
  const [a, b] = [net.node(`alice${n}`), net.node(`bob${n}`)]
  place(a, 2 * n)
  place(b, 2 * n + 1)
  net.until(() => a.of('registered').length > 0 && b.of('registered').length > 0)
  return { a, b }
}

/** Addresses of the relays by which the node has a way. */
const relaysOf = (node: SimNode) =>
  node.machine
    .rows()
    .flatMap(({ ways }) =>
      ways.filter(({ kind }) => kind === 'relay').map(({ remote }) => text(remote).split(':')[0]!),
    )
    .sort()
const hasRelays = (node: SimNode, ...places: string[]) =>
  places.every((each) => relaysOf(node).includes(each))
/** Whether the pair ordered last has this relay first: the other's nodes have to bind before it knows where they are. */
const isFirst = ({ relay }: SimRelay) =>
  [...relay.channels].at(-1)!.sides.every(({ proven }) => proven !== undefined)

describe('NT-24, NT-25: relays apart', () => {
  it('NT-24: a pair is given channels at two relays, and its nodes bind both', () => {
    const { net } = world(['east', 'west'])
    const { a, b } = pair(net)
    a.resolve(b.name)
    for (const node of [a, b]) net.until(() => hasRelays(node, '192.0.2.21', '192.0.2.22'), 2000)
  })

  it('NT-25: a relay that dies: the pair still has the other at once, and gets a third before it needs it', () => {
    const { net, servers, relays } = world(['east', 'west', 'south'])
    const { a, b } = pair(net)
    a.resolve(b.name)
    net.until(() => relaysOf(a).length === 2 && relaysOf(b).length === 2, 2000)
    const [first, second] = relaysOf(a)
    const third = ['192.0.2.21', '192.0.2.22', '192.0.2.23'].find(
      (each) => each !== first && each !== second,
    )!
    relays[Number(first!.slice(-1)) - 1]!.down = true
    const asked = a.outputs.filter(
      (output) => output.type === 'step' && output.what === 'DIRECTION_REQUEST',
    ).length
    for (const node of [a, b]) net.until(() => hasRelays(node, second!, third), 6000)
    assert.equal(
      a.outputs.filter((output) => output.type === 'step' && output.what === 'DIRECTION_REQUEST').length,
      asked,
      'nobody had to ask',
    )
    assert.equal(servers.coordinator.counts.relays, 2)
    assert.ok(
      servers.logged.includes(
        `server ${['east', 'west', 'south'][Number(first!.slice(-1)) - 1]} does not answer`,
      ),
    )
  })

  it('a pair that is not in use any more is not given another relay', () => {
    const { net, servers, relays } = world(['east', 'west'])
    const { a, b } = pair(net)
    a.resolve(b.name)
    net.until(() => relaysOf(a).length === 2, 2000)
    a.sockets[0]!.down = true
    b.sockets[0]!.down = true
    net.run(400_000)
    for (const { relay } of relays) assert.equal(relay.channelCount, 0, 'the allocations have ended')
    const before = servers.coordinator.counts.directing
    relays[0]!.down = true
    net.run(5000)
    assert.equal(servers.coordinator.counts.directing, before)
    assert.equal(relays[1]!.relay.channelCount, 0)
  })

  it('a relay that is not answering yet counts for nothing: the direction goes out with the other within the grace', () => {
    const { net, relays } = world(['east', 'west'])
    const { a, b } = pair(net)
    relays[0]!.down = true
    const began = net.now
    a.resolve(b.name)
    net.until(() => hasRelays(a, '192.0.2.22') && hasRelays(b, '192.0.2.22'), 1000)
    assert.ok(net.now - began <= 6 * net.delay + 30 + 40, `${net.now - began} ms`)
  })

  it('a full relay: the next gets the pair', () => {
    const { net, relays } = world(['east', 'west', 'south'])
    relays[0]!.load = { maxChannels: 1 }
    relays[1]!.load = { maxChannels: 1 }
    for (const relay of relays.slice(0, 2)) relay.restart()
    net.run(2000)
    // Two pairs fill the first two.
    for (const n of [1, 2, 3]) {
      const { a, b } = pair(net, n)
      a.resolve(b.name)
      net.until(() => hasRelays(a, '192.0.2.23') && hasRelays(b, '192.0.2.23'), 4000)
      net.run(1500)
    }
    assert.deepEqual(
      relays.map(({ relay }) => relay.channelCount),
      [1, 1, 3],
    )
  })

  it('distance is what relays measured when nodes bound: pairs of a network get the near one, though it is far from the coordinator', () => {
    const { net, relays } = world(['far', 'near'])
    // Where the coordinator is says nothing here: to it `near` is the farther one.
    net.far.set('192.0.2.22 192.0.2.1', 60)
    net.far.set('192.0.2.21 *', 80)
    net.far.set('192.0.2.21 192.0.2.1', 0)
    net.run(30_000)
    const first = pair(net, 1)
    first.a.resolve(first.b.name)
    net.until(() => relaysOf(first.a).length === 2 && relaysOf(first.b).length === 2, 4000)
    assert.deepEqual(relays.map(isFirst), [true, false], 'not measured yet: by the way over the coordinator')
    net.run(3000)
    const [c, d] = [net.node('carol'), net.node('dave')]
    // Neighbours of the first pair.
    c.use({ socket: 0, address: '192.168.2.20', port: 5000, nat: new Nat('symmetric', '203.0.2.9') })
    d.use({ socket: 0, address: '192.168.3.20', port: 5000, nat: new Nat('symmetric', '203.0.3.9') })
    net.until(() => c.of('registered').length > 0 && d.of('registered').length > 0)
    c.resolve(d.name)
    net.until(() => relaysOf(c).length > 0, 4000)
    assert.deepEqual(relays.map(isFirst), [false, true])
  })

  it('a relay that was started anew has lost its channels: its pairs get others', () => {
    const { net, relays } = world(['east', 'west'])
    const { a, b } = pair(net)
    a.resolve(b.name)
    net.until(() => relaysOf(a).length === 2 && relaysOf(b).length === 2, 2000)
    relays[0]!.restart()
    net.until(() => relays[0]!.relay.channelCount === 1, 6000)
    net.until(() => [...relays[0]!.relay.channels][0]!.sides.every(({ bound }) => bound !== undefined), 2000)
  })

  it('the coordinator restarts: relays are there again by themselves, channels that stand are the same', () => {
    const { net, servers, relays } = world(['east', 'west'])
    const { a, b } = pair(net)
    a.resolve(b.name)
    net.until(() => relaysOf(a).length === 2 && relaysOf(b).length === 2, 2000)
    const before = relays.map(({ relay }) => [...relay.channels].map(({ id }) => id))
    servers.restart()
    net.until(() => servers.coordinator.counts.relays === 2, 10_000)
    net.until(() => [a, b].every(({ name }) => servers.coordinator.location(name) !== undefined), 120_000)
    a.resolve(b.name)
    net.run(2000)
    assert.deepEqual(
      relays.map(({ relay }) => [...relay.channels].map(({ id }) => id)),
      before,
    )
  })

  it('who has another key than the coordinator is no relay; one that was removed is none from then on', () => {
    const { net, servers } = world(['east'])
    const stranger = new SimRelay(net, 'west', '192.0.2.30', new Uint8Array(32).fill(1))
    net.run(10_000)
    assert.equal(servers.coordinator.counts.relays, 1)
    assert.ok(stranger.lost.length > 0)
    servers.directory.servers.delete('east')
    net.until(() => servers.coordinator.counts.relays === 0, 5000)
  })

  it('a registration that is repeated from elsewhere moves nothing, and what it draws is no longer than itself', () => {
    const { net, servers } = world(['east'])
    const captured: Uint8Array[] = []
    const { receive } = servers
    servers.receive = function (port, bytes, from) {
      if (text(from).startsWith('192.0.2.21:')) captured.push(bytes.slice())
      receive.call(this, port, bytes, from)
    }
    net.run(3000)
    const drawn: number[] = []
    const { deliver } = net
    net.deliver = function (source, to, bytes, within) {
      if (text(to).startsWith('203.0.113.99:')) drawn.push(bytes.length)
      deliver.call(this, source, to, bytes, within)
    }
    for (const bytes of captured) servers.receive(0, bytes, at('203.0.113.99:7'))
    assert.ok(captured.length > 0)
    assert.ok(drawn.every((length) => length <= 60))
    net.run(3000)
    assert.equal(servers.coordinator.counts.relays, 1)
  })
})

describe('the choice of a relay', () => {
  const load = (used: number, rtt = 20_000) => ({
    channels: used,
    maxChannels: 100,
    rate: 0,
    capacity: 0,
    rtt,
  })
  const relay = (name: string, used = 0, rtt = 20_000): RelayView => ({
    name,
    load: load(used, rtt),
    ordered: 0,
  })
  const ends = [
    { net: 'a', rtt: 30 },
    { net: 'b', rtt: 30 },
  ] as const

  it('near before far, idle before busy, never a full one while another has room', () => {
    const known = new Map([
      ['near a', 5],
      ['near b', 5],
      ['far a', 60],
      ['far b', 60],
    ])
    const distance = (name: string, net: string) => known.get(`${name} ${net}`)
    const rank = (...relays: RelayView[]) => rankRelays(relays, ends, distance, 'p')
    assert.deepEqual(rank(relay('far'), relay('near')), ['near', 'far'])
    assert.deepEqual(rank(relay('far'), relay('near', 90)), ['far', 'near'])
    assert.deepEqual(rank(relay('far', 99), relay('near', 100)), ['far', 'near'])
    assert.deepEqual(
      rankRelays([relay('x', 0, 50_000), relay('y', 0, 5000)], ends, () => undefined, 'p'),
      ['y', 'x'],
    )
  })

  it('equal relays share pairs, and a pair has the same order each time', () => {
    let first = 0
    for (let i = 0; i < 1000; i++) {
      const order = rankRelays([relay('x'), relay('y')], ends, () => undefined, `pair ${i}`)
      assert.deepEqual(
        rankRelays([relay('y'), relay('x')], ends, () => undefined, `pair ${i}`),
        order,
      )
      if (order[0] === 'x') first++
    }
    assert.ok(first > 400 && first < 600, `${first}`)
  })

  it('an address stands for its network', () => {
    assert.equal(networkOf(at('198.51.100.7:1').address), networkOf(at('198.51.100.200:1').address))
    assert.notEqual(networkOf(at('198.51.100.7:1').address), networkOf(at('198.51.101.7:1').address))
  })
})

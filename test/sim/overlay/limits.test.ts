/** What a node with a login of its own may cost a coordinator: rates, the length of what it asks, how long its proofs are good. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Asker } from '../../../src/overlay/machine/asker.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { datagramCodec, Kind } from '../../../src/overlay/wire/datagram.ts'
import { LEAST_DIRECTION, Type } from '../../../src/overlay/wire/message.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { at, Network, SimNode, text } from './network.ts'

const MALLORY = '198.51.100.66:6666'

function world() {
  const net = new Network(1, (parts) => new MachineServers(parts))
  const servers = net.servers as MachineServers
  const node = (name: string, last: number) => {
    const made = net.node(name)
    made.use({ socket: 0, address: `198.51.100.${last}`, port: 5001 })
    return made
  }
  return { net, servers, node }
}

/** A client that says what it wants, not what a node says. */
function mallory(net: Network, servers: MachineServers) {
  const { credentials } = servers.add('mallory.test.example', new Uint8Array(32).fill(66))
  const sent: Uint8Array[] = []
  const way = { socket: 0, to: at('192.0.2.1:6741') }
  const asker = new Asker({
    ...{ crypto: overlayCrypto, random: { fill: (out) => net.fill(out) }, wall: () => net.wall + net.now },
    ...{ identity: { type: 'key', id: credentials.keyId }, key: credentials.key },
    send: (bytes) => {
      sent.push(bytes)
      net.deliver(MALLORY, way.to, bytes)
    },
    ...{ onMessage: () => {}, onOpened: () => {}, onSilence: () => {} },
  })
  asker.setWays([way], net.now)
  const { deliver } = net
  net.deliver = function (source, to, bytes, within) {
    const datagram = text(to) === MALLORY ? datagramCodec.decode(bytes) : undefined
    if (datagram?.ok === true) asker.handle(datagram.value, way, net.now)
    else deliver.call(this, source, to, bytes, within)
  }
  return { asker, sent }
}

describe('issue 8: limits of a node at the coordinator', () => {
  it('a request for a direction that is shorter than what it draws directs nobody', () => {
    const { net, servers, node } = world()
    const a = node('alice', 1)
    net.until(() => a.of('registered').length > 0)
    const { asker } = mallory(net, servers)
    let registered = false
    asker.request({ type: Type.REGISTRATION_REQUEST, padding: 420 }, 5000, () => (registered = true), net.now)
    net.until(() => registered)
    const ask = (padding: number) =>
      asker.request({ type: Type.DIRECTION_REQUEST, name: a.name, padding }, 1000, () => {}, net.now)
    ask(LEAST_DIRECTION - 100)
    net.run(2000)
    assert.equal(a.of('direction').length, 0)
    ask(LEAST_DIRECTION)
    net.run(2000)
    assert.equal(a.of('direction').length, 1)
  })

  it('messages of one owner have a rate, also where it is registered nowhere, in whatever sessions they come', () => {
    const { net, servers } = world()
    servers.directory.nodeByName = () => undefined
    const { asker, sent } = mallory(net, servers)
    asker.request({ type: Type.REGISTRATION_REQUEST }, 5000, () => {}, net.now)
    net.until(() => sent.some((bytes) => bytes[2] === Kind.OPEN))
    net.run(100)
    const open = sent.find((bytes) => bytes[2] === Kind.OPEN)!
    assert.equal(servers.coordinator.location('mallory.test.example'), undefined)
    const before = servers.coordinator.counts.limited!
    for (let i = 0; i < 200; i++) servers.receive(0, open, at(MALLORY))
    const limited = servers.coordinator.counts.limited! - before
    assert.ok(limited >= 140, `${limited} of 200 beyond the burst of 60`)
  })

  for (const [held, moves] of [
    [50_000, true],
    [130_000, false],
  ] as const)
    it(`a challenge is good for two minutes: its echo after ${held / 1000} s ${moves ? 'moves the node' : 'moves nobody'}`, () => {
      const { net, servers, node } = world()
      const a = node('alice', 1)
      const place = () => text(servers.coordinator.location(a.name)!.observed)
      net.until(() => a.of('registered').length > 0)
      const echoes: Uint8Array[] = []
      net.filter = (_from, _to, bytes) => {
        const isEcho = bytes[2] === Kind.SEALED && bytes.length < 100
        if (isEcho) echoes.push(bytes.slice())
        // Nothing that comes after it is newer.
        return echoes.length === 0
      }
      a.use({ socket: 1, address: '198.51.100.88', port: 5001 })
      net.until(() => echoes.length > 0)
      net.run(held)
      servers.receive(0, echoes[0]!, at('198.51.100.88:5001'))
      assert.equal(place(), moves ? '198.51.100.88:5001' : '198.51.100.1:5001')
    })
})

describe('NT-13: a login that has ended', () => {
  const ends = (servers: MachineServers, name: string, expires: number) =>
    servers.directory.nodes.set(name, { ...servers.directory.nodes.get(name)!, expires })

  it('ends the sessions that stand under it; nobody is directed to its node, and its node to nobody', () => {
    const { net, servers, node } = world()
    const a = node('alice', 1)
    const b = node('bob', 2)
    net.until(() => a.of('registered').length > 0 && b.of('registered').length > 0)
    const second = (net.wall + net.now) / 1000
    ends(servers, b.name, second + 10)
    net.run(5000)
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
    net.run(6000)
    a.machine.forget(b.name, net.now)
    a.resolve(b.name)
    net.until(() => a.of('refused').length > 0)
    assert.equal(servers.coordinator.location(b.name)?.name, b.name)
    b.machine.wake(net.now)
    b.drain()
    net.run(1000)
    assert.equal(servers.coordinator.location(b.name), undefined)
    net.until(() => b.of('unregistered').length > 0, 60_000)
    const before = b.of('registered').length
    ends(servers, b.name, second + 100_000)
    net.until(() => b.of('registered').length > before, 120_000)
  })
})

describe('NT-13: a machine that was set up anew logs in under its name', () => {
  for (const [what, both] of [
    ['only its peer asks', false],
    ['both ask', true],
  ] as const)
    it(`has another key and the same addresses: a peer that knew it forgets the old one and reaches it, when ${what}`, () => {
      const { net, servers, node } = world()
      const a = node('alice', 1)
      const old = node('carol', 2)
      net.until(() => a.of('registered').length > 0 && old.of('registered').length > 0)
      a.resolve(old.name)
      net.until(() => a.ways().length > 0)
      old.sockets[0]!.down = true
      net.run(5000)
      const anew = new SimNode(net, old.name, 77)
      servers.coordinator.forget(old.name)
      anew.use({ socket: 0, address: '198.51.100.3', port: 5001 })
      net.until(() => anew.of('registered').length > 0)
      assert.deepEqual(anew.of('registered')[0]!.lease.v6, old.of('registered')[0]!.lease.v6)
      const directions = a.of('direction').length
      a.resolve(anew.name)
      if (both) anew.resolve(a.name)
      net.until(() => a.of('direction').length > directions && a.ways().length > 0, 30_000)
      assert.equal(a.of('forgotten').at(-1)?.peer, old.name)
      assert.deepEqual(a.of('direction').at(-1)!.lease.publicKey, anew.publicKey)
      assert.ok(a.of('log').some(({ message }) => message.includes('has another key than before')))
      net.until(() => anew.ways().length > 0)
    })
})

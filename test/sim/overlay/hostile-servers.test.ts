/** Servers apart that were broken into, or whose messages were captured: what their coordinator still takes from them. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { concat } from '../../../src/core/bytes.ts'
import { encoded } from '../../../src/overlay/machine/asker.ts'
import { networkOf, Relays } from '../../../src/overlay/machine/relays.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { datagramCodec, encodeSeen, Kind, MAC, type RelayBind } from '../../../src/overlay/wire/datagram.ts'
import { Connection, ROLE_BITS, Status, Type } from '../../../src/overlay/wire/message.ts'
import { MEMBER_PORT, SimMember } from '../../support/overlay-member.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { at, Nat, Network, text } from './network.ts'

const KEY = new Uint8Array(32).fill(77)
const LOAD = { channels: 0, maxChannels: 1000, rate: 0, capacity: 0, rtt: 1 }

function world() {
  const net = new Network(1, (parts) => new MachineServers(parts, { relays: false }))
  return { net, servers: net.servers as MachineServers }
}

/** A relay that gives every pair a channel at an address that answers nothing. */
function relay(net: Network, name: string, address: string): SimMember {
  const member = new SimMember(net, name, address, ['rs'])
  member.where = { load: LOAD }
  let channel = 5
  member.onRequest = () => {
    channel++
    const side = { channel, endpoint: at('203.0.113.200:53'), key: KEY }
    return {
      relays: [
        { ...side, side: 0 as const },
        { ...side, side: 1 as const },
      ],
    }
  }
  return member
}

/** A relay, and two nodes that only a relay connects and that have been directed to it. */
function bed() {
  const { net, servers } = world()
  const east = relay(net, 'east', '192.0.2.66')
  net.until(() => servers.coordinator.counts.relays === 1, 3000)
  const [a, b] = [net.node('alice'), net.node('bob')]
  a.use({ socket: 0, address: '192.168.1.10', port: 5000, nat: new Nat('symmetric', '203.0.1.1') })
  b.use({ socket: 0, address: '192.168.2.10', port: 5000, nat: new Nat('symmetric', '203.0.2.1') })
  net.until(() => a.of('registered').length > 0 && b.of('registered').length > 0)
  b.resolve(a.name)
  net.run(3000)
  const directions = () => [a, b].map((node) => node.of('direction').length)
  return { net, servers, east, a, b, directions }
}

describe('NT-25: a relay that flaps', () => {
  it('a relay that says another start with each registration: two count at once, then one in ten seconds', () => {
    const { net, servers, east, directions } = bed()
    const [before] = directions()
    const [orders, lines] = [east.asked.length, servers.logged.length]
    for (let i = 0; i < 200; i++) {
      east.register({ roles: ROLE_BITS.rs, boot: net.fill(new Uint8Array(8)) })
      net.run(50)
    }
    assert.ok(east.asked.length - orders <= 4, `${east.asked.length - orders} orders`)
    assert.ok(directions()[0]! - before! <= 5, `${directions()[0]! - before!} directions`)
    assert.ok(servers.logged.length - lines <= 3)
  })

  it('a relay that changes its roles with each registration is limited as one that starts anew', () => {
    const { net, east, directions } = bed()
    const [before] = directions()
    const boot = new Uint8Array(8).fill(1)
    for (let i = 0; i < 200; i++) {
      east.register({ roles: i % 2 === 0 ? 0 : ROLE_BITS.rs, boot })
      net.run(50)
    }
    assert.ok(directions()[0]! - before! <= 3)
  })

  it('a relay that is lost again and again is asked last for a while; pairs of others cost it nothing', () => {
    const asked: string[] = []
    const relays = new Relays({
      order: (name, _order, answered, now) => {
        asked.push(name)
        const side = { channel: 1, side: 0 as const, endpoint: at('192.0.2.9:1'), key: KEY }
        answered([side, { ...side, side: 1 }], now)
      },
    })
    for (const name of ['east', 'west', 'south']) relays.up(name, undefined, 0)
    const end = { net: 'a', rtt: 1 }
    const order = (i: number, now: number) => {
      const pair = new Uint8Array(32)
      new DataView(pair.buffer).setUint32(0, i)
      const ends = [end, end] as const
      const sides = [{ node: 1n }, { node: 2n }] as const
      relays.order({ pair, account: 'x', another: false, ends, sides }, i, () => {}, now)
    }
    const had = new Set<unknown>()
    for (let i = 0; i < 300; i++) order(i, 0)
    for (const tag of relays.down('south', 1)) had.add(tag)
    assert.ok(had.size > 50 && had.size < 300, `${had.size} pairs of 300 had it`)
    assert.deepEqual(relays.down('south', 1), [], 'each is told once')
    relays.up('south', undefined, 2)
    asked.length = 0
    for (let i = 300; i < 400; i++) order(i, 2)
    assert.ok(asked.includes('south'), 'once is no flapping')
    relays.down('south', 3)
    relays.up('south', undefined, 4)
    asked.length = 0
    for (let i = 400; i < 500; i++) order(i, 5)
    assert.ok(!asked.includes('south'))
    for (let i = 500; i < 600; i++) order(i, 10_100)
    assert.ok(asked.includes('south'), 'ten seconds later')
  })

  it('a relay that gives up its role and is silent then is none, and its pairs get another', () => {
    const { net, servers, east, directions } = bed()
    const west = relay(net, 'west', '192.0.2.67')
    net.until(() => servers.coordinator.counts.relays === 2, 3000)
    const before = directions()
    east.register({ roles: 0, boot: new Uint8Array(8) })
    net.run(30)
    east.down = true
    net.run(5000)
    assert.equal(servers.coordinator.counts.relays, 1)
    assert.ok(west.asked.length > 0)
    assert.ok(directions()[0]! > before[0]!)
  })
})

describe('NT-24: distances', () => {
  it('the least round trip of an hour counts: a node that answers late moves no relay away from its network', () => {
    const asked: string[] = []
    const relays = new Relays({ order: (name) => asked.push(name) })
    const first = (now: number) => {
      asked.length = 0
      const end = { net: networkOf(at('203.0.1.9:1').address), rtt: 40 }
      const sides = [{ node: 1n }, { node: 2n }] as const
      relays.order(
        { pair: new Uint8Array(32), account: 'x', another: false, ends: [end, end], sides },
        1,
        () => {},
        now,
      )
      return asked[0]
    }
    for (const name of ['near', 'far']) relays.up(name, undefined, 0)
    const measured = (name: string, ms: number, now: number) =>
      relays.measured(name, [{ address: at('203.0.1.7:1').address, rtt: 1000 * ms }], now)
    measured('near', 10, 0)
    measured('far', 30, 0)
    for (let i = 0; i < 100; i++) measured('near', 1900, 1000)
    assert.equal(first(2000), 'near')
    measured('near', 500, 3_700_000)
    assert.equal(first(3_700_001), 'far', 'what was measured long ago does not count')
    measured('near', 60_000, 3_700_000)
  })

  it('a relay that reports networks without end displaces its own reports', () => {
    const asked: string[] = []
    const relays = new Relays({ order: (name) => asked.push(name) })
    for (const name of ['near', 'far']) relays.up(name, undefined, 0)
    const net = at('203.0.1.7:1').address
    relays.measured('near', [{ address: net, rtt: 1000 }], 0)
    relays.measured('far', [{ address: net, rtt: 90_000 }], 0)
    for (let i = 0; i < 120_000; i++)
      relays.measured('far', [{ address: Uint8Array.of(10, i >> 16, i >> 8, i & 255).slice(), rtt: 1 }], 1)
    for (let i = 0; i < 60_000; i++)
      relays.measured('far', [{ address: Uint8Array.of(i >> 8, i, 1, 1), rtt: 1 }], 1)
    const end = { net: networkOf(net), rtt: 40 }
    const sides = [{ node: 1n }, { node: 2n }] as const
    relays.order(
      { pair: new Uint8Array(32), account: 'x', another: false, ends: [end, end], sides },
      1,
      () => {},
      2,
    )
    assert.equal(asked[0], 'near')
  })
})

describe('NT-21: a notification server that was broken into', () => {
  it('it claims a node that was never given to it: that one ends as others do', () => {
    const { net, servers } = world()
    const ns = new SimMember(net, 'ns1', '192.0.2.31', ['ns'])
    net.run(2500)
    const a = net.node('alice')
    a.use({ socket: 0, address: '198.51.100.1', port: 5000 })
    net.until(() => a.of('registered').length > 0)
    ns.where = {
      ...{ notificationServer: { host: '192.0.2.31', port: 25 }, certificate: new Uint8Array(32) },
    }
    net.run(1500)
    a.sockets[0]!.down = true
    claims(net, ns, a.name, 40)
    assert.equal(servers.coordinator.location(a.name), undefined)
  })

  it('it claims a node that it has: six hours after that was heard last it ends, too', () => {
    const { net, servers } = world()
    const ns = new SimMember(net, 'ns1', '192.0.2.31', ['ns'])
    ns.where = {
      ...{ notificationServer: { host: '192.0.2.31', port: 25 }, certificate: new Uint8Array(32) },
    }
    net.run(2500)
    const a = net.node('alice', net.sites[0], {})
    a.use({ socket: 0, address: '198.51.100.1', port: 5000 })
    net.until(() => a.of('registered').some(({ notification }) => notification !== undefined), 3000)
    const { token } = a.of('registered').at(-1)!.notification!
    a.sockets[0]!.down = true
    claims(net, ns, a.name, 300, token)
    assert.ok(servers.coordinator.location(a.name) !== undefined, 'five hours')
    claims(net, ns, a.name, 90, token)
    assert.equal(servers.coordinator.location(a.name), undefined)
  })

  it('nodes connect to the host that the operator gave, whatever it says of itself', () => {
    const { net, servers } = world()
    const ns = new SimMember(net, 'ns1', '192.0.2.31', ['ns'])
    const record = servers.directory.servers.get('ns1')!
    servers.directory.servers.set('ns1', { ...record, host: 'notify.example' })
    ns.where = {
      ...{ notificationServer: { host: 'victim.example', port: 25 }, certificate: new Uint8Array(32) },
    }
    net.run(2500)
    const a = net.node('alice', net.sites[0], {})
    a.use({ socket: 0, address: '198.51.100.1', port: 5000 })
    net.until(() => a.of('registered').some(({ notification }) => notification !== undefined), 3000)
    assert.equal(a.of('registered').at(-1)!.notification!.host, 'notify.example')
  })
})

/** The notification server says for so many minutes that it has the node. */
function claims(
  net: Network,
  ns: SimMember,
  nodeName: string,
  minutes: number,
  token: Uint8Array = KEY,
): void {
  const message = { type: Type.NOTIFICATION_STATE, nodeName, token, status: Connection.BEFORE }
  for (let i = 0; i < minutes; i++) {
    ns.member.request(message, 1000, () => {}, net.now)
    net.run(60_000)
  }
}

describe('NT-20: who is a server', () => {
  it('a server whose key was replaced is nobody, also in a session that stood', () => {
    const { net, servers } = world()
    relay(net, 'relay1', '192.0.2.66')
    net.until(() => servers.coordinator.counts.relays === 1, 3000)
    servers.directory.servers.delete('relay1')
    const key = new Uint8Array(32).fill(9)
    servers.directory.servers.set('relay1', { name: 'relay1', roles: new Set(['rs']), key })
    net.run(5000)
    assert.equal(servers.coordinator.counts.relays, 0)
  })

  it('the process with the new key takes the place of the one with the old', () => {
    const { net, servers } = world()
    const old = relay(net, 'relay1', '192.0.2.66')
    net.until(() => servers.coordinator.counts.relays === 1, 3000)
    net.run(100)
    const { fresh } = old
    const next = relay(net, 'relay1', '192.0.2.67')
    net.run(5000)
    assert.equal(next.fresh, 1)
    assert.equal(old.fresh, fresh)
    assert.equal(servers.coordinator.counts.relays, 1)
    const lines = servers.logged.length
    net.run(60_000)
    assert.equal(servers.logged.length, lines, 'and keeps it')
  })

  it('a captured OPEN does not keep a server alive that has died', () => {
    const { net, servers } = world()
    const opens: Uint8Array[] = []
    const { receive } = servers
    servers.receive = function (port, bytes, from) {
      if (text(from).startsWith('192.0.2.66:') && bytes[2] === Kind.OPEN) opens.push(bytes.slice())
      receive.call(this, port, bytes, from)
    }
    const dead = relay(net, 'relay1', '192.0.2.66')
    net.until(() => servers.coordinator.counts.relays === 1, 3000)
    dead.down = true
    const began = net.now
    while (net.now - began < 60_000 && servers.coordinator.counts.relays === 1) {
      servers.receive(0, opens[0]!, at(`192.0.2.66:${MEMBER_PORT}`))
      net.run(1000)
    }
    assert.ok(net.now - began <= 5000, `alive for ${net.now - began} ms`)
  })
})

describe('D10: a pair that loses a relay', () => {
  for (const [what, withdraw] of [
    [
      'a login that was revoked',
      ({ servers, b }: ReturnType<typeof bed>) =>
        servers.directory.nodes.set(b.name, { ...servers.directory.nodes.get(b.name)!, expires: 0 }),
    ],
    [
      'a pair whose access lists were withdrawn',
      ({ servers, a, b }: ReturnType<typeof bed>) => {
        // Each may ask for the other by its own list.
        for (const { name } of [a, b]) servers.directory.access.set(name, ['nobody.test.example'])
      },
    ],
  ] as const)
    it(`${what} gets no direction to another relay`, () => {
      const made = bed()
      const { net, servers, east, directions } = made
      relay(net, 'west', '192.0.2.67')
      net.until(() => servers.coordinator.counts.relays === 2, 3000)
      withdraw(made)
      // Whoever has the login says nothing.
      const { filter } = net
      net.filter = (from, to, bytes) =>
        !(from.startsWith('203.0.2.1') && to.startsWith('192.0.2.1:')) && filter(from, to, bytes)
      const before = directions()
      east.down = true
      net.run(8000)
      assert.deepEqual(directions(), before)
    })
})

describe('NT-13: an account server that was broken into', () => {
  const login = (name: string, seq: number) => ({
    ...{
      type: Type.KEY_DISTRIBUTION,
      nodeName: name,
      account: 'carol',
      accountId: new Uint8Array(8).fill(1),
    },
    ...{ publicKey: new Uint8Array(32).fill(4), keyId: new Uint8Array(16).fill(5) },
    ...{ key: new Uint8Array(32).fill(6), seq },
  })

  it('a KEY_DISTRIBUTION that was held back undoes no revocation', () => {
    const { net, servers } = world()
    const as = new SimMember(net, 'front', '192.0.2.40', ['as'])
    net.run(2500)
    const name = 'carol.test.example'
    const expires = Math.floor((net.wall + net.now) / 1000) + 86_400
    let held: Uint8Array | undefined
    as.hold = (bytes) => (held = bytes)
    assert.equal(as.ask({ ...login(name, 1), expires })?.status, Status.DONE)
    assert.equal(as.ask({ ...login(name, 2), expires: 0 })?.status, Status.DONE)
    assert.ok(held !== undefined)
    servers.receive(0, held, at(`192.0.2.40:${MEMBER_PORT}`))
    net.run(100)
    assert.equal(servers.directory.nodes.get(name)!.expires, 0)
    assert.equal(as.ask({ ...login(name, 2 ** 60), expires })?.status, Status.NOT_ALLOWED)
  })

  it('its logins are good for no longer than the zone says, and none has a name that no node may have', () => {
    const net = new Network(1, (parts) => new MachineServers(parts, { relays: false, loginDays: 2 }))
    const servers = net.servers as MachineServers
    const as = new SimMember(net, 'front', '192.0.2.40', ['as'])
    net.run(2500)
    for (const name of ['dc.test.example', 'a.b.test.example', 'a_b.test.example'])
      assert.equal(as.ask(login(name, 1))?.status, Status.NOT_ALLOWED, name)
    assert.equal(as.ask(login('carol.test.example', 1))?.status, Status.DONE)
    const now = Math.floor((net.wall + net.now) / 1000)
    const { expires } = servers.directory.nodes.get('carol.test.example')!
    assert.ok(expires !== undefined && Math.abs(expires - now - 2 * 86_400) < 60, `${expires}`)
    assert.equal(as.ask({ ...login('carol.test.example', 2), expires: now + 5 })?.status, Status.DONE)
    assert.equal(servers.directory.nodes.get('carol.test.example')!.expires, now + 5)
  })

  it('nodes that were not named since a number end, with what their logins could do', () => {
    const { net, servers } = world()
    const as = new SimMember(net, 'front', '192.0.2.40', ['as'])
    net.run(2500)
    for (const [name, seq] of [
      ['old', 3],
      ['new', 5],
    ] as const)
      assert.equal(as.ask(login(`${name}.test.example`, seq))?.status, Status.DONE)
    assert.equal(as.ask({ type: Type.KEY_DISTRIBUTION, seq: 4 })?.status, Status.DONE)
    assert.deepEqual([...servers.directory.nodes.keys()], ['new.test.example'])
  })
})

describe('NT-24: a relay that names another’s address', () => {
  for (const hasRequest of [false, true])
    it(`it answers from elsewhere, with its key and the counter: ${hasRequest ? 'who has the request is believed' : 'it is not believed, and nothing goes there'}`, () => {
      const { net, a, b } = bed()
      const victim = '203.0.113.200:53'
      let guesses = 0
      const { filter } = net
      net.filter = (from, to, bytes) => {
        if (to === victim && bytes[2] === Kind.RELAY_BIND) {
          const { ok, value } = datagramCodec.decode(bytes) as { ok: boolean; value: RelayBind }
          assert.ok(ok)
          // At the node long before its next request, and more than a thousand guesses.
          for (let n = 0; n < 200; n++)
            for (const state of [1, 2]) {
              const guess = hasRequest && n === 0 ? value.token : net.fill(new Uint8Array(n === 1 ? 0 : 16))
              const token = encodeSeen({ port: 5000, first: 53, last: 53 })
              const head = { kind: Kind.RELAY_BOUND, channel: value.channel, side: state }
              const blank = encoded({ ...head, counter: value.counter, token, mac: new Uint8Array(MAC) })
              const text = concat(blank.subarray(0, blank.length - MAC), guess)
              blank.set(overlayCrypto.mac(KEY, text), blank.length - MAC)
              net.deliver(victim, at(from), blank)
              guesses++
            }
        }
        return filter(from, to, bytes)
      }
      b.resolve(a.name)
      net.run(200)
      for (const node of [a, b]) node.machine.noteNoPath(node === a ? b.name : a.name, net.now)
      net.run(20_000)
      assert.ok(guesses >= 1000, `${guesses}`)
      const believed = [a, b].flatMap((node) => node.of('way').filter(({ known }) => known === 'proven'))
      assert.equal(believed.length > 0, hasRequest)
      assert.equal(
        [a, b].some((node) => node.ways().includes('relay')),
        hasRequest,
      )
    })
})

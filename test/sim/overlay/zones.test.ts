/** Two zones: their coordinators find each other by the DNS and direct nodes of both, and what one may do to the other. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { equal } from '../../../src/core/bytes.ts'
import { signingPublicKey } from '../../../src/crypto/keys.ts'
import { nodeCrypto } from '../../../src/crypto/node-crypto.ts'
import { kdf } from '../../../src/crypto/tunnel-crypto.ts'
import { Asker } from '../../../src/overlay/machine/asker.ts'
import type { FoundZone } from '../../../src/overlay/machine/zones.ts'
import { overlayCrypto } from '../../../src/overlay/node/crypto.ts'
import { datagramCodec } from '../../../src/overlay/wire/datagram.ts'
import { type Message, Status, Type } from '../../../src/overlay/wire/message.ts'
import { MachineServers, ZONE } from '../../support/overlay-servers.ts'
import { at, Nat, type NatKind, Network, type SimNode } from './network.ts'

const SEED = new Uint8Array(32).fill(6)
/** IPv4 addresses of both zones are the same. */
const OTHER = {
  ...ZONE,
  zone: 'other.example',
  zoneSeed: SEED,
  zoneKey: signingPublicKey(SEED),
  prefix6: Uint8Array.of(0xfd, 0x67, 9, 9, 9, 9, 0, 1),
  coordinatorKey: new Uint8Array(32).fill(10),
  notification: { host: 'ns.other.example', port: 6742, certificate: new Uint8Array(32) },
}

const record = (init: typeof OTHER | typeof ZONE, host: string): FoundZone => ({
  coordinator: nodeCrypto.publicKey(init.coordinatorKey),
  zone: init.zoneKey,
  endpoints: [at(`${host}:6741`)],
})

function world(kindA?: NatKind, kindB?: NatKind) {
  const net = new Network(1, (parts) => new MachineServers(parts))
  const servers = net.servers as MachineServers
  const others = net.addSite('other.example', 11, (parts) => new MachineServers(parts, OTHER))
  const asked: string[] = []
  const dns = new Map<string, FoundZone | 'silent'>([
    ['other.example', record(OTHER, '192.0.2.11')],
    ['test.example', record(ZONE, '192.0.2.1')],
  ])
  for (const each of [servers, others])
    each.dns = (zone) => {
      asked.push(zone)
      return dns.get(zone)
    }
  const a = net.node('alice')
  const b = net.node('bob', net.sites[1], {})
  place(a, kindA, 1)
  place(b, kindB, 2)
  net.until(() => a.of('registered').length > 0 && b.of('registered').length > 0)
  return { net, servers, others, a, b, dns, asked }
}

function place(node: SimNode, kind: NatKind | undefined, n: number): void {
  if (kind === undefined) node.use({ socket: 0, address: `198.51.100.${n}`, port: 5000 + n })
  else
    node.use({
      ...{ socket: 0, address: `192.168.${n}.10`, port: 5000 },
      nat: new Nat(kind, `203.0.113.${n}`),
    })
}

const hasWay = (node: SimNode, kind: string) => node.ways().includes(kind)
const open = ({ others, b }: ReturnType<typeof world>, ...patterns: string[]) =>
  others.directory.access.set(b.name, patterns)
const refusal = ({ net }: ReturnType<typeof world>, node: SimNode, name: string): number => {
  const before = node.of('refused').length
  node.resolve(name)
  net.until(() => node.of('refused').length > before)
  return node.of('refused').at(-1)!.status
}

describe('NT-19, NT-40: a tunnel between nodes of two zones', () => {
  for (const [kindA, kindB, best] of [
    [undefined, 'port-restricted', 'direct'],
    ['symmetric', undefined, 'direct'],
    ['port-restricted', 'port-restricted', 'direct'],
    ['symmetric', 'symmetric', 'relay'],
  ] as const)
    it(`NT-40: ${kindA ?? 'global'} to ${kindB ?? 'global'}: ${best}; both coordinators derive the same pair key`, () => {
      const each = world(kindA, kindB)
      const { net, a, b } = each
      open(each, '*.test.example')
      a.resolve(b.name)
      net.until(() => hasWay(a, best) && hasWay(b, best))
      const [toA, toB] = [a.of('direction')[0]!, b.of('direction')[0]!]
      assert.ok(equal(toA.pairKey, toB.pairKey))
      assert.equal(toA.lease.name, b.name)
      // Both zones give 100.96.0.1: across zones IPv6 alone is used.
      assert.deepEqual([toA.lease.v4, toB.lease.v4], [undefined, undefined])
    })

  it('NT-40: one that is asleep is notified by its own coordinator, for who may reach it alone, and directed where it is then', () => {
    const each = world(undefined, 'port-restricted')
    const { net, others, a, b } = each
    others.coordinator.handleNotified(b.name, b.of('registered')[0]!.notification!.token, true)
    b.machine.setNotified(true, net.now)
    net.run(120_000)
    const nat = new Nat('port-restricted', '203.0.113.77')
    b.sockets[0] = { ...b.sockets[0]!, nat }
    assert.equal(refusal(each, a, b.name), Status.NOT_ALLOWED)
    assert.equal(others.notifications.length, 0)
    open(each, a.name)
    a.resolve(b.name)
    net.until(() => others.notifications.length > 0)
    b.machine.handleNotification(others.notifications[0]!.datagram, net.now)
    b.drain()
    net.until(() => hasWay(a, 'direct') && hasWay(b, 'direct'))
    assert.equal(others.notifications.length, 1)
    assert.equal(others.coordinator.location(b.name)!.observed.address[3], 77)
  })

  it('NT-40: the steps of Fig. 5 in their order; the second construction asks neither the DNS nor for a session', () => {
    const each = world(undefined, 'port-restricted')
    const { net, servers, others, a, b, asked } = each
    open(each, a.name)
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct'))
    const [mn, cn, dcMn, dcCn] = [a.name, b.name, 'dc.test.example', 'dc.other.example']
    const steps = () => servers.steps.filter((step) => !/REGISTRATION|KEEP_ALIVE/.test(step))
    net.until(() => steps().length >= 7)
    const own = steps()
    assert.deepEqual(own.slice(0, 6), [
      `${mn} ${dcMn} DIRECTION_REQUEST`,
      `${dcMn} ${dcCn} NTM_INFORMATION_REQUEST`,
      `${dcCn} ${dcMn} NTM_INFORMATION_RESPONSE`,
      `${dcMn} ${dcCn} ROUTE_DIRECTION`,
      `${dcMn} ${mn} ROUTE_DIRECTION`,
      `${mn} ${dcMn} ROUTE_DIRECTION_ACK`,
    ])
    assert.equal(own[6], `${dcCn} ${dcMn} ROUTE_DIRECTION_ACK`)
    assert.ok(others.steps.includes(`${dcCn} ${cn} ROUTE_DIRECTION`))
    assert.deepEqual(asked, ['other.example', 'test.example'])
    const began = net.now
    a.machine.forget(b.name, net.now)
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 1)
    // MN → DC → DC → back, one way each: the critical path is as in one zone and one round trip between the coordinators.
    assert.ok(net.now - began <= 4 * net.delay + 2, `${net.now - began} ms`)
    assert.equal(asked.length, 2)
  })

  it('NT-43, NT-44: both move at once, across zones', () => {
    const each = world('port-restricted', 'port-restricted')
    const { net, servers, a, b } = each
    open(each, '*.test.example')
    servers.directory.access.set(a.name, ['*.other.example'])
    a.resolve(b.name)
    net.until(() => hasWay(a, 'direct') && hasWay(b, 'direct'))
    const to = (node: SimNode, address: number) =>
      node
        .of('way')
        .some((way) => way.kind === 'direct' && way.remote.address.join('.') === `203.0.113.${address}`)
    a.use({ socket: 1, address: '192.168.7.10', port: 5001, nat: new Nat('port-restricted', '203.0.113.7') })
    b.use({ socket: 1, address: '192.168.8.10', port: 5001, nat: new Nat('port-restricted', '203.0.113.8') })
    net.until(() => to(a, 8) && to(b, 7), 20_000)
  })

  it('a coordinator that restarts is found again; pair keys stay', () => {
    const each = world()
    const { net, others, a, b } = each
    open(each, '*.test.example')
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
    others.restart()
    b.machine.wake(net.now)
    b.drain()
    net.until(() => others.coordinator.location(b.name) !== undefined, 120_000)
    a.machine.forget(b.name, net.now)
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 1, 30_000)
    assert.ok(equal(a.of('direction')[0]!.pairKey, a.of('direction')[1]!.pairKey))
  })
})

describe('issue 8 across zones: what is not proven', () => {
  it('D10: a node is reached from another zone only where its access list says so', () => {
    const each = world()
    const { a, b } = each
    assert.equal(refusal(each, a, b.name), Status.NOT_ALLOWED)
    open(each, 'carol.test.example', '*.third.example')
    assert.equal(refusal(each, a, b.name), Status.NOT_ALLOWED)
    assert.equal(refusal(each, a, 'nobody.other.example'), Status.UNKNOWN_NAME)
    assert.equal(refusal(each, a, 'x.third.example'), Status.UNREACHED)
    assert.equal(b.of('direction').length, 0)
  })

  it('a zone whose coordinator does not answer gets no more than three times the bytes of the request', () => {
    const each = world()
    const { net, a, b } = each
    let [came, left] = [0, 0]
    net.serverFilter = (_from, to, bytes) => {
      if (to !== '192.0.2.11:6741') return true
      left += bytes.length + 28
      return false
    }
    net.filter = (from, _to, bytes) => {
      if (from === '198.51.100.1:5001') came += bytes.length + 28
      return true
    }
    assert.equal(refusal(each, a, b.name), Status.UNREACHED)
    net.run(60_000)
    assert.ok(left > 0 && left <= 3 * came, `${left} bytes for ${came}`)
    for (let i = 0; i < 5; i++) refusal(each, a, b.name)
    net.run(60_000)
    assert.ok(left <= 3 * came, `${left} bytes for ${came}`)
  })

  it('of several who wait for a zone that does not answer each is told, and may ask again', () => {
    const each = world()
    const { net, a, b } = each
    open(each, '*.test.example')
    const c = net.node('carol')
    place(c, undefined, 3)
    net.until(() => c.of('registered').length > 0)
    let silent = true
    net.serverFilter = (_from, to) => !(silent && to === '192.0.2.11:6741')
    a.resolve(b.name)
    net.run(500)
    c.resolve(b.name)
    net.until(() => a.of('refused').length > 0 && c.of('refused').length > 0, 9000)
    assert.deepEqual(
      [a, c].map((node) => node.of('refused')[0]!.status),
      [Status.UNREACHED, Status.UNREACHED],
    )
    silent = false
    net.run(15_000)
    c.resolve(b.name)
    net.until(() => c.of('direction').length > 0)
  })

  it('another that shows other keys for a zone that was met is refused, and that is said', () => {
    const each = world()
    const { net, servers, a, b, dns } = each
    open(each, '*.test.example')
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
    servers.restart()
    a.machine.wake(net.now)
    a.drain()
    net.until(() => servers.coordinator.location(a.name) !== undefined, 120_000)
    dns.set('other.example', { ...record(OTHER, '192.0.2.11'), coordinator: new Uint8Array(32).fill(77) })
    assert.equal(refusal(each, a, b.name), Status.UNREACHED)
    assert.match(servers.logged.join(), /other keys of zone other\.example.*forget-zone/)
  })

  it('a lease that the zone of its name has not signed directs nobody', () => {
    const each = world()
    const { net, others, a, b, dns } = each
    open(each, '*.test.example')
    dns.set('test.example', { ...record(ZONE, '192.0.2.1'), zone: OTHER.zoneKey })
    a.resolve(b.name)
    net.run(8000)
    assert.equal(b.of('direction').length, 0)
    assert.ok(others.steps.includes('dc.test.example dc.other.example ROUTE_DIRECTION'))
    assert.ok(!others.steps.some((step) => step.endsWith(`${b.name} ROUTE_DIRECTION`)))
  })

  it('a coordinator speaks for names of its zone alone, and only for as long a message as it may name addresses with', () => {
    const each = world()
    const { net, others, b } = each
    open(each, '*.test.example', '*.third.example')
    const rogue = new Rogue(net, others)
    const type = Type.NTM_INFORMATION_REQUEST
    const ask = (nodeName: string, padding: number) => rogue.ask({ type, name: b.name, nodeName, padding })
    assert.equal(ask('alice.test.example', 800)?.status, Status.DONE)
    assert.equal(ask('eve.third.example', 800)?.status, Status.NOT_ALLOWED)
    assert.equal(ask('alice.test.example', 10), undefined)
  })

  it('strangers who say that they are coordinators cause a bounded number of look-ups and keep nobody from others', () => {
    const each = world()
    const { net, servers, a, b, asked } = each
    open(each, '*.test.example')
    for (let n = 0; n < 3000; n++)
      servers.receive(0, sessionRequest(`z${n}.example`), at(`198.18.${n % 200}.${n % 250}:999`))
    assert.ok(asked.length <= 50, `${asked.length} look-ups`)
    assert.equal(servers.directory.zones.size, 0)
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
  })
})

describe('issue 8: nobody keeps others from other zones', () => {
  const heard = (node: SimNode) => node.of('direction').length + node.of('refused').length
  const joined = (net: Network, name: string, n: number) => {
    const node = net.node(name)
    place(node, undefined, n)
    net.until(() => node.of('registered').length > 0)
    return node
  }

  it('a node that names zones whose DNS does not answer keeps the look-ups from no other account', () => {
    const each = world()
    const { net, servers, a, b } = each
    open(each, '*.test.example')
    const known = servers.dns
    let slow = 0
    servers.dns = (zone) => {
      if (!zone.endsWith('.slow')) return known(zone)
      slow++
      return 'silent'
    }
    const c = joined(net, 'carol', 3)
    for (let n = 0; n < 150; n++) {
      c.resolve(`x.z${n}.slow`)
      net.run(150)
    }
    assert.ok(slow >= 16, `${slow} look-ups`)
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0, 5000)
  })

  it('strangers whose zones the DNS does not answer for keep the look-ups from no node of ours', () => {
    const each = world()
    const { net, servers, a, b } = each
    open(each, '*.test.example')
    const known = servers.dns
    servers.dns = (zone) => (zone.endsWith('.slow') ? 'silent' : known(zone))
    for (let n = 0; n < 600; n++) {
      servers.receive(0, sessionRequest(`z${n}.slow`), at(`198.18.${n % 200}.${n % 250}:999`))
      if (n % 20 === 0) net.run(1000)
    }
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0, 5000)
  })

  it('a zone that was found stays reachable while the DNS does not answer, and a look-up without an answer ends', () => {
    const each = world()
    const { net, servers, a, b, dns } = each
    open(each, '*.test.example')
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
    a.resolve('x.third.example')
    dns.set('third.example', 'silent')
    dns.set('other.example', 'silent')
    net.run(400_000)
    for (let n = 1; n < 4; n++) {
      a.machine.forget(b.name, net.now)
      a.resolve(b.name)
      net.until(() => a.of('direction').length > n, 5000)
      net.run(40_000)
    }
    const refused = heard(a)
    a.resolve('x.third.example')
    net.until(() => heard(a) > refused)
    dns.set('third.example', { ...record(OTHER, '192.0.2.11'), coordinator: new Uint8Array(32).fill(3) })
    net.run(61_000)
    const looked = () => each.asked.filter((zone) => zone === 'third.example').length
    const before = looked()
    a.resolve('x.third.example')
    net.run(100)
    assert.equal(looked(), before + 1, 'it is looked up anew')
    assert.equal(servers.coordinator.counts.zones, 2)
  })

  it('zones of strangers displace none that a node of ours has met, and their sessions end with them', () => {
    const each = world()
    const { net, others, a, b } = each
    open(each, '*.test.example')
    a.resolve(b.name)
    net.until(() => b.of('direction').length > 0)
    const before = others.coordinator.counts.sessions!
    const known = others.dns
    others.dns = (zone) => (zone.endsWith('.many') ? { ...record(ZONE, '192.0.2.98') } : known(zone))
    const type = Type.NTM_INFORMATION_REQUEST
    for (let n = 0; n < 1500; n++) {
      const rogue = new Rogue(net, others, `z${n}.many`)
      assert.equal(rogue.ask({ type, padding: 800 })?.status, Status.NOT_ALLOWED)
      net.run(100)
    }
    assert.ok(others.coordinator.counts.zones! <= 1024)
    assert.ok(others.coordinator.counts.sessions! <= before + 1024, 'sessions of zones')
    a.machine.forget(b.name, net.now)
    a.resolve(b.name)
    net.until(() => b.of('direction').length > 1)
  })

  it('a direction that a full disk ended may be asked for again', () => {
    const each = world()
    const { net, servers, a, b } = each
    open(each, '*.test.example')
    const { directory } = servers
    const pin = directory.pinZone.bind(directory)
    directory.pinZone = () => {
      throw new Error('disk full')
    }
    const receive = servers.receive.bind(servers)
    let faults = 0
    servers.receive = (...datagram) => {
      try {
        receive(...datagram)
      } catch {
        faults++
      }
    }
    a.resolve(b.name)
    net.run(20_000)
    assert.equal(faults, 1)
    directory.pinZone = pin
    net.run(60_000)
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
  })
})

describe('issue 8 across zones: who was the coordinator is it no more', () => {
  it('keys that the DNS no longer shows speak for no zone, unless a node of ours has met it', () => {
    const each = world()
    const { net, others, b, dns } = each
    open(each, '*.test.example')
    const rogue = new Rogue(net, others)
    const type = Type.NTM_INFORMATION_REQUEST
    const ask = () => rogue.ask({ type, name: b.name, nodeName: 'alice.test.example', padding: 800 })
    assert.equal(ask()?.status, Status.DONE)
    dns.set('test.example', { ...record(ZONE, '192.0.2.1'), coordinator: new Uint8Array(32).fill(77) })
    net.run(300_000)
    others.receive(0, sessionRequest('test.example'), at('198.18.0.1:999'))
    assert.equal(ask(), undefined)
  })

  it('an address that the DNS names later gets no more than three times the bytes of a request, though a session is open', () => {
    const each = world()
    const { net, a, b, dns } = each
    open(each, '*.test.example')
    a.resolve(b.name)
    net.until(() => a.of('direction').length > 0)
    net.run(300_000)
    const victim = '198.51.100.77:4242'
    dns.set('other.example', { ...record(OTHER, '192.0.2.11'), endpoints: [at(victim)] })
    let [came, left] = [0, 0]
    // Of each request one transmission alone arrives.
    net.filter = (from, _to, bytes) => {
      if (from !== '198.51.100.1:5001' || bytes.length < 800) return true
      if (came > 0) return false
      came = bytes.length
      return true
    }
    net.serverFilter = (_from, to, bytes) => {
      if (to === victim) left += bytes.length
      return to !== '192.0.2.11:6741'
    }
    for (let i = 0; i < 4; i++) {
      a.machine.forget(b.name, net.now)
      ;[came, left] = [0, 0]
      refusal(each, a, b.name)
      net.run(11_000)
      assert.ok(came > 0 && left <= 3 * came, `${left} bytes for ${came}`)
    }
    const quiet = left
    net.run(600_000)
    assert.equal(left, quiet, 'nothing more goes there')
  })
})

/** Somebody with the key of the first zone's coordinator, who says that it is that of `zone`. */
class Rogue {
  readonly #net: Network
  readonly #asker: Asker
  readonly #here = at('192.0.2.99:6741')

  constructor(net: Network, others: MachineServers, zone = ZONE.zone) {
    this.#net = net
    const shared = nodeCrypto.sharedSecret(ZONE.coordinatorKey, nodeCrypto.publicKey(OTHER.coordinatorKey))!
    this.#asker = new Asker({
      ...{ crypto: overlayCrypto, random: { fill: (out) => net.fill(out) }, wall: () => net.wall + net.now },
      identity: { type: 'zone', name: zone },
      key: kdf(overlayCrypto, shared, Uint8Array.from(Buffer.from('coordinators')), 1)[0],
      send: (bytes) => others.receive(0, bytes, this.#here),
      ...{ onMessage: () => {}, onOpened: () => {}, onSilence: () => {} },
    })
    this.#asker.setWays([{ socket: 0, to: at('192.0.2.11:6741') }], net.now)
    net.serverFilter = (_from, to, bytes) => {
      const datagram = datagramCodec.decode(bytes)
      if (to !== '192.0.2.99:6741' || !datagram.ok) return true
      this.#asker.handle(datagram.value, { socket: 0, to: at('192.0.2.11:6741') }, net.now)
      return false
    }
  }

  ask(message: Omit<Message, 'transaction'>): Message | undefined {
    let answer: Message | undefined
    this.#asker.request(message, 2000, (got) => (answer = got), this.#net.now)
    for (let i = 0; i < 30 && answer === undefined; i++) {
      this.#net.run(100)
      this.#asker.handleTimeout(this.#net.now)
    }
    return answer
  }
}

/** A SESSION_REQUEST with a MAC of nothing. */
function sessionRequest(zone: string): Uint8Array {
  const name = Uint8Array.from(zone, (character) => character.charCodeAt(0))
  const bytes = new Uint8Array(Math.max(60, 24 + 2 + name.length + 16))
  bytes.set([0x4e, 1, 1, 0, 0, 0, 0, 7])
  bytes.set([2, name.length, ...name], 24)
  return bytes
}

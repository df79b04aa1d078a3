/** Ports of symmetric NATs that count (issue 13, part 4): real machines on a virtual network. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { MachineServers } from '../../support/overlay-servers.ts'
import { at, Nat, type NatKind, Network, type SimNode, text } from './network.ts'

const A = '203.0.113.1'
const B = '203.0.113.2'
/** Headers of IPv4 and UDP. */
const HEADERS = 28

interface Count {
  readonly step?: number
  readonly othersPerMs?: number
}

function world(kindA: NatKind, kindB: NatKind, { step = 1, othersPerMs = 0 }: Count = {}, seed = 1) {
  const net = new Network(seed, (parts) => new MachineServers(parts))
  const [a, b] = [net.node('alice'), net.node('bob')]
  for (const [node, kind, outside, n] of [
    [a, kindA, A, 1],
    [b, kindB, B, 2],
  ] as const) {
    const nat = Object.assign(new Nat(kind, outside, () => net.now), { step, othersPerMs })
    node.use({ socket: 0, address: `192.168.${n}.10`, port: 5000, nat })
  }
  net.until(() => [a, b].every((node) => node.of('registered').length > 0))
  return { net, a, b }
}

const isDirect = (node: SimNode) => node.ways().includes('direct')
const told = (node: SimNode) =>
  node.of('step').filter(({ what, from }) => what === 'PORTS' && from === node.name)

/** Bytes that nodes send to each place, from now on. */
function sums(net: Network): Map<string, number> {
  net.sentBytes = new Map()
  return net.sentBytes
}

describe('issue 13: a symmetric NAT that counts its ports, and one that lets in only what it has sent to', () => {
  for (const [kindA, kindB] of [
    ['counting', 'port-restricted'],
    ['port-restricted', 'counting'],
  ] as const)
    for (const count of [{}, { step: 2 }, { step: 5 }, { othersPerMs: 0.1 }, { othersPerMs: 0.5 }])
      it(`${kindA} to ${kindB}, ${JSON.stringify(count)}: direct within a second`, () => {
        const { net, a, b } = world(kindA, kindB, count)
        a.resolve(b.name)
        net.until(() => isDirect(a) && isDirect(b), 1_000)
      })

  it('after a move to a network with such a NAT too', () => {
    const { net, a, b } = world('port-restricted', 'port-restricted')
    a.resolve(b.name)
    net.until(() => isDirect(a) && isDirect(b), 1_000)
    const nat = new Nat('counting', '203.0.113.9', () => net.now)
    a.use({ socket: 1, address: '192.168.9.10', port: 5001, nat })
    net.until(
      () => b.ways().length > 0 && isDirect(a) && a.of('way').some(({ socket }) => socket === 1),
      3_000,
    )
    net.run(2_000)
    assert.ok(isDirect(a) && isDirect(b))
  })

  it('a datagram of each step is lost: it is repeated', () => {
    const { net, a, b } = world('counting', 'port-restricted')
    const seen = new Set<string>()
    net.filter = (from, to, bytes) => {
      const what = `${from.replace(/:.*/, '')} ${to.replace(/:.*/, '')} ${bytes[0]} ${bytes[8]}`
      const isOurs = bytes[0] === 0x6e || (bytes[0] === 0x4e && bytes[2] === 8 && (bytes[8]! & 0x80) !== 0)
      if (!isOurs || seen.has(what)) return true
      seen.add(what)
      return false
    }
    a.resolve(b.name)
    net.until(() => isDirect(a) && isDirect(b), 2_000)
    assert.equal(seen.size, 2)
  })

  for (const [kindA, kindB] of [
    ['symmetric', 'port-restricted'],
    ['port-restricted', 'symmetric'],
    ['port-restricted', 'port-restricted'],
    ['full-cone', 'counting'],
  ] as const)
    it(`${kindA} and ${kindB}: nobody is told ports, as there is no range or no need`, () => {
      const { net, a, b } = world(kindA, kindB)
      a.resolve(b.name)
      net.run(5_000)
      assert.equal(isDirect(a), kindA !== 'symmetric' && kindB !== 'symmetric')
      assert.deepEqual([...told(a), ...told(b)], [])
    })

  it('both count: neither tries the other’s', () => {
    const { net, a, b } = world('counting', 'counting')
    a.resolve(b.name)
    net.run(5_000)
    assert.equal(isDirect(a), false)
    for (const node of [a, b])
      assert.ok(!node.of('step').some(({ what, to }) => what === 'PORTS' && to === node.name))
  })

  it('a peer that names ports: only of its proven address, 44 at most, each once, for three times its bytes, seldom', () => {
    const { net, a, b } = world('counting', 'port-restricted')
    // No direct way, and nothing of its own is told.
    net.filter = (_from, to, bytes) => !to.startsWith(A) && bytes[0] !== 0x6e
    a.resolve(b.name)
    net.until(() => a.ways().includes('relay') && b.ways().includes('relay'), 1_000)
    net.run(10_000)
    net.filter = () => true
    const [pair] = a.machine.pairs()
    const [binding] = pair!.row.ways
    const place = b.of('registered').at(-1)!.observed
    const name = (address: string, first: number, count: number, from = place) => {
      const [low, high] = [at(`${address}:${first}`), at(`${address}:${first + count - 1}`)]
      const bytes = pair!.checks.sealedPorts(from, low, high)
      net.send(a, binding!.socket, binding!.remote, bytes)
      return bytes.length
    }
    const probes = (sent: Map<string, number>, host: string) =>
      [...sent].filter(([to]) => to.startsWith(`${host}:`) && Number(to.split(':')[1]) >= 9_000)
    let sent = sums(net)
    name('198.51.100.66', 9_000, 40)
    name(A, 9_000, 45)
    name(A, 9_000, 40, at(`${B}:1`))
    net.run(1_000)
    assert.deepEqual([...probes(sent, '198.51.100.66'), ...probes(sent, A)], [])
    sent = sums(net)
    const length = name(A, 9_000, 44)
    net.run(3_000)
    const probed = probes(sent, A)
    assert.equal(probed.length, 44)
    assert.ok(
      probed.every(([, bytes]) => bytes <= 60),
      'once each',
    )
    assert.ok(length <= 1200)
    assert.ok(probed.reduce((sum, [, bytes]) => sum + bytes + HEADERS, 0) <= 3 * (length + HEADERS))
    sent = sums(net)
    for (let n = 0; n < 600; n++) {
      name(A, 9_000, 44)
      net.run(100)
    }
    // Six at once, then one in five seconds.
    const most = Math.max(...probes(sent, A).map(([, bytes]) => bytes))
    assert.ok(most > 0 && most <= 18 * 60, `${most} bytes to one port in a minute`)
  })

  it('from elsewhere than the relay, or of another pair, it is nothing', () => {
    const { net, a, b } = world('counting', 'port-restricted')
    net.filter = (_from, to, bytes) => !to.startsWith(A) && bytes[0] !== 0x6e
    a.resolve(b.name)
    net.until(() => a.ways().includes('relay') && b.ways().includes('relay'), 1_000)
    net.run(10_000)
    net.filter = () => true
    const [pair] = a.machine.pairs()
    const place = b.of('registered').at(-1)!.observed
    const bytes = pair!.checks.sealedPorts(place, at(`${A}:9000`), at(`${A}:9010`))
    const sent = sums(net)
    b.receive(bytes, at('198.51.100.66:7'), 0)
    const changed = bytes.slice()
    changed[30]! ^= 1
    const [way] = b.machine.rows()[0]!.ways
    b.receive(changed, way!.remote, 0)
    for (let n = 0; n < bytes.length; n++) b.receive(bytes.slice(0, n), way!.remote, 0)
    net.run(1_000)
    assert.deepEqual(
      [...sent.keys()].filter((to) => to.startsWith(`${A}:90`)),
      [],
      text(way!.remote),
    )
  })
})

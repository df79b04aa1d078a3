/**
 * One end has just been restarted, on another port and with nothing in memory: the first datagram to it or from it is not lost, nor the
 * answer. Whole engines; the one that ended said so (SIGTERM), or did not (SIGKILL).
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seeded } from '../../../lab/seeded.ts'
import { extent, some } from '../../support/extent.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode } from './engine-node.ts'
import { Nat, type NatKind, Network } from './network.ts'

const [A, B, C] = ['203.0.113.1', '203.0.113.2', '203.0.113.3'] as const
/** Who sends first: the one that started again (`own`; `moved`: on another network), or the other: while nobody is there, at once, or later. */
const SIGNALS = ['SIGTERM', 'SIGKILL'] as const
type First = 'own' | 'moved' | 'peer' | 'later' | 'both' | 'while'
/** Until the answer is there (ms): round trips only, unless the other end has to find out by itself that nobody is there any more. */
const SOON = 250
const FOUND_OUT = 3_500

const KINDS: readonly (readonly [NatKind | 'public', NatKind | 'public'])[] = some([
  ['port-restricted', 'port-restricted'],
  ['symmetric', 'symmetric'],
  ['public', 'port-restricted'],
  ['port-restricted', 'public'],
])

function peerOf(node: EngineNode) {
  const { v6, v4 } = node.of('registered').at(-1)!
  return { name: node.name, v6, ...(v4 !== undefined && { v4 }) }
}

/** `asked`: who looked for the other before that. `away`: the most drawn (ms) of the time from their last packets to the end, and of that without a process. The time until the answer (ms), Infinity for never; and datagrams of the tunnel that the other end sent to the closed port meanwhile. */
function contact(
  kinds: (typeof KINDS)[number],
  signal: (typeof SIGNALS)[number],
  first: First,
  seed: number,
  asked: 'own' | 'peer' = 'own',
  away?: { readonly before: number; readonly dead: number },
): { readonly ms: number; readonly astray: number; readonly duplicates: number } {
  const random = seeded(seed)
  const draw = (limit: number) => Math.floor(random() * limit)
  const net = new Network(1, (parts) => new MachineServers(parts))
  net.delay = 0
  for (const outside of [A, C]) net.far.set(`${outside} *`, 2 + draw(20))
  net.far.set(`${B} *`, 2 + draw(20))
  net.far.set(`${A} ${B}`, 2 + draw(40))
  net.far.set(`${C} ${B}`, 2 + draw(40))
  const keys = [11 + draw(100), 120 + draw(100)]
  if (seed % 2 === 1) keys.reverse()
  const nats = new Map<string, Nat>()
  let port = 50_000
  const start = (i: 0 | 1, outside: string) => {
    port += 100
    const node = new EngineNode(net, i === 0 ? 'alice' : 'bob', keys[i]!, port)
    const kind = kinds[i]
    if (kind === 'public') node.use({ name: 'acc1', address: outside })
    else {
      const nat = nats.get(outside) ?? new Nat(kind, outside)
      nats.set(outside, nat)
      node.use({ name: 'acc1', address: `10.${i}.0.2`, nat })
    }
    return node
  }
  let [alice, bob] = [start(0, A), start(1, B)]
  net.until(() => alice.address !== undefined && bob.address !== undefined)
  net.run(1000)
  if (asked === 'own') alice.do({ type: 'resolve', name: bob.name })
  else bob.do({ type: 'resolve', name: alice.name })
  net.run(2000 + draw(1000))
  alice.send(bob, 0)
  bob.send(alice, 1)
  net.run(away === undefined ? 500 + draw(asked === 'own' ? 20_000 : 4_000) : 200 + draw(away.before))

  const [left] = alice.sockets
  const again = (i: 0 | 1, before: EngineNode, peer: EngineNode, outside: string) => {
    before.end(signal)
    net.run(50)
    if (first === 'while') bob.send(before, 7)
    net.run(away === undefined ? draw(500) : 300 + draw(away.dead))
    const node = start(i, outside)
    node.do({ type: 'known', peers: [peerOf(peer)] })
    net.until(() => node.address !== undefined)
    return node
  }
  const moves = first === 'moved' && kinds[0] !== 'public'
  alice = again(0, alice, bob, moves ? C : A)
  if (first === 'both') bob = again(1, bob, alice, B)
  if (first === 'later') net.run(300)
  let astray = 0
  const dead = `${left!.nat === undefined ? left!.address : A}:${left!.nat === undefined ? left!.port : 40_000}`
  net.filter = (from, to, bytes) => {
    if (from.startsWith(B) && to === dead && bytes[0]! >= 4 && bytes[0] !== 78) astray++
    return true
  }
  const [from, to] = first === 'peer' || first === 'later' || first === 'while' ? [bob, alice] : [alice, bob]
  const began = net.now
  if (first !== 'while') from.send(to, 7)
  let arrived = false
  for (let ms = 0; ms < 5_000; ms++) {
    net.run(1)
    if (!arrived && to.received.has(7)) {
      arrived = true
      to.send(from, 8)
    }
    if (!from.received.has(8)) continue
    const answered = net.now - began
    net.run(2_000)
    return { ms: answered, astray, duplicates: alice.duplicates + bob.duplicates }
  }
  return { ms: Number.POSITIVE_INFINITY, astray, duplicates: 0 }
}

const FIRST: readonly First[] = ['own', 'moved', 'peer', 'later', 'both', 'while']

for (const signal of SIGNALS)
  for (const kinds of KINDS)
    test(`issue 13: ${signal}, ${kinds.join(' to ')}: the first datagram after a restart arrives, and its answer, whoever sends first`, () => {
      for (const first of FIRST)
        for (let seed = 0; seed < extent(4); seed++) {
          const which = `${first}, seed ${seed}`
          const { ms, astray, duplicates } = contact(kinds, signal, first, seed)
          const findsOut =
            first === 'while' || (signal === 'SIGKILL' && (first === 'peer' || first === 'later'))
          assert.ok(ms <= (findsOut ? FOUND_OUT : SOON), `${which}: ${ms} ms`)
          assert.equal(duplicates, 0, which)
          if (signal === 'SIGTERM') assert.equal(astray, 0, which)
        }
    })

test('issue 13: SIGKILL within seconds of the first message 1 to the other end: the first datagram behind the next one arrives', () => {
  for (const kinds of KINDS)
    for (let seed = 0; seed < extent(4); seed++) {
      const { ms, duplicates } = contact(kinds, 'SIGKILL', 'own', seed, 'peer')
      assert.ok(ms <= SOON, `${kinds.join(' to ')}, seed ${seed}: ${ms} ms`)
      assert.equal(duplicates, 0)
    }
})

test('issue 13: SIGKILL, and seconds until it runs again: the other end has asked for a direction meanwhile, and has the session before', () => {
  const kinds = ['port-restricted', 'port-restricted'] as const
  for (const first of ['peer', 'later'] as const)
    for (const seed of some([48, 57, 137])) {
      const { ms, duplicates } = contact(kinds, 'SIGKILL', first, seed, 'own', { before: 1_500, dead: 3_500 })
      assert.ok(ms <= FOUND_OUT, `${first}, seed ${seed}: ${ms} ms`)
      assert.equal(duplicates, 0)
    }
})

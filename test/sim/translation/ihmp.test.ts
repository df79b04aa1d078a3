/** IHMP between machines on a simulated network (paper § III-B). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { compile, isIdle } from '../../../src/translation/tables.ts'
import { Control, ihmp, Option } from '../../../src/translation/wire.ts'
import { extent } from '../../support/extent.ts'
import { A, B, F, pairOfHosts, peerOf, type SimHost, SimNetwork } from './network.ts'

const G = '10.4.0.2'

test('DI-22…24: HELLO makes the rows of both ends symmetric, and nothing is translated', () => {
  const { mh, ch } = pairOfHosts()
  for (const [host, own, other] of [
    [mh, A, F],
    [ch, F, A],
  ] as const) {
    const peer = peerOf(host)
    assert.equal(peer.state, 'peer')
    assert.deepEqual([...peer.row.active], [other])
    assert.deepEqual([...peer.row.local], [own])
    assert.ok(isIdle(compile(host.tables)))
  }
  assert.deepEqual(peerOf(mh).row.key, ch.key!.publicKey)
  assert.deepEqual(peerOf(ch).row.key, mh.key!.publicKey)
})

test('DI-28, DI-30, DI-33: soft handoff: ADDR_UP, then ADDR_DOWN moves both ends at once', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = A
  let mark = net.log.length
  mh.set(`${A}/24`, `${B}/24`)
  net.run(6_000)
  assert.ok(net.types(mark)[0]?.startsWith(`ADDR_UP ${B}>${F}`))
  assert.deepEqual([...peerOf(ch).row.active].sort(), [A, B])
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: A }, 'data stays where it is')
  mark = net.log.length
  mh.preferred = B
  mh.set(`${B}/24`)
  assert.deepEqual(peerOf(mh).row.current[4], { local: B, foreign: F }, 'the mobile host sends on at once')
  net.run(6_000 + net.delay)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B }, 'one way later so does the other')
  net.run(7_000)
  assert.deepEqual(net.types(mark), [`ADDR_DOWN ${B}>${F}`, `ACK ${F}>${B}`])
  assert.deepEqual([...peerOf(ch).row.active], [B])
  assert.deepEqual([...peerOf(mh).row.local], [B])
})

test('DI-36: hard handoff: first data after one round trip, the other end half of one later; in before out', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = B
  mh.set()
  assert.ok(peerOf(mh).detachedAt !== undefined)
  net.run(10_000)
  const at = net.now
  const mark = net.log.length
  mh.set(`${B}/24`)
  assert.ok(
    [...peerOf(mh).row.accepted.values()].some((p) => p.local === B),
    'accepted before it is sent',
  )
  net.run(at + 2 * net.delay)
  assert.deepEqual(peerOf(mh).row.current[4], { local: B, foreign: F })
  net.run(at + 3 * net.delay)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  net.run(at + 2_000)
  assert.deepEqual(net.types(mark), [`HANDOFF ${B}>${F}`, `ACK ${F}>${B}`, `ACK ${B}>${F}`])
  const compiled = compile(ch.tables)[4]
  assert.equal(compiled.out_flow.size, 1)
  assert.deepEqual([...compiled.in_pair.values()].map((e) => e.pair).at(-1), { local: F, foreign: B })
})

test('DI-20, DI-37: lost datagrams are repeated until the peer knows', () => {
  for (let seed = 1; seed <= 20; seed++) {
    const { net, mh, ch } = pairOfHosts(seed, 0.3)
    const greeted = () => peerOf(mh).state === 'peer' && peerOf(ch)?.state === 'peer'
    // Where all greetings of a round are lost the next round follows, a minute later.
    while (!greeted() && net.now < 180_000) net.run(net.now + 1_000)
    assert.ok(greeted(), `seed ${seed}: peers by ${net.now} ms`)
    mh.preferred = B
    mh.set()
    net.run(net.now + 3_000)
    mh.set(`${B}/24`)
    net.run(net.now + 20_000)
    assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B }, `seed ${seed}`)
    assert.deepEqual(peerOf(mh).row.current[4], { local: B, foreign: F }, `seed ${seed}`)
  }
})

test('DI-28: a link that appears at any moment gives a way, whatever is under way then', () => {
  for (let at = 0; at < 400; at += 10) {
    const net = new SimNetwork(at + 1)
    const mh = net.host()
    const ch = net.host()
    mh.set(`${A}/24`)
    ch.set(`${F}/24`)
    mh.flow(A, 40000, F, 80)
    ch.flow(F, 80, A, 40000) // both greet
    net.run(at)
    mh.preferred = A
    mh.set(`${A}/24`, `${B}/24`)
    net.run(net.now + 2 * net.delay - (at % 3)) // its route comes just before the acknowledgement, with it, or later
    mh.machine.handleRoutes(net.now)
    net.run(net.now + 20_000)
    for (const [host, pair] of [
      [mh, `${B} ${F}`],
      [ch, `${F} ${B}`],
    ] as const)
      assert.ok(peerOf(host).confirmed.has(pair), `appeared at ${at} ms: ${pair}`)
  }
})

test('a path that did not answer is asked again, less often each time, until it does', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = A
  net.cut.add(`${B} ${F}`)
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 3_600_000)
  const mark = net.log.length
  net.run(net.now + 3_600_000)
  assert.ok(net.log.length - mark < 150, `${net.log.length - mark} messages in an hour`)
  net.cut.clear()
  net.run(net.now + 301_000)
  assert.ok(peerOf(mh).confirmed.has(`${B} ${F}`) && peerOf(ch).confirmed.has(`${F} ${B}`))
  net.cut.add(`${B} ${F}`)
  mh.machine.handleSuspicion(peerOf(mh).row.hid, net.now)
  net.run(net.now + 20_000)
  assert.ok(!peerOf(mh).confirmed.has(`${B} ${F}`))
  net.cut.clear()
  mh.machine.handleRoutes(net.now)
  net.run(net.now + 1_000)
  assert.ok(peerOf(mh).confirmed.has(`${B} ${F}`), 'at once when routes change')
})

test('D3: both move within a second; one old address still works long enough', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 40) // the HANDOFF has reached F
  ch.preferred = G
  ch.set(`${G}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: G, foreign: B })
  assert.deepEqual(peerOf(mh).row.current[4], { local: B, foreign: G })
})

test('D3: both lose their only address at once: they meet when one is regained', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.set(`${B}/24`)
  ch.set(`${G}/24`)
  net.run(net.now + 5_000)
  assert.ok(peerOf(mh).detachedAt !== undefined && peerOf(ch).detachedAt !== undefined)
  ch.set(`${G}/24`, `${F}/24`)
  net.run(net.now + 10_000)
  assert.equal(peerOf(mh).detachedAt, undefined)
  assert.equal(peerOf(ch).detachedAt, undefined)
  assert.equal(peerOf(mh).row.current[4]?.local, B)
})

test('DI-32, D2: detached beyond the hold time: the applications get their error, the row goes', () => {
  const { net, mh, hid } = pairOfHosts()
  mh.set()
  net.run(net.now + 119_000)
  assert.ok(mh.machine.host(hid) !== undefined)
  net.run(net.now + 2_000)
  assert.equal(mh.machine.host(hid), undefined)
  const gone = mh.events.find((e) => e.kind === 'gone')
  assert.equal(gone?.kind === 'gone' && gone.sockets.length, 1)
  assert.equal(mh.tables.sockets.size, 0)
})

test('address lost and regained: the flow returns to its own addresses and is not translated', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 3_000)
  mh.preferred = A
  mh.set(`${A}/24`)
  net.run(net.now + 20_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: A })
  assert.ok(isIdle(compile(ch.tables)) && isIdle(compile(mh.tables)))
})

test('DI-38, D8: a replayed or altered message changes nothing', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 3_000)
  mh.preferred = A
  mh.set(`${A}/24`)
  net.run(net.now + 3_000)
  const handoff = net.log.find((p) => {
    const m = ihmp.decode(p.bytes)
    return m.ok && m.value.control === Control.HANDOFF
  })!
  const before = structuredClone(peerOf(ch).row.current)
  ch.machine.handleMessage(handoff.bytes, { local: F, foreign: B }, 0, net.now)
  for (let i = 0; i < handoff.bytes.length; i++) {
    const altered = handoff.bytes.slice()
    altered[i] = altered[i]! ^ 0x04
    ch.machine.handleMessage(altered, { local: F, foreign: B }, 0, net.now)
  }
  net.run(net.now + 3_000)
  assert.deepEqual(peerOf(ch).row.current, before)
})

test('return routability: a peer cannot send us to an address at which it does not receive', () => {
  const { net, mh, ch } = pairOfHosts()
  const victim = '10.9.0.9'
  // The peer signs a HANDOFF to the victim's address and forges its source; what we answer goes to the victim.
  net.intercept = (packet) => (packet.from === B ? { ...packet, from: victim } : packet)
  mh.preferred = B
  const wasAt = peerOf(ch).row.current[4]
  mh.set(`${B}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.current[4], wasAt)
  assert.ok(![...peerOf(ch).row.active].includes(victim))
})

test('spoofed HELLO: off the path nobody can pin a key or make a row', () => {
  const net = new SimNetwork()
  const victim = net.host()
  const server = net.host()
  const attacker = net.host()
  victim.set(`${A}/24`)
  server.set(`${F}/24`)
  attacker.set('10.66.0.6/24')
  victim.machine.handleLocal([], 0) // says nothing itself
  server.flows.push({ local: F, foreign: A })
  attacker.flow('10.66.0.6', 40000, F, 80)
  const hello = net.log[0]!
  server.machine.handleMessage(hello.bytes, { local: F, foreign: A }, 0, net.now)
  net.run(5_000)
  assert.equal([...server.machine.hosts()].length, 0)
  assert.ok(net.types().filter((type) => type === `HELLO_ACK ${F}>${A}`).length <= 3)
})

test('a HELLO is answered only to who has a connection here (D9), and never amplified', () => {
  const net = new SimNetwork()
  const a = net.host()
  const b = net.host()
  a.set(`${A}/24`)
  b.set(`${F}/24`)
  a.flow(A, 40000, F, 80)
  net.run(5_000)
  assert.deepEqual(new Set(net.types()), new Set([`HELLO ${A}>${F}`]))
  assert.equal(peerOf(a).state, 'plain')
  assert.equal(net.log.length, 3)
})

test('unsigned peers: refused by default; by configuration they move under the secret of their HELLO', () => {
  for (const unsigned of [undefined, 'refuse', 'allow'] as const) {
    const net = new SimNetwork()
    const options = unsigned === undefined ? {} : { unsigned }
    const mh = net.host(options)
    const ch = net.host(options)
    mh.key = undefined
    ch.key = undefined
    mh.set(`${A}/24`)
    ch.set(`${F}/24`)
    mh.flow(A, 40000, F, 80)
    ch.flow(F, 80, A, 40000)
    net.run(5_000)
    mh.preferred = B
    mh.set(`${B}/24`)
    net.run(8_000)
    const moved = peerOf(ch)?.row.current[4]?.foreign === B
    assert.equal(moved, unsigned === 'allow', unsigned)
  }
})

test('DI-39: a key bound to an address by configuration is the only one believed', () => {
  const net = new SimNetwork()
  const mh = net.host()
  const ch = net.host()
  ch.known.set(A, new Uint8Array(32).fill(7))
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  mh.flow(A, 40000, F, 80)
  ch.flows.push({ local: F, foreign: A })
  net.run(5_000)
  assert.equal([...ch.machine.hosts()].length, 0)
  ch.known.set(A, mh.key!.publicKey)
  net.run(70_000)
  assert.equal(peerOf(ch).state, 'peer')
})

test('DI-43, DI-44: an unaware NAT is detected (ND) and the flow does not migrate into it', () => {
  const { net, mh, ch } = pairOfHosts()
  net.nat.set(B, '10.5.0.5')
  mh.preferred = A
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 5_000)
  assert.ok(
    net.log.some((p) => {
      const m = ihmp.decode(p.bytes)
      return m.ok && m.value.control === Control.ACK && (m.value.options & Option.ND) !== 0
    }),
  )
  assert.deepEqual([...peerOf(ch).row.active], [A])
  assert.ok(peerOf(ch).row.unreachable.has(B))
  assert.deepEqual(peerOf(mh).row.current[4], { local: A, foreign: F })
})

test('DI-41, DI-42: a NAT that knows IHMP (NS, NAT_ENTRY) is no obstacle', () => {
  const nat = '10.5.0.5'
  const net = new SimNetwork()
  const mh = net.host()
  const ch = net.host({ nats: 'any' })
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  mh.flow(A, 40000, F, 80)
  ch.flow(F, 80, A, 40000)
  net.run(2_000)
  net.nat.set(B, nat)
  net.intercept = (packet) => {
    if (packet.from !== B) return packet
    const bytes = packet.bytes.slice()
    bytes[5] = bytes[5]! | Option.NS
    return { ...packet, bytes }
  }
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(5_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: nat })
  assert.equal(peerOf(ch).nats.get(nat), B)
  const out = new Uint8Array(1200)
  const ip = (text: string) => Uint8Array.from(text.split('.').map(Number))
  const length = ihmp.encode(
    {
      control: Control.NAT_ENTRY,
      options: Option.NS,
      sequence: 1,
      counter: 1,
      hostId: ip(nat),
      mapping: { protocol: 6, host: ip(B), hostPort: 40000, nat: ip(nat), natPort: 61000, remotePort: 80 },
    },
    out,
  )
  ch.machine.handleMessage(out.slice(0, length), { local: F, foreign: nat }, 0, net.now)
  const compiled = compile(ch.tables)[4]
  assert.equal([...compiled.out_port.values()][0]?.ports.foreign, 61000)
  assert.equal(compiled.in_port.size, 1)
})

test('DI-45: a host that starts behind an unaware NAT is one-to-one (NF) and never moves', () => {
  const net = new SimNetwork()
  const mh = net.host()
  const ch = net.host()
  net.nat.set(A, '10.5.0.5')
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  mh.flow(A, 40000, F, 80)
  ch.flows.push({ local: F, foreign: '10.5.0.5' })
  net.run(5_000)
  assert.equal(peerOf(mh).state, 'forced')
  const mark = net.log.length
  mh.set(`${B}/24`)
  net.run(8_000)
  assert.equal(net.log.length, mark)
})

test('DI-26, DI-27: several addresses: probes over matching networks only, both tables symmetric', () => {
  const net = new SimNetwork()
  const a = net.host({ advertise: 'all' })
  const b = net.host({ advertise: 'all' })
  a.set('203.0.113.2/24', '192.168.1.2/24', '10.1.0.2/8', '169.254.1.2/16')
  b.set('198.51.100.2/24', '192.168.1.3/24', '10.2.0.2/8')
  net.cut.add('10.1.0.2 10.2.0.2') // the same numbers in another network
  a.preferred = '203.0.113.2'
  b.preferred = '198.51.100.2'
  a.flow('203.0.113.2', 40000, '198.51.100.2', 80)
  b.flow('198.51.100.2', 80, '203.0.113.2', 40000)
  net.run(10_000)
  const sides = [peerOf(a), peerOf(b)] as const
  assert.ok(sides[0].row.active.has('192.168.1.3') && sides[1].row.active.has('192.168.1.2'))
  assert.ok(!sides[0].row.active.has('10.2.0.2') && !sides[1].row.active.has('10.1.0.2'))
  assert.ok(sides[1].row.unreachable.has('169.254.1.2'))
  assert.ok(!net.types().some((t) => t.startsWith('PATH_PROBE') && t.includes('>169.254.')))
})

test('DI-9, Fig. 3: three moves, sockets opened at each stage, one HID', () => {
  const { net, mh, ch, hid } = pairOfHosts()
  const stages = [B, '10.7.0.2', '10.8.0.2']
  let port = 40001
  for (const ip of stages) {
    mh.preferred = ip
    mh.set(`${ip}/24`)
    net.run(net.now + 3_000)
    assert.equal(mh.flow(ip, port, F, 80), hid)
    ch.flow(F, 80, ip, port)
    port++
    net.run(net.now + 1_000)
  }
  assert.equal([...ch.machine.hosts()].length, 1)
  const compiled = compile(ch.tables)[4]
  assert.equal(compiled.in_flow.size, 4)
  assert.equal(compiled.out_flow.size, 3, 'the newest is bound to where the host is')
  assert.equal(compiled.out_pair.size, 3)
})

test('DI-4: a host with 10,000 connections to 100 hosts moves with one exchange per host', () => {
  const net = new SimNetwork()
  const mh = net.host()
  mh.set(`${A}/24`)
  const others: SimHost[] = []
  const hosts = extent(100)
  for (let i = 0; i < hosts; i++) {
    const ch = net.host()
    const ip = `10.3.${i}.2`
    ch.set(`${ip}/24`)
    for (let j = 0; j < 100; j++) {
      mh.flow(A, 20000 + i * 100 + j, ip, 80)
      ch.flow(ip, 80, A, 20000 + i * 100 + j)
    }
    others.push(ch)
  }
  net.run(5_000)
  const before = mh.machine.stats.exchanges
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(8_000)
  assert.equal(mh.machine.stats.exchanges - before, hosts)
  assert.ok(others.every((ch) => peerOf(ch).row.current[4]?.foreign === B))
  assert.equal(compile(mh.tables)[4].out_flow.size, 100 * hosts)
})

test('merge: one host known by two addresses becomes one row when its key answers for both', () => {
  const net = new SimNetwork()
  const a = net.host()
  const b = net.host()
  a.set(`${A}/24`)
  b.set(`${F}/24`, '198.51.100.9/24')
  a.flows.push()
  b.flows.push({ local: F, foreign: A }, { local: '198.51.100.9', foreign: A })
  const one = a.flow(A, 40000, F, 80)
  const two = a.flow(A, 40001, '198.51.100.9', 80)
  assert.notEqual(one, two)
  net.run(10_000)
  assert.equal([...a.machine.hosts()].length, 1)
  assert.equal(a.tables.flows(one).size, 2)
})

test('a silent path is left for one that answers (DI-16)', () => {
  const { net, mh, ch, hid } = pairOfHosts()
  mh.preferred = A
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 2_000)
  net.cut.add(`${A} ${F}`)
  mh.machine.handleSuspicion(hid, net.now)
  net.run(net.now + 10_000)
  assert.deepEqual(peerOf(mh).row.current[4], { local: B, foreign: F })
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
})

test('key change: announced under the old key, later messages need the new one (DI-40)', async () => {
  const { net, mh, ch } = pairOfHosts()
  const { generateOwnKey } = await import('../../../src/translation/keys.ts')
  mh.key = generateOwnKey()
  mh.machine.rekey(net.now)
  net.run(net.now + 2_000)
  assert.deepEqual(peerOf(ch).row.key, mh.key.publicKey)
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 3_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
})

test('save and restore: a daemon that starts again moves on as if nothing had been', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 3_000)
  const saved = mh.machine.save()
  const fresh = net.host()
  fresh.key = mh.key
  net.hosts.splice(net.hosts.indexOf(mh), 1)
  for (const host of saved) fresh.machine.restore(host)
  fresh.preferred = B
  assert.equal(fresh.flow(A, 40000, F, 80), saved[0]!.hid)
  fresh.set(`${B}/24`)
  assert.deepEqual(compile(fresh.tables)[4].out_pair, compile(mh.tables)[4].out_pair)
  fresh.preferred = '10.7.0.2'
  fresh.set('10.7.0.2/24')
  net.run(net.now + 3_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: '10.7.0.2' })
})

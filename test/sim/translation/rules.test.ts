/** Rules of IHMP that need more than one host, or more than one address, to be seen (paper § III-B). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ownKeyOf } from '../../../src/translation/keys.ts'
import { MOST_KNOWN, MOST_UNREACHABLE } from '../../../src/translation/machine/state.ts'
import { bytesOf, compile, isIdle } from '../../../src/translation/tables.ts'
import { Control, ihmp, Option } from '../../../src/translation/wire.ts'
import { A, B, connected, F, pairOfHosts, peerOf, SimNetwork } from './network.ts'
import { says, twoWays } from './situations.ts'

test('DI-3, DI-15: the first packet of a flow makes the row and the HELLO; nobody but the two hosts hears of a move', () => {
  const net = new SimNetwork()
  const [mh, ch, third] = [net.host(), net.host(), net.host()]
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  third.set('10.9.0.9/24')
  assert.equal(net.log.length, 0, 'without flows there is nothing to say')
  connected(net, mh, A, ch, F)
  assert.ok(net.types().includes(`HELLO ${A}>${F}`))
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 5_000)
  assert.equal(peerOf(ch).row.current[4]?.foreign, B)
  assert.ok(net.log.every((p) => [A, B, F].includes(p.from) && [A, B, F].includes(p.to)))
})

test('DI-11: what is sent is the same whatever number the row has', () => {
  const sent = [0, 50].map((others) => {
    const net = new SimNetwork(7)
    const [mh, ch] = [net.host(), net.host()]
    mh.key = ownKeyOf(new Uint8Array(32).fill(1))
    ch.key = ownKeyOf(new Uint8Array(32).fill(2))
    for (let i = 0; i < others; i++) mh.tables.addHost()
    mh.set(`${A}/24`)
    ch.set(`${F}/24`)
    assert.equal(connected(net, mh, A, ch, F), others + 1)
    mh.preferred = B
    mh.set(`${B}/24`)
    net.run(net.now + 5_000)
    return net.log.map((p) => Buffer.from(p.bytes).toString('hex'))
  })
  assert.ok(sent[0]!.length > 5)
  assert.deepEqual(sent[0], sent[1])
})

test('DI-7: a host without DIME is spoken to as ever: nothing is translated, nothing waits, HELLOs become rare', () => {
  const net = new SimNetwork()
  const mh = net.host()
  mh.set(`${A}/24`)
  const hid = mh.flow(A, 40000, F, 80)
  net.run(3_600_000)
  assert.equal(mh.machine.host(hid)?.state, 'plain')
  assert.ok(isIdle(compile(mh.tables)))
  assert.ok(net.log.length <= 3 * 7, `${net.log.length} messages in an hour`)
})

test('DI-31, DI-33: an own address is lost that only some hosts could use: each hears what concerns it', () => {
  const net = new SimNetwork()
  const [mh, near, far] = [net.host({ advertise: 'all' }), net.host(), net.host()]
  mh.set('203.0.113.2/24', '192.168.1.2/24')
  near.set('192.168.1.3/24')
  far.set('198.51.100.2/24')
  mh.preferred = undefined
  const toNear = mh.flow('192.168.1.2', 40000, '192.168.1.3', 80)
  near.flow('192.168.1.3', 80, '192.168.1.2', 40000)
  const toFar = mh.flow('203.0.113.2', 40001, '198.51.100.2', 80)
  far.flow('198.51.100.2', 80, '203.0.113.2', 40001)
  // A private address reaches no public one.
  net.cut.add('192.168.1.2 198.51.100.2').add('203.0.113.2 192.168.1.3')
  net.run(20_000)
  const mark = net.log.length
  mh.set('203.0.113.2/24')
  net.run(30_000)
  assert.ok(
    net.types(mark).includes('ADDR_DOWN_UNREACHABLE 203.0.113.2>198.51.100.2'),
    net.types(mark).join(),
  )
  assert.equal(mh.machine.host(toFar)?.detachedAt, undefined, 'the other is reachable as before')
  assert.ok(mh.machine.host(toNear)?.detachedAt !== undefined, 'its only address is lost')
})

test('DI-28, DI-36: a new address from which no answer comes was only potentially reachable: told as unreachable', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = A
  net.cut.add(`${B} ${F}`)
  const mark = net.log.length
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 10_000)
  const types = net.types(mark)
  assert.equal(types.filter((t) => t === `ADDR_UP ${B}>${F}`).length, 3, 'as a probe, three times')
  assert.ok(types.includes(`ADDR_UP_UNREACHABLE ${A}>${F}`))
  assert.ok(peerOf(ch).row.unreachable.has(B) && !peerOf(ch).row.active.has(B))
  assert.deepEqual(peerOf(mh).row.current[4], { local: A, foreign: F })
})

test('DI-18, DI-29, DI-34: the Host ID is always an address that the receiver knows by then, also over three moves', () => {
  const { net, mh, ch } = pairOfHosts()
  const known = new Set([A])
  for (const ip of [B, '10.7.0.2', '10.8.0.2']) {
    const mark = net.log.length
    let checked = 0
    mh.preferred = ip
    mh.set(`${ip}/24`)
    net.run(net.now + 5_000)
    for (const packet of net.log.slice(mark)) {
      const decoded = ihmp.decode(packet.bytes)
      if (!decoded.ok || packet.from !== ip || decoded.value.control === Control.ACK) continue
      assert.ok(known.has(decoded.value.hostId.join('.')), decoded.value.hostId.join('.'))
      checked++
    }
    assert.ok(checked > 0, `the move to ${ip} was told`)
    known.add(ip)
    assert.equal(peerOf(ch).row.current[4]?.foreign, ip)
  }
})

test('DI-37, D5: OU says whether the lost address had been usable', () => {
  const { net, mh } = pairOfHosts()
  mh.preferred = A
  net.cut.add(`${B} ${F}`)
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 10_000)
  const options = (mark: number): number[] =>
    net.log.slice(mark).flatMap((p) => {
      const m = ihmp.decode(p.bytes)
      return m.ok && (m.value.control === Control.HANDOFF || m.value.control === Control.HANDOFF_UNREACHABLE)
        ? [m.value.options & Option.OU]
        : []
    })
  let mark = net.log.length
  mh.set(`${A}/24`, '10.7.0.2/24') // B, which never worked, goes
  net.run(net.now + 5_000)
  assert.ok(options(mark).length > 0 && options(mark).every((o) => o === Option.OU))
  mark = net.log.length
  mh.preferred = '10.8.0.2'
  mh.set('10.7.0.2/24', '10.8.0.2/24') // A, in use, goes
  net.run(net.now + 5_000)
  assert.ok(options(mark).length > 0 && options(mark).every((o) => o === 0))
})

test('DI-35: an address lost and one gained in one event are one HANDOFF, from the new address alone', () => {
  const { net, mh } = twoWays()
  mh.preferred = '10.7.0.2'
  const mark = net.log.length
  mh.set(`${B}/24`, '10.7.0.2/24')
  net.run(net.now + 5_000)
  const told = net.types(mark).filter((type) => !type.startsWith('ACK '))
  assert.deepEqual(told, [`HANDOFF 10.7.0.2>${F}`])
})

test('what was moved by hand stays there whatever else is lost, and goes where the routes lead once that address is lost', () => {
  const C = '10.7.0.2'
  const { net, mh, hid } = twoWays()
  const currently = () => peerOf(mh).row.current[4]?.local
  mh.set(`${A}/24`, `${B}/24`, `${C}/24`)
  net.run(net.now + 2_000)
  mh.machine.move(hid, B, net.now)
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 2_000)
  assert.equal(currently(), B)
  mh.set(`${A}/24`)
  net.run(net.now + 2_000)
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 2_000)
  assert.equal(currently(), A)
})

test('DI-16: however often TCP repeats itself, a path is asked once at a time', () => {
  const { net, mh, hid } = pairOfHosts()
  const mark = net.log.length
  for (let n = 0; n < 50; n++) mh.machine.handleSuspicion(hid, net.now)
  net.run(net.now + 5_000)
  assert.deepEqual(net.types(mark), [`PATH_PROBE ${A}>${F}`, `ACK ${F}>${A}`])
})

test('DI-16: a pair that falls silent one way only is taken in for 20 s more: the peer sends there until it notices', () => {
  const { net, mh, ch } = twoWays()
  net.intercept = (packet) => (packet.from === F && packet.to === A ? undefined : packet)
  ch.machine.handleSuspicion(peerOf(ch).row.hid, net.now)
  net.run(net.now + 20_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  assert.deepEqual(peerOf(mh).row.current[4], { local: A, foreign: F }, 'it has noticed nothing')
  assert.ok(peerOf(ch).row.accepted.has(`${F} ${A}`))
})

test('DI-7: routes that come and go make no host that does not speak IHMP be asked more often', () => {
  const net = new SimNetwork()
  const mh = net.host()
  mh.set(`${A}/24`)
  mh.flow(A, 40000, F, 80)
  net.run(10_000)
  const mark = net.log.length
  for (let n = 0; n < 3; n++) {
    mh.machine.handleRoutes(net.now)
    net.run(net.now + 5_000)
  }
  assert.equal(net.log.length, mark)
})

test('DI-27: an address that says so again and again is asked for its proof once', () => {
  const { net, mh, ch } = pairOfHosts()
  net.cut.add(`${B} ${F}`)
  for (let n = 0; n < 10; n++) {
    const newAddress = bytesOf(B)
    const pair = { local: F, foreign: B }
    says(net, mh, ch, pair, { control: Control.ADDR_UP, hostId: bytesOf(A), newAddress })
  }
  assert.equal([...peerOf(ch).requests].filter(({ pair }) => pair.foreign === B).length, 1)
})

test('DI-37: a public address is lost and a private one gained in one event: the peer hears of the loss, and only of it', () => {
  const [P, Q, C] = ['203.0.113.2', '203.0.114.2', '198.51.100.2']
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.preferred = P
  mh.set(`${P}/24`, `${Q}/24`)
  ch.set(`${C}/24`)
  connected(net, mh, P, ch, C)
  assert.equal(peerOf(ch).row.current[4]?.foreign, P)
  net.cut.add(`192.168.7.2 ${C}`)
  mh.preferred = Q
  mh.set('192.168.7.2/24', `${Q}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: C, foreign: Q })
  assert.ok(!peerOf(ch).row.active.has(P) && !peerOf(ch).row.unreachable.has('192.168.7.2'))
})

test('DI-33, DI-37: an address that comes back and goes again while its first loss has not been heard: the second is told', () => {
  const C = '10.7.0.2'
  const { net, mh, ch } = twoWays()
  mh.set(`${A}/24`, `${C}/24`)
  net.run(net.now + 2_000)
  net.cut.add(`${B} ${F}`)
  mh.set(`${B}/24`, `${C}/24`)
  net.run(net.now + 200)
  const mark = net.log.length
  mh.set(`${A}/24`, `${B}/24`, `${C}/24`)
  assert.deepEqual(net.types(mark), [`ADDR_UP ${A}>${F}`, `ADDR_UP ${B}>${F}`], 'nothing is lost any more')
  net.run(net.now + 200)
  assert.equal(peerOf(ch).row.current[4]?.foreign, A)
  mh.set(`${B}/24`, `${C}/24`)
  net.cut.clear()
  net.run(net.now + 200)
  assert.equal(peerOf(ch).row.current[4]?.foreign, C)
  net.run(net.now + 5_000)
  assert.deepEqual([...peerOf(ch).row.active], [C, B])
})

test('DI-33, DI-36: what was told from elsewhere as lost (HANDOFF_UNREACHABLE) is no longer among the own addresses', () => {
  const { net, mh } = twoWays()
  mh.preferred = B
  net.cut.add(`192.168.7.2 ${F}`)
  const mark = net.log.length
  mh.set(`${B}/24`, '192.168.7.2/24')
  net.run(net.now + 5_000)
  assert.ok(net.types(mark).includes(`HANDOFF_UNREACHABLE ${B}>${F}`))
  assert.deepEqual([...peerOf(mh).row.local], [B])
})

test('rows are no more than allowed, also of hosts that greet', () => {
  const net = new SimNetwork()
  const server = net.host({ mostHosts: 3 })
  server.set(`${F}/24`)
  for (let n = 0; n < 6; n++) {
    const client = net.host()
    const ip = `10.9.${n}.2`
    client.set(`${ip}/24`)
    server.flows.push({ local: F, foreign: ip }) // it has no row of its own there
    client.flow(ip, 40000, F, 80)
  }
  net.run(5_000)
  assert.equal([...server.machine.hosts()].length, 3)
  const [first] = server.machine.hosts()
  assert.ok(first?.state === 'peer')
  assert.equal(server.machine.handleFlow({ local: F, foreign: '10.9.9.2' }, net.now), undefined)
  assert.equal(server.machine.handleFlow(first.bound, net.now), first.row.hid, 'those that are there stay')
})

test('D1: an address that is surely reachable is probed as well, and becomes Active', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set('203.0.113.2/24')
  ch.set('198.51.100.2/24', '192.0.2.2/24')
  ch.preferred = '198.51.100.2'
  connected(net, mh, '203.0.113.2', ch, '198.51.100.2')
  assert.ok(net.types().includes('PATH_PROBE 203.0.113.2>192.0.2.2'))
  assert.deepEqual([...peerOf(mh).row.active].sort(), ['192.0.2.2', '198.51.100.2'])
  assert.deepEqual(peerOf(mh).row.current[4]?.foreign, '198.51.100.2', 'data stays where it is')
})

test('DI-6, D10: flows of one family go on over the other when the peer has agreed, and come back', () => {
  const [A6, F6] = ['fd00:1::2', 'fd00:3::2']
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24@acc1`, `${A6}/64@acc2`)
  ch.set(`${F}/24`, `${F6}/64`)
  connected(net, mh, A, ch, F)
  for (const host of [mh, ch]) assert.ok(isIdle(compile(host.tables)), 'two families, and nothing is touched')
  const mark = net.log.length
  const at = net.now
  mh.set(`${A6}/64@acc2`)
  assert.equal(compile(mh.tables)[4].cross_out.size, 0, 'not before the other takes it')
  assert.equal(compile(mh.tables)[4].cross_in.size, 1, 'but it is taken here')
  net.run(at + 2 * net.delay)
  assert.deepEqual(peerOf(mh).row.current[4], { local: A6, foreign: F6 })
  assert.deepEqual(peerOf(ch).row.current[4], { local: F6, foreign: A6 })
  for (const host of [mh, ch]) {
    const maps = compile(host.tables)[4]
    assert.equal(maps.cross_out.size, 1)
    assert.equal(maps.cross_in.size, 1)
    assert.equal(maps.out_flow.size, 0)
  }
  assert.ok(net.types(mark).includes(`PATH_PROBE ${A6}>${F6}`))
  assert.equal(mh.events.filter((e) => e.kind === 'handover' && e.family === 4).length, 2)
  mh.set(`${B}/24@acc1`, `${A6}/64@acc2`)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(mh).row.current[4], { local: B, foreign: F })
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  assert.equal(compile(ch.tables)[4].cross_in.size, 1, 'what is under way still arrives')
  net.run(net.now + 120_000)
  for (const host of [mh, ch]) assert.equal(compile(host.tables)[4].cross_in.size, 0)
})

test('DI-6: flows that cross again shortly before the last time would be over are taken for as long as the first time', () => {
  const [A6, F6] = ['fd00:1::2', 'fd00:3::2']
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24@acc1`, `${A6}/64@acc2`)
  ch.set(`${F}/24@acc1`, `${F6}/64@acc2`)
  const hid = connected(net, mh, A, ch, F)
  mh.set(`${A6}/64@acc2`)
  net.run(net.now + 2_000)
  mh.set(`${A}/24@acc1`, `${A6}/64@acc2`)
  net.run(net.now + 50_000)
  net.cut.add(`${A} ${F}`)
  mh.machine.handleSuspicion(hid, net.now) // the other end has heard nothing of it
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(mh).row.current[4], { local: A6, foreign: F6 })
  net.run(net.now + 10_000)
  assert.ok(peerOf(ch).confirmed.has(`${F} ${A}`))
  assert.equal(compile(ch.tables)[4].cross_in.size, 1)
  net.cut.clear()
  mh.machine.handleRoutes(net.now)
  net.run(net.now + 120_000)
  assert.equal(compile(ch.tables)[4].cross_in.size, 0)
  ch.set(`${F6}/64@acc2`)
  assert.equal(peerOf(ch).row.current[4]?.local, F, 'what was agreed on then does not hold')
  net.run(net.now + 2 * net.delay)
  assert.equal(peerOf(ch).row.current[4]?.local, F6)
  assert.equal(compile(ch.tables)[4].cross_out.size, 1)
})

test('DI-6: while the addresses of one access go or come one after the other, no flow changes its family', () => {
  const [A6, B6, F6] = ['fd00:1::2', 'fd00:2::2', 'fd00:3::2']
  const net = new SimNetwork()
  net.delay = 5 // an answer is there before the next address event
  const [mh, ch] = [net.host(), net.host()]
  const crossings = () =>
    [mh, ch].flatMap((h) =>
      h.events.filter((e) => e.kind === 'handover' && e.family === 4 && e.to.local.includes(':')),
    ).length
  mh.set(`${A}/24@acc1`, `${A6}/64@acc1`)
  ch.set(`${F}/24`, `${F6}/64`)
  connected(net, mh, A, ch, F)
  for (const [four, six, acc] of [
    [B, B6, 'acc2'],
    [A, A6, 'acc1'],
  ] as const) {
    const last = mh.addresses.filter((a) => a.ip.includes(':')).map((a) => `${a.ip}/64@${a.device}`)
    mh.set(...last)
    net.run(net.now + 50)
    mh.set()
    net.run(net.now + 5_000)
    mh.set(`${six}/64@${acc}`)
    net.run(net.now + 50)
    mh.set(`${four}/24@${acc}`, `${six}/64@${acc}`)
    net.run(net.now + 1_000)
    assert.equal(crossings(), 0)
    assert.deepEqual(peerOf(mh).row.current[4], { local: four, foreign: F })
    assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: four })
  }
  // The access stays without an address of that family: then they do.
  mh.set(`${A6}/64@acc1`)
  net.run(net.now + 200)
  assert.equal(crossings(), 0)
  net.run(net.now + 200)
  assert.deepEqual(peerOf(mh).row.current[4], { local: A6, foreign: F6 })
  assert.deepEqual(peerOf(ch).row.current[4], { local: F6, foreign: A6 })
})

test('DI-6: a peer that cannot carry one family over the other is not sent such packets', () => {
  const [A6, F6] = ['fd00:1::2', 'fd00:3::2']
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host({ crossing: false })]
  mh.set(`${A}/24`, `${A6}/64`)
  ch.set(`${F}/24`, `${F6}/64`)
  connected(net, mh, A, ch, F)
  mh.set(`${A6}/64`)
  net.run(net.now + 20_000)
  assert.equal(compile(mh.tables)[4].cross_out.size, 0)
  assert.equal(compile(ch.tables)[4].cross_in.size, 0)
  mh.set(`${B}/24`, `${A6}/64`)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
})

test('D14: what a peer has not acknowledged is told again when messages pass', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.preferred = A
  const strange = '192.168.7.2'
  net.cut.add(`${strange} ${F}`)
  net.intercept = (packet) => (packet.from === A ? undefined : packet)
  mh.set(`${A}/24`, `${strange}/24`)
  net.run(net.now + 40_000)
  assert.ok(!peerOf(ch).row.unreachable.has(strange))
  net.intercept = undefined
  net.run(net.now + 60_000)
  assert.ok(peerOf(ch).row.unreachable.has(strange))
  net.intercept = (packet) => (packet.from === A ? undefined : packet)
  mh.set(`${A}/24`)
  net.run(net.now + 40_000)
  assert.ok(peerOf(ch).row.unreachable.has(strange), 'it has not heard of the loss')
  net.intercept = undefined
  net.run(net.now + 60_000)
  assert.ok(!peerOf(ch).row.unreachable.has(strange))
  const mark = net.log.length
  net.run(net.now + 600_000)
  assert.deepEqual(net.types(mark), [], 'and then there is nothing to say')
})

test('D14: a peer that starts again from an older state is told everything again', () => {
  const { net, mh, ch } = pairOfHosts()
  const saved = ch.machine.save()
  mh.preferred = A
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 5_000)
  assert.ok(peerOf(ch).row.active.has(B))
  const fresh = net.host()
  fresh.key = ch.key
  net.hosts.splice(net.hosts.indexOf(ch), 1)
  for (const host of saved) fresh.machine.restore(host)
  fresh.set(`${F}/24`)
  fresh.flow(F, 80, A, 40000)
  net.run(net.now + 10_000)
  assert.ok(peerOf(fresh).row.active.has(B), [...peerOf(fresh).row.active].join())
  const mark = net.log.length
  net.run(net.now + 280_000)
  assert.deepEqual(net.types(mark), [])
})

test('a peer with no end of addresses is believed of few, goes on, and no crowd of strangers is asked', () => {
  const { net, mh, ch, hid } = pairOfHosts()
  mh.preferred = A
  const many = Array.from({ length: 100 }, (_, i) => `10.20.${i}.2`)
  mh.set(`${A}/24`, ...many.map((ip) => `${ip}/24`))
  net.run(net.now + 20_000)
  const { known, ports, addressCounters, row } = peerOf(ch)
  for (const { size } of [known, ports, addressCounters, row.active]) assert.ok(size <= MOST_KNOWN, `${size}`)
  assert.ok(row.accepted.size <= MOST_KNOWN)
  assert.deepEqual(row.current[4], { local: F, foreign: A })
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 20_000)
  assert.deepEqual(row.current[4], { local: F, foreign: B }, 'those that are lost make room')
  // Now it only says so: nothing answers there.
  for (const ip of many) net.cut.add(`${ip} ${F}`)
  const mark = net.log.length
  mh.set(`${B}/24`, `${A}/24`, ...many.map((ip) => `${ip}/24`))
  net.run(net.now + 20_000)
  assert.ok(row.accepted.has(`${F} ${A}`), 'what works is not what makes room')
  assert.ok(row.unreachable.size <= MOST_UNREACHABLE, `${row.unreachable.size}`)
  assert.ok(known.size <= MOST_KNOWN)
  const asked = new Set(
    net.log.slice(mark).flatMap((p) => (p.from === F && ![A, B].includes(p.to) ? [p.to] : [])),
  )
  assert.ok(asked.size > 0)
  const wave = net.log.length
  net.run(net.now + 3_600_000)
  const later = new Set(
    net.log.slice(wave).flatMap((p) => (p.from === F && ![A, B].includes(p.to) ? [p.to] : [])),
  )
  assert.ok(later.size <= MOST_UNREACHABLE, `${later.size}`)
  assert.equal(mh.machine.host(hid)?.state, 'peer')
  assert.deepEqual(row.current[4], { local: F, foreign: B })
})

test('forged messages cost a bounded number of signature checks, and moves of their victim are followed', () => {
  const { net, mh, ch } = pairOfHosts()
  const mark = net.log.length
  mh.set(`${A}/24`, `${B}/24`)
  net.run(net.now + 5_000)
  const update = net.log.slice(mark).find(({ to }) => to === F)!
  ch.checked = 0
  for (let i = 0; i < 5_000; i++) {
    const forged = update.bytes.slice()
    forged[forged.length - 1 - (i % 60)]! ^= 1 + (i % 255)
    const source = i % 2 === 0 ? '10.66.0.6' : `10.67.${(i >> 8) & 255}.${i & 255}`
    ch.machine.handleMessage(forged, { local: F, foreign: source }, 0, net.now + i / 5)
  }
  assert.ok(ch.checked > 0 && ch.checked <= 1_000, `${ch.checked} checks of 5,000 in a second`)
  net.run(net.now + 2_000)
  mh.set(`${B}/24`)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
})

test('E-6: a host that is reached over public addresses hears nothing of private ones', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set('203.0.113.2/24')
  ch.set('198.51.100.2/24')
  mh.preferred = '203.0.113.2'
  connected(net, mh, '203.0.113.2', ch, '198.51.100.2')
  net.cut.add('192.168.7.2 198.51.100.2')
  mh.set('203.0.113.2/24', '192.168.7.2/24')
  net.run(net.now + 20_000)
  mh.set('203.0.113.2/24')
  net.run(net.now + 20_000)
  const secret = Buffer.from([192, 168, 7, 2])
  const arrived = net.log.filter((p) => p.from !== '192.168.7.2')
  assert.ok(arrived.every((p) => !Buffer.from(p.bytes).includes(secret)))
})

test('D3: both lose their only address at once: one that learns of the other by a name finds it, and only it', () => {
  const net = new SimNetwork()
  const [mh, ch, stranger] = [net.host(), net.host(), net.host()]
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  stranger.set('10.9.0.9/24')
  connected(net, mh, A, ch, F)
  mh.preferred = B
  mh.set(`${B}/24`)
  ch.set('10.4.0.2/24')
  net.run(net.now + 10_000)
  assert.ok(mh.machine.detached && ch.machine.detached)
  const mark = net.log.length
  mh.machine.handleNames(['10.9.0.9', B], net.now)
  net.run(net.now + 5_000)
  assert.ok(mh.machine.detached, 'who has another key is not the host')
  assert.ok(
    net.log.slice(mark).every((p) => p.from !== '10.9.0.9'),
    'and says nothing',
  )
  mh.machine.handleNames(['10.9.0.9', '10.4.0.2'], net.now)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(mh).row.current[4], { local: B, foreign: '10.4.0.2' })
  assert.deepEqual(peerOf(ch).row.current[4], { local: '10.4.0.2', foreign: B })
  assert.ok(!mh.machine.detached && !ch.machine.detached)
})

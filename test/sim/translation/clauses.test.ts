/** Single clauses of what is remembered, waited for and given back; each was once nobody's to notice. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encoded } from '../../../src/core/codec.ts'
import { generateOwnKey, nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import { type Host, ReplayWindow, takeOver } from '../../../src/translation/machine/host.ts'
import { bytesOf } from '../../../src/translation/tables.ts'
import { Control, encodeSigned, type IhmpMessage, ihmp, Option } from '../../../src/translation/wire.ts'
import { A, B, connected, F, pairOfHosts, peerOf, type SimHost, SimNetwork } from './network.ts'
import { A6, F6, flowsOf, lose, NAT, says, strangers, twoWays } from './situations.ts'

const HOUR = 3_600_000

/** Times after `from` at which messages of this type left this address. */
function timesOf(net: SimNetwork, control: Control, from: string, since: number): number[] {
  return net.log.flatMap((packet) => {
    const message = ihmp.decode(packet.bytes)
    const fits = message.ok && message.value.control === control && packet.from === from
    return fits && packet.at - net.delay >= since ? [packet.at - net.delay - since] : []
  })
}

test('DI-39: a directory that gives one address of a host to another key leaves what the host prefers of the others', () => {
  const { net, mh, ch } = twoWays()
  const { hid } = peerOf(mh).row
  mh.machine.move(hid, B, net.now)
  net.run(net.now + 1_000)
  assert.equal(peerOf(ch).preferred, B)
  ch.known.set(A, generateOwnKey().publicKey)
  ch.machine.handleDirectory(A, net.now)
  net.run(net.now + 1_000)
  assert.deepEqual([...peerOf(ch).row.active], [B])
  assert.equal(peerOf(ch).preferred, B)
  ch.known.set(B, generateOwnKey().publicKey)
  ch.machine.handleDirectory(B, net.now)
  assert.equal(peerOf(ch).preferred, undefined)
})

test('DI-43: a host that names itself by an address of the other family is told of its NAT in addresses of one length', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  ch.set(`${F6}/64`)
  ch.flows.push({ local: F6, foreign: A6 })
  const hello = {
    ...{ control: Control.HELLO, options: 0, sequence: 1, counter: 1_700_000_000_000_000 },
    ...{ hostId: bytesOf(A), receiver: bytesOf(F6), addresses: [bytesOf(A)] },
    ...{ publicKey: mh.key!.publicKey, challenge: new Uint8Array(16), cookie: new Uint8Array(16) },
  }
  const bytes = encodeSigned(hello, (covered) => nodeIhmpCrypto.sign(mh.key!, covered))
  ch.machine.handleMessage(bytes, { local: F6, foreign: A6 }, 0, net.now)
  net.drain()
  const answer = ihmp.decode(net.log[0]!.bytes)
  assert.ok(answer.ok && answer.value.natPair !== undefined)
  const { nat, host } = answer.value.natPair
  assert.deepEqual([...nat], [...bytesOf(A6)])
  assert.deepEqual([...host], [...bytesOf(A), ...new Uint8Array(12)])
})

test('DI-20: what is not acknowledged is repeated after twice the round trip and 20 ms, and after 200 ms at least', () => {
  for (const [delay, first] of [
    [20, 200],
    [100, 420],
    [115, 480],
  ] as const) {
    const net = new SimNetwork()
    net.delay = delay
    const [mh, ch] = [net.host(), net.host()]
    mh.set(`${A}/24`)
    ch.set(`${F}/24`)
    connected(net, mh, A, ch, F)
    lose(net, Control.ACK, 60_000)
    const since = net.now
    mh.set(`${A}/24`, `${B}/24`)
    net.run(net.now + 10_000)
    const times = timesOf(net, Control.ADDR_UP, B, since)
    assert.equal(Math.round(times[1]! - times[0]!), first)
  }
})

test('DI-24: what a host says after the greeting goes to the port that its answer came from', () => {
  const { net, mh, ch } = strangers()
  ch.flows.push({ local: F, foreign: A })
  net.intercept = (packet, { control }) => {
    // Of the other end nothing but its answer arrives, from another port than the usual one.
    if (packet.from !== F) return packet
    return control === Control.HELLO_ACK ? { ...packet, port: 600 } : undefined
  }
  mh.flow(A, 40000, F, 80)
  net.run(2_000)
  const sent = net.log.flatMap(({ bytes, from: source, port }) => {
    const message = ihmp.decode(bytes)
    return message.ok && source === A && message.value.control !== Control.HELLO ? [port] : []
  })
  assert.ok(sent.length > 1)
  assert.deepEqual(new Set(sent), new Set([600]))
})

test('E-6: the end that is to wait three seconds with its proofs waits, whatever becomes of its addresses', () => {
  const { net, mh, ch } = strangers()
  const flowsSent: string[] = []
  net.intercept = (packet, { control }) => {
    if (control === Control.FLOWS) flowsSent.push(packet.from)
    return control === Control.FLOWS ? undefined : packet
  }
  ch.flow(F, 80, A, 40000)
  mh.flow(A, 40000, F, 80)
  net.run(1_000)
  flowsSent.length = 0
  ch.set(`${F}/24`, '10.9.0.2/24')
  net.run(2_500)
  assert.ok(!flowsSent.includes(F))
  net.run(4_000)
  assert.ok(flowsSent.includes(F))
})

test('issue 11, 4: single flows that are given back leave the host where it was moved by hand', () => {
  const { net, mh } = twoWays()
  const { hid } = peerOf(mh).row
  assert.ok(mh.machine.move(hid, B, net.now))
  assert.equal(mh.machine.moveFlows(hid, A, flowsOf(mh), net.now).length, 1)
  net.run(net.now + 1_000)
  mh.machine.giveBack(hid, flowsOf(mh), net.now)
  net.run(net.now + 1_000)
  assert.equal(peerOf(mh).pinned, B)
  assert.deepEqual(peerOf(mh).row.current[4], { local: B, foreign: F })
  mh.machine.giveBack(hid, undefined, net.now)
  net.run(net.now + 1_000)
  assert.equal(peerOf(mh).pinned, undefined)
})

test('a host that was silent for long and greets anew is there: its next silence counts like any other', () => {
  const { net, mh, ch } = pairOfHosts()
  net.hosts.splice(net.hosts.indexOf(mh), 1)
  ch.machine.handleSuspicion(peerOf(ch).row.hid, net.now)
  net.run(net.now + HOUR)
  assert.equal(peerOf(ch).dormant, true)
  // It has lost what it knew, and nothing but its greeting arrives.
  const again: SimHost = net.host()
  again.key = mh.key
  again.set(`${A}/24`)
  const greeting: readonly Control[] = [Control.HELLO, Control.HELLO_ACK]
  net.intercept = (packet, { control, response }: IhmpMessage) =>
    greeting.includes(control) || response !== undefined ? packet : undefined
  again.flow(A, 41_000, F, 80)
  ch.flow(F, 80, A, 41_000)
  net.run(net.now + 200)
  assert.equal(peerOf(ch).dormant, false)
  net.hosts.splice(net.hosts.indexOf(again), 1)
  net.run(net.now + 1_000)
  ch.machine.handleSuspicion(peerOf(ch).row.hid, net.now)
  net.run(net.now + 10_000)
  assert.notEqual(peerOf(ch).detachedAt, undefined, 'its flows are held')
})

test('of one host 256 messages wait for their answers at most; what would be more is not sent either', () => {
  const { net, mh } = twoWays()
  const { hid } = peerOf(mh).row
  net.intercept = () => undefined
  const sent = () => mh.machine.stats.sent
  const before = sent()
  for (let i = 0; i < 600; i++) {
    mh.machine.moveFlows(hid, i % 2 === 0 ? B : A, flowsOf(mh), net.now)
    net.drain()
  }
  assert.equal(sent() - before, 256)
})

test('DI-6: the only access with IPv6 goes: flows of IPv6 go on over IPv4 when the peer agrees, and those of IPv4 stay', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24@acc1`, `${A6}/64@acc2`)
  ch.set(`${F}/24`, `${F6}/64`)
  connected(net, mh, A6, ch, F6)
  mh.set(`${A}/24@acc1`)
  net.run(net.now + 5_000)
  for (const [host, own, other] of [
    [mh, A, F],
    [ch, F, A],
  ] as const) {
    const { row } = peerOf(host)
    assert.deepEqual(row.current[6], { local: own, foreign: other })
    assert.deepEqual([...row.crossed], [6])
  }
  assert.deepEqual([...peerOf(mh).crossable], [6])
})

test('issue 11, 4: moved by hand are flows that are proven, and to an address that has a pair; the others are named as left', () => {
  const { net, mh } = twoWays()
  const { hid } = peerOf(mh).row
  assert.deepEqual(mh.machine.moveFlows(hid, '10.99.0.9', flowsOf(mh), net.now), [])
  assert.deepEqual(mh.machine.moveFlows(999, B, flowsOf(mh), net.now), [])
  lose(net, Control.FLOWS, HOUR)
  mh.flow(A, 40_001, F, 80)
  net.run(net.now + 500)
  const moved = mh.machine.moveFlows(hid, B, flowsOf(mh), net.now)
  assert.deepEqual(
    moved.map(({ localPort }) => localPort),
    [40_000],
  )
  assert.equal(peerOf(mh).row.overrides.size, 1)
})

test('DI-39: two rows with one key stay two while an address of either is bound to another key', () => {
  for (const bound of [false, true]) {
    const { net, mh, ch } = strangers()
    mh.preferred = A
    connected(net, mh, A, ch, F)
    if (bound) ch.known.set(A, generateOwnKey().publicKey)
    // The same host, which has lost what it knew, from another address.
    net.hosts.splice(net.hosts.indexOf(mh), 1)
    const again: SimHost = net.host()
    again.key = mh.key
    again.set(`${B}/24`)
    connected(net, again, B, ch, F)
    assert.equal([...ch.machine.hosts()].length, bound ? 2 : 1)
  }
})

test('DI-38, DI-42: what a NAT said before a restart is old after it, of whatever connection', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host({ nats: 'any' })]
  net.nat.set(B, NAT)
  net.intercept = (packet) => {
    if (packet.from !== B) return packet
    const bytes = packet.bytes.slice()
    bytes[5] = bytes[5]! | Option.NS
    return { ...packet, bytes }
  }
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  connected(net, mh, A, ch, F)
  mh.preferred = B
  mh.set(`${B}/24`)
  net.run(net.now + 2_000)
  assert.ok(peerOf(ch).nats.has(NAT))
  const entry = (counter: number, hostPort: number): Uint8Array => {
    const mapping = {
      ...{ protocol: 6, nat: bytesOf(NAT), natPort: 5_000 + hostPort, hostPort, remotePort: 80 },
      host: bytesOf(B),
    }
    const whole = {
      control: Control.NAT_ENTRY,
      options: 0,
      sequence: 1,
      counter,
      hostId: bytesOf(NAT),
      mapping,
    }
    return encoded(ihmp, whole)
  }
  const hears = (host: SimHost, counter: number, port: number) =>
    host.machine.handleMessage(entry(counter, port), { local: F, foreign: NAT }, 0, net.now)
  const mark = net.log.length
  hears(ch, 1_000, 1)
  net.drain()
  assert.deepEqual(net.types(mark), [`ACK ${F}>${NAT}`])
  hears(ch, 2_000, 2)
  hears(ch, 1_500, 3)
  assert.equal(peerOf(ch).row.ports.length, 3, 'out of order, as they come')
  const next: SimHost = net.host({ nats: 'any' })
  next.key = ch.key
  for (const saved of ch.machine.save()) next.machine.restore(saved)
  const before = next.machine.stats.replayed
  hears(next, 1_700, 4)
  assert.deepEqual([peerOf(next).row.ports.length, next.machine.stats.replayed - before], [3, 1])
  hears(next, 2_001, 4)
  assert.equal(peerOf(next).row.ports.length, 4)
})

test('updates of one host: sixty at once are acted upon, then twenty a second; the others count as lost', () => {
  const { net, mh, ch } = pairOfHosts()
  net.run(net.now + 10_000)
  const answered = (count: number): number => {
    const before = net.log.length
    for (let i = 0; i < count; i++)
      says(net, mh, ch, { local: F, foreign: A }, { control: Control.PATH_PROBE, counter: ++counter })
    return net.log.length - before
  }
  let counter = (1_700_000_000_000 + net.now) * 1_000
  const { excessive } = ch.machine.stats
  assert.equal(answered(100), 60)
  assert.equal(ch.machine.stats.excessive - excessive, 40)
  net.run(net.now + 1_000)
  assert.equal(answered(100), 20)
})

test('DI-40: the same key that is announced again gets the same challenge, another one another', () => {
  const { net, mh, ch } = pairOfHosts()
  const challenges: string[] = []
  net.intercept = (packet, { challenge }) => {
    if (packet.from === F && challenge !== undefined) challenges.push(Buffer.from(challenge).toString('hex'))
    return packet
  }
  const [one, other] = [generateOwnKey(), generateOwnKey()]
  let counter = (1_700_000_000_000 + net.now) * 1_000
  for (const { publicKey } of [one, one, other, one])
    says(
      net,
      mh,
      ch,
      { local: F, foreign: A },
      { control: Control.KEY_CHANGE, newKey: publicKey, counter: ++counter },
    )
  const [first, again, another, third] = challenges
  assert.equal(first, again)
  assert.equal(new Set([first, another, third]).size, 3)
})

test('DI-20: a host without a key answers SOLICIT with a HELLO without one', () => {
  const net = new SimNetwork()
  const options = { unsigned: 'allow' } as const
  const [mh, ch] = [net.host(options), net.host(options)]
  mh.key = undefined
  ch.key = undefined
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  mh.datagrams(A, 5000, F, 6000)
  ch.datagrams(F, 6000, A, 5000)
  net.run(5_000)
  assert.deepEqual([peerOf(mh).state, peerOf(ch).state], ['peer', 'peer'])
  const hello = net.log
    .map(({ bytes }) => ihmp.decode(bytes))
    .find((m) => m.ok && m.value.control === Control.HELLO)
  assert.ok(hello?.ok && hello.value.publicKey === undefined)
})

test('two rows are one host: what either has said, been told and not answered counts for both', () => {
  const net = new SimNetwork()
  const v = net.host()
  v.set(`${F}/24`)
  v.flow(F, 80, A, 40_000)
  v.flow(F, 81, B, 40_001)
  const [into, from] = [...v.machine.hosts()] as [Host, Host]
  const pair = { local: F, foreign: B }
  const [flow] = v.tables.flows(from.row.hid)
  from.confirmed.set('pair', { pair, at: 7 })
  from.ports.set(B, 600)
  from.diversions.set('id', { flow: flow!, pair, own: true, counter: 3, followed: true })
  from.unproven.set(flow!, { since: 1, tries: 2, nextAt: 3 })
  into.proveAt = 9
  from.proveAt = 5
  into.replay.accept(1)
  from.replay.accept(2)
  into.addressCounters.set(A, 10)
  from.addressCounters.set(A, 4)
  from.addressCounters.set(B, 6)
  from.nats.set(NAT, B)
  const said = new ReplayWindow(8)
  from.natReplay.set(NAT, said)
  from.lost.add('10.9.0.1')
  from.told.add('10.9.0.2')
  from.silent.set('pair', pair)
  from.retry = { at: 11, wait: 12 }
  from.preferred = B
  from.pinned = F
  into.privileged = true
  from.privileged = false
  takeOver(into, from)
  assert.deepEqual(into.confirmed.get('pair'), { pair, at: 7 })
  assert.deepEqual([into.ports.get(B), into.diversions.get('id')!.counter], [600, 3])
  assert.deepEqual([into.unproven.get(flow!)!.tries, into.proveAt], [2, 5])
  assert.deepEqual(
    [1, 2, 3].map((counter) => into.replay.check(counter).kind),
    ['duplicate', 'duplicate', 'new'],
  )
  assert.deepEqual([into.addressCounters.get(A), into.addressCounters.get(B)], [10, 6])
  assert.deepEqual([into.nats.get(NAT), into.natReplay.get(NAT)], [B, said])
  assert.deepEqual(
    [[...into.lost], [...into.told], [...into.silent.keys()]],
    [['10.9.0.1'], ['10.9.0.2'], ['pair']],
  )
  assert.deepEqual([into.retry, into.preferred, into.pinned], [{ at: 11, wait: 12 }, B, F])
  assert.equal(into.privileged, false, 'what either may not, both may not')
  // What the older row has of its own stays.
  from.retry = { at: 1, wait: 1 }
  from.preferred = A
  from.pinned = A
  takeOver(into, from)
  assert.deepEqual([into.retry!.at, into.preferred, into.pinned], [11, B, F])
})

test('DI-12: what a daemon saves is what the next one has, and saves again', () => {
  const { net, mh, ch } = twoWays()
  const { hid } = peerOf(mh).row
  mh.machine.moveFlows(hid, B, flowsOf(mh), net.now)
  net.run(net.now + 2_000)
  const { machine } = ch
  const host = peerOf(ch)
  // Of what a peer may have, something of each.
  host.formerKey = new Uint8Array(32).fill(3)
  host.nats.set(NAT, '10.9.0.9')
  host.row.nats.add(NAT)
  host.natReplay.set(NAT, new ReplayWindow(77))
  host.row.ports.push({ protocol: 6, foreignPort: 1, natPort: 2, localPort: 3, counter: 4 })
  host.row.unreachable.add('10.9.0.3')
  host.row.crossed.add(6)
  host.lost.add('10.9.0.4')
  host.preferred = B
  const [flow] = flowsOf(ch)
  host.row.numbers.set(flow!.id, { own: 5_000, other: 6_000, known: true, since: 0 })
  const [before] = machine.save()
  assert.ok(before!.taken.length === 1 && before!.diversions!.length === 1 && before!.numbers!.length === 1)
  const next: SimHost = net.host()
  next.key = generateOwnKey()
  next.machine.restore(before!)
  next.flow(F, 80, A, 40_000)
  const [after] = next.machine.save()
  assert.deepEqual(after, before)
  assert.deepEqual(peerOf(next).row.overrides.get(flow!.id), { local: F, foreign: B })
  assert.deepEqual(peerOf(next).crossWaits.get(6), { until: undefined, lost: undefined })
  assert.equal(peerOf(next).state, 'peer')
  assert.equal(flowsOf(next)[0]!.taken, 'both')
})

test('DI-6: a peer is asked to take the other family though something else waits for its answer', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24@acc1`, `${A6}/64@acc1`)
  ch.set(`${F}/24`, `${F6}/64`)
  connected(net, mh, A, ch, F)
  const since = net.now
  net.intercept = (packet, message) => {
    if (message.control === Control.ADDR_DOWN) return undefined
    return packet
  }
  mh.set(`${A6}/64@acc1`)
  net.run(net.now + 400)
  assert.deepEqual(timesOf(net, Control.PATH_PROBE, A6, since), [300])
  assert.deepEqual(peerOf(mh).row.current[4], { local: A6, foreign: F6 })
})

test('of 64 addresses that a host is known by, one that it had gives way before one that it claims, and none that works', () => {
  const { net, mh, ch } = twoWays()
  const host = peerOf(ch)
  let counter = (1_700_000_000_000 + net.now) * 1_000
  const claims = (ip: string): void => {
    const newAddress = bytesOf(ip)
    says(
      net,
      mh,
      ch,
      { local: F, foreign: A },
      { control: Control.ADDR_UP_UNREACHABLE, newAddress, counter: ++counter },
    )
    net.run(net.now + 200)
  }
  for (let i = 1; host.known.size < 64; i++) claims(`10.30.0.${i}`)
  const claimed = [...host.row.unreachable]
  assert.equal(claimed.length, 16)
  const had = [...host.known].find((ip) => !host.row.active.has(ip) && !host.row.unreachable.has(ip))!
  claims('10.31.0.1')
  assert.equal(host.known.size, 64)
  assert.ok(!host.known.has(had) && host.known.has('10.31.0.1'))
  assert.ok(claimed.slice(1).every((ip) => host.known.has(ip)))
  assert.ok(host.known.has(A) && host.known.has(B))
})

test('issue 11, 4: a flow that was given back is not saved as one on a pair of its own', () => {
  const { net, mh } = twoWays()
  const { hid } = peerOf(mh).row
  const saved = () => mh.machine.save()[0]!.diversions!.length
  mh.machine.moveFlows(hid, B, flowsOf(mh), net.now)
  net.run(net.now + 1_000)
  assert.equal(saved(), 1)
  mh.machine.giveBack(hid, flowsOf(mh), net.now)
  net.run(net.now + 1_000)
  assert.equal(saved(), 0)
})

test('a way out that appears: what waits for its answer is sent once more, at once, and its answer is waited for as at first', () => {
  const { net, mh } = pairOfHosts()
  lose(net, Control.ACK, HOUR)
  const since = net.now
  mh.set(`${A}/24`, `${B}/24`)
  net.run(since + 1_200)
  mh.machine.handleRoutes(net.now)
  net.run(since + 1_449)
  const times = timesOf(net, Control.ADDR_UP, B, since).map(Math.round)
  assert.deepEqual(times, [0, 200, 600, 1_200])
  assert.equal(peerOf(mh).silent.size, 0)
  net.run(since + 1_450)
  assert.equal(peerOf(mh).silent.size, 1)
})

/**
 * Who says what, when, in the situations of IHMP (paper § III-B to III-D): whole sequences, with every repetition and its time, and
 * what both ends have of each other afterwards. A line is milliseconds, then a message with its options and addresses (`?`
 * brings a challenge, `!` answers one), or what an end makes known. A and B are addresses of the mobile host, F of the other.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateOwnKey } from '../../../src/translation/keys.ts'
import type { IhmpOptions } from '../../../src/translation/machine/types.ts'
import type { SocketRow } from '../../../src/translation/tables.ts'
import { Control, Option } from '../../../src/translation/wire.ts'
import { A, B, connected, F, pairOfHosts, rowsOf, type SimHost, SimNetwork } from './network.ts'

const [A6, F6] = ['fd00:1::2', 'fd00:3::2']
const NAT = '10.5.0.5'
const NAMES: readonly [string, string][] = [
  [A, 'A'],
  [B, 'B'],
  [F, 'F'],
  [NAT, 'NAT'],
  [A6, 'A6'],
  [F6, 'F6'],
]

/** Does it, lets so long pass, and compares all that has happened. */
function happens(net: SimNetwork, ms: number, what: () => unknown, expected: string): void {
  const from = net.now
  what()
  net.run(from + ms)
  const all = [...net.sequence(from), ...net.hosts.flatMap(rowsOf)].join('\n')
  const named = NAMES.reduce((text, [ip, name]) => text.replaceAll(ip, name), all)
  assert.equal(named, expected.trim().replace(/\n +/g, '\n'))
}

function strangers(options: Partial<IhmpOptions> = {}) {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(options), net.host(options)]
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  return { net, mh, ch }
}

/** Peers; A and B both work. */
function twoWays() {
  const hosts = pairOfHosts()
  hosts.mh.preferred = A
  hosts.mh.set(`${A}/24`, `${B}/24`)
  hosts.net.run(hosts.net.now + 2_000)
  return hosts
}

const flowsOf = (host: SimHost): SocketRow[] => [...host.tables.sockets.values()]

/** Both ends see a connection; the mobile host greets. */
function connect(mh: SimHost, ch: SimHost): void {
  ch.flows.push({ local: F, foreign: A })
  mh.flow(A, 40000, F, 80)
}

/** What is of this type is lost for so long. */
function lose(net: SimNetwork, which: Control, ms: number): void {
  const until = net.now + ms
  net.intercept = (packet, { control }) => (control === which && net.now < until ? undefined : packet)
}

test('DI-22 to DI-24: the greeting', () => {
  const { net, mh, ch } = strangers()
  happens(
    net,
    200,
    () => connect(mh, ch),
    `
      0 A > F HELLO at A ?
      30 F > A HELLO_ACK at F ? !
      60 A: peer, greeted, key pinned
      60 A: IPv4 none to A-F, confirmed: no other pair works
      60 A > F ACK !
      90 F: peer, greeted, key pinned
      90 F: IPv4 none to F-A, confirmed: no other pair works
      A has F of F; in A-F; out A-F; on A-F
      F has A of A; in F-A; out F-A; on F-A
      `,
  )
})

test('DI-23: the answer is lost, then the third message', () => {
  const { net, mh, ch } = strangers()
  net.intercept = (packet, { control }) => {
    if (control === Control.HELLO_ACK && net.now < 300) return undefined
    return control === Control.ACK && net.now < 900 ? undefined : packet
  }
  happens(
    net,
    10_000,
    () => connect(mh, ch),
    `
      0 A > F HELLO at A ?
      30 F > A HELLO_ACK at F ? !
      250 A > F HELLO at A ?
      280 +250 F > A HELLO_ACK at F ? !
      560 A: peer, greeted, key pinned
      560 A: IPv4 none to A-F, confirmed: no other pair works
      560 A > F ACK !
      1030 F > A HELLO_ACK at F ? !
      1060 A > F ACK !
      1090 F: peer, greeted, key pinned
      1090 F: IPv4 none to F-A, confirmed: no other pair works
      A has F of F; in A-F; out A-F; on A-F
      F has A of A; in F-A; out F-A; on F-A
      `,
  )
})

test('DI-20: without a key, greeted and moved', () => {
  const { net, mh, ch } = strangers({ unsigned: 'allow' })
  mh.key = undefined
  mh.preferred = undefined
  happens(
    net,
    1_000,
    () => connect(mh, ch),
    `
      0 A > F HELLO at A ?
      30 F > A HELLO_ACK at F ? !
      60 A: peer, greeted, key pinned
      60 A: IPv4 none to A-F, confirmed: no other pair works
      60 A > F ACK !
      90 F: peer, greeted without a key
      90 F: IPv4 none to F-A, confirmed: no other pair works
      A has F of F; in A-F; out A-F; on A-F
      F has A of A; in F-A; out F-A; on F-A
      `,
  )
  happens(
    net,
    1_000,
    () => mh.set(`${B}/24`),
    `
      0 B: peer, detached: no way to it
      0 B > F HANDOFF PF new B lost A ?
      30 F: peer, detached: no way to it
      30 F > B ACK ? !
      60 B: IPv4 A-F to B-F, confirmed: no other pair works
      60 B: peer, attached again
      60 B > F ACK !
      80 B > F FLOWS 1 proofs
      90 F: IPv4 F-A to F-B, confirmed: the other host asked to be reached at B
      90 F: peer, attached again
      110 F > B ACK ?
      140 B > F ACK !
      B has F of F; in A-F,B-F; out B-F; on B-F
      F has B of A,B; in F-A,F-B; out F-B; on F-B
      `,
  )
})

test('DI-23: who never sends the third message is answered in three times its bytes, and no row is made', () => {
  const { net, mh, ch } = strangers()
  happens(
    net,
    60_000,
    () => {
      connect(mh, ch)
      net.intercept = (packet) => (packet.from === F || net.now === 0 ? packet : undefined)
    },
    `
      0 A > F HELLO at A ?
      30 F > A HELLO_ACK at F ? !
      60 A: peer, greeted, key pinned
      60 A: IPv4 none to A-F, confirmed: no other pair works
      60 A > F ACK !
      530 F > A HELLO_ACK at F ? !
      560 A > F ACK !
      A has F of F; in A-F; out A-F; on A-F
      `,
  )
})

test('DI-7: a host that does not answer is asked three times, then after a minute, two, four, and once an hour at last', () => {
  const { net, mh } = strangers()
  net.cut.add(`${A} ${F}`)
  happens(
    net,
    130_000,
    () => mh.flow(A, 40000, F, 80),
    `
      0 +250 +500 A > F HELLO at A ?
      1750 A: plain, it does not answer IHMP
      61750 +250 +500 A > F HELLO at A ?
      63500 A: plain, it does not answer IHMP
      A has F of F; in none; out none; on none
      `,
  )
  const mark = net.log.length
  net.run(5 * 3_600_000)
  const minutes = net.log.slice(mark).map(({ at }) => Math.round(at / 60_000))
  assert.deepEqual([...new Set(minutes)], [3, 7, 15, 31, 63, 123, 183, 243])
})

test('a host that is known by datagrams alone is asked for its HELLO after 200 s, 400 s, and once an hour at last', () => {
  const { net, mh } = strangers()
  net.cut.add(`${A} ${F}`)
  happens(
    net,
    12_000_000,
    () => mh.datagrams(A, 5060, F, 5060),
    `
      0 +200000 +400000 +800000 +1600000 +3200000 +3600000 A > F SOLICIT
      A has F of F; in none; out none; on none
      `,
  )
})

test('DI-25: an address in another network is not tried from here; the peer tries it, three times', () => {
  const { net, mh } = pairOfHosts()
  mh.preferred = A
  happens(
    net,
    40_000,
    () => mh.set(`${A}/24`, '203.0.113.2/24'),
    `
      0 A > F ADDR_UP_UNREACHABLE new 203.0.113.2
      30 F > 203.0.113.2 PATH_PROBE ?
      30 F > A ACK
      60 203.0.113.2 > F ACK ? !
      90 F > 203.0.113.2 ACK !
      A has F of F; in A-F,203.0.113.2-F; out A-F,203.0.113.2-F; on A-F
      F has A,203.0.113.2 of A,203.0.113.2; in F-A,F-203.0.113.2; out F-A,F-203.0.113.2; on F-A
      `,
  )
})

test('DI-20: what is not acknowledged is repeated six times, by the round trip that was measured', () => {
  const { net, mh } = twoWays()
  lose(net, Control.ACK, 60_000)
  happens(
    net,
    6_900,
    () => mh.set(`${A}/24`),
    `
      0 A > F ADDR_DOWN PF lost B
      30 F > A ACK
      200 A > F ADDR_DOWN PF lost B
      230 F > A ACK
      600 A > F ADDR_DOWN PF lost B
      630 F > A ACK
      1400 A > F ADDR_DOWN PF lost B
      1430 F > A ACK
      3000 A > F ADDR_DOWN PF lost B
      3030 F > A ACK
      5000 A > F ADDR_DOWN PF lost B
      5030 F > A ACK
      A has F of F; in A-F,B-F; out A-F; on A-F
      F has A of A,B; in F-A,F-B; out F-A; on F-A
      `,
  )
})

test('DI-28, DI-30, DI-33: a soft handoff', () => {
  const { net, mh } = pairOfHosts()
  mh.preferred = B
  happens(
    net,
    1_000,
    () => mh.set(`${A}/24`, `${B}/24`),
    `
      0 B > F ADDR_UP PF new B ?
      30 F > B ACK ? !
      60 A: IPv4 A-F to B-F, confirmed: the routes of this host prefer B
      60 B > F ACK !
      90 F: IPv4 F-A to F-B, confirmed: the other host asked to be reached at B
      A has F of F; in A-F,B-F; out A-F,B-F; on B-F
      F has A,B of A,B; in F-A,F-B; out F-A,F-B; on F-B
      `,
  )
  happens(
    net,
    9_999,
    () => mh.set(`${B}/24`),
    `
      0 B > F ADDR_DOWN PF lost A
      30 F > B ACK
      B has F of F; in A-F,B-F; out B-F; on B-F
      F has B of A,B; in F-A,F-B; out F-B; on F-B
      `,
  )
  happens(
    net,
    31,
    () => {},
    `
      B has F of F; in B-F; out B-F; on B-F
      F has B of A,B; in F-B; out F-B; on F-B
      `,
  )
})

test('DI-28: the answer to a new address, or what confirms it to the peer, is lost', () => {
  for (const from of [F, B]) {
    const { net, mh } = pairOfHosts()
    mh.preferred = B
    net.intercept = (packet, { control }) =>
      control === Control.ACK && packet.from === from && net.now < 5_400 ? undefined : packet
    const [first, second] = [
      `
      0 B > F ADDR_UP PF new B ?
      30 F > B ACK ? !
      200 B > F ADDR_UP PF new B ?
      230 F > B ACK ? !
      230 F > B PATH_PROBE ?
      260 B > F ACK ? !
      290 F: IPv4 F-A to F-B, confirmed: the other host asked to be reached at B
      290 F > B ACK !
      460 B > F PATH_PROBE ?
      490 F > B ACK !
      520 A: IPv4 A-F to B-F, confirmed: the routes of this host prefer B
      600 B > F ADDR_UP PF new B ?
      630 F > B ACK ? !
      660 B > F ACK !
      A has F of F; in A-F,B-F; out A-F,B-F; on B-F
      F has A,B of A,B; in F-A,F-B; out F-A,F-B; on F-B
      `,
      `
      0 B > F ADDR_UP PF new B ?
      30 F > B ACK ? !
      60 A: IPv4 A-F to B-F, confirmed: the routes of this host prefer B
      60 B > F ACK !
      230 F > B PATH_PROBE ?
      260 B > F ACK !
      430 F > B PATH_PROBE ?
      460 B > F ACK !
      490 F: IPv4 F-A to F-B, confirmed: the other host asked to be reached at B
      A has F of F; in A-F,B-F; out A-F,B-F; on B-F
      F has A,B of A,B; in F-A,F-B; out F-A,F-B; on F-B
      `,
    ]
    happens(net, 20_000, () => mh.set(`${A}/24`, `${B}/24`), from === F ? first : second)
  }
})

test('DI-36: a hard handoff whose first two messages are lost', () => {
  const { net, mh } = pairOfHosts()
  mh.preferred = B
  lose(net, Control.HANDOFF, 300)
  happens(
    net,
    12_000,
    () => mh.set(`${B}/24`),
    `
      0 B: peer, detached: no way to it
      0 +200 +400 B > F HANDOFF PF new B lost A ?
      630 F: peer, detached: no way to it
      630 F > B ACK ? !
      660 B: IPv4 A-F to B-F, confirmed: no other pair works
      660 B: peer, attached again
      660 B > F ACK !
      690 F: IPv4 F-A to F-B, confirmed: the other host asked to be reached at B
      690 F: peer, attached again
      B has F of F; in B-F; out B-F; on B-F
      F has B of A,B; in F-B; out F-B; on F-B
      `,
  )
})

test('DI-16: a path falls silent, another one is taken, and the first is asked again', () => {
  const { net, mh, hid } = twoWays()
  net.cut.add(`${A} ${F}`)
  happens(
    net,
    1_000_000,
    () => mh.machine.handleSuspicion(hid, net.now),
    `
      0 A > F PATH_PROBE ?
      0 B > F PATH_PROBE ?
      30 F > B ACK !
      200 +400 +800 A > F PATH_PROBE ?
      3000 A: IPv4 A-F to B-F, silent path: no other pair works
      3000 B > F PATH_PROBE PF ?
      3030 F: IPv4 F-A to F-B, path probe: the other host asked to be reached at B
      3030 F > B ACK !
      18000 +200 +400 +29400 +200 +400 +59400 +200 +400 +119400 +200 +400 +239400 +200 +400 +299400 +200 +400 A > F PATH_PROBE ?
      A has F of F; in B-F; out B-F; on B-F
      F has A,B of A,B; in F-A,F-B; out F-A,F-B; on F-B
      `,
  )
  net.cut.clear()
  happens(
    net,
    60_000,
    () => mh.machine.handleRoutes(net.now),
    `
      0 A > F PATH_PROBE ?
      30 F > A ACK !
      60 A: IPv4 B-F to A-F, confirmed: the routes of this host prefer A
      60 A > F PATH_PROBE PF ?
      90 F: IPv4 F-B to F-A, path probe: the other host asked to be reached at A
      90 F > A ACK !
      A has F of F; in B-F,A-F; out B-F,A-F; on A-F
      F has A,B of A,B; in F-A,F-B; out F-A,F-B; on F-A
      `,
  )
})

test('DI-32, D2: the only address is lost: told from any that comes, until flows are given up', () => {
  const { net, mh } = pairOfHosts()
  happens(
    net,
    1_000,
    () => mh.set(),
    `
      0 nowhere: peer, detached: no way to it
      nowhere has F of F; in A-F; out none; on A-F
      F has A of A; in F-A; out F-A; on F-A
      `,
  )
  net.cut.add(`${B} ${F}`)
  happens(
    net,
    130_000,
    () => mh.set(`${B}/24`),
    `
      0 +200 +400 +800 +1600 +2000×58 B > F HANDOFF PF new B lost A ?
      119000 B: 1 gone, no way to it within the hold time
      F has A of A; in F-A; out F-A; on F-A
      `,
  )
})

test('D2: a path that only fell silent: the applications hear of it, and the host is believed when it speaks again', () => {
  const { net, mh, ch, hid } = pairOfHosts()
  net.cut.add(`${A} ${F}`)
  happens(
    net,
    130_000,
    () => mh.machine.handleSuspicion(hid, net.now),
    `
      0 +200 +400 +800 A > F PATH_PROBE ?
      3000 A: peer, detached: no way to it
      3000 +200 +400 +800 +1600 +2000×58 A > F ADDR_UP PF new A ?
      123000 A: peer, silent for long: it may sleep
      123000 A: 1 silent
      A has none of F; tries F; in A-F; out none; on A-F
      F has A of A; in F-A; out F-A; on F-A
      `,
  )
  net.cut.clear()
  happens(
    net,
    10_000,
    () => ch.machine.handleSuspicion([...ch.machine.hosts()][0]!.row.hid, net.now),
    `
      0 F > A PATH_PROBE ?
      30 A: peer, detached: no way to it
      30 A > F ACK ? !
      60 F > A ACK !
      90 A: resumed A-F
      90 A: peer, attached again
      A has F of F; in A-F; out A-F; on A-F
      F has A of A; in F-A; out F-A; on F-A
      `,
  )
})

test('D3: both move at once, and either knows only where the other was', () => {
  const { net, mh, ch } = pairOfHosts()
  const G = '10.4.0.2'
  happens(
    net,
    20_000,
    () => {
      mh.preferred = B
      ch.preferred = G
      mh.set(`${B}/24`)
      ch.set(`${F}/24`, `${G}/24`)
      ch.set(`${G}/24`)
      mh.machine.handleNames([G], net.now)
    },
    `
      0 B: peer, detached: no way to it
      0 B > F HANDOFF PF new B lost A ?
      0 10.4.0.2 > A ADDR_UP PF new 10.4.0.2 ?
      0 10.4.0.2: peer, detached: no way to it
      0 10.4.0.2 > A HANDOFF PF new 10.4.0.2 lost F ?
      0 B > 10.4.0.2 HANDOFF PF new B lost A ?
      30 10.4.0.2 > B ACK ? !
      60 B: IPv4 A-F to B-10.4.0.2, confirmed: no other pair works
      60 B: peer, attached again
      60 B > 10.4.0.2 ACK !
      90 10.4.0.2: IPv4 F-A to 10.4.0.2-B, confirmed: the other host asked to be reached at B
      90 10.4.0.2: peer, attached again
      200 +400 +800 +1600 +2000 B > F HANDOFF PF new B lost A ?
      B has F,10.4.0.2 of F,10.4.0.2; in B-10.4.0.2; out B-10.4.0.2; on B-10.4.0.2
      10.4.0.2 has B of A,B; in 10.4.0.2-B; out 10.4.0.2-B; on 10.4.0.2-B
      `,
  )
})

test('DI-43, DI-44: behind a NAT that does not know IHMP', () => {
  const { net, mh } = pairOfHosts()
  net.nat.set(B, NAT)
  mh.preferred = A
  happens(
    net,
    30_000,
    () => mh.set(`${A}/24`, `${B}/24`),
    `
      0 B > F ADDR_UP new B ?
      30 F > NAT ACK ND !
      60 A: peer, B is behind a NAT that does not know IHMP
      A has F of F; in A-F,B-F; out A-F; on A-F
      F has A of A,NAT,B; tries B; in F-A; out F-A; on F-A
      `,
  )
})

test('DI-41: behind one that does, to and fro', () => {
  const { net, mh } = pairOfHosts()
  net.nat.set(B, NAT)
  net.intercept = (packet) => {
    if (packet.from !== B) return packet
    const bytes = packet.bytes.slice()
    bytes[5] = bytes[5]! | Option.NS
    return { ...packet, bytes }
  }
  mh.preferred = B
  happens(
    net,
    12_000,
    () => mh.set(`${B}/24`),
    `
      0 B: peer, detached: no way to it
      0 B > F HANDOFF PF new B lost A ?
      30 F: peer, detached: no way to it
      30 F > NAT ACK ? !
      60 B: IPv4 A-F to B-F, confirmed: no other pair works
      60 B: peer, attached again
      60 B > F ACK !
      90 F: IPv4 F-A to F-NAT, confirmed: the other host asked to be reached at NAT
      90 F: peer, attached again
      B has F of F; in B-F; out B-F; on B-F
      F has NAT of A,NAT,B; behind NAT; in F-NAT; out F-NAT; on F-NAT
      `,
  )
  mh.preferred = A
  happens(
    net,
    12_000,
    () => mh.set(`${A}/24`),
    `
      0 A: peer, detached: no way to it
      0 A > F HANDOFF PF new A lost B ?
      30 F > A ACK ? !
      60 A: IPv4 B-F to A-F, confirmed: no other pair works
      60 A: peer, attached again
      60 A > F ACK !
      90 F: IPv4 F-NAT to F-A, confirmed: the other host asked to be reached at A
      A has F of F; in A-F; out A-F; on A-F
      F has NAT,A of A,NAT,B; behind NAT; in F-NAT,F-A; out F-NAT,F-A; on F-A
      `,
  )
})

test('DI-45: a host that begins behind one that does not', () => {
  const { net, mh, ch } = strangers()
  net.nat.set(A, NAT)
  happens(
    net,
    30_000,
    () => {
      ch.flow(F, 80, NAT, 40000)
      mh.flow(A, 40000, F, 80)
    },
    `
      0 F > NAT HELLO at F ?
      0 A > F HELLO at A ?
      30 F > NAT HELLO_ACK ND at F ? !
      60 A > F HELLO NF at A ?
      90 F > NAT HELLO_ACK ND NF at F ? !
      90 F: forced, behind a NAT that does not know IHMP
      120 A: forced, this host is behind a NAT that does not know IHMP
      A has F of F; in none; out none; on none
      F has NAT of NAT; in none; out none; on none
      `,
  )
})

test('DI-6: the only access of a family goes: the flows cross when the peer agrees, and come back', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24@acc1`, `${A6}/64@acc1`)
  ch.set(`${F}/24`, `${F6}/64`)
  connected(net, mh, A, ch, F)
  happens(
    net,
    2_000,
    () => mh.set(`${A6}/64@acc1`),
    `
      0 A6 > F6 ADDR_DOWN PF lost A
      30 F6 > A6 ACK
      300 A6 > F6 PATH_PROBE CF ?
      330 F: IPv4 F-A to F6-A6, path probe: the other host asked to be reached at A6
      330 F6 > A6 ACK CF !
      360 A6: IPv4 A-F to A6-F6, other family: no other pair works
      A6 has F,F6 of F,F6; in A-F,A6-F6; out A6-F6; on A6-F6,A6-F6
      F has A6 of A,A6; in F-A,F6-A6; out F6-A6; on F6-A6,F6-A6
      `,
  )
  assert.deepEqual([...[...ch.machine.hosts()][0]!.row.crossed], [4])
  happens(
    net,
    60_089,
    () => mh.set(`${A}/24@acc1`, `${A6}/64@acc1`),
    `
      0 A > F ADDR_UP PF new A ?
      30 F > A ACK ? !
      60 A: IPv4 A6-F6 to A-F, confirmed: no other pair works
      60 A > F ACK !
      90 F: IPv4 F6-A6 to F-A, confirmed: the other host asked to be reached at A
      A has F,F6 of F,F6; in A-F,A6-F6; out A6-F6,A-F; on A-F,A6-F6
      F has A6,A of A,A6; in F-A,F6-A6; out F6-A6,F-A; on F-A,F6-A6
      `,
  )
  assert.deepEqual([...[...ch.machine.hosts()][0]!.row.crossed], [4])
  net.run(net.now + 1)
  assert.deepEqual([...[...ch.machine.hosts()][0]!.row.crossed], [])
})

test('a move by hand, the routes’ wish, and back', () => {
  const { net, mh, hid } = twoWays()
  happens(
    net,
    500,
    () => assert.ok(mh.machine.move(hid, B, net.now)),
    `
      0 A: IPv4 A-F to B-F, command: moved to B by hand
      0 B > F PATH_PROBE PF ?
      30 F: IPv4 F-A to F-B, path probe: the other host asked to be reached at B
      30 F > B ACK !
      A has F of F; in A-F,B-F; out A-F,B-F; on B-F
      F has A,B of A,B; in F-A,F-B; out F-A,F-B; on F-B
      `,
  )
  happens(
    net,
    500,
    () => assert.ok(!mh.machine.move(hid, '10.9.9.9', net.now)),
    `
      A has F of F; in A-F,B-F; out A-F,B-F; on B-F
      F has A,B of A,B; in F-A,F-B; out F-A,F-B; on F-B
      `,
  )
  happens(
    net,
    500,
    () => mh.machine.giveBack(hid, undefined, net.now),
    `
      0 A: IPv4 B-F to A-F, command: the routes of this host prefer A
      0 A > F PATH_PROBE PF ?
      30 F: IPv4 F-B to F-A, path probe: the other host asked to be reached at A
      30 F > A ACK !
      A has F of F; in A-F,B-F; out A-F,B-F; on A-F
      F has A,B of A,B; in F-A,F-B; out F-A,F-B; on F-A
      `,
  )
  mh.preferred = B
  happens(
    net,
    500,
    () => mh.machine.handlePreferences(net.now),
    `
      0 A: IPv4 A-F to B-F, route: the routes of this host prefer B
      0 B > F PATH_PROBE PF ?
      30 F: IPv4 F-A to F-B, path probe: the other host asked to be reached at B
      30 F > B ACK !
      A has F of F; in A-F,B-F; out A-F,B-F; on B-F
      F has A,B of A,B; in F-A,F-B; out F-A,F-B; on F-B
      `,
  )
})

test('DI-40: a new key, announced, challenged and proven; the challenge is lost', () => {
  const { net, mh } = pairOfHosts()
  mh.key = generateOwnKey()
  lose(net, Control.ACK, 100)
  happens(
    net,
    10_000,
    () => mh.machine.rekey(net.now),
    `
      0 A > F KEY_CHANGE
      30 F > A ACK ?
      200 A > F KEY_CHANGE
      230 F > A ACK ?
      260 A > F KEY_CHANGE !
      290 F > A ACK
      290 F: peer, has another key
      320 A > F ACK
      320 A: peer, knows the new key of this host
      A has F of F; in A-F; out A-F; on A-F
      F has A of A; in F-A; out F-A; on F-A
      `,
  )
  assert.deepEqual([...net.hosts[1]!.machine.hosts()][0]!.row.key, mh.key.publicKey)
})

test('DI-40: a new key of which nothing is heard is announced again after half a minute', () => {
  const { net, mh } = pairOfHosts()
  mh.key = generateOwnKey()
  lose(net, Control.KEY_CHANGE, 60_000)
  happens(
    net,
    50_000,
    () => mh.machine.rekey(net.now),
    `
      0 +200 +400 +800 +1600 +2000 +32000 +200 +400 +800 +1600 +2000 A > F KEY_CHANGE
      A has F of F; in A-F; out A-F; on A-F
      F has A of A; in F-A; out F-A; on F-A
      `,
  )
})

test('a host without flows is forgotten after five minutes', () => {
  const { net, mh, hid } = pairOfHosts()
  const from = net.now
  mh.machine.handleIdle(hid, from)
  net.run(from + 200_000)
  mh.machine.handleIdle(hid, net.now)
  net.run(from + 299_999)
  assert.ok(mh.machine.host(hid) !== undefined)
  net.run(from + 300_000)
  assert.equal(mh.machine.host(hid), undefined)
})

test('issue 11, 4: a flow that the other end never sees is named four times, one that it has once', () => {
  const { net, mh, hid } = twoWays()
  mh.flow(A, 40001, F, 80)
  const flows = flowsOf(mh)
  for (const flow of flows) flow.taken = 'both'
  happens(
    net,
    20_000,
    () => mh.machine.moveFlows(hid, B, flows, net.now),
    `
      0 A: 2 diverted to B-F
      0 B > F MOVE_FLOWS flows 40000/40000,40001/40001 ?
      20 A > F FLOWS 1 proofs
      30 F: 1 diverted to F-B
      30 F > B ACK flows 80/80 !
      50 F > A ACK ?
      80 A > F ACK !
      1020 A > F FLOWS 1 proofs
      1050 F > A ACK ?
      1060 B > F MOVE_FLOWS flows 40001/40001 ?
      1080 A > F ACK !
      1090 F > B ACK flows  !
      3020 A > F FLOWS 1 proofs
      3050 F > A ACK ?
      3080 A > F ACK !
      3120 B > F MOVE_FLOWS flows 40001/40001 ?
      3150 F > B ACK flows  !
      7020 A > F FLOWS 1 proofs
      7050 F > A ACK ?
      7080 A > F ACK !
      7180 B > F MOVE_FLOWS flows 40001/40001 ?
      7210 F > B ACK flows  !
      15020 A > F FLOWS 1 proofs
      15050 F > A ACK ?
      15080 A > F ACK !
      A has F of F; in A-F,B-F; out A-F,B-F; on A-F
      F has A,B of A,B; in F-A,F-B; out F-A,F-B; on F-A
      `,
  )
})

test('issue 10, C 2: another port for what is stuck where it has been before', () => {
  const { net, mh, hid } = pairOfHosts()
  for (const ip of [B, A]) {
    mh.preferred = ip
    mh.set(`${ip}/24`)
    net.run(net.now + 2_000)
  }
  const repeated = (after: number): void => {
    mh.machine.handleSuspicion(hid, net.now)
    net.run(net.now + after)
    mh.machine.handleRepeated(flowsOf(mh), net.now)
  }
  happens(
    net,
    3_000,
    () => repeated(1_561),
    `
      0 A > F PATH_PROBE ?
      30 F > A ACK !
      A has F of F; in A-F,B-F; out A-F; on A-F
      F has A of A,B; in F-A,F-B; out F-A; on F-A
      `,
  )
  happens(
    net,
    3_000,
    () => repeated(1_560),
    `
      0 A > F PATH_PROBE ?
      30 F > A ACK !
      1560 A > F MOVE_FLOWS RF flows 40000/45615
      1590 F: 1 diverted to F-A, renumbered
      1590 F: resumed F-A
      1590 F > A ACK flows 80/80
      1620 A: 1 diverted to A-F, renumbered
      1620 A: resumed A-F
      A has F of F; in A-F,B-F; out A-F; on A-F
      F has A of A,B; in F-A,F-B; out F-A; on F-A
      `,
  )
})

test('proofs of flows that the other end has not, by either end', () => {
  const { net, mh } = pairOfHosts()
  happens(
    net,
    700_000,
    () => {
      mh.flow(A, 40001, F, 80)
      mh.flow(A, 22, F, 50000)
    },
    `
      20 A > F FLOWS 1 proofs
      50 F > A ACK ?
      80 A > F ACK !
      1020 A > F FLOWS 1 proofs
      1050 F > A ACK ?
      1080 A > F ACK !
      3000 A > F FLOWS 2 proofs
      3030 F > A ACK ?
      3060 A > F ACK !
      4000 A > F FLOWS 1 proofs
      4030 F > A ACK ?
      4060 A > F ACK !
      6000 A > F FLOWS 1 proofs
      6030 F > A ACK ?
      6060 A > F ACK !
      7000 A > F FLOWS 1 proofs
      7030 F > A ACK ?
      7060 A > F ACK !
      10000 A > F FLOWS 1 proofs
      10030 F > A ACK ?
      10060 A > F ACK !
      15000 A > F FLOWS 1 proofs
      15030 F > A ACK ?
      15060 A > F ACK !
      18000 A > F FLOWS 1 proofs
      18030 F > A ACK ?
      18060 A > F ACK !
      31000 A > F FLOWS 1 proofs
      31030 F > A ACK ?
      31060 A > F ACK !
      34000 A > F FLOWS 1 proofs
      34030 F > A ACK ?
      34060 A > F ACK !
      63000 A > F FLOWS 1 proofs
      63030 F > A ACK ?
      63060 A > F ACK !
      66000 A > F FLOWS 1 proofs
      66030 F > A ACK ?
      66060 A > F ACK !
      123000 A > F FLOWS 1 proofs
      123030 F > A ACK ?
      123060 A > F ACK !
      126000 A > F FLOWS 1 proofs
      126030 F > A ACK ?
      126060 A > F ACK !
      A has F of F; in A-F; out A-F; on A-F
      F has A of A; in F-A; out F-A; on F-A
      `,
  )
})

test('a restart forgets nothing that was saved', () => {
  const { net, mh, hid } = twoWays()
  net.nat.set('10.7.0.2', NAT)
  mh.machine.moveFlows(hid, B, flowsOf(mh), net.now)
  net.run(net.now + 1_000)
  const saved = mh.machine.save()
  const again = net.host()
  for (const each of saved) again.machine.restore(each)
  for (const flow of flowsOf(mh)) {
    again.machine.handleFlow(flow, net.now)
    again.tables.addSocket({ ...flow, taken: undefined })
    again.machine.handleSocket(flowsOf(again).at(-1)!, net.now)
  }
  assert.deepEqual(again.machine.save(), saved)
  assert.equal(saved[0]!.taken.length, 1)
  assert.equal(saved[0]!.diversions!.length, 1)
})

/**
 * Who says what, when, in the situations of IHMP (paper § III-B to III-D): whole sequences, with every repetition and its time, and
 * what both ends have of each other afterwards. A line is milliseconds, then a message with its options and addresses (`?`
 * brings a challenge, `!` answers one), or what an end makes known. A and B are addresses of the mobile host, F of the other.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Control } from '../../../src/translation/wire.ts'
import { A, B, F, pairOfHosts } from './network.ts'
import { connect, happens, lose, strangers, twoWays } from './situations.ts'

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
      80 A > F FLOWS 1 proofs
      90 F: peer, greeted, key pinned
      90 F: IPv4 none to F-A, confirmed: no other pair works
      110 F > A ACK ?
      140 A > F ACK !
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
      580 +250 A > F FLOWS 1 proofs
      1030 F > A HELLO_ACK at F ? !
      1060 A > F ACK !
      1090 F: peer, greeted, key pinned
      1090 F: IPv4 none to F-A, confirmed: no other pair works
      1330 A > F FLOWS 1 proofs
      1360 F > A ACK ?
      1390 A > F ACK !
      1580 A > F FLOWS 1 proofs
      1610 F > A ACK ?
      1640 A > F ACK !
      3580 A > F FLOWS 1 proofs
      3610 F > A ACK ?
      3640 A > F ACK !
      7580 A > F FLOWS 1 proofs
      7610 F > A ACK ?
      7640 A > F ACK !
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
      80 A > F FLOWS 1 proofs
      90 F: peer, greeted without a key
      90 F: IPv4 none to F-A, confirmed: no other pair works
      110 F > A ACK ?
      140 A > F ACK !
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
      80 +200 A > F FLOWS 1 proofs
      530 F > A HELLO_ACK at F ? !
      560 A > F ACK !
      680 +400 +200×3 +800 +600 +0 +200 +400×3 +600 +1000 +0 +1000 +200 +400×3 +1600 +2000 +3000 +200 +400 +800 +1600 +2000 +11000 +200 +400 +800 +1600 +2000 A > F FLOWS 1 proofs
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

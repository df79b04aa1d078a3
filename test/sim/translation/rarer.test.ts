/** As sequences.test.ts, for what is rarer: NATs, the other family, moves by hand, new keys, single flows, a restart. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateOwnKey } from '../../../src/translation/keys.ts'
import { Control, Option } from '../../../src/translation/wire.ts'
import { A, B, connected, F, pairOfHosts, SimNetwork } from './network.ts'
import { A6, F6, flowsOf, happens, lose, NAT, strangers, twoWays } from './situations.ts'

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
      60 A > F HELLO NF at A ? !
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
  mh.machine.handleTimeout(net.now) // of whatever else is due
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
  lose(net, Control.ADDR_DOWN, 10_000)
  mh.set(`${B}/24`)
  net.run(net.now + 1_000)
  const saved = mh.machine.save()
  assert.deepEqual(saved[0]!.lost, [A])
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

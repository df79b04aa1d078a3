/** Messages that make no sense, come from nobody, or ask for too much; and what is rare with addresses and flows. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateOwnKey, nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import { ReplayWindow } from '../../../src/translation/machine/host.ts'
import { bytesOf, compile, type SocketRow } from '../../../src/translation/tables.ts'
import { Control, encodeSigned, ihmp } from '../../../src/translation/wire.ts'
import { A, B, connected, F, pairOfHosts, peerOf, rowsOf, type SimHost, SimNetwork } from './network.ts'
import { flowsOf, lose, says, strangers, twoWays } from './situations.ts'

const C = '10.7.0.2'
const [A6, F6] = ['fd00:1::2', 'fd00:3::2']

const flowAt = (host: SimHost, port: number): SocketRow =>
  flowsOf(host).find((f) => f.localPort === port || f.foreignPort === port)!

test('a message without what it is about changes nothing, and is not answered', () => {
  const { net, mh, ch } = pairOfHosts()
  const before = rowsOf(ch)
  const { ADDR_UP, HANDOFF, ADDR_UP_UNREACHABLE, HANDOFF_UNREACHABLE, KEY_CHANGE, FLOWS } = Control
  const pair = { local: F, foreign: A }
  for (const control of [ADDR_UP, HANDOFF, ADDR_UP_UNREACHABLE, HANDOFF_UNREACHABLE, KEY_CHANGE, FLOWS]) {
    const mark = net.log.length
    says(net, mh, ch, pair, { control, challenge: new Uint8Array(16) })
    net.run(net.now + 1_000)
    assert.deepEqual(net.types(mark), [], `type ${control}`)
  }
  says(net, mh, ch, pair, { control: Control.MOVE_FLOWS })
  assert.deepEqual(rowsOf(ch), before)
  assert.equal(peerOf(ch).diversions.size, 0)
})

test('bytes that are no message, or are too many, bring no answer and no row', () => {
  const { net, mh, ch } = pairOfHosts()
  const mark = net.log.length
  const { malformed } = ch.machine.stats
  const lostAddresses = Array.from({ length: 58 }, (_, n) => bytesOf(`fd00::${n + 1}`))
  const whole = {
    ...{ control: Control.ADDR_DOWN, options: 0, sequence: 1, hostId: bytesOf(A), receiver: bytesOf(F) },
    ...{ counter: (1_700_000_000_000 + net.now) * 1_000, lostAddresses },
  }
  const long = encodeSigned(whole, (bytes) => nodeIhmpCrypto.sign(mh.key!, bytes))
  assert.ok(long.length > 1_200)
  for (const bytes of [new Uint8Array(0), new Uint8Array(1_500), Uint8Array.of(0x49, 0x48, 1), long])
    ch.machine.handleMessage(bytes, { local: F, foreign: A }, 0, net.now)
  net.run(net.now + 1_000)
  assert.equal(ch.machine.stats.malformed - malformed, 4)
  assert.equal(net.log.length, mark)
})

test('DI-23: the third message makes a row only with the key of the first', () => {
  const { net, mh, ch } = strangers()
  let forge = true
  net.intercept = (packet, message) => {
    if (!forge || message.control !== Control.ACK) return packet
    const { signature: _, ...rest } = message
    const other = generateOwnKey()
    return { ...packet, bytes: encodeSigned(rest, (bytes) => nodeIhmpCrypto.sign(other, bytes)) }
  }
  ch.flows.push({ local: F, foreign: A })
  mh.flow(A, 40000, F, 80)
  net.run(100)
  assert.equal([...ch.machine.hosts()].length, 0)
  assert.ok(ch.machine.stats.unauthenticated > 0)
  forge = false
  net.run(2_000)
  assert.equal(peerOf(ch).state, 'peer', 'the answer is repeated, and answered')
})

test('DI-20: without keys the answer to a HELLO counts only with the secret of both', () => {
  for (const honest of [true, false]) {
    const { net, mh, ch } = strangers({ unsigned: 'allow' })
    mh.key = ch.key = undefined
    net.intercept = (packet, message) => {
      if (honest || message.control !== Control.HELLO_ACK) return packet
      const bytes = packet.bytes.slice()
      bytes[bytes.length - 1]! ^= 1
      return { ...packet, bytes }
    }
    ch.flows.push({ local: F, foreign: A })
    mh.flow(A, 40000, F, 80)
    net.run(5_000)
    assert.equal(peerOf(mh).state === 'peer', honest)
    if (!honest) continue
    mh.preferred = B
    mh.set(`${B}/24`)
    net.run(net.now + 3_000)
    assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: B })
  }
})

test('DI-15: a host that only datagrams had shown is greeted when there is a connection with it', () => {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24`)
  ch.set(`${F}/24`)
  const hid = mh.datagrams(A, 5000, F, 5005)
  net.run(1_000)
  assert.deepEqual(net.types(), [`SOLICIT ${A}>${F}`])
  ch.flows.push({ local: F, foreign: A })
  assert.equal(mh.flow(A, 40000, F, 80), hid)
  net.run(net.now + 1_000)
  assert.equal(peerOf(mh).state, 'peer')
})

test('RFC 4862 §5.5.4: a deprecated address is not told, and stays where it is in use', () => {
  const { net, mh, ch } = pairOfHosts()
  const mark = net.log.length
  const own = [
    { ip: A, prefixLength: 24, device: 'acc', deprecated: true },
    { ip: B, prefixLength: 24, device: 'acc', deprecated: true },
  ]
  net.cut.add(`${B} ${F}`)
  mh.machine.handleLocal(own, net.now)
  net.run(net.now + 20_000)
  assert.ok(!net.types(mark).some((type) => type.startsWith('ADDR_UP_UNREACHABLE')), net.types(mark).join())
  assert.deepEqual(peerOf(ch).row.current[4], { local: F, foreign: A })
  assert.ok(!peerOf(ch).known.has(B))
})

test('DI-33: a loss that waits for its acknowledgement is not told again because of another', () => {
  const { net, mh } = twoWays()
  mh.set(`${A}/24`, `${B}/24`, `${C}/24`)
  net.run(net.now + 2_000)
  mh.preferred = B
  const mark = net.log.length
  mh.set(`${B}/24`, `${C}/24`)
  net.run(net.now + 10)
  mh.set(`${B}/24`)
  net.run(net.now + 5_000)
  const told = net.types(mark).filter((type) => type.startsWith('ADDR_DOWN'))
  assert.equal(told.length, 2)
})

test('what was said of a flow ends with the flow', () => {
  const { net, mh, ch, hid } = twoWays()
  mh.machine.moveFlows(hid, B, flowsOf(mh), net.now)
  net.run(net.now + 1_000)
  for (const host of [mh, ch]) {
    assert.equal(compile(host.tables)[4].out_one.size, 1)
    host.tables.removeSocket(flowsOf(host)[0]!.id)
  }
  mh.set(`${A}/24`, `${B}/24`, `${C}/24`)
  net.run(net.now + 2_000)
  for (const host of [mh, ch]) assert.equal(peerOf(host).diversions.size, 0)
})

test('proofs that were never completed are forgotten when there are sixteen newer ones', () => {
  const { net, mh, ch } = pairOfHosts()
  let third: Uint8Array | undefined
  net.intercept = (packet, message) => {
    if (packet.from !== A || message.control !== Control.ACK) return packet
    third ??= message.response
    return undefined
  }
  mh.flow(A, 40009, F, 80)
  ch.flow(F, 80, A, 40009)
  net.run(net.now + 100)
  const flow = flowAt(ch, 40009)
  assert.equal(flow.taken, 'in')
  const pair = { local: F, foreign: A }
  const flowPair = { own: bytesOf(A), other: bytesOf(F) }
  for (let n = 0; n < 16; n++) says(net, mh, ch, pair, { control: Control.FLOWS, flowPair, flowTags: [] })
  says(net, mh, ch, pair, { control: Control.ACK, response: third! })
  assert.equal(flow.taken, 'in')
  assert.equal(peerOf(ch).batches.size, 16)
})

test('E-6: a connection that a host has proven is no other’s, true tags or not, as long as the host answers', () => {
  const net = new SimNetwork(9)
  const [v, s, m] = [net.host(), net.host(), net.host()]
  v.set(`${F}/24`)
  for (const [host, ip, port] of [
    [s, A, 40001],
    [m, B, 40002],
  ] as const) {
    host.set(`${ip}/24`)
    host.flow(ip, port, F, 80)
    v.flow(F, 80, ip, port)
    net.run(net.now + 3_000)
  }
  const flow = flowAt(v, 40001)
  const owner = flow.hid
  assert.equal(flow.taken, 'both')
  m.flow(A, 40001, F, 80) // it knows where the streams begin
  net.run(net.now + 3_000)
  assert.equal(flow.hid, owner)
  net.hosts.splice(net.hosts.indexOf(s), 1)
  v.machine.handleSuspicion(owner, net.now)
  net.run(net.now + 60_000)
  assert.notEqual(flow.hid, owner, 'its other row')
})

test('issue 10, C 2: connections that are stuck are renumbered by one message; datagrams and unproven ones are left alone', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.flow(A, 40001, F, 80)
  ch.flow(F, 80, A, 40001)
  net.run(net.now + 1_000)
  for (const ip of [B, A]) {
    mh.preferred = ip
    mh.set(`${ip}/24`)
    net.run(net.now + 1_000)
  }
  mh.flow(A, 40002, F, 80) // which the other end does not have
  const { hid } = peerOf(mh).row
  const id = `udp-${A}-5000-${F}-5005`
  const udp: SocketRow = {
    ...{ id, protocol: 17, local: A, localPort: 5000, foreign: F, foreignPort: 5005 },
    ...{ hid, inode: 1, taken: 'both' },
  }
  mh.tables.addSocket(udp)
  mh.machine.handleSuspicion(hid, net.now)
  net.run(net.now + 500)
  const mark = net.log.length
  mh.machine.handleRepeated(flowsOf(mh), net.now)
  net.run(net.now + 1_000)
  const moves = net.log.slice(mark).flatMap(({ bytes }) => {
    const message = ihmp.decode(bytes)
    return message.ok && message.value.control === Control.MOVE_FLOWS ? [message.value] : []
  })
  assert.deepEqual(
    moves.map(({ flowEnds }) => flowEnds?.map(({ ownPort }) => ownPort)),
    [[40000, 40001]],
  )
  const wire = moves[0]!.flowEnds!.map(({ wirePort }) => wirePort)
  assert.equal(new Set([...wire, 40000, 40001]).size, 4)
})

/** Two hosts of both families; their IPv4 has gone and the flow has crossed. */
function crossedPair() {
  const net = new SimNetwork()
  const [mh, ch] = [net.host(), net.host()]
  mh.set(`${A}/24@acc1`, `${A6}/64@acc2`)
  ch.set(`${F}/24`, `${F6}/64`)
  connected(net, mh, A, ch, F)
  mh.set(`${A6}/64@acc2`)
  net.run(net.now + 2_000)
  assert.equal(compile(ch.tables)[4].cross_in.size, 1)
  return { net, mh, ch }
}

test('DI-6: a family whose way back does not last is still taken from the other', () => {
  const { net, mh, ch } = crossedPair()
  mh.set(`${A}/24@acc1`, `${A6}/64@acc2`)
  net.run(net.now + 30_000)
  lose(net, Control.PATH_PROBE, 60_000) // nobody asks whether it still is
  mh.set(`${A6}/64@acc2`)
  net.run(net.now + 40_000)
  assert.equal(compile(ch.tables)[4].cross_in.size, 1)
})

test('DI-6: a daemon that is started anew takes flows from the other family as before', () => {
  const { net, ch } = crossedPair()
  const again = net.host()
  again.key = ch.key
  net.hosts.splice(net.hosts.indexOf(ch), 1)
  for (const each of ch.machine.save()) again.machine.restore(each)
  again.flow(F, 80, A, 40000)
  again.set(`${F}/24`, `${F6}/64`)
  assert.deepEqual([...compile(again.tables)[4].cross_in.keys()], [...compile(ch.tables)[4].cross_in.keys()])
})

test('E-6: where the kernel tells nothing of a connection nothing is said of it, and nothing believed', () => {
  for (const untold of ['mh', 'ch'] as const) {
    const { net, mh, ch } = strangers()
    const hosts = { mh, ch }
    hosts[untold].untold = true
    mh.flow(A, 40000, F, 80)
    ch.flow(F, 80, A, 40000)
    net.run(20_000)
    const flows = net.types().filter((type) => type.startsWith('FLOWS'))
    const other = untold === 'mh' ? `FLOWS ${F}>${A}` : `FLOWS ${A}>${F}`
    assert.deepEqual([...new Set(flows)], [other])
    for (const host of [mh, ch]) assert.equal(flowsOf(host)[0]!.taken, undefined)
  }
})

test('what was proven before a restart counts for the sockets that are there then, not for later ones', () => {
  const { net, mh, ch } = pairOfHosts()
  const again = net.host()
  again.key = ch.key
  net.hosts.splice(net.hosts.indexOf(ch), 1)
  net.hosts.splice(net.hosts.indexOf(mh), 1)
  for (const each of ch.machine.save()) again.machine.restore(each)
  again.flow(F, 80, A, 40000)
  assert.equal(flowsOf(again)[0]!.taken, 'both')
  again.set(`${F}/24`)
  again.flow(F, 80, A, 40000) // another socket of the same name
  assert.equal(flowsOf(again)[0]!.taken, undefined)
})

test('DI-7: a host that did not answer is asked again at once when the address of its flow is back', () => {
  const net = new SimNetwork()
  const mh = net.host()
  mh.set(`${A}/24`)
  mh.flow(A, 40000, F, 80)
  net.run(10_000)
  assert.equal(peerOf(mh).state, 'plain')
  mh.set(`${B}/24`)
  net.run(net.now + 100_000)
  assert.equal(net.log.length, 3)
  mh.set(`${A}/24`)
  assert.equal(net.log.length, 4)
})

test('DI-22: who has been greeted meanwhile does not go on with its own HELLO', () => {
  const { net, mh, ch } = strangers()
  net.intercept = (packet, { control }) =>
    packet.from === A && control === Control.HELLO ? undefined : packet
  mh.flow(A, 40000, F, 80)
  ch.flow(F, 80, A, 40000)
  net.run(200)
  assert.equal(peerOf(mh).state, 'peer')
  assert.equal(peerOf(mh).requests.size, 0)
})

test('forged acknowledgements cost checks only where they name what was asked, and of that eight', () => {
  const { net, mh } = pairOfHosts()
  net.cut.add(`${A} ${F}`)
  mh.machine.handleSuspicion(peerOf(mh).row.hid, net.now)
  mh.machine.rekey(net.now)
  net.run(net.now + 10)
  const [asked] = peerOf(mh).requests
  const forged = (sequence: number) => {
    const message = {
      ...{ control: Control.ACK, options: 0, sequence, hostId: bytesOf(F), receiver: bytesOf(A) },
      ...{ counter: (1_700_000_000_000 + net.now) * 1_000, response: new Uint8Array(16) },
    }
    const bytes = encodeSigned(message, (covered) => nodeIhmpCrypto.sign(STRANGER, covered))
    mh.machine.handleMessage(bytes, { local: A, foreign: F }, 0, net.now)
  }
  const STRANGER = generateOwnKey()
  const wrong = (asked!.message.sequence + 7) & 0xffff
  for (let n = 0; n < 200; n++) forged(wrong)
  const before = mh.checked
  for (let n = 0; n < 50; n++) forged(wrong)
  assert.equal(mh.checked, before, 'the share of the address is used up')
  for (let n = 0; n < 50; n++) forged(asked!.message.sequence)
  assert.equal(mh.checked - before, 8)
})

test('a host without flows asks for nothing before its five minutes are over', () => {
  const { net, mh, hid } = pairOfHosts()
  net.run(net.now + 60_000)
  const from = net.now
  mh.machine.handleIdle(hid, from)
  assert.equal(mh.machine.nextTimeout(), from + 300_000)
})

test('E-6: a signed answer to a HELLO needs no cookie', () => {
  const { net, mh, ch } = strangers()
  net.intercept = (packet, message) => {
    if (message.control !== Control.HELLO_ACK) return packet
    const { cookie: _, signature: __, ...rest } = message
    return { ...packet, bytes: encodeSigned(rest, (bytes) => nodeIhmpCrypto.sign(ch.key!, bytes)) }
  }
  ch.flows.push({ local: F, foreign: A })
  mh.flow(A, 40000, F, 80)
  net.run(1_000)
  assert.equal(peerOf(mh).state, 'peer')
})

test('a HELLO names twelve addresses at most, the one in use first', () => {
  const net = new SimNetwork()
  const mh = net.host({ advertise: 'all' })
  mh.set(...Array.from({ length: 20 }, (_, n) => `10.1.${n}.2/24`))
  mh.flow('10.1.19.2', 40000, F, 80)
  const hello = ihmp.decode(net.log[0]!.bytes)
  assert.ok(hello.ok)
  assert.equal(hello.value.addresses?.length, 12)
  assert.deepEqual(hello.value.addresses[0], bytesOf('10.1.19.2'))
})

test('of many connections four messages of proofs wait for their answers at a time', () => {
  const { net, mh } = pairOfHosts()
  net.cut.add(`${A} ${F}`)
  const waiting = () => [...peerOf(mh).requests].filter(({ message }) => message.control === Control.FLOWS)
  for (let n = 0; n < 1_000; n++) mh.flow(A, 41_000 + n, F, 80)
  for (let ms = 0; ms < 1_500; ms += 50) {
    net.run(net.now + 50)
    assert.ok(waiting().length <= 4, `${waiting().length}`)
  }
  assert.equal(waiting().length, 4)
})

test('D8: of a host the last 64 counters are remembered, with what they were answered; what is below is old', () => {
  const window = new ReplayWindow(10)
  assert.equal(window.check(10).kind, 'old')
  for (let counter = 11; counter <= 74; counter++) {
    assert.equal(window.check(counter).kind, 'new')
    window.accept(counter)
  }
  window.answer(11, Uint8Array.of(1))
  assert.deepEqual(window.check(11), { kind: 'duplicate', answer: Uint8Array.of(1) })
  window.accept(76)
  assert.equal(window.check(11).kind, 'old')
  assert.equal(window.check(12).kind, 'duplicate')
  assert.equal(window.check(75).kind, 'new')
  assert.equal(window.highest, 76)
})

test('DI-39: a host without a key is not believed at an address that has one, allowed as it may be elsewhere', () => {
  for (const bound of [true, false]) {
    const { net, mh, ch } = strangers({ unsigned: 'allow' })
    mh.key = undefined
    if (bound) ch.known.set(A, generateOwnKey().publicKey)
    ch.flows.push({ local: F, foreign: A })
    mh.flow(A, 40000, F, 80)
    net.run(5_000)
    assert.equal([...ch.machine.hosts()].length, bound ? 0 : 1)
  }
})

test('DI-40: a proof of a key that was never announced is nothing', () => {
  const { net, mh, ch } = pairOfHosts()
  const newKey = generateOwnKey().publicKey
  const proof = { newKey, keyProof: new Uint8Array(64), response: new Uint8Array(16) }
  says(net, mh, ch, { local: F, foreign: A }, { control: Control.KEY_CHANGE, ...proof })
  assert.deepEqual(peerOf(ch).row.key, mh.key!.publicKey)
})

test('a connection between two equal ports is proven as soon as any other', () => {
  const { net, mh, ch } = strangers()
  mh.streams = () => ({ sent: 6, received: 9 })
  ch.streams = () => ({ sent: 9, received: 7 })
  mh.flow(A, 179, F, 179)
  ch.flow(F, 179, A, 179)
  net.run(1_000)
  for (const host of [mh, ch]) assert.equal(flowsOf(host)[0]!.taken, 'both')
})

test('a machine that has nothing to wait for says so', () => {
  const net = new SimNetwork()
  const host = net.host()
  host.set(`${A}/24`)
  assert.equal(host.machine.nextTimeout(), undefined)
})

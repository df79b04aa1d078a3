/** Keys that change (DI-40): by whom, when, and what is lost on the way. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateOwnKey, nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import type { SavedHost } from '../../../src/translation/machine/state.ts'
import { bytesOf, compile, type Ip } from '../../../src/translation/tables.ts'
import {
  Control,
  encodeSigned,
  type IhmpMessage,
  keyChangeTranscript,
} from '../../../src/translation/wire.ts'
import { A, B, F, pairOfHosts, peerOf, type SimHost, SimNetwork } from './network.ts'

const C = '10.7.0.2'

/** Another host in the place of this one, with what that had saved. */
function restarted(
  net: SimNetwork,
  host: SimHost,
  change: (fresh: SimHost) => void = () => {},
  saved = host.machine.save() as readonly SavedHost[],
): SimHost {
  const fresh = net.host()
  fresh.key = host.key
  change(fresh)
  net.hosts.splice(net.hosts.indexOf(host), 1)
  const flows = [...host.tables.sockets.values()]
  for (const each of saved) fresh.machine.restore(each)
  for (const { local, localPort, foreign, foreignPort } of flows)
    fresh.flow(local, localPort, foreign, foreignPort)
  fresh.preferred = host.preferred
  fresh.set(...host.addresses.map((a) => `${a.ip}/${a.prefixLength}`))
  return fresh
}

/** Moves the host and asserts that the other follows. */
function follows(net: SimNetwork, mobile: SimHost, other: SimHost, to: string, what: string): void {
  mobile.preferred = to
  mobile.set(`${to}/24`)
  net.run(net.now + 5_000)
  assert.equal(peerOf(other).row.current[4]?.foreign, to, what)
}

test('DI-40: a new key is learned where nothing has moved, after a move, and after moving back', () => {
  for (const moves of [[], [B], [B, A], [B, C]]) {
    const { net, mh, ch } = pairOfHosts()
    for (const to of moves) follows(net, mh, ch, to, `${to} with the old key`)
    mh.key = generateOwnKey()
    mh.machine.rekey(net.now)
    net.run(net.now + 2_000)
    assert.deepEqual(peerOf(ch).row.key, mh.key.publicKey, moves.join())
    assert.equal(peerOf(ch).formerKey, undefined, 'the old key is believed no more')
    assert.equal(peerOf(mh).ownKey, mh.key)
    follows(net, mh, ch, '10.8.0.2', moves.join())
  }
})

test('DI-40: a key that changes while there is no way to the peer is announced when there is one', () => {
  const { net, mh, ch } = pairOfHosts()
  mh.set()
  net.run(net.now + 1_000)
  mh.key = generateOwnKey()
  mh.machine.rekey(net.now)
  net.run(net.now + 20_000)
  follows(net, mh, ch, B, 'under the old key')
  assert.deepEqual(peerOf(ch).row.key, mh.key.publicKey)
  follows(net, mh, ch, C, 'under the new key')
})

test('DI-40: a key is announced at once, whatever else waits for its answer', () => {
  const { net, mh, ch } = pairOfHosts()
  net.cut.add(`${B} ${F}`)
  mh.preferred = A
  mh.set(`${A}/24`, `${B}/24`)
  mh.key = generateOwnKey()
  mh.machine.rekey(net.now)
  net.run(net.now + 200)
  assert.deepEqual(peerOf(ch).row.key, mh.key.publicKey)
})

test('DI-40: an announcement that meets a dead path is repeated until it is heard', () => {
  const { net, mh, ch } = pairOfHosts()
  net.cut.add(`${A} ${F}`)
  mh.key = generateOwnKey()
  mh.machine.rekey(net.now)
  net.run(net.now + 15_000)
  assert.notDeepEqual(peerOf(ch).row.key, mh.key.publicKey)
  net.cut.clear()
  net.run(net.now + 60_000)
  assert.deepEqual(peerOf(ch).row.key, mh.key.publicKey)
})

test('DI-40: a key that changed while the daemon was stopped is announced by the next one', () => {
  const { net, mh, ch } = pairOfHosts()
  follows(net, mh, ch, B, 'before')
  const next = generateOwnKey()
  const fresh = restarted(net, mh, (host) => {
    host.key = next
  })
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.key, next.publicKey)
  follows(net, fresh, ch, C, 'after')
})

test('DI-40: both change their keys at once, whatever is lost, and move afterwards', () => {
  for (let seed = 1; seed <= 30; seed++) {
    const { net, mh, ch } = pairOfHosts(seed)
    net.loss = 0.3
    mh.key = generateOwnKey()
    ch.key = generateOwnKey()
    mh.machine.rekey(net.now)
    ch.machine.rekey(net.now)
    net.run(net.now + 120_000)
    assert.deepEqual(peerOf(ch).row.key, mh.key.publicKey, `seed ${seed}`)
    assert.deepEqual(peerOf(mh).row.key, ch.key.publicKey, `seed ${seed}`)
    net.loss = 0
    follows(net, mh, ch, B, `seed ${seed}`)
  }
})

test('DI-40: the acknowledgement of a change is lost, then the host moves: both keys are believed until it has used the new one', () => {
  const { net, mh, ch } = pairOfHosts()
  let changed = false
  net.intercept = (packet, message) => {
    changed ||= message.keyProof !== undefined
    return changed && packet.from === F && packet.to === A ? undefined : packet
  }
  mh.key = generateOwnKey()
  mh.machine.rekey(net.now)
  net.run(net.now + 500)
  assert.deepEqual(peerOf(ch).row.key, mh.key.publicKey)
  assert.notEqual(peerOf(mh).ownKey, mh.key, 'it does not know')
  follows(net, mh, ch, B, 'with the old key')
  assert.equal(peerOf(mh).ownKey, mh.key)
  follows(net, mh, ch, C, 'with the new key')
})

test('DI-40: a daemon that is killed between announcement and acknowledgement goes on with either key', () => {
  const { net, mh, ch } = pairOfHosts()
  net.intercept = (packet) => (packet.to === A ? undefined : packet)
  mh.key = generateOwnKey()
  mh.machine.rekey(net.now)
  net.run(net.now + 500)
  net.intercept = undefined
  const fresh = restarted(net, mh)
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.key, mh.key.publicKey)
  follows(net, fresh, ch, B, 'after')
})

test('DI-40: a daemon that is killed before it hears that its change is known, and has another key when it is back, is followed', () => {
  const { net, mh, ch } = pairOfHosts()
  let changed = false
  net.intercept = (packet, message) => {
    changed ||= message.keyProof !== undefined
    return changed && packet.to === A ? undefined : packet
  }
  mh.key = generateOwnKey()
  mh.machine.rekey(net.now)
  net.run(net.now + 500)
  assert.deepEqual(peerOf(ch).row.key, mh.key.publicKey)
  assert.notEqual(peerOf(mh).ownKey, mh.key, 'it has not heard')
  net.intercept = undefined
  const third = generateOwnKey()
  const fresh = restarted(net, mh, (host) => {
    host.key = third
  })
  net.run(net.now + 5_000)
  assert.deepEqual(peerOf(ch).row.key, third.publicKey)
  follows(net, fresh, ch, B, 'with the third key')
})

for (const killed of ['the one with the new key', 'the other'] as const)
  test(`DI-40: ${killed} is killed when the change is known to both: what it needs has been stored before it said so`, () => {
    const { net, mh, ch } = pairOfHosts()
    mh.key = generateOwnKey()
    mh.machine.rekey(net.now)
    net.run(net.now + 500)
    assert.deepEqual(peerOf(ch).row.key, mh.key.publicKey)
    assert.equal(peerOf(mh).ownKey, mh.key)
    const third = generateOwnKey()
    const change = (host: SimHost) => {
      host.key = third
    }
    const mobile = killed === 'the other' ? mh : restarted(net, mh, change, mh.kept)
    const other = killed === 'the other' ? restarted(net, ch, undefined, ch.kept) : ch
    if (killed === 'the other') {
      mh.key = third
      mh.machine.rekey(net.now)
    }
    net.run(net.now + 5_000)
    assert.deepEqual(peerOf(other).row.key, third.publicKey)
    follows(net, mobile, other, B, 'with the third key')
  })

test('what a host that changes its key without end makes the other store is bounded', () => {
  const { net, mh, ch } = pairOfHosts()
  const before = peerOf(ch).row.key!
  let stored = 0
  let kept = ch.kept
  for (let n = 0; n < 40; n++) {
    mh.key = generateOwnKey()
    mh.machine.rekey(net.now)
    net.run(net.now + 250)
    if (ch.kept !== kept) stored++
    kept = ch.kept
  }
  assert.ok(stored <= 5, `${stored} times in ten seconds`)
  assert.notDeepEqual(peerOf(ch).row.key, before)
  net.run(net.now + 60_000)
  assert.deepEqual(peerOf(ch).row.key, mh.key!.publicKey, 'the last one is learned in the end')
})

for (const known of [false, true])
  test(`nobody takes over with a public key alone: rows stay two (${known ? 'known_keys' : 'trust on first use'})`, () => {
    const net = new SimNetwork(3)
    const [v, m, s] = [net.host(), net.host(), net.host()]
    v.set(`${F}/24`)
    m.set(`${A}/24`)
    s.set(`${B}/24`)
    if (known) v.known.set(B, s.key!.publicKey)
    m.flow(A, 40001, F, 80)
    v.flow(F, 80, A, 40001)
    net.run(5_000)
    const own = m.key!
    m.key = { publicKey: s.key!.publicKey, privateKey: own.privateKey }
    m.machine.rekey(net.now)
    net.run(net.now + 2_000)
    const row = [...v.machine.hosts()].find((h) => h.row.active.has(A))!
    assert.deepEqual(row.row.key, own.publicKey, 'the announced key has signed nothing')
    s.flow(B, 40002, F, 80)
    v.flow(F, 80, B, 40002)
    net.run(net.now + 5_000)
    assert.equal([...v.machine.hosts()].length, 2)
    const maps = compile(v.tables)[4]
    assert.equal(maps.out_flow.size + maps.out_one.size + maps.in_pair.size, 0, 'nothing is sent elsewhere')
    s.preferred = C
    s.set(`${C}/24`)
    net.run(net.now + 5_000)
    const moved = [...compile(v.tables)[4].out_pair.values()]
    assert.deepEqual(moved, [{ bound: { local: F, foreign: B }, wire: { local: F, foreign: C } }])
  })

test('a proof of a new key is fresh, of the old key and for its receiver: what another host was shown is worth nothing', () => {
  const net = new SimNetwork(5)
  const [v, m, s] = [net.host(), net.host(), net.host()]
  v.set(`${F}/24`)
  m.set(`${A}/24`)
  s.set(`${B}/24`)
  for (const [host, ip, port] of [
    [m, A, 40001],
    [s, B, 40002],
  ] as const) {
    host.flow(ip, port, F, 80)
    v.flow(F, 80, ip, port)
  }
  net.run(5_000)
  // M repeats to V, as its own, what S says of its new key.
  let seen: IhmpMessage | undefined
  net.intercept = (packet, message) => {
    if (packet.from === B && message.keyProof !== undefined) seen = message
    return packet
  }
  s.key = generateOwnKey()
  s.machine.rekey(net.now)
  net.run(net.now + 2_000)
  const stolen = seen!
  const row = [...v.machine.hosts()].find((h) => h.row.active.has(A))!
  const own = m.key!
  const say = (control: Control, more: { [K in keyof IhmpMessage]?: IhmpMessage[K] | undefined }): void => {
    const counter = (1_700_000_000_000 + net.now) * 1_000
    const message = {
      control,
      options: 0,
      sequence: 1,
      counter,
      hostId: bytesOf(A),
      receiver: bytesOf(F),
      ...more,
    } as IhmpMessage
    const bytes = encodeSigned(message, (covered) => nodeIhmpCrypto.sign(own, covered))
    v.machine.handleMessage(bytes, { local: F, foreign: A }, 0, net.now)
    net.run(net.now + 100)
  }
  say(Control.KEY_CHANGE, { newKey: stolen.newKey! })
  const { nextKey } = row
  assert.ok(nextKey !== undefined, 'it is asked to prove it')
  for (const response of [stolen.response!, nextKey.challenge])
    say(Control.KEY_CHANGE, { newKey: stolen.newKey!, keyProof: stolen.keyProof!, response })
  say(Control.KEY_CHANGE, {
    newKey: stolen.newKey!,
    keyProof: new Uint8Array(64),
    response: nextKey.challenge,
  })
  const third = generateOwnKey()
  say(Control.KEY_CHANGE, { newKey: third.publicKey })
  const challenge = row.nextKey!.challenge
  const sign = (old: Uint8Array, to: Ip) =>
    nodeIhmpCrypto.sign(third, keyChangeTranscript(old, third.publicKey, bytesOf(to), challenge))
  const keyProof = sign(own.publicKey, F)
  const proof = { newKey: third.publicKey, keyProof, response: challenge }
  say(Control.KEY_CHANGE, { newKey: third.publicKey, keyProof })
  say(Control.KEY_CHANGE, { ...proof, receiver: undefined })
  say(Control.KEY_CHANGE, { ...proof, response: new Uint8Array(16) })
  say(Control.KEY_CHANGE, { ...proof, keyProof: sign(own.publicKey, B) })
  say(Control.KEY_CHANGE, { ...proof, keyProof: sign(s.key.publicKey, F) })
  assert.deepEqual(row.row.key, own.publicKey, 'for another receiver, of another key, or of nothing')
  assert.equal([...v.machine.hosts()].length, 2)
  say(Control.KEY_CHANGE, proof)
  assert.deepEqual(row.row.key, third.publicKey, 'and this is one')
})

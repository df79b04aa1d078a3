/** What strangers and a lying peer can do: forged joins, resets and mappings, guessed tokens, floods of SYNs (P15). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { equal } from '../../../src/core/bytes.ts'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import type { Connection } from '../../../src/mptcp/machine/connection.ts'
import { addAddrHmac, joinAckHmac, joinHmac, joinReplyHmac } from '../../../src/mptcp/machine/keys.ts'
import type { OutSegment, Tuple } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt, sequenceAt } from '../../../src/mptcp/machine/sequence.ts'
import { RecvTable } from '../../../src/mptcp/tables.ts'
import type { CapableOption } from '../../../src/mptcp/wire.ts'
import { extent } from '../../support/extent.ts'
import { Alone, back } from './alone.ts'
import { Pair } from './network.ts'
import { forge, packetOf } from './packets.ts'

const { SYN, ACK, FIN, RST } = TcpFlag
const CAPABLE: CapableOption = {
  type: 'capable',
  version: 1,
  checksum: false,
  extension: false,
  noJoin: false,
  sha256: true,
}

/** A transfer that is under way, with a subflow that stands by. */
function underWay(bytes: readonly [number, number] = [5_000_000, 5_000_000]): Pair {
  const pair = new Pair({ seed: 7, bytes })
  pair.client.tcp!.connect(0)
  assert.ok(pair.run(() => pair.now > 400))
  return pair
}

const connection = (pair: Pair, end: 'client' | 'server' = 'client'): Connection =>
  pair[end].machine.connections[0]!

function from(port: number, host = 9): Tuple {
  return {
    local: Uint8Array.of(10, 9, 0, 2),
    localPort: 80,
    remote: Uint8Array.of(10, 1, 0, host),
    remotePort: port,
  }
}

function completes(pair: Pair): void {
  assert.ok(pair.run(() => pair.done || pair.problem !== ''))
  assert.equal(pair.problem, '')
}

test('a join with a token that nobody has is not the proxy’s; one with a right token but no keys gets nowhere', () => {
  const pair = underWay()
  const server = connection(pair, 'server')
  for (let i = 0; i < 1000; i++) {
    const join = { type: 'join', backup: false, id: 5, token: (i * 7919) >>> 0, nonce: i } as const
    pair.server.in(forge({ tuple: from(1000 + i), seq: i, flags: SYN, options: [join] }))
  }
  assert.equal(server.subflows.length, 2)
  const token = server.localKey.token
  for (let i = 0; i < 1000; i++) {
    const join = { type: 'join', backup: false, id: 5, token, nonce: i } as const
    pair.server.in(forge({ tuple: from(2000 + i), seq: i, flags: SYN, options: [join] }))
  }
  assert.equal(
    server.subflows.filter(({ state }) => state === 'syn-received').length,
    4,
    'half-open ones are bounded',
  )
  const victim = server.subflows.find(({ state }) => state === 'syn-received')!
  const guess = { type: 'join-ack', hmac: new Uint8Array(20) } as const
  pair.server.in(
    forge({ tuple: victim.tuple, seq: victim.remoteIsn + 1, ack: victim.localIsn + 1, options: [guess] }),
  )
  assert.equal(victim.state, 'dead')
  completes(pair)
})

test('joins that nobody finishes keep out no other for long: the oldest makes room once its answer had to be sent again', () => {
  const pair = underWay()
  const server = connection(pair, 'server')
  const join = (port: number) => {
    const { token } = server.localKey
    const option = { type: 'join', backup: false, id: 5, token, nonce: port } as const
    // Nobody there answers, not even with a reset.
    const tuple = { ...from(port), remote: Uint8Array.of(10, 77, 0, 9) }
    pair.server.in(forge({ tuple, seq: port, flags: SYN, options: [option] }))
  }
  const waiting = () =>
    server.subflows
      .filter(({ state }) => state === 'syn-received')
      .map(({ tuple: { remotePort } }) => remotePort)
  for (let port = 1; port <= 5; port++) join(port)
  // One between its SYN and its third packet is not pushed out by those who come after it.
  assert.deepEqual(waiting(), [1, 2, 3, 4])
  const until = pair.now + 300
  pair.run(() => pair.now >= until)
  join(6)
  assert.deepEqual(waiting(), [2, 3, 4, 6])
  completes(pair)
})

/** A connection that a peer opened, and that peer's key. */
function served(family: 4 | 16): { readonly alone: Alone; readonly tuple: Tuple } {
  const alone = new Alone()
  const address = (last: number) => new Uint8Array(family).fill(10, 0, 1).fill(last, family - 1)
  const tuple = { local: address(1), localPort: 80, remote: address(2), remotePort: 5000 }
  alone.in(tuple, SYN, { seq: 499, options: [CAPABLE] })
  alone.out(tuple, SYN | ACK, { seq: 99, ack: 500 })
  const { localKey } = alone.machine.connections[0]!
  const keys = { ...CAPABLE, key: new Uint8Array(8).fill(7), peerKey: localKey.bytes }
  alone.in(tuple, ACK, { seq: 500, ack: 100, options: [keys] })
  assert.equal(alone.machine.connections[0]!.state, 'established')
  return { alone, tuple }
}

/** What the machine sends within so many milliseconds. */
function sentWithin(alone: Alone, ms: number): OutSegment[] {
  const { machine } = alone
  const sent: OutSegment[] = []
  const end = alone.now + ms
  for (let at = machine.nextTimeout(); at !== undefined && at <= end; at = machine.nextTimeout()) {
    alone.now = at
    machine.handleTimeout(at)
    for (let out = machine.poll(); out !== undefined; out = machine.poll()) sent.push(out)
  }
  alone.now = end
  return sent
}

const bytesOf = (sent: readonly OutSegment[] = []) => sent.reduce((sum, out) => sum + packetOf(out).length, 0)

test('P15: an address from which a join only seems to come gets at most three times its bytes, however long nobody answers', () => {
  for (const family of [4, 16] as const)
    for (const bare of [true, false])
      for (const syns of [1, 2, 7]) {
        const { alone, tuple } = served(family)
        const [connection] = alone.machine.connections
        const { token } = connection!.localKey
        const victim = { ...tuple, remote: new Uint8Array(family).fill(77) }
        const join = { type: 'join', backup: false, id: 5, token, nonce: 1 } as const
        const syn = { seq: 1000, flags: SYN, options: [join], bare }
        let [came, went] = [0, 0]
        for (let i = 0; i < syns; i++) {
          came += forge({ tuple: victim, ...syn }).length
          went += bytesOf(alone.in(victim, SYN, syn))
          went += bytesOf(sentWithin(alone, 500))
        }
        went += bytesOf(sentWithin(alone, 120_000))
        assert.ok(went > 0 && went <= 3 * came, `${went} bytes for ${came}`)
        assert.equal(connection!.subflows.filter(({ state }) => state !== 'dead').length, 1, 'forgotten')
      }
})

test('RFC 9293 §3.10.7, RFC 8684 §3.2: a SYN again is answered again; one with another number is not', () => {
  const { alone, tuple } = served(4)
  const { token } = alone.machine.connections[0]!.localKey
  const peer = { ...tuple, remotePort: 5001 }
  const join = { type: 'join', backup: false, id: 5, token, nonce: 1 } as const
  const syn = (seq: number) => alone.in(peer, SYN, { seq, options: [join] })
  assert.equal(syn(1000)?.length, 1)
  assert.equal(syn(1000)?.length, 1)
  assert.equal(syn(1001)?.length, 0)
})

test('P15, RFC 9293 §3.10.7: packets of a handshake that answer nothing of ours end no join', () => {
  // Of a peer: before its third packet comes one that somebody wrote who has not seen our SYN/ACK.
  const { alone, tuple } = served(4)
  const [connection] = alone.machine.connections
  const { localKey, remoteKey } = connection!
  const peer = { ...tuple, remotePort: 5001 }
  const join = { type: 'join', backup: false, id: 5, token: localKey.token, nonce: 1 } as const
  alone.in(peer, SYN, { seq: 1000, options: [join] })
  const subflow = connection!.subflows.at(-1)!
  const third = { seq: 1001, ack: subflow.seqAt(1) }
  const forged = { type: 'join-ack', hmac: new Uint8Array(20) } as const
  alone.in(peer, ACK, { ...third, ack: (third.ack + 1) >>> 0, options: [forged] })
  assert.equal(subflow.state, 'syn-received')
  const right = joinHmac(nodeSha256, remoteKey!.bytes, localKey.bytes, 1, subflow.localNonce)
  alone.in(peer, ACK, { ...third, options: [{ type: 'join-ack', hmac: joinAckHmac(right) }] })
  assert.equal(subflow.state, 'active')

  // Of ours: before the SYN/ACK comes one that acknowledges another SYN.
  const pair = new Pair({ seed: 7, bytes: [3_000_000, 3_000_000] })
  pair.client.tcp!.connect(0)
  const joining = () =>
    pair.client.machine.connections[0]?.subflows.find(({ id, state }) => id > 0 && state === 'syn-sent')
  assert.ok(pair.run(() => joining() !== undefined))
  const ours = joining()!
  const reply = { type: 'join-reply', backup: false, id: 9, hmac: new Uint8Array(8), nonce: 1 } as const
  for (const ack of [ours.seqAt(0), ours.seqAt(2), ours.seqAt(2 ** 31)])
    pair.client.in(forge({ tuple: ours.tuple, seq: 5, ack, flags: SYN | ACK, options: [reply] }))
  assert.equal(ours.state, 'syn-sent')
  assert.ok(pair.run(() => ours.state === 'active'))
  completes(pair)
})

test('MP-17, RFC 5961: a reset counts only at the place that is due, and MP_FASTCLOSE only with the key', () => {
  const pair = underWay()
  const client = connection(pair)
  const subflow = client.active!
  for (const offset of [-5_000_000, 1_000_000, 40_000_000])
    pair.client.in(
      forge({ tuple: subflow.tuple, seq: (subflow.ackAt(subflow.high) + offset) >>> 0, flags: RST }),
    )
  assert.equal(subflow.state, 'active')
  const close = { type: 'fastclose', key: new Uint8Array(8) } as const
  const due = { tuple: subflow.tuple, seq: subflow.ackAt(subflow.high), ack: subflow.seqAt(subflow.next) }
  pair.client.in(forge({ ...due, options: [close] }))
  assert.equal(client.state, 'established')
  assert.equal(pair.client.machine.counts.lies, 1)
  completes(pair)
})

test('RFC 9293, RFC 5961: what lies outside the windows says nothing: no address is removed, no FIN taken, nothing falls back', () => {
  const pair = underWay()
  const client = connection(pair)
  const subflow = client.active!
  const living = () => client.subflows.filter(({ state }) => state === 'active').length
  const before = living()
  assert.ok(before > 1)
  const due = { seq: subflow.ackAt(subflow.high), ack: subflow.seqAt(subflow.next) }
  const ids = client.subflows.map(({ remoteAddressId }) => remoteAddressId)
  for (const seq of [due.seq - 5_000_000, due.seq + 200_000_000, due.seq + 2 ** 31])
    for (const [flags, options] of [
      [ACK, [{ type: 'remove-addr', ids }]],
      [ACK, [{ type: 'prio', backup: true }]],
      [ACK | FIN, []],
      [ACK, []],
    ] as const)
      pair.client.in(forge({ tuple: subflow.tuple, ...due, seq: seq >>> 0, flags, options }))
  for (const ack of [due.ack + 2 ** 30, due.ack - 2 ** 30])
    pair.client.in(
      forge({ tuple: subflow.tuple, ...due, ack: ack >>> 0, options: [{ type: 'remove-addr', ids }] }),
    )
  // Empty ones are not answered: two ends that take each other's for wrong would never stop.
  const { wire } = pair
  let answers = 0
  pair.wire = (...packet) => {
    answers++
    wire.apply(pair, packet)
  }
  for (let i = 0; i < 10; i++)
    pair.client.in(forge({ tuple: subflow.tuple, ...due, seq: (due.seq - 5_000_000) >>> 0 }))
  pair.wire = wire
  assert.equal(answers, 0)
  pair.client.flush()
  assert.equal(living(), before)
  assert.equal(subflow.remoteBackup, false)
  assert.equal(client.state, 'established')
  completes(pair)
})

test('RFC 9293 §3.10.7.4: a FIN that a neighbour forges inside the window, ahead of what has come or behind it, does not end the stream', () => {
  const pair = underWay()
  const client = connection(pair)
  const { tuple } = client
  for (const offset of [1, 700, 10_001, -1, -700]) {
    const seq = sequenceAt(client.tcpIsn, client.sndMax + offset)
    const ack = sequenceAt(client.peerIsn, client.tan)
    pair.client.out(forge({ tuple: back(tuple), seq, ack, flags: ACK | FIN }))
    const until = pair.now + 60
    pair.run(() => pair.now > until)
    assert.equal(client.finLocal, -1, `${offset}`)
  }
  completes(pair)
  assert.equal(pair.server.tcp!.received, 5_000_001)
})

test('a forged SYN/ACK, before or after the right one, changes neither the keys nor the numbers', () => {
  for (const late of [false, true]) {
    const pair = new Pair({ seed: 9, bytes: [300_000, 300_000] })
    pair.client.tcp!.connect(0)
    const client = () => connection(pair)
    if (late) assert.ok(pair.run(() => client().remoteKey !== undefined))
    const capable = { ...CAPABLE, key: new Uint8Array(8).fill(7) }
    const { tuple, remoteKey, peerIsn } = client()
    const right = client().first!.seqAt(1)
    for (const ack of late ? [right, right + 5] : [right + 5, right - 1])
      pair.client.in(
        forge({ tuple, seq: peerIsn + 99, ack: ack >>> 0, flags: SYN | ACK, options: [capable] }),
      )
    assert.equal(client().remoteKey, remoteKey)
    assert.equal(client().peerIsn, peerIsn)
    completes(pair)
    assert.equal(pair.client.machine.counts.fallbacks, 0)
  }
})

test('a mapping that contradicts another, or lies beyond every window, ends its subflow and not the connection', () => {
  for (const lie of ['overlap', 'beyond', 'upper half'] as const) {
    const pair = underWay()
    const client = connection(pair)
    const subflow = client.active!
    const run = subflow.recv.runs.at(-1)!
    const dsn = dsnAt(client.remoteKey!, lie === 'beyond' ? client.tan + 2 ** 31 : run.dsn + 5)
    const map = {
      dsn: lie === 'upper half' ? { high: (dsn.high ^ 1) >>> 0, low: dsn.low } : dsn,
      ssn: run.ssn + run.length - 1,
      length: 100,
    }
    pair.client.in(
      forge({
        tuple: subflow.tuple,
        seq: subflow.ackAt(subflow.high),
        ack: subflow.seqAt(subflow.next),
        options: [{ type: 'dss', dataFin: false, map }],
      }),
    )
    pair.client.flush()
    assert.equal(subflow.state, 'dead', lie)
    assert.equal(pair.client.machine.counts.resets, 1)
    completes(pair)
  }
})

test('an acknowledgement of data that were never sent changes nothing', () => {
  const pair = underWay()
  const client = connection(pair)
  const subflow = client.active!
  const before = client.dataUna
  const ack = dsnAt(client.localKey, client.sndMax + 1000)
  pair.client.in(
    forge({
      tuple: subflow.tuple,
      seq: subflow.ackAt(subflow.high),
      ack: subflow.seqAt(subflow.next),
      options: [{ type: 'dss', dataFin: false, ack }],
    }),
  )
  assert.equal(client.dataUna, before)
  completes(pair)
})

test('a peer that announces ever more mappings and addresses fills no memory', () => {
  const pair = underWay()
  const client = connection(pair)
  const subflow = client.active!
  const { acked } = subflow
  for (let i = 0; i < 2000 && subflow.state === 'active'; i++)
    pair.client.in(
      forge({
        tuple: subflow.tuple,
        seq: subflow.ackAt(subflow.high),
        ack: subflow.seqAt(subflow.next),
        options: [
          {
            type: 'dss',
            dataFin: false,
            map: {
              dsn: dsnAt(client.remoteKey!, client.tan + 1_000_000 + 100 * ((i * 37) % 2000)),
              ssn: acked + 1_000_000 + 100 * i,
              length: 10,
            },
          },
        ],
      }),
    )
  assert.ok(subflow.recv.runs.length <= RecvTable.LIMIT)
  completes(pair)
})

/** A connection that this host opened, and has sent data on. */
function opened(): { readonly alone: Alone; readonly tuple: Tuple; readonly it: Connection } {
  const alone = new Alone()
  const tuple = {
    ...{ local: Uint8Array.of(203, 0, 113, 1), localPort: 40_000 },
    ...{ remote: Uint8Array.of(198, 51, 100, 1), remotePort: 80 },
  }
  alone.out(tuple, SYN, { seq: 99 })
  alone.in(tuple, SYN | ACK, {
    seq: 499,
    ack: 100,
    options: [{ ...CAPABLE, key: new Uint8Array(8).fill(7) }],
  })
  alone.out(tuple, ACK, { seq: 100, ack: 500 })
  alone.out(tuple, ACK, { seq: 100, ack: 500, payload: new Uint8Array(100) })
  const it = alone.machine.connections[0]!
  const ack = dsnAt(it.localKey, 101)
  alone.in(tuple, ACK, { seq: 500, ack: 200, options: [{ type: 'dss', dataFin: false, ack }] })
  assert.equal(it.state, 'established')
  return { alone, tuple, it }
}

const isElsewhere = (sent: readonly OutSegment[], { remote, remotePort }: Tuple) =>
  sent.some(
    ({ to, tuple }) => to === 'wire' && (!equal(tuple.remote, remote) || tuple.remotePort !== remotePort),
  )

test('P15, RFC 8684 §3.4.1: addresses that a peer announces, and proves with its keys, get no packet, and their announcer no more than it sent', () => {
  const { alone, tuple, it } = opened()
  for (let i = 0; i < 2000; i++) {
    const address = Uint8Array.of(192, 0, 2, i & 255)
    const [id, port] = [i & 255, 1 + i]
    const hmac = addAddrHmac(nodeSha256, it.remoteKey!.bytes, it.localKey.bytes, id, address, port)
    const options = [{ type: 'add-addr', echo: false, id, address, port, hmac }] as const
    const packet = { seq: 500, ack: 200, options }
    const sent = alone.in(tuple, ACK, packet)!
    assert.ok(sent.length > 0 && !isElsewhere(sent, tuple))
    assert.ok(bytesOf(sent) <= forge({ tuple, ...packet }).length)
  }
  // Nor when there is no other way left.
  alone.machine.setAccesses([], alone.now)
  alone.machine.setAccesses(
    [{ name: 'acc2', addresses: [Uint8Array.of(203, 0, 114, 1)], mtu: 1500, backup: false }],
    alone.now,
  )
  const later = sentWithin(alone, 50_000)
  assert.ok(later.some(({ flags }) => (flags & SYN) !== 0))
  assert.equal(isElsewhere(later, tuple), false)
})

test('P15, RFC 8684 §3.4.2: a peer that removes all addresses, each time that there are any, is asked for new subflows less and less often', () => {
  const { alone, tuple, it } = opened()
  let syns = 0
  const removeAll = () => {
    for (const { tuple: at, state, high, next, remoteIsn, localIsn } of [...it.subflows])
      if (state === 'active')
        alone.in(at, ACK, {
          seq: (remoteIsn + high) >>> 0,
          ack: (localIsn + next) >>> 0,
          options: [{ type: 'remove-addr', ids: [0, 9] }],
        })
  }
  removeAll()
  assert.equal(it.active, undefined)
  for (let i = 0; i < 500 && it.state === 'established'; i++) {
    const sent = sentWithin(alone, 100)
    syns += sent.filter(({ flags }) => (flags & SYN) !== 0).length
    assert.equal(isElsewhere(sent, tuple), false)
    for (const each of it.subflows) {
      if (each.state !== 'syn-sent') continue
      const hmac = joinHmac(nodeSha256, it.remoteKey!.bytes, it.localKey.bytes, 5, each.localNonce)
      const reply = { type: 'join-reply', backup: false, id: 9, hmac: joinReplyHmac(hmac), nonce: 5 } as const
      alone.in(each.tuple, SYN | ACK, { seq: 70, ack: each.seqAt(1), options: [reply] })
      alone.in(each.tuple, ACK, {
        seq: 71,
        ack: each.seqAt(1),
        options: [{ type: 'dss', dataFin: false, ack: dsnAt(it.localKey, 101) }],
      })
    }
    removeAll()
  }
  assert.ok(syns > 0 && syns < 20, `${syns} in ${alone.now} ms`)
})

test('SYNs with MP_CAPABLE take at most the places of their source; later ones stay plain and are answered', () => {
  const pair = new Pair({ seed: 8, bytes: [100_000, 100_000], init: { connections: 64, perSource: 8 } })
  for (let i = 0; i < extent(10_000); i++)
    pair.server.in(forge({ tuple: from(1024 + (i % 60_000), i % 3), seq: i, flags: SYN, options: [CAPABLE] }))
  assert.ok(pair.server.machine.connections.length <= 3 * 8)
  assert.ok(pair.server.machine.counts.refused > extent(9000))
  // A host that opens its own connection is still served.
  pair.client.tcp!.connect(pair.now)
  completes(pair)
})

test('a source has as many places as before when one of its connections is forgotten, and no more', () => {
  const alone = new Alone({ perSource: 2 })
  const opens = (port: number) => alone.in({ ...from(port), localPort: 80 }, SYN, { options: [CAPABLE] })
  const refused = () => alone.machine.counts.refused
  opens(1)
  opens(2)
  opens(3)
  assert.equal(refused(), 1)
  // This host has nobody there.
  for (const [gone, next, last] of [
    [1, 4, 5],
    [2, 6, 7],
  ] as const) {
    alone.out(from(gone), RST | ACK)
    opens(next)
    assert.equal(refused(), gone, 'its place')
    opens(last)
    assert.equal(refused(), gone + 1, 'no other')
  }
  assert.equal(alone.machine.connections.length, 2)
})

test('SYNs from everywhere leave places: own connections are translated as before', () => {
  const pair = new Pair({ seed: 8, bytes: [100_000, 100_000], init: { connections: 64, perSource: 8 } })
  for (let i = 0; i < extent(10_000); i++)
    pair.client.in(
      forge({ tuple: from(1024 + (i % 60_000), i % 250), seq: i, flags: SYN, options: [CAPABLE] }),
    )
  assert.equal(pair.client.machine.connections.length, 16)
  pair.client.tcp!.connect(pair.now)
  completes(pair)
  assert.equal(pair.client.machine.counts.established, 1)
})

test('a connection that is closed is forgotten after a minute, though its peer never stops to send', () => {
  const pair = underWay([100_000, 100_000])
  completes(pair)
  const { tuple } = pair
  let asked = 0
  const poke = () => {
    pair.client.in(forge({ tuple, seq: asked, ack: 1 }))
    pair.client.flush()
    if (++asked < 100) pair.at(pair.now + 1000, poke)
  }
  pair.at(pair.now + 1000, poke)
  pair.run(() => asked >= 100)
  assert.equal(pair.client.machine.connections.length, 0)
})

test('any bytes in the options, and any flags, leave the machine running and the transfer whole', () => {
  const pair = underWay([1_000_000, 1_000_000])
  const subflow = connection(pair).active!
  for (let i = 0; i < extent(20_000); i++) {
    const packet = forge({
      tuple: pair.random() < 0.5 ? subflow.tuple : pair.tuple,
      seq: Math.floor(pair.random() * 4294967296),
      ack: Math.floor(pair.random() * 4294967296),
      // No RST at a right place, no SYN: those are tested by themselves.
      flags: ACK,
      options: [{ type: 'fail', dsn: { high: 0, low: 0 } }],
    })
    for (let at = 40; at < packet.length; at++) packet[at] = Math.floor(pair.random() * 256)
    pair.client.in(packet)
  }
  completes(pair)
})

test('a connection that others opened, without any subflow, waits for them, and keeps no thread from others', () => {
  const pair = new Pair({ seed: 3, bytes: [1_000_000, 1_000_000], paths: 1 })
  pair.client.tcp!.connect(0)
  pair.run(() => pair.now > 300)
  const { machine } = pair.server
  machine.setAccesses([], pair.now)
  assert.equal(machine.connections[0]!.active, undefined)
  assert.equal(machine.nextTimeout(), pair.now + 60_000)
})

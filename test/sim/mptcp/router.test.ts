/** The proxy on a router: which connections of others it takes, how many, and when it steps aside. Segments by hand. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { nodeSha256 } from '../../../src/crypto/sha256.ts'
import type { Connection } from '../../../src/mptcp/machine/connection.ts'
import { joinHmac, joinReplyHmac } from '../../../src/mptcp/machine/keys.ts'
import type { Tuple } from '../../../src/mptcp/machine/segment.ts'
import { dsnAt } from '../../../src/mptcp/machine/sequence.ts'
import type { Passage } from '../../../src/mptcp/machine/types.ts'
import { Alone, back, CAPABLE, optionsOf } from './alone.ts'

const { SYN, ACK, FIN, RST } = TcpFlag
const OUT: Passage = { from: undefined, to: 'acc1' }
const IN: Passage = { from: 'acc1', to: undefined }

/** From its sender's side. */
function from(host: number, port: number): Tuple {
  return {
    local: Uint8Array.of(192, 168, 0, host),
    localPort: port,
    remote: Uint8Array.of(198, 51, 100, 7),
    remotePort: 80,
  }
}

test('MP-9: a plain SYN of a host behind the router leaves with MP_CAPABLE, at most `perHost` of each host', () => {
  const router = new Alone({ perHost: 10 })
  const [syn] = router.forward(OUT, from(2, 1000), SYN)!
  assert.equal(syn!.to, 'wire')
  assert.deepEqual([...syn!.options.slice(-4)], [30, 4, 1, 1])
  for (let port = 1001; port < 2000; port++) router.forward(OUT, from(2, port), SYN)
  assert.equal(router.machine.connections.length, 10)
  assert.ok(router.forward(OUT, from(3, 1000), SYN), 'another host has places of its own')
  assert.equal(router.machine.counts.refused, 990)
})

test('nothing unproven: SYNs of hosts behind that nobody answers take a quarter of the places', () => {
  const router = new Alone({ connections: 100, perHost: 100 })
  for (let host = 1; host < 255; host++) router.forward(OUT, from(host, 1000), SYN)
  assert.equal(router.machine.connections.length, 25)
})

test('MP-9: connections of hosts behind that were answered take no place of those that wait for one', () => {
  const router = new Alone({ connections: 40, perHost: 100 })
  const options = [{ ...CAPABLE, key: new Uint8Array(8).fill(7) }]
  for (let port = 1; port <= 30; port++) {
    assert.ok(router.forward(OUT, from(2, port), SYN, { seq: 100 }), String(port))
    router.forward(IN, back(from(2, port)), SYN | ACK, { seq: 500, ack: 101, options })
  }
  assert.equal(router.machine.connections.length, 30)
})

test('nothing unproven: SYNs from outside leave places for hosts behind, and so do peers that have shown to be there', () => {
  for (const shown of [false, true]) {
    const router = new Alone({ connections: 40, perSource: 100 })
    for (let host = 1; host < 255; host++) {
      const peer = from(host, 1000)
      if (router.forward(IN, peer, SYN, { seq: 5, options: [CAPABLE] }) === undefined || !shown) continue
      router.forward(OUT, back(peer), SYN | ACK, { seq: 70, ack: 6 })
      const key = router.machine.connections.at(-1)!.localKey.bytes
      const keys = { ...CAPABLE, key: new Uint8Array(8).fill(host), peerKey: key }
      router.forward(IN, peer, ACK, { seq: 6, ack: 71, options: [keys] })
    }
    const states = router.machine.connections.map(({ state }) => state)
    assert.deepEqual(states, shown ? Array(30).fill('established') : Array(10).fill('syn-received'))
    for (let port = 1; port <= 10; port++) assert.ok(router.forward(OUT, from(2, port), SYN), String(port))
  }
})

test('MP-12: what does not leave by an access, and what speaks MPTCP already, is left alone', () => {
  const router = new Alone()
  const none = { from: undefined, to: undefined }
  assert.equal(router.forward(none, from(2, 1000), SYN), undefined, 'between networks behind it')
  assert.equal(router.forward({ from: 'acc1', to: 'acc2' }, from(2, 1000), SYN), undefined, 'in transit')
  assert.equal(router.forward(IN, from(2, 1000), SYN), undefined, 'a plain peer outside')
  assert.equal(router.forward(OUT, from(2, 1000), SYN, { options: [CAPABLE] }), undefined)
  assert.equal(router.machine.connections.length, 0)
  const off = new Alone({ forward: false })
  assert.equal(off.forward(OUT, from(2, 1000), SYN), undefined)
  assert.equal(off.forward(IN, from(2, 1000), SYN, { options: [CAPABLE] }), undefined)
})

test('MP-12: MP_CAPABLE of a peer stays in the SYN, and a server behind that answers it is left to itself', () => {
  const router = new Alone()
  const peer = from(9, 1000)
  const [syn] = router.forward(IN, peer, SYN, { seq: 5, options: [CAPABLE] })!
  assert.equal(syn!.to, 'local')
  assert.deepEqual([...syn!.options.slice(-4)], [30, 4, 1, 1])
  const answer = { ...CAPABLE, key: new Uint8Array(8) }
  const synAck = { seq: 70, ack: 6, options: [answer] }
  assert.equal(router.forward(OUT, back(peer), SYN | ACK, synAck), undefined)
  assert.equal(router.machine.connections.length, 0)
})

test('MP-9: for a plain server behind the router the proxy answers MP_CAPABLE with a key of its own', () => {
  const router = new Alone()
  const peer = from(9, 1000)
  router.forward(IN, peer, SYN, { seq: 5, options: [CAPABLE] })
  const [synAck] = router.forward(OUT, back(peer), SYN | ACK, { seq: 70, ack: 6 })!
  const [connection] = router.machine.connections
  const key = connection!.localKey.bytes
  assert.equal(Buffer.from(synAck!.options).includes(Buffer.from(key)), true)
  assert.deepEqual([connection!.forwarded, connection!.role], [true, 'server'])
})

test('a join to the router itself does not reach a connection of a host behind it', () => {
  const router = new Alone()
  const peer = from(9, 1000)
  router.forward(IN, peer, SYN, { seq: 5, options: [CAPABLE] })
  router.forward(OUT, back(peer), SYN | ACK, { seq: 70, ack: 6 })
  const [connection] = router.machine.connections
  const keys = { ...CAPABLE, key: new Uint8Array(8).fill(7), peerKey: connection!.localKey.bytes }
  router.forward(IN, peer, ACK, { seq: 6, ack: 71, options: [keys] })
  assert.equal(connection!.state, 'established')
  const { token } = connection!.localKey
  const join = { type: 'join', backup: false, id: 1, token, nonce: 1 } as const
  const elsewhere = { ...from(9, 2000), remote: Uint8Array.of(203, 0, 113, 1) }
  router.forward(IN, elsewhere, SYN, { options: [join] })
  assert.equal(connection!.subflows.length, 1)
  router.forward(IN, from(9, 2000), SYN, { options: [join] })
  assert.equal(connection!.subflows.length, 2)
  // Its addresses are none of the router's: it is there as long as its access.
  const [access] = [{ name: 'acc1', addresses: [Uint8Array.of(203, 0, 113, 1)], mtu: 1500, backup: false }]
  router.machine.setAccesses([access!], 1)
  assert.deepEqual(
    connection!.subflows.map(({ state }) => state),
    ['active', 'syn-received'],
  )
  router.machine.setAccesses([{ ...access!, name: 'acc2' }], 1)
  assert.deepEqual(
    connection!.subflows.map(({ state }) => state),
    ['dead', 'dead'],
  )
})

/** A connection of a host behind that carries data: its next byte is 101, and that of the server 501. */
function established(): { router: Alone; host: Tuple; connection: Connection } {
  const router = new Alone()
  const host = from(2, 1000)
  const answer = { ...CAPABLE, key: new Uint8Array(8).fill(7) }
  router.forward(OUT, host, SYN, { seq: 100 })
  router.forward(IN, back(host), SYN | ACK, { seq: 500, ack: 101, options: [answer] })
  router.forward(OUT, host, ACK, { seq: 101, ack: 501 })
  const connection = router.machine.connections[0]!
  const dss = { type: 'dss', dataFin: false, ack: dsnAt(connection.localKey, 1) } as const
  router.forward(IN, back(host), ACK, { seq: 501, ack: 101, options: [dss] })
  assert.equal(connection.state, 'established')
  return { router, host, connection }
}

test('nothing unproven: in the name of a host behind, from outside, nothing ends or moves its connection', () => {
  const { router, host, connection } = established()
  const due = { seq: 101, ack: 501 }
  for (const passage of [IN, { from: 'acc1', to: 'acc2' }])
    for (const [flags, fields] of [
      [RST, due],
      [RST | ACK, due],
      [SYN, { seq: 9000 }],
      [ACK | FIN, due],
      [ACK, { ...due, payload: new Uint8Array(100) }],
    ] as const)
      assert.equal(router.forward(passage, host, flags, fields), undefined, 'it is routed as any packet')
  assert.equal(router.machine.connections[0], connection)
  assert.deepEqual([connection.state, connection.sndMax, connection.finLocal], ['established', 1, -1])
})

test('RFC 5961: what another host behind forges, outside the windows, ends and moves nothing, and the host is asked', () => {
  const { router, host, connection } = established()
  const payload = new Uint8Array(100)
  for (const far of [200_000, 500_000_000, 2 ** 31, 2 ** 32 - 500_000_000])
    for (const [flags, fields, asks] of [
      [RST, { ack: 501 }, true],
      [SYN, {}, true],
      [SYN | ACK, { ack: 501 }, true],
      [ACK | FIN, { ack: 501 }, true],
      [ACK, { ack: 501, payload }, true],
      [ACK, { ack: 501 }, false],
    ] as const) {
      const sent = router.forward(OUT, host, flags, { ...fields, seq: (101 + far) % 2 ** 32 })!
      assert.deepEqual(
        sent.map(({ to, seq, ack, flags }) => [to, seq, ack, flags]),
        asks ? [['local', 501, 101, ACK]] : [],
      )
    }
  const wrong = { seq: 101, ack: 501 + 2 ** 30, payload }
  assert.equal(
    router.forward(OUT, host, ACK, wrong)!.some(({ to }) => to === 'wire'),
    false,
  )
  assert.equal(router.machine.connections[0], connection)
  assert.deepEqual([connection.state, connection.sndMax, connection.finLocal], ['established', 1, -1])
  assert.equal(connection.first!.next, 1)
})

test('MP-17: the reset of a host behind ends its connection, also of one that has forgotten it and opens it anew', () => {
  for (const reopens of [false, true]) {
    const { router, host, connection } = established()
    if (reopens) {
      const [question] = router.forward(OUT, host, SYN, { seq: 9000 })!
      assert.equal(question!.ack, 101)
    }
    const [reset] = router.forward(OUT, host, RST, { seq: 101 })!
    assert.deepEqual(
      optionsOf(reset!).map(({ type }) => type),
      ['fastclose'],
    )
    assert.equal(connection.state, 'closed')
    const [syn] = router.forward(OUT, host, SYN, { seq: 9000 })!
    assert.deepEqual([syn!.to, syn!.seq], ['wire', 9000])
    assert.notEqual(router.machine.connections[0], connection)
  }
})

test('RFC 5961: a segment of a host behind counts inside the windows, to the byte', () => {
  const WINDOW = 1000 * 128
  const LEAST = 65_536
  // 100 bytes went out, of which the peer has 50; 10 came, which the host acknowledges.
  const underWay = () => {
    const all = established()
    const { router, host, connection } = all
    router.forward(OUT, host, ACK, { seq: 101, ack: 501, payload: new Uint8Array(100) })
    const dss = (dsn: number, map: boolean) => ({
      ...{ type: 'dss' as const, dataFin: false, ack: dsnAt(connection.localKey, dsn) },
      ...(map && { map: { dsn: dsnAt(connection.remoteKey!, 1), ssn: 1, length: 10 } }),
    })
    const payload = new Uint8Array(10)
    router.forward(IN, back(host), ACK, { seq: 501, ack: 151, options: [dss(51, true)], payload })
    assert.deepEqual([connection.dataUna, connection.sndMax, connection.rcvMax], [51, 101, 11])
    return all
  }
  // What counts is heard by the peer: its bytes are acknowledged.
  for (const [at, counts, { flags = ACK, length = 0, ack = 11 } = {}] of [
    [101, true],
    [51 - WINDOW, true],
    [50 - WINDOW, false],
    [50 - WINDOW, true, { length: 1 }],
    [49 - WINDOW, false, { length: 1 }],
    [49 - WINDOW, false, { flags: ACK | FIN }],
    [51 + WINDOW, true],
    [52 + WINDOW, false],
    [101, true, { ack: 12 }],
    [101, false, { ack: 13 }],
    [101, true, { ack: 1 - WINDOW - LEAST }],
    [101, false, { ack: -WINDOW - LEAST }],
  ] as readonly (readonly [number, boolean, { flags?: number; length?: number; ack?: number }?])[]) {
    const { router, host } = underWay()
    const payload = length === 0 ? {} : { payload: new Uint8Array(length) }
    const sent = router.forward(OUT, host, flags, { seq: 100 + at, ack: 500 + ack, ...payload })!
    const what = JSON.stringify([at, flags, length, ack])
    assert.equal(
      sent.some(({ to }) => to === 'wire'),
      counts,
      what,
    )
  }
  // A reset counts from what the peer has not acknowledged to what was sent, with the FIN.
  for (const fin of [false, true])
    for (const [at, counts] of [
      [50, false],
      [51, true],
      [101, true],
      [102, fin],
      [103, false],
    ] as const) {
      const { router, host, connection } = underWay()
      if (fin) router.forward(OUT, host, ACK | FIN, { seq: 201, ack: 511 })
      router.forward(OUT, host, RST, { seq: 100 + at })
      assert.equal(connection.state === 'closed', counts, `${at}, ${fin}`)
    }
})

test('MP-15: a host behind whose SYN/ACK was lost on its side sends its SYN again, and gets it again', () => {
  const router = new Alone()
  const host = from(2, 1000)
  const options = [{ ...CAPABLE, key: new Uint8Array(8).fill(7) }]
  const answer = { seq: 500, ack: 101, options }
  router.forward(OUT, host, SYN, { seq: 100 })
  router.forward(IN, back(host), SYN | ACK, answer)
  const [again] = router.forward(OUT, host, SYN, { seq: 100 })!
  assert.deepEqual([again!.to, again!.seq, again!.flags], ['wire', 100, SYN])
  const [given] = router.forward(IN, back(host), SYN | ACK, answer)!
  assert.deepEqual([given!.to, given!.seq, given!.ack], ['local', 500, 101])
})

test('ADR 0170: a host behind that is moved by hand leaves the subflow with its own addresses in order: nothing returns to it', () => {
  const { router, connection } = established()
  const access = (n: number) => ({ name: `acc${n}`, addresses: [Uint8Array.of(203, 0, 113, n)] })
  router.machine.setAccesses(
    [1, 2].map((n) => ({ ...access(n), mtu: 1500, backup: false })),
    0,
  )
  const { tuple, localNonce, localIsn } = connection.subflows[1]!
  assert.deepEqual(tuple.local, Uint8Array.of(203, 0, 113, 2))
  const key = new Uint8Array(8).fill(7)
  const hmac = joinReplyHmac(joinHmac(nodeSha256, key, connection.localKey.bytes, 5, localNonce))
  const reply = { type: 'join-reply', backup: false, id: 9, hmac, nonce: 5 } as const
  router.in(tuple, SYN | ACK, { seq: 800, ack: (localIsn + 1) >>> 0, options: [reply] })
  const dss = { type: 'dss', dataFin: false, ack: dsnAt(connection.localKey, 1) } as const
  router.in(tuple, ACK, { seq: 801, ack: (localIsn + 1) >>> 0, options: [dss] })
  assert.ok(router.machine.handover(connection.id, 'acc2', 0))
  while (router.machine.poll() !== undefined) {}
  router.machine.handleTimeout(300)
  const sent = []
  for (let out = router.machine.poll(); out !== undefined; out = router.machine.poll()) sent.push(out)
  const fin = sent.find(({ flags }) => (flags & FIN) !== 0)
  assert.deepEqual([fin!.tuple, fin!.flags], [connection.first!.tuple, ACK | FIN])
  assert.equal(connection.first!.state, 'closing')
})

test('P3: what goes on to a host behind is cut to its MSS, less the room of all options, and what goes to this host is not', () => {
  for (const [mss, want] of [
    [1460, 1420],
    [100, 88],
  ] as const) {
    const router = new Alone()
    const host = from(2, 1000)
    const options = [{ ...CAPABLE, key: new Uint8Array(8).fill(7) }]
    router.forward(OUT, host, SYN, { seq: 100, mss })
    router.forward(IN, back(host), SYN | ACK, { seq: 500, ack: 101, options })
    router.forward(OUT, host, ACK, { seq: 101, ack: 501 })
    const { localKey, remoteKey } = router.machine.connections[0]!
    const map = { dsn: dsnAt(remoteKey!, 1), ssn: 1, length: 3000 }
    const dss = { type: 'dss', dataFin: false, ack: dsnAt(localKey, 1), map } as const
    const payload = new Uint8Array(3000)
    const [data] = router.forward(IN, back(host), ACK, { seq: 501, ack: 101, options: [dss], payload })!
    assert.deepEqual(
      [data!.to, data!.behind, data!.segmentSize, data!.payload!.length],
      ['local', true, want, 3000],
    )
  }
})

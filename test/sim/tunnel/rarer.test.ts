/** As sequences.test.ts, for what is rarer: fresh keys, data behind message 1, hopes, cookies, ends, stock peers that move. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { controlCodec, Feature } from '../../../src/tunnel/protocol/control.ts'
import { endpoint, Pair } from './harness.ts'
import { traffic, Watch } from './watch.ts'

const GODWIT = { dialect: 'godwit' } as const

/** Of a path: what its owner knows of it already. */
function path(n: number, known?: 'proven' | 'likely' | 'hoped') {
  return {
    ...{ pathId: n + 1, socket: n, remote: endpoint(100), mtu: 1500 },
    ...(known !== undefined && { known }),
  }
}

test('KEY_REPLACE: a host takes a fresh key: offered, stored, acknowledged, proven', () => {
  const pair = new Pair({ anchorConfig: GODWIT }).connect([0])
  pair.world.run(3_000)
  const fresh = new Uint8Array(32).fill(5)
  const watch = new Watch(pair)
  watch.happens(
    1_500,
    () => pair.host.do((machine, now) => machine.replaceKey(pair.anchorPeer, fresh, now)),
    `
      h1> key-replace: 0 +1000
      anchor: key-offered
      `,
  )
  const offered = pair.anchor.last('key-offered')!
  watch.happens(
    3_000,
    () => pair.anchor.do((machine, now) => machine.acceptKey(pair.hostPeer, offered.publicKey, now)),
    `
      >1 key-replaced: 0
      h1> initiation: 10
      >1 response: 20
      h1> hello 3: 30
      >1 hello 3: 40
      host: key-accepted; timestamp-sent; session up, own; key-confirmed; hello 3 mtu 1420; keys of 2
      anchor: timestamp-accepted; session up; key-confirmed; hello 3 mtu 1420; keys of 2
      `,
  )
})

test('KEY_REPLACE: host and anchor want one at once: the anchor’s goes first', () => {
  const pair = new Pair({ anchorConfig: GODWIT }).connect([0])
  pair.world.run(3_000)
  const watch = new Watch(pair)
  watch.happens(
    2_500,
    () => {
      pair.host.do((machine, now) => machine.replaceKey(pair.anchorPeer, new Uint8Array(32).fill(5), now))
      pair.anchor.do((machine, now) => machine.replaceKey(pair.hostPeer, new Uint8Array(32).fill(6), now))
    },
    `
      h1> key-replace: 0
      >1 key-replace: 0 +1000×2
      host: key-offered
      `,
    /key/,
  )
  const offered = pair.host.last('key-offered')!
  watch.happens(
    6_000,
    () => pair.host.do((machine, now) => machine.acceptKey(pair.anchorPeer, offered.publicKey, now)),
    `
      h1> key-replaced: 0
      >1 initiation: 10
      h1> response: 20
      h1> key-replace: 290 +1000×5
      host: timestamp-accepted; session up; key-confirmed; hello 3 mtu 1420; keys of 2
      anchor: key-accepted; timestamp-sent; session up, own; key-confirmed; hello 3 mtu 1420; key-offered; keys of 2
      `,
    /key|initiation|response/,
  )
})

test('NT-46: data behind message 1, by a key that the other end gave out, and back before the initiator has answered', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { host, anchor, anchorPeer, hostPeer } = pair
  new Watch(pair).happens(
    2_000,
    () => {
      const prekey = anchor.machine.newPrekey()
      anchor.do((machine, now) => machine.expectEarly(hostPeer, prekey.index, now))
      host.do((machine) => machine.useEarly(anchorPeer, prekey))
      host.do((machine, now) => machine.noteProven(anchorPeer, endpoint(100), 0, now))
      anchor.do((machine, now) => machine.noteProven(hostPeer, endpoint(1), 0, now))
      host.do((machine, now) => machine.introduce(anchorPeer, endpoint(100), 0, now))
      const slot = host.addPath(anchorPeer, path(0, 'proven'))
      for (let sequence = 0; sequence < 3; sequence++) host.sendData(slot, sequence)
    },
    `
      h1> initiation: 0
      h1> hello 3 + announce 1.1 mtu 1500 + path-challenge: 0
      h1> data: 0 +0×2
      >1 response: 10
      >1 path-response + hello 3 + accept 1.1 at 1:51820: 10
      >1 mtu-probe 1500: 10
      h1> hello 3: 20
      h1> probe: 20 +40×4 +80 +40×4 +60 +40×4 +60 +40×4 +60 +40×2
      h1> mtu-ack 1500: 20
      h1> mtu-probe 1500: 20
      >1 hello 3: 30
      >1 echo: 30 +40×4 +80 +40×4 +60 +40×4 +60 +40×4 +60 +40×2
      >1 mtu-ack 1500: 30
      >1 probe: 210 +220×3
      h1> echo: 220 +220×3
      host: timestamp-sent; path 1 validating mtu 1280 from new; path 1 up mtu 1280 from validating; session up, own; hello 3 mtu 1420; observed; quality 0: 20 0; mtu; keys of 1
      anchor: timestamp-accepted; hello 3 mtu 1420; path 1 up mtu 1280 from new; quality 0: NaN 0; session up; hello 3 mtu 1420; mtu; keys of 2
      `,
  )
})

test('NT-46: message 1 is lost, and what left behind it goes again', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { host, anchor, anchorPeer, hostPeer, world } = pair
  pair.links[0].up.down = true
  world.at(world.now + 300, () => {
    pair.links[0].up.down = false
  })
  new Watch(pair).happens(
    3_000,
    () => {
      const prekey = anchor.machine.newPrekey()
      anchor.do((machine, now) => machine.expectEarly(hostPeer, prekey.index, now))
      host.do((machine) => machine.useEarly(anchorPeer, prekey))
      host.do((machine, now) => machine.noteProven(anchorPeer, endpoint(100), 0, now))
      anchor.do((machine, now) => machine.noteProven(hostPeer, endpoint(1), 0, now))
      host.do((machine, now) => machine.introduce(anchorPeer, endpoint(100), 0, now))
      const slot = host.addPath(anchorPeer, path(0, 'proven'))
      for (let sequence = 0; sequence < 3; sequence++) host.sendData(slot, sequence)
    },
    `
      h1> initiation: 0 +256.5 +569.6 +223.9
      h1> hello 3 + announce 1.1 mtu 1500 + path-challenge: 0 +150 +300 +600
      h1> data: 0 +0×2 +1070 +0×2
      >1 response: 836.1 +223.9
      h1> hello 3: 846.1 +223.9
      >1 path-response + hello 3 + accept 1.1 at 1:51820: 1060
      >1 mtu-probe 1500: 1060
      h1> probe: 1070 +40×24
      h1> mtu-ack 1500: 1070
      h1> mtu-probe 1500: 1070
      >1 echo: 1080 +40×24
      >1 hello 3: 1080
      >1 mtu-ack 1500: 1080
      host: timestamp-sent; path 1 validating mtu 1280 from new; path 1 up mtu 1280 from validating; session up, own; path 1 validating mtu 1280 from up; timestamp-sent; hello 3 mtu 1420; observed; path 1 up mtu 1280 from validating; session up, own; quality 0: NaN 0; hello 3 mtu 1420; mtu; 3 sent again; keys of 2
      anchor: timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; timestamp-accepted; session up; hello 3 mtu 1420; mtu; keys of 2
      `,
  )
})

test('NT-43: hoped for, likely, and neither: what carries data before its PATH_ACCEPT, and what becomes of it', () => {
  for (const [known, expected] of [
    [
      'hoped',
      `
      h2> close 1.1 for 1 up to 3 + announce 2.2 mtu 1500 + path-challenge: 0 +100 +300 +600
      h2> data: 0 +0×2
      >2 path-response + accept 2.2 at 2:51820 + path-challenge: 10 +100 +300 +600
      host: path 1 closing 1 mtu 1500 from up; path 2 validating mtu 1280 from new; path 2 suspect mtu 1280 from validating; path 2 closed
      anchor: path 1 closing 4 mtu 1500 from up
      `,
    ],
    [
      'likely',
      `
      h2> close 1.1 for 1 up to 3 + announce 2.2 mtu 1500 + path-challenge: 0 +100×10
      h2> data: 0 +0×2
      >2 path-response + accept 2.2 at 2:51820 + path-challenge: 10 +300 +200×3
      h2> probe: 40 +40×24
      >2 path-challenge: 90 +80×2 +120 +80 +120 +80 +120 +80 +120
      >2 path-response + accept 2.2 at 2:51820: 110 +100 +200×4
      h2> initiation: 1040 +317 +540
      >2 response: 1050 +317 +540
      h2> close 1.1 for 1 up to 3 + close 2.2 for 2 up to -1 + announce 2.3 mtu 1500 + path-challenge: 1140 +100×13
      >2 path-response + accept 2.3 at 2:51820 + path-challenge: 1150 +100×13
      host: path 1 closing 1 mtu 1500 from up; path 2 validating mtu 1280 from new; path 2 suspect mtu 1280 from validating; quality 1: NaN 0; path 2 down 2 mtu 1280 from suspect; timestamp-sent
      anchor: path 1 closing 4 mtu 1500 from up; timestamp-accepted; keys of 2
      `,
    ],
    [
      undefined,
      `
      h2> close 1.1 for 1 up to 3 + announce 2.2 mtu 1500 + path-challenge: 0 +100×25
      h2> data: 0 +0×2
      >2 path-response + accept 2.2 at 2:51820 + path-challenge: 10 +100×24
      h2> initiation: 300 +301 +530.2 +1082
      >2 response: 310 +301 +530.2 +1082
      host: path 1 closing 1 mtu 1500 from up; path 2 validating mtu 1280 from new; timestamp-sent
      anchor: path 1 closing 4 mtu 1500 from up; timestamp-accepted; keys of 2
      `,
    ],
  ] as const) {
    const pair = new Pair({ anchorConfig: GODWIT }).connect([0])
    pair.world.run(3_000)
    pair.links[1].downlink.down = true
    new Watch(pair).happens(
      2_500,
      () => {
        pair.host.do((machine, now) => machine.removePath(pair.slots[0]!, now))
        const slot = pair.host.addPath(pair.anchorPeer, path(1, known))
        for (let sequence = 0; sequence < 3; sequence++) pair.host.sendData(slot, sequence)
      },
      expected,
    )
  }
})

test('§5.3: an anchor under load answers message 1 with a cookie, and message 1 with that', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  pair.anchor.restart({ loadThreshold: 0 })
  pair.hostPeer = pair.anchor.addPeer(pair.host, GODWIT)
  new Watch(pair).happens(
    3_000,
    () => pair.open(0),
    `
      h1> initiation: 0 +284.8
      >1 cookie: 10
      >1 response: 294.8
      h1> hello 3 + announce 1.1 mtu 1500 + path-challenge: 304.8
      >1 path-response + hello 3 + accept 1.1 at 1:51820 + path-challenge: 314.8
      h1> path-response + probe: 324.8
      h1> mtu-probe 1500: 324.8
      >1 echo: 334.8
      >1 mtu-ack 1500: 334.8
      >1 mtu-probe 1500: 334.8
      h1> mtu-ack 1500: 344.8
      host: timestamp-sent; session up, own; path 1 validating mtu 1280 from new; hello 3 mtu 1420; observed; path 1 up mtu 1280 from validating; mtu; keys of 1
      anchor: timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; mtu; keys of 1
      `,
  )
})

test('issue 13: a process that ends, with two paths and packets under way: the host’s, or the anchor’s', () => {
  const pair = new Pair({ anchorConfig: GODWIT }).connect()
  pair.world.run(3_000)
  new Watch(pair).happens(
    400,
    () => {
      const [back] = pair.anchor.usable(pair.hostPeer)
      for (let sequence = 0; sequence < 3; sequence++) pair.anchor.sendData(back!, sequence)
      pair.host.do((machine, now) => machine.end(now))
      pair.host.stopped = true
    },
    `
      >1 data: 0 +0×2
      h1> session-end: 0
      h2> session-end: 0
      >1 probe: 0
      anchor: quality 0: NaN 0; session down; path 1 closed; path 2 closed; ended; keys of 0
      `,
  )
  const other = new Pair({ anchorConfig: GODWIT }).connect()
  other.world.run(3_000)
  new Watch(other).happens(
    1_000,
    () => {
      other.host.sendData(other.slots[0]!, 1)
      other.anchor.do((machine, now) => machine.end(now))
      other.anchor.stopped = true
    },
    `
      h1> data: 0
      >1 session-end: 0
      >2 session-end: 0
      h1> probe: 0
      h2> probe: 0
      h1> initiation: 10 +278.3 +513.7
      h2> initiation: 10 +278.3 +513.7
      host: quality 0: 20 0; session down; path 1 new mtu 1500 from up; path 2 new mtu 1500 from up; timestamp-sent; ended; keys of 0
      `,
  )
})

test('both ends begin at once: one session of each, and then one of both', () => {
  const pair = new Pair({ anchorConfig: GODWIT })
  const { host, anchor } = pair
  new Watch(pair).happens(
    2_000,
    () => {
      host.addPath(pair.anchorPeer, path(0))
      anchor.addPath(pair.hostPeer, { pathId: 9, socket: 0, remote: endpoint(1), mtu: 1500 })
      traffic(pair, 50, 500)
    },
    `
      h1> initiation: 0
      >1 initiation: 0
      >1 response: 10
      h1> response: 10
      h1> hello 3 + announce 1.1 mtu 1500 + path-challenge: 20
      >1 hello 3 + announce 9.1 mtu 1500 + path-challenge: 20
      >1 path-response + hello 3 + accept 1.1 at 1:51820 + path-challenge: 30
      h1> path-response + hello 3 + accept 9.1 at 100:51820 + path-challenge: 30
      h1> path-response + probe: 40
      >1 path-response + hello 3 + probe: 40
      h1> mtu-probe 1500: 40 +10
      >1 mtu-probe 1500: 40 +10
      h1> data: 50 +50×9
      >1 data: 50 +50×9
      >1 echo: 50 +60 +40 +50×2 +10 +50 +40 +50×2 +30 +50 +40×4 +10 +50 +40×4 +10 +50 +40×4 +10 +50 +40×4 +10 +50 +40×2
      h1> echo: 50 +60 +40 +50×2 +10 +50 +40 +50×2 +30 +50 +40×4 +10 +50 +40×4 +10 +50 +40×4 +10 +50 +40×4 +10 +50 +40×2
      >1 mtu-ack 1500: 50 +10
      h1> mtu-ack 1500: 50 +10
      h1> probe: 100 +40 +50×2 +10 +50 +40 +50×2 +30 +50 +40×4 +10 +50 +40×4 +10 +50 +40×4 +10 +50 +40×4 +10 +50 +40×2
      >1 probe: 100 +40 +50×2 +10 +50 +40 +50×2 +30 +50 +40×4 +10 +50 +40×4 +10 +50 +40×4 +10 +50 +40×4 +10 +50 +40×2
      host: timestamp-sent; timestamp-accepted; session up, own; path 1 validating mtu 1280 from new; hello 3 mtu 1420 ×2; observed; path 1 up mtu 1280 from validating; path 9 up mtu 1280 from new; quality 0: 20 0; mtu ×2; quality 1: NaN 0; quality 0: 20 0; quality 1: 20 0; keys of 2
      anchor: timestamp-sent; timestamp-accepted; session up, own; path 9 validating mtu 1280 from new; hello 3 mtu 1420; observed; path 9 up mtu 1280 from validating; path 1 up mtu 1280 from new; quality 0: 20 0; mtu ×2; quality 1: NaN 0; quality 0: 20 0; quality 1: 20 0; keys of 2
      `,
  )
})

test('§6.5: a stock peer that moves to another port, then to another address, is followed when it has proven itself', () => {
  const pair = new Pair({ config: { dialect: 'stock' }, anchorConfig: { dialect: 'stock' } })
  pair.open(0)
  pair.host.do((machine, now) => machine.connect(pair.anchorPeer, now))
  pair.world.run(100)
  traffic(pair, 100, 7_000)
  pair.world.run(500)
  const watch = new Watch(pair)
  const moves = (to: ReturnType<typeof endpoint>) => () => {
    pair.host.sockets[0]!.endpoint = to
  }
  watch.happens(
    2_000,
    moves(endpoint(1, 4000)),
    `
      h1> data: 100 +100×19
      >1 data: 100 +100×19
      >1 initiation: 110
      h1> response: 120
      >1 keepalive: 130
      host: timestamp-accepted; session up; keys of 2
      anchor: timestamp-sent; remote; session up, own; keys of 2
      `,
  )
  watch.happens(
    3_000,
    moves(endpoint(3, 4000)),
    `
      h3> data: 100 +100×29
      >1 data: 100
      >3 initiation: 110
      h3> response: 120
      >3 keepalive: 130
      >3 data: 200 +100×28
      host: timestamp-accepted; session up
      anchor: timestamp-sent; remote; session up, own
      `,
  )
})

test('a path of a godwit whose traffic and silence alternate: when it is probed, and its loss measured', () => {
  const pair = new Pair({ links: [{ loss: 0.2 }, {}], anchorConfig: GODWIT }).connect()
  pair.world.run(2_000)
  const watch = new Watch(pair)
  watch.happens(
    6_000,
    () => traffic(pair, 20, 3_000),
    `
      h1> probe: 0 +220×3 +40 +220×2 +60 +220 +40 +90 +130 +40 +220 +40×2 +170 +50 +190 +220 +40×2 +220 +100 +40×4 +60 +40×4 +60 +40×2 +80 +40×3 +80 +60 +40
      h2> probe: 0 +1020×3
      >1 probe: 0 +60×2 +220×6 +60 +220×3 +60 +220 +60×2 +220×2 +160 +60 +220 +160 +200 +60 +120 +60
      >1 echo: 10 +220×3 +40 +220×2 +60 +260 +220 +40 +220 +80 +220 +190 +260 +40 +220 +100 +40 +80 +40 +60 +40×3 +100 +40 +120 +40×2 +180
      >2 echo: 10 +1020×3
      h1> echo: 10 +120 +220×5 +280 +220×2 +280 +220 +120 +220×4 +160 +200 +60 +120 +60
      >1 mtu-probe 1500: 620
      h1> mtu-probe 1500: 960
      host: quality 0: 20 0; path 1 degrading mtu 1500 from up; quality 0: 20 0.1 ×2; quality 0: 20 0.2
      anchor: quality 0: NaN 0; path 1 degrading mtu 1500 from up; quality 0: 20 0.1; quality 0: 20 0.2 ×3
      `,
    /probe|echo|challenge|quality/,
  )
})

test('a HELLO in a new session that nobody answers is repeated, less often each time, for as long as the other end is a godwit', () => {
  const pair = new Pair({ config: GODWIT, anchorConfig: GODWIT }).connect([0])
  pair.world.run(3_000)
  const watch = new Watch(pair)
  watch.lost = /hello/
  watch.happens(
    30_000,
    () => pair.host.do((machine, now) => machine.connect(pair.anchorPeer, now)),
    `
    h1> initiation: 0
    h1> hello 3: 20 +250 +500 +1000 +2000 +4000 +8000×2
    host: timestamp-sent; session up, own; keys of 2
    anchor: timestamp-accepted; session up; keys of 2
    `,
    /hello|initiation/,
  )
})

test('RFC 8899: of a peer without message 32 an MTU probe is what message 4 carries at most in that size', () => {
  for (const [features, length] of [
    [Feature.multipathAes, 1_430],
    [0, 1_422],
  ] as const) {
    const pair = new Pair({ anchorConfig: GODWIT })
    pair.host.restart({ features })
    pair.anchorPeer = pair.host.addPeer(pair.anchor, GODWIT)
    const lengths = new Set<number>()
    pair.world.filter = (datagram) => {
      if (datagram instanceof Uint8Array) return true
      const frames = controlCodec.decode(datagram.body)
      if (frames.ok && frames.value[0]?.type === 'mtu-probe') lengths.add(datagram.body.length)
      return true
    }
    pair.host.addPath(pair.anchorPeer, { ...path(0), mtu: 1_492 })
    pair.world.run(500)
    assert.deepEqual([...lengths], [length])
  }
})

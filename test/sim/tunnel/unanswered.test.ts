/** What two ends say when the other does not answer, is slow, loses much, or repeats itself: limits and repetitions (watch.ts). */
import { test } from 'node:test'
import { endpoint, Pair } from './harness.ts'
import { traffic, Watch } from './watch.ts'

test('a peer that answers handshakes and nothing else: HELLO is repeated with the announcement, data go meanwhile', () => {
  const pair = new Pair({ config: { dialect: 'auto' } })
  const watch = new Watch(pair)
  watch.lost = /^>1 .*hello/
  watch.happens(
    26_000,
    () => {
      pair.open(0)
      pair.world.run(60)
      pair.host.sendData(pair.slots[0]!, 1)
    },
    `
      h1> initiation: 60
      >1 response: 70
      h1> hello 3 + announce 1.1 mtu 1500 + path-challenge: 80 +150 +300 +600 +1200 +2400 +4800 +5000×3
      >1 path-response + hello 3 + accept 1.1 at 1:51820 + path-challenge: 90 +150 +300 +600 +1200 +2400 +4800 +5000×3
      host: timestamp-sent; session up, own; path 1 up mtu 1280 from new; keys of 1
      anchor: timestamp-accepted; session up; hello 3 mtu 1420; keys of 1
      `,
  )
})

test('what is never answered: the end of a path, a fresh key, a proof', () => {
  const closing = new Pair().connect()
  closing.world.run(3_000)
  const closed = new Watch(closing)
  closed.lost = /^>2 .*closed/
  closed.happens(
    15_000,
    () => closing.host.do((machine, now) => machine.removePath(closing.slots[0]!, now)),
    `
      h2> close 1.1 for 1 up to 6: 0 +100 +200 +400 +800 +1600 +3200
      >2 closed 1.1: 10 +100 +200 +400 +800 +1600 +3200
      host: path 1 closing 1 mtu 1500 from up; path 1 closed
      anchor: path 1 closing 4 mtu 1500 from up; path 1 closed
      `,
    /clos/,
  )

  const last = new Pair().connect([0])
  last.world.run(3_000)
  new Watch(last).happens(
    12_000,
    () => last.host.do((machine, now) => machine.removePath(last.slots[0]!, now)),
    `
      host: path 1 closing 1 mtu 1500 from up; path 1 closed
      `,
  )

  const keys = new Pair().connect([0])
  keys.world.run(3_000)
  const fresh = new Watch(keys)
  fresh.lost = /key-replaced/
  fresh.happens(
    14_000,
    () => {
      keys.host.do((machine, now) => machine.replaceKey(keys.anchorPeer, new Uint8Array(32).fill(7), now))
    },
    `
      h1> key-replace: 0 +1000×14
      anchor: key-offered ×2
      `,
    /key|session/,
  )

  const proofs = new Pair().connect([0])
  proofs.world.run(3_000)
  const proven = new Watch(proofs)
  proven.lost = /path-response/
  proven.happens(
    45_000,
    () => traffic(proofs, 500, 45_000),
    `
      h1> hello 3 + close 1.1 for 2 up to -1 + announce 1.2 mtu 1500 + path-challenge: 36630 +100×83
      >1 path-response + hello 3 + accept 1.2 at 1:51820 + path-challenge: 36640 +100×83
      host: quality 0: 20 0 ×27; path 1 degrading mtu 1500 from up; quality 0: 20 0.1; quality 0: 20 0.3 ×9; path 1 down 2 mtu 1500 from degrading; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; keys of 2
      anchor: quality 0: NaN 0; quality 0: 20 0 ×26; path 1 degrading mtu 1500 from up; quality 0: 20 0.2; quality 0: 20 0.3; quality 0: 20 0.4 ×7; path 1 down 2 mtu 1500 from degrading; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; timestamp-accepted; session up; hello 3 mtu 1420; keys of 2
      `,
    /close|anno|accept/,
  )
})

test('a host that has gone: its paths are given up, tried, and forgotten', () => {
  const pair = new Pair().connect()
  pair.world.run(3_000)
  pair.world.every(1_000, pair.world.now + 240_000, () => {
    const slot = pair.anchor.usable(pair.hostPeer)[0]
    if (slot !== undefined) pair.anchor.sendData(slot, 1)
  })
  new Watch(pair).happens(
    240_000,
    () => {
      pair.host.stopped = true
    },
    `
      >1 data: 0 +1000
      >2 close 1.1 for 2 up to 6: 1500 +100 +200 +400
      >2 data: 1500 +0 +500
      anchor: quality 0: NaN 0; path 1 suspect mtu 1500 from up; quality 0: NaN 0; path 1 down 2 mtu 1500 from suspect; path 2 suspect mtu 1500 from up; quality 1: NaN 0; path 2 down 2 mtu 1500 from suspect; timestamp-sent ×19; handshake failed, timeout; session down; path 1 closed; path 2 closed; 2 sent again; keys of 0
      `,
    /close|challenge|data/,
  )
})

test('copies of an initiation, initiations in quick succession, refusals: how many are answered, and told', () => {
  const pair = new Pair()
  const watch = new Watch(pair)
  let message: Uint8Array | undefined
  const filter = pair.world.filter
  pair.world.filter = (datagram, from, to) => {
    if (datagram instanceof Uint8Array && datagram[0] === 1 && from.address.at(-1) !== 100)
      message = datagram.slice()
    return filter(datagram, from, to)
  }
  watch.happens(
    500,
    () => pair.open(0),
    `
      h1> initiation: 0
      >1 response: 10
      >1 path-response + hello 3 + accept 1.1 at 1:51820 + path-challenge: 30
      h1> path-response + probe: 40
      host: timestamp-sent; session up, own; path 1 validating mtu 1280 from new; hello 3 mtu 1420; observed; path 1 up mtu 1280 from validating; mtu; keys of 1
      anchor: timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; mtu; keys of 1
      `,
    /init|response/,
  )
  const again = (bytes: Uint8Array) => pair.anchor.receive(bytes, endpoint(1), endpoint(100))
  watch.happens(
    4_000,
    () => {
      for (let n = 0; n < 30; n++) pair.world.at(pair.world.now + 100 * n, () => again(message!))
    },
    `
      >1 response: 0 +100×15
      `,
  )
  watch.happens(
    2_000,
    () => {
      for (let n = 0; n < 30; n++) again(message!)
    },
    `
      `,
  )
  const broken = message!.slice()
  broken[60] = broken[60]! ^ 1
  watch.happens(
    3_000,
    () => {
      for (let n = 0; n < 40; n++) pair.world.at(pair.world.now + 50 * n, () => again(broken))
    },
    `
      anchor: handshake failed, not-for-us ×20
      `,
  )
})

test('an end that is held up: nothing is given up for its own silence', () => {
  const pair = new Pair().connect()
  pair.world.run(3_000)
  new Watch(pair).happens(
    1_500,
    () => {
      traffic(pair, 20, 1_500)
      pair.world.run(200)
      pair.host.heldUntil = pair.world.now + 600
    },
    `
      host: quality 0: 20 0 ×2
      anchor: quality 0: NaN 0; quality 0: 193.8 0
      `,
    /initiation|close|announce/,
  )
})

test('losses and a slow link: degrading, and well again', () => {
  const pair = new Pair({ seed: 3 }).connect([0])
  pair.world.run(3_000)
  const watch = new Watch(pair)
  watch.happens(
    12_000,
    () => {
      traffic(pair, 20, 60_000)
      pair.links[0].up.loss = 0.15
    },
    `
      h1> mtu-probe 1500: 740 +5020×2
      >1 mtu-probe 1500: 1570 +5020×2 +100 +250
      host: quality 0: 20 0; path 1 degrading mtu 1500 from up; quality 0: 20 0.1 ×2; quality 0: 20 0.2 ×9
      anchor: quality 0: NaN 0; quality 0: 20 0 ×11
      `,
    /close|mtu-probe/,
  )
  watch.happens(
    12_000,
    () => {
      pair.links[0].up.loss = 0
    },
    `
      h1> mtu-probe 1500: 3800 +5020
      >1 mtu-probe 1500: 4980 +5020
      host: quality 0: 20 0.2; quality 0: 20 0.1; quality 0: 20 0; path 1 up mtu 1500 from degrading; quality 0: 20 0 ×9
      anchor: quality 0: 20 0 ×12
      `,
    /close|mtu-probe/,
  )
  watch.happens(
    6_000,
    () => {
      pair.links[0].up.delay = 300
    },
    `
      h1> close 1.1 for 2 up to 1463 + announce 1.2 mtu 1500 + path-challenge: 420 +100×2
      h1> hello 3 + close 1.1 for 2 up to -1 + announce 1.2 mtu 1500 + path-challenge: 630
      >1 path-response + closed 1.1 + accept 1.2 at 1:51820: 720 +100×2
      >1 mtu-probe 1500: 720 +300
      >1 path-response + hello 3 + closed 1.1 + accept 1.2 at 1:51820: 930
      h1> mtu-probe 1500: 1760
      host: quality 0: 20 0; path 1 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; timestamp-sent; session up, own; observed; path 1 up mtu 1500 from down; hello 3 mtu 1420; quality 0: 190.3 0; path 1 degrading mtu 1500 from up; quality 0: 278.5 0; quality 0: 299.2 0; quality 0: 307.5 0; quality 0: 309.6 0; 130 sent again; keys of 2
      anchor: quality 0: 140 0; timestamp-accepted; path 1 up mtu 1280 from new; path 1 closed; quality 1: NaN 0; session up; hello 3 mtu 1420; mtu; quality 1: 310 0 ×5; 17 sent again; keys of 2
      `,
    /close|mtu-probe/,
  )
  watch.happens(
    6_000,
    () => {
      pair.links[0].up.delay = 10
    },
    `
      >1 mtu-probe 1500: 330 +90 +5020
      h1> mtu-probe 1500: 1070
      host: quality 0: 273.6 0; quality 0: 168.7 0; path 1 up mtu 1500 from degrading; quality 0: 96.3 0; quality 0: 64.7 0; quality 0: 42.9 0; quality 0: 33.4 0
      anchor: path 1 degrading mtu 1500 from up; quality 1: 214.3 0; quality 1: 133.9 0; path 1 up mtu 1500 from degrading; quality 1: 78.4 0; quality 1: 50 0; quality 1: 37.6 0; quality 1: 29 0
      `,
    /close|mtu-probe/,
  )
})

test('faults: a peer whose input made something throw is barred for a second, two, four', () => {
  const pair = new Pair().connect([0])
  pair.world.run(1_000)
  const watch = new Watch(pair)
  for (const expected of [
    `
      h1> initiation: 340 +275 +509.1
      h1> hello 3 + close 1.1 for 2 up to -1 + announce 1.2 mtu 1500 + path-challenge: 1144.1
      >1 path-response + hello 3 + closed 1.1 + accept 1.2 at 1:51820: 1154.1
      host: quality 0: 20 0; path 1 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; timestamp-sent; session up, own; hello 3 mtu 1420; observed; path 1 up mtu 1500 from down; quality 0: 20 0 ×6; 4 sent again; keys of 2
      anchor: peer-failed; session down; path 1 closed; handshake failed, rate ×2; timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; mtu; quality 0: NaN 0; quality 0: 20 0 ×5
      `,
    `
      h1> initiation: 224.1 +260.1 +582.3 +1017.9
      h1> hello 3 + close 1.2 for 2 up to -1 + announce 1.3 mtu 1500 + path-challenge: 2104.4
      >1 path-response + hello 3 + closed 1.2 + accept 1.3 at 1:51820: 2114.4
      host: path 1 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; timestamp-sent; session up, own; hello 3 mtu 1420; observed; path 1 up mtu 1500 from down; quality 0: 20 0 ×5; 12 sent again
      anchor: peer-failed; session down; path 1 closed; handshake failed, rate ×3; timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; mtu; quality 0: NaN 0; quality 0: 20 0 ×4
      `,
    `
      h1> initiation: 224.4 +291 +550.4 +1026.6 +1012.4 +1056.6
      h1> hello 3 + close 1.3 for 2 up to -1 + announce 1.4 mtu 1500 + path-challenge: 4181.4
      >1 path-response + hello 3 + closed 1.3 + accept 1.4 at 1:51820: 4191.4
      host: path 1 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; timestamp-sent ×2; session up, own; hello 3 mtu 1420; observed; path 1 up mtu 1500 from down; quality 0: 20 0 ×3
      anchor: peer-failed; session down; path 1 closed; handshake failed, rate ×5; timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; mtu; quality 0: NaN 0; quality 0: 20 0 ×2
      `,
  ])
    watch.happens(
      7_000,
      () => {
        pair.anchor.do((machine, now) => machine.fault(pair.hostPeer, new Error('test'), now))
        traffic(pair, 100, 7_000, 'up')
      },
      expected,
      /initiation|> response|hello/,
    )
})

test('a NAT that changes its port again and again: moves are limited', () => {
  const pair = new Pair().connect([0])
  pair.world.run(3_000)
  traffic(pair, 50, 20_000)
  for (let n = 0; n < 40; n++)
    pair.world.at(pair.world.now + 500 * n, () => {
      pair.host.sockets[0]!.endpoint = endpoint(1, 40_000 + n)
    })
  new Watch(pair).happens(
    5_000,
    () => {},
    `
      >1 path-challenge: 10 +500×2 +1000 +500×2 +1000 +500
      h1> path-response: 20 +500×2 +1000 +500×2 +1000 +500
      h1> hello 3 + close 1.1 for 2 up to -1 + announce 1.2 mtu 1500 + path-challenge: 1720
      >1 path-response + hello 3 + accept 1.2 at 1:40003 + path-challenge: 1730
      h1> path-response + probe: 1740 +2000
      h1> close 1.1 for 2 up to -1: 1740
      >1 closed 1.1: 1750
      h1> hello 3 + close 1.2 for 2 up to -1 + announce 1.3 mtu 1500 + path-challenge: 3720
      >1 path-response + hello 3 + accept 1.3 at 1:40007 + path-challenge: 3730
      h1> close 1.2 for 2 up to -1: 3740
      >1 closed 1.2: 3750
      host: quality 0: 20 0 ×2; path 1 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; timestamp-sent; session up, own; hello 3 mtu 1420; observed; path 1 up mtu 1500 from down; quality 0: 20 0 ×2; path 1 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; timestamp-sent; session up, own; hello 3 mtu 1420; observed; path 1 up mtu 1500 from down; quality 0: 20 0; 110 sent again; keys of 2
      anchor: quality 0: NaN 0; remote ×3; quality 0: 20 0; timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; path 1 closed; mtu; quality 1: NaN 0; remote ×2; quality 1: 20 0; remote; timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; path 1 closed; mtu; quality 0: NaN 0; remote ×2; quality 0: 20 0; 112 sent again; keys of 2
      `,
    /challenge|path-response|close|announce/,
  )
})

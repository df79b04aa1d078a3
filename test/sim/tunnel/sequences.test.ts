/** What two ends say to each other in one situation after the other: paths that come, go, fall silent, and come back (watch.ts). */
import { test } from 'node:test'
import { endpoint, Pair } from './harness.ts'
import { traffic, Watch } from './watch.ts'

test('UP-9: a session, greetings, a path, its proof and its MTU', () => {
  const pair = new Pair()
  const watch = new Watch(pair)
  watch.happens(
    3_000,
    () => pair.open(0),
    `
      h1> initiation: 0
      >1 response: 10
      h1> hello 3 + announce 1.1 mtu 1500 + path-challenge: 20
      >1 path-response + hello 3 + accept 1.1 at 1:51820 + path-challenge: 30
      h1> path-response + probe: 40
      h1> mtu-probe 1500: 40
      >1 echo: 50
      >1 mtu-ack 1500: 50
      >1 mtu-probe 1500: 50
      h1> mtu-ack 1500: 60
      host: timestamp-sent; session up, own; path 1 validating mtu 1280 from new; hello 3 mtu 1420; observed; path 1 up mtu 1280 from validating; mtu; keys of 1
      anchor: timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; mtu; keys of 1
      `,
  )
  watch.happens(
    500,
    () => pair.open(1),
    `
      h2> announce 2.2 mtu 1500 + path-challenge: 0
      >2 path-response + accept 2.2 at 2:51820 + path-challenge: 10
      h2> path-response + probe: 20
      h2> mtu-probe 1500: 20
      >2 echo: 30
      >2 mtu-ack 1500: 30
      >2 mtu-probe 1500: 30
      h2> mtu-ack 1500: 40
      host: path 2 validating mtu 1280 from new; observed; path 2 up mtu 1280 from validating; mtu
      anchor: path 2 up mtu 1280 from new; mtu
      `,
  )
})

test('a link of 1,400 bytes: which sizes are tried', () => {
  const pair = new Pair({ links: [{ mtu: 1400 }, {}] })
  new Watch(pair).happens(
    6_000,
    () => pair.open(0),
    `
      h1> initiation: 0
      >1 response: 10
      h1> hello 3 + announce 1.1 mtu 1500 + path-challenge: 20
      >1 path-response + hello 3 + accept 1.1 at 1:51820 + path-challenge: 30
      h1> path-response + probe: 40
      h1> mtu-probe 1500: 40 +110
      >1 echo: 50
      >1 mtu-probe 1500: 50 +300
      h1> mtu-probe 1492: 250 +100
      h1> mtu-probe 1480: 250 +100
      h1> mtu-probe 1472: 250 +100
      h1> mtu-probe 1460: 250 +100
      h1> mtu-probe 1454: 250 +100
      h1> mtu-probe 1440: 250 +100
      h1> mtu-probe 1432: 250 +100
      h1> mtu-probe 1420: 250 +100
      h1> mtu-probe 1400: 250
      h1> mtu-probe 1380: 250
      h1> mtu-probe 1358: 250
      h1> mtu-probe 1340: 250
      h1> mtu-probe 1320: 250
      h1> mtu-probe 1300: 250
      >1 mtu-ack 1400: 260
      >1 mtu-ack 1380: 260
      >1 mtu-ack 1358: 260
      >1 mtu-ack 1340: 260
      >1 mtu-ack 1320: 260
      >1 mtu-ack 1300: 260
      >1 mtu-probe 1492: 650 +300
      >1 mtu-probe 1480: 650 +300
      >1 mtu-probe 1472: 650 +300
      >1 mtu-probe 1460: 650 +300
      >1 mtu-probe 1454: 650 +300
      >1 mtu-probe 1440: 650 +300
      >1 mtu-probe 1432: 650 +300
      >1 mtu-probe 1420: 650 +300
      >1 mtu-probe 1400: 650
      >1 mtu-probe 1380: 650
      >1 mtu-probe 1358: 650
      >1 mtu-probe 1340: 650
      >1 mtu-probe 1320: 650
      >1 mtu-probe 1300: 650
      h1> mtu-ack 1400: 660
      h1> mtu-ack 1380: 660
      h1> mtu-ack 1358: 660
      h1> mtu-ack 1340: 660
      h1> mtu-ack 1320: 660
      h1> mtu-ack 1300: 660
      host: timestamp-sent; session up, own; path 1 validating mtu 1280 from new; hello 3 mtu 1420; observed; path 1 up mtu 1280 from validating; mtu; keys of 1
      anchor: timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; mtu; keys of 1
      `,
  )
})

test('nobody answers: initiations, sooner first, then at WireGuard’s pace, then seldom', () => {
  const pair = new Pair()
  pair.links[0].cut()
  new Watch(pair).happens(
    200_000,
    () => pair.open(0),
    `
      h1> initiation: 0 +302.7 +539.7 +1024.7 +1081.9 +1059.9 +302 +518.5 +1026.7 +1024.4 +1036.1 +312.4 +525.4 +1055.3 +1069.9 +5137.9 +5031.2 +5087.1 +5160 +5075.5 +5249.7 +5325.2 +5221.2 +5110.5 +5197.7 +5331.7 +5102.8 +5019.5 +5002.6 +5244.6 +5206.8 +15329.1 +15215.9 +15294 +15331.7 +15273.1 +15221.2
      host: timestamp-sent ×19; handshake failed, timeout; timestamp-sent ×7
      `,
  )
})

test('an announcement that is not answered is repeated, less often each time', () => {
  const pair = new Pair().connect([0])
  pair.world.run(3_000)
  pair.links[1].cut()
  new Watch(pair).happens(
    20_000,
    () => pair.open(1),
    `
      h2> announce 2.2 mtu 1500 + path-challenge: 0 +150 +300 +600 +1200 +2400 +4800 +5000×2
      h1> probe: 16560
      >1 echo: 16570
      host: path 2 validating mtu 1280 from new
      `,
  )
})

test('an idle pair: keepalives, probes and proofs in two minutes', () => {
  const pair = new Pair().connect([0])
  pair.world.run(3_000)
  new Watch(pair).happens(
    125_000,
    () => {},
    `
      h1> probe: 16560 +20020×5
      >1 echo: 16570 +40040×2
      >1 echo + path-challenge: 36590 +40040×2
      h1> path-response: 36600 +40040×2
      h1> initiation: 116660
      >1 response: 116670
      h1> hello 3: 116680
      >1 hello 3: 116690
      host: timestamp-sent; session up, own; hello 3 mtu 1420; keys of 2
      anchor: timestamp-accepted; session up; hello 3 mtu 1420; keys of 2
      `,
  )
})

test('a path with traffic: probes, qualities, proofs', () => {
  const pair = new Pair().connect([0])
  pair.world.run(3_000)
  new Watch(pair).happens(
    700,
    () => traffic(pair, 20, 500),
    `
      h1> data: 0 +20×25
      >1 data: 0 +20×25
      h1> probe: 0 +220×2 +100 +40×3
      >1 probe: 0 +220×3
      >1 echo: 10 +220×2 +100 +40×3
      h1> echo: 10 +220×3
      host: quality 0: 20 0
      anchor: quality 0: NaN 0
      `,
  )
  new Watch(pair).happens(
    3_000,
    () => traffic(pair, 500, 3_000),
    `
      h1> data: 0 +500×6
      >1 data: 0 +500×6
      h1> probe: 40 +40×3 +70 +40×4 +60 +40 +50 +40×2 +50 +40×4 +90 +40 +80 +70 +40×4 +60 +40×4 +60 +40×4 +60 +40×4 +60 +50 +40×3 +50 +40×4 +60 +40 +70 +40 +70 +40×4 +60 +40×3
      >1 echo: 50 +40×3 +70 +40×4 +60 +40 +50 +40×2 +50 +40×4 +90 +40 +80 +70 +40×4 +60 +40×4 +60 +40×4 +60 +40×4 +60 +50 +40×3 +50 +40×4 +60 +40 +70 +40 +70 +40×4 +60 +40×3
      >1 probe: 180 +220×12
      h1> echo: 190 +220×12
      h1> mtu-probe 1500: 860
      >1 mtu-ack 1500: 870
      >1 mtu-probe 1500: 870
      h1> mtu-ack 1500: 880
      host: quality 0: 20 0 ×3
      anchor: quality 0: 20 0 ×3
      `,
  )
  new Watch(pair).happens(
    40_000,
    () => traffic(pair, 500, 40_000),
    `
      h1> mtu-probe 1500: 2880 +5020×7
      >1 mtu-ack 1500: 2890 +5020×7
      >1 mtu-probe 1500: 2890 +5020×7
      h1> mtu-ack 1500: 2900 +5020×7
      >1 path-challenge: 22860
      h1> path-response: 22870
      h1> path-challenge: 22870
      >1 path-response: 22880
      host: quality 0: 20 0 ×40
      anchor: quality 0: 20 0 ×39
      `,
    /mtu|challenge|response|close/,
  )
})

test('a path falls silent under traffic: suspected, given up, announced again, back', () => {
  const pair = new Pair().connect()
  pair.world.run(3_000)
  const watch = new Watch(pair)
  watch.happens(
    1_500,
    () => {
      traffic(pair, 20, 60_000)
      pair.world.run(200)
      pair.links[0].cut()
    },
    `
      h1> data: 0 +20×21
      >1 data: 0 +20×22
      h1> probe: 0 +220 +40×5
      h2> probe: 0 +300 +220×6
      >1 probe: 0 +220 +60×3
      >1 echo: 10
      >2 echo: 10 +300 +220×6
      h1> echo: 10
      h2> close 1.1 for 2 up to 21: 430
      h2> data: 430 +0×20 +10 +20×63
      >2 data: 440 +0×11 +20×63
      >2 closed 1.1: 440
      >2 probe: 480 +220×5
      h2> echo: 490 +220×5
      h1> announce 1.3 mtu 1500 + path-challenge: 530 +150 +300 +600
      h2> mtu-probe 1500: 1560
      >2 mtu-ack 1500: 1570
      >2 mtu-probe 1500: 1570
      h2> mtu-ack 1500: 1580
      host: quality 0: 20 0; path 1 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; quality 1: 20 0 ×2; 21 sent again
      anchor: quality 0: NaN 0; path 1 closing 4 mtu 1500 from up; path 1 closed; quality 1: NaN 0; quality 1: 20 0; 12 sent again
      `,
  )
  watch.happens(
    10_000,
    () => {},
    `
      h1> announce 1.3 mtu 1500 + path-challenge: 1080 +2400 +4800
      h2> mtu-probe 1500: 4880 +5020
      >2 mtu-ack 1500: 4890 +5020
      >2 mtu-probe 1500: 4890 +5020
      h2> mtu-ack 1500: 4900 +5020
      host: quality 1: 20 0 ×10
      anchor: quality 1: 20 0 ×9
      `,
    /announce|mtu|close/,
  )
  watch.happens(
    3_600,
    () => pair.links[0].mend(),
    `
      h1> announce 1.3 mtu 1500 + path-challenge: 3280
      >1 path-response + accept 1.3 at 1:51820 + path-challenge: 3290
      h1> path-response + probe: 3300
      h1> mtu-probe 1500: 3300
      >1 mtu-ack 1500: 3310
      >1 mtu-probe 1500: 3310
      h1> data: 3320 +20×14
      h1> mtu-ack 1500: 3320
      host: quality 1: 20 0 ×3; observed; path 1 up mtu 1500 from down; quality 0: 20 0
      anchor: quality 1: 20 0 ×4; path 1 up mtu 1280 from new; mtu; quality 0: NaN 0
      `,
    /announce|accept|path-response|h1> (mtu|data)|>1 mtu/,
  )
})

test('only the way up is cut: the other end’s echoes show it', () => {
  const pair = new Pair().connect()
  pair.world.run(3_000)
  new Watch(pair).happens(
    800,
    () => {
      traffic(pair, 20, 60_000)
      pair.world.run(200)
      pair.links[0].up.down = true
    },
    `
      h1> data: 0 +20×23
      >1 data: 0 +20×24
      h1> probe: 0 +220 +40×6
      h2> probe: 0 +410 +70 +220×2
      >1 probe: 0 +220 +60×4
      >1 echo: 10
      >2 echo: 10 +410 +70 +220×2
      h1> echo: 10 +220 +60×4
      h2> close 1.1 for 2 up to 40: 470
      h2> data: 470 +0×12 +10 +20×26
      >2 data: 480 +20×26
      >2 closed 1.1: 480
      h1> announce 1.3 mtu 1500 + path-challenge: 570 +150
      >2 probe: 600 +220
      h2> echo: 610 +220
      host: quality 0: 20 0; path 1 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; quality 1: 20 0; 13 sent again
      anchor: quality 0: NaN 0; path 1 closing 4 mtu 1500 from up; path 1 closed; quality 1: NaN 0; 1 sent again
      `,
  )
})

test('an access goes with a link event: what is said, and again while nobody answers', () => {
  const pair = new Pair().connect()
  pair.world.run(3_000)
  const watch = new Watch(pair)
  const answered = (slot: number) => pair.host.do((machine, now) => machine.removePath(slot, now))
  pair.links[1].cut()
  watch.happens(
    1_200,
    () => answered(pair.slots[0]!),
    `
      h2> close 1.1 for 1 up to 6: 0 +100 +200 +400
      host: path 1 closing 1 mtu 1500 from up; path 1 closed
      `,
  )
  pair.links[1].mend()
  watch.happens(
    15_000,
    () => {},
    `
      h2> close 1.1 for 1 up to 6: 300
      >2 closed 1.1: 310
      anchor: path 1 closing 4 mtu 1500 from up; path 1 closed
      `,
  )
})

test('both accesses gone, one back after a while', () => {
  const pair = new Pair().connect()
  pair.world.run(3_000)
  const watch = new Watch(pair)
  watch.happens(
    3_000,
    () => {
      traffic(pair, 50, 2_000)
      pair.world.run(500)
      for (const link of pair.links) link.cut()
    },
    `
      h1> data: 0 +50×14
      >1 data: 0 +50×40
      h1> probe: 0 +90 +50×2 +100 +50×5 +40×4
      h2> probe: 0 +600 +180 +40×3
      >1 probe: 0 +220×2 +130 +60×21 +30 +60×2
      >1 echo: 10 +90 +50×2 +100 +50×4
      >2 echo: 10
      h1> echo: 10 +220×2
      h2> close 1.1 for 2 up to 31: 730 +100
      h2> data: 730 +0×4 +20 +50×3
      h1> close 1.1 for 2 up to 31 + announce 1.3 mtu 1500 + path-challenge: 830
      h1> initiation: 940 +314.7 +552 +1030.6
      h2> initiation: 940 +314.7 +552 +1030.6
      h1> close 1.1 for 2 up to 31 + close 2.2 for 2 up to 11 + announce 1.3 mtu 1500 + path-challenge: 980 +100×25
      h2> close 1.1 for 2 up to 31 + close 2.2 for 2 up to 11 + announce 2.4 mtu 1500 + path-challenge: 1040 +100×24
      >2 probe: 1110 +750 +60×12
      >1 mtu-probe 1500: 1570 +100 +250
      >2 close 1.1 for 2 up to 31: 2010 +100 +200
      >2 data: 2010 +0×30
      host: quality 0: 20 0; path 1 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; quality 1: 20 0; path 2 suspect mtu 1500 from up; path 2 down 2 mtu 1500 from suspect; timestamp-sent; 5 sent again
      anchor: quality 0: NaN 0; quality 0: 20 0; path 1 suspect mtu 1500 from up; path 2 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; path 2 down 2 mtu 1500 from suspect; 31 sent again
      `,
  )
  watch.happens(
    60_000,
    () => {},
    `
      h2> close 1.1 for 2 up to 31 + close 2.2 for 2 up to 11 + announce 2.4 mtu 1500 + path-challenge: 40 +100×274 +5000×6
      h1> close 1.1 for 2 up to 31 + close 2.2 for 2 up to 11 + announce 1.3 mtu 1500 + path-challenge: 80 +100×2 +100.9 +100×270 +5000×6
      h1> initiation: 379.9 +1045.5 +265 +574.1 +1001 +1070.3 +1081.9 +305.3 +527.6 +1000 +1048.2 +5133.9 +5100.2 +5063.7 +5238.1 +5110.6 +5165.2 +5267.9 +5212 +5327.8
      h2> initiation: 379.9 +1045.5 +265 +574.1 +1001 +1070.3 +1081.9 +305.3 +527.6 +1000 +1048.2 +5133.9 +5100.2 +5063.7 +5238.1 +5110.6 +5165.2 +5267.9 +5212 +5327.8
      >1 initiation: 12050 +279.3 +533.5 +1013.9 +1071.9 +1035.5 +305.6 +500 +1006.5 +1052.7 +1060.4 +322.2 +503.6 +1070.6 +1038.7 +5175.6 +5266.6 +5196.5 +5204.2 +5101.4 +5062.5 +5006.5
      >2 initiation: 12050 +279.3 +533.5 +1013.9 +1071.9 +1035.5 +305.6 +500 +1006.5 +1052.7 +1060.4 +322.2 +503.6 +1070.6 +1038.7 +5175.6 +5266.6 +5196.5 +5204.2 +5101.4 +5062.5 +5006.5
      host: timestamp-sent ×12
      anchor: timestamp-sent ×11
      `,
  )
  watch.happens(
    3_000,
    () => pair.links[1].mend(),
    `
      h1> initiation: 5.4
      h2> initiation: 5.4
      >2 response: 15.4
      h1> hello 3 + close 1.1 for 2 up to -1 + close 2.2 for 2 up to -1 + announce 1.3 mtu 1500 + path-challenge: 25.4
      h2> hello 3 + close 1.1 for 2 up to -1 + close 2.2 for 2 up to -1 + announce 2.4 mtu 1500 + path-challenge: 25.4
      >2 path-response + hello 3 + accept 2.4 at 2:51820 + path-challenge: 35.4
      h2> path-response + probe: 45.4
      h2> close 1.1 for 2 up to -1 + close 2.2 for 2 up to -1: 45.4
      >2 echo: 55.4
      >2 closed 1.1 + closed 2.2: 55.4
      >2 mtu-probe 1500: 55.4
      >2 close 1.1 for 2 up to -1 + close 2.2 for 2 up to -1: 55.4
      h2> mtu-ack 1500: 65.4
      h2> closed 1.1 + closed 2.2: 65.4
      h1> announce 1.3 mtu 1500 + path-challenge: 125.4 +150 +300 +600 +1200
      host: timestamp-sent; session up, own; hello 3 mtu 1420; observed; path 2 up mtu 1500 from down; keys of 2
      anchor: timestamp-accepted; session up; hello 3 mtu 1420; path 1 closing 4 mtu 1500 from down; path 2 up mtu 1280 from new; path 1 closed; path 2 closed; mtu; keys of 2
      `,
  )
})

test('the anchor restarts under traffic', () => {
  const pair = new Pair().connect([0])
  pair.world.run(3_000)
  new Watch(pair).happens(
    4_000,
    () => {
      traffic(pair, 100, 3_000, 'up')
      pair.world.run(150)
      pair.anchor.restart()
      pair.hostPeer = pair.anchor.addPeer(pair.host)
    },
    `
      h1> data: 0 +100×4 +0×3 +100×26
      h1> initiation: 360
      >1 response: 370
      h1> hello 3 + close 1.1 for 2 up to -1 + announce 1.2 mtu 1500 + path-challenge: 380
      >1 path-response + hello 3 + accept 1.2 at 1:51820 + path-challenge: 390
      h1> path-response + probe: 400
      >1 mtu-probe 1500: 410
      h1> mtu-ack 1500: 420
      host: quality 0: 20 0; path 1 suspect mtu 1500 from up; path 1 down 2 mtu 1500 from suspect; timestamp-sent; session up, own; path 1 validating mtu 1500 from down; hello 3 mtu 1420 restarted; observed; path 1 up mtu 1500 from validating; quality 0: 20 0 ×3; 4 sent again
      anchor: quality 0: NaN 0; timestamp-accepted; session up; hello 3 mtu 1420; path 1 up mtu 1280 from new; mtu; quality 0: NaN 0; quality 0: 20 0 ×3
      `,
    /hello|init|response|mtu|data/,
  )
})

test('a NAT gives the host another port: proven before anything moves', () => {
  const pair = new Pair().connect([0])
  pair.world.run(3_000)
  new Watch(pair).happens(
    1_000,
    () => {
      pair.host.sockets[0]!.endpoint = endpoint(1, 40_000)
      traffic(pair, 50, 500)
    },
    `
      h1> data: 0 +50×10
      >1 data: 0 +50×10
      h1> probe: 0 +40 +50×4 +60 +40 +50×2 +100 +40×3 +80 +40×4 +60 +40
      >1 probe: 0 +30 +220×4
      >1 path-challenge: 10
      h1> path-response: 20
      h1> echo: 40 +220×4
      >1 echo: 50 +50×4 +60 +40 +50×2 +100 +40×3 +80 +40×4 +60
      host: quality 0: 20 0 ×2
      anchor: quality 0: NaN 0; remote
      `,
  )
})

test('a standby path is probed seldom, a woken one at once', () => {
  const pair = new Pair().connect()
  pair.world.run(3_000)
  const watch = new Watch(pair)
  watch.happens(
    60_000,
    () => pair.host.do((machine) => machine.setStandby(pair.slots[1]!, 30_000)),
    `
      h1> probe: 16560 +20020×2
      h2> probe: 16560 +20020×2
      >1 echo: 16570 +40040
      >2 echo: 16570 +40040
      >1 echo + path-challenge: 36590
      >2 echo + path-challenge: 36590
      h1> path-response: 36600
      h2> path-response: 36600
      `,
  )
  watch.happens(
    1_000,
    () => pair.host.do((machine, now) => machine.wake(now)),
    `
      h1> probe: 0
      h2> probe: 0
      >1 echo: 10
      >2 echo: 10
      `,
  )
  watch.happens(
    1_000,
    () => pair.host.do((machine, now) => machine.setInterfaceMtu(pair.slots[0]!, 1_300, now)),
    `
      host: mtu
      `,
  )
})

test('a peer of stock WireGuard: a path falls silent under requests, another one takes over, the first comes back', () => {
  const pair = new Pair({ config: { dialect: 'stock' }, anchorConfig: { dialect: 'stock' } }).connect()
  const watch = new Watch(pair)
  let sent = 0
  let answered = 0
  pair.world.every(100, pair.world.now + 26_000, () => {
    const slot = pair.host.usable(pair.anchorPeer)[0] ?? pair.slots[0]!
    pair.host.sendData(slot, sent++)
  })
  pair.world.every(5, pair.world.now + 26_000, () => {
    const slot = pair.anchor.usable(pair.hostPeer)[0]
    while (slot !== undefined && answered < pair.anchor.received.length)
      pair.anchor.sendData(slot, answered++)
  })
  watch.happens(
    1_000,
    () => {},
    `
      h1> initiation: 0
      h2> initiation: 0
      >1 response: 10
      >2 response: 10
      h1> keepalive: 20
      >1 initiation: 30
      h1> response: 40
      >1 keepalive: 50
      h1> data: 100 +100×9
      >1 data: 110 +100×8
      host: timestamp-sent; session up, own; path 1 up mtu 1280 from new; path 2 up mtu 1280 from new; timestamp-accepted; session up; keys of 2
      anchor: timestamp-accepted; session up; timestamp-sent; path 0 up mtu 1280 from new; session up, own; keys of 2
      `,
  )
  watch.happens(
    5_000,
    () => pair.links[0].cut(),
    `
      >1 data: 10
      h1> data: 100 +100×15
      h1> initiation: 600 +500
      h2> initiation: 1100
      >2 response: 1110
      h2> keepalive: 1120 +480
      h2> data: 1600 +0×17 +100×34
      >2 data: 1610 +0×15 +100×33
      host: timestamp-sent; path 1 suspect mtu 1280 from up; timestamp-sent; session up, own; path 1 down 2 mtu 1280 from suspect; 18 sent again
      anchor: timestamp-accepted; session up; remote
      `,
  )
  watch.happens(
    18_000,
    () => pair.links[0].mend(),
    `
      h1> initiation: 11600
      >1 response: 11610
      h2> keepalive: 11620
      h1> data: 11700 +100×63
      host: timestamp-sent; path 1 up mtu 1280 from down; session up, own
      anchor: timestamp-accepted; session up; remote
      `,
    /initiation|response|keepalive|h1/,
  )
})

test('a peer of stock WireGuard that does not answer data: handshakes, no more', () => {
  const pair = new Pair({ config: { dialect: 'stock' }, anchorConfig: { dialect: 'stock' } }).connect()
  pair.world.every(100, pair.world.now + 20_000, () => pair.host.sendData(pair.slots[0]!, 1))
  new Watch(pair).happens(
    20_000,
    () => {},
    `
      h1> initiation: 0 +850 +5125×3
      h2> initiation: 0
      >1 response: 10 +850 +5125×3
      >2 response: 10
      h1> keepalive: 20 +850 +5125×3
      >1 initiation: 30
      h1> response: 40
      >1 keepalive: 50 +10060
      host: timestamp-sent; session up, own; path 1 up mtu 1280 from new; path 2 up mtu 1280 from new; timestamp-accepted; session up; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; timestamp-sent; session up, own; keys of 2
      anchor: timestamp-accepted; session up; timestamp-sent; path 0 up mtu 1280 from new; session up, own; timestamp-accepted; session up; timestamp-accepted; session up; timestamp-accepted; session up; timestamp-accepted; session up; keys of 2
      `,
    /initiation|response|keepalive/,
  )
})

test('rekeying: a session is replaced in time, and the old one ends', () => {
  const pair = new Pair().connect([0])
  new Watch(pair).happens(
    190_000,
    () => traffic(pair, 1_000, 189_000, 'up'),
    `
      h1> path-challenge: 29580 +30040×2 +30060 +30040×2
      >1 path-challenge: 29610 +60100 +30040 +60100
      >1 echo + path-challenge: 59670 +30040 +60100 +30040
      h1> initiation: 119540
      h1> hello 3: 119560
      >1 hello 3: 119570
      host: quality 0: 20 0 ×120; timestamp-sent; session up, own; hello 3 mtu 1420; quality 0: 20 0 ×70
      anchor: quality 0: NaN 0; quality 0: 20 0 ×119; timestamp-accepted; session up; hello 3 mtu 1420; quality 0: 20 0 ×70
      `,
    /hello|initiation|> response|keepalive|challenge/,
  )
})

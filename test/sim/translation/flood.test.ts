/** What one peer, or a crowd of strangers, can cost a host: bounded, and the others are served meanwhile. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateOwnKey, nodeIhmpCrypto } from '../../../src/translation/keys.ts'
import type { OwnKey } from '../../../src/translation/machine/host.ts'
import { bytesOf, type Ip } from '../../../src/translation/tables.ts'
import { Control, encodeSigned, type IhmpMessage, Option } from '../../../src/translation/wire.ts'
import { A, B, F, peerOf, type SimHost, SimNetwork } from './network.ts'

const OVERHEAD = 28

function peers(options = {}): { net: SimNetwork; v: SimHost; m: SimHost } {
  const net = new SimNetwork(9)
  const [v, m] = [net.host(options), net.host()]
  v.set(`${F}/24`)
  m.set(`${A}/24`)
  m.flow(A, 40001, F, 80)
  v.flow(F, 80, A, 40001)
  net.run(5_000)
  return { net, v, m }
}

let counter = 1_800_000_000_000_000
function signed(key: OwnKey, message: Partial<IhmpMessage> & { hostId: Uint8Array }): Uint8Array {
  const whole = {
    control: Control.PATH_PROBE,
    options: 0,
    sequence: 7,
    receiver: bytesOf(F),
    counter: counter++,
  }
  return encodeSigned({ ...whole, ...message }, (bytes) => nodeIhmpCrypto.sign(key, bytes))
}

const HEADER = Uint8Array.of(
  0x49,
  0x48,
  1,
  Control.HELLO,
  ...Array<number>(12).fill(0),
  4,
  ...Array<number>(19).fill(0),
)

test('a half-open HELLO is answered again only to the same bytes from the same port, three bytes for one at most', () => {
  const net = new SimNetwork(5)
  const v = net.host()
  v.set(`${F}/24`)
  v.flow(F, 80, A, 40001)
  net.run(10_000)
  const hello = signed(generateOwnKey(), {
    control: Control.HELLO,
    hostId: bytesOf(A),
    addresses: [bytesOf(A)],
    challenge: new Uint8Array(16).fill(1),
    cookie: new Uint8Array(16).fill(2),
    publicKey: generateOwnKey().publicKey,
  })
  const key = generateOwnKey()
  const good = signed(key, {
    control: Control.HELLO,
    hostId: bytesOf(A),
    addresses: [bytesOf(A)],
    challenge: new Uint8Array(16).fill(1),
    cookie: new Uint8Array(16).fill(2),
    publicKey: key.publicKey,
    counter: 42,
  })
  const mark = net.log.length
  v.machine.handleMessage(hello, { local: F, foreign: A }, 0, net.now) // signed by another key than it shows
  v.machine.handleMessage(good, { local: F, foreign: A }, 0, net.now)
  net.drain()
  assert.equal(net.log.length - mark, 1)
  const copy = HEADER.slice() // unsigned, with the same counter
  copy[15] = 42
  for (let i = 0; i < 10_000; i++) v.machine.handleMessage(copy, { local: F, foreign: A }, 9, net.now)
  net.run(net.now + 5_000)
  assert.ok(
    net.log.slice(mark).every((p) => p.port === 0),
    'none to another port',
  )
  const sent = net.log.slice(mark).reduce((n, p) => n + p.bytes.length + OVERHEAD, 0)
  assert.ok(sent <= 3 * (good.length + OVERHEAD), `${sent} bytes`)
})

test('strangers with a connection here and a key each: 200 HELLOs a second are answered, and no row is made', () => {
  const net = new SimNetwork(5)
  const v = net.host()
  v.set(`${F}/24`)
  const keys = [generateOwnKey(), generateOwnKey(), generateOwnKey()]
  const mark = net.log.length
  for (let i = 0; i < 2_000; i++) {
    const stranger = `10.66.${i >> 8}.${i & 255}`
    v.flows.push({ local: F, foreign: stranger })
    const key = keys[i % keys.length]!
    const hello = signed(key, {
      control: Control.HELLO,
      hostId: bytesOf(stranger),
      addresses: [bytesOf(stranger)],
      challenge: new Uint8Array(16).fill(1),
      cookie: new Uint8Array(16).fill(2),
      publicKey: key.publicKey,
    })
    v.machine.handleMessage(hello, { local: F, foreign: stranger }, 0, net.now + i / 2)
  }
  net.drain()
  const answered = new Set(net.log.slice(mark).map(({ to }) => to))
  assert.ok(answered.size >= 200 && answered.size <= 400, `${answered.size} of 2,000 in a second`)
  assert.deepEqual([...v.machine.hosts()], [])
})

test('updates of one peer cost a bounded number of answers and probes, whatever their rate', () => {
  const { net, v, m } = peers()
  net.hosts.splice(net.hosts.indexOf(m), 1)
  const mark = net.log.length
  const checked = v.checked
  let came = 0
  let most = 0
  for (let i = 0; i < 5_000; i++) {
    const bytes = signed(m.key!, {
      control: Control.ADDR_UP_UNREACHABLE,
      hostId: bytesOf(A),
      newAddress: Uint8Array.of(10, 3, i >> 8, i & 255),
    })
    came += bytes.length + OVERHEAD
    v.machine.handleMessage(bytes, { local: F, foreign: A }, 0, net.now)
    if (i % 10 === 0) net.run(net.now + 10)
    most = Math.max(most, peerOf(v).requests.size)
  }
  net.run(net.now + 60_000)
  const out = net.log.slice(mark).reduce((n, p) => n + p.bytes.length + OVERHEAD, 0)
  assert.ok(out <= came, `${out} bytes for ${came}`)
  assert.ok(most <= 256, `${most} messages wait`)
  assert.ok(v.checked - checked <= 700, `${v.checked - checked} checks in five seconds`)
})

test('messages are found by addresses that were proven: claims to an address cost its owner’s messages nothing', () => {
  const net = new SimNetwork(11)
  const v = net.host()
  const s = net.host()
  v.set(`${F}/24`)
  s.set(`${B}/24`)
  s.flow(B, 40002, F, 80)
  v.flow(F, 80, B, 40002)
  net.run(3_000)
  const crowd: [SimHost, Ip][] = []
  for (let i = 0; i < 100; i++) {
    const ip = `10.77.0.${i}`
    const host = net.host()
    host.set(`${ip}/32`)
    host.flow(ip, 40001, F, 80)
    v.flow(F, 80, ip, 40001)
    crowd.push([host, ip])
    net.run(net.now + 50)
  }
  net.run(net.now + 3_000)
  assert.equal([...v.machine.hosts()].filter((h) => h.state === 'peer').length, 101)
  for (const [host, ip] of crowd) {
    const claim = signed(host.key!, {
      control: Control.ADDR_UP_UNREACHABLE,
      hostId: bytesOf(ip),
      newAddress: bytesOf(B),
    })
    v.machine.handleMessage(claim, { local: F, foreign: ip }, 0, net.now)
  }
  const before = v.checked
  const junk = signed(generateOwnKey(), { hostId: bytesOf(B) })
  for (let i = 0; i < 20; i++)
    v.machine.handleMessage(junk, { local: F, foreign: '198.51.100.7' }, 0, net.now)
  assert.ok(v.checked - before <= 20, `${v.checked - before} checks for 20 messages`)
})

test('a flood of messages that name nobody does not keep a move from being followed', () => {
  const { net, v, m } = peers()
  let i = 0
  const flood = (n: number): void => {
    for (; n > 0; n--, i++) {
      const junk = signed(m.key!, { hostId: Uint8Array.of(9, 9, 9, 9), counter: i })
      v.machine.handleMessage(junk, { local: F, foreign: `192.0.${(i >> 8) & 255}.${i & 255}` }, 0, net.now)
    }
  }
  flood(500)
  m.preferred = B
  m.set(`${B}/24`)
  const from = net.now
  while (peerOf(v).row.current[4]?.foreign !== B && net.now < from + 2_000) {
    flood(1)
    net.run(net.now + 1)
  }
  assert.ok(net.now - from <= 100, `followed after ${net.now - from} ms`)
})

for (const delay of [29, 30, 31, 32, 33])
  test(`a flood of empty HELLOs does not keep a new host from being greeted (${delay} ms away)`, () => {
    const net = new SimNetwork(9)
    net.delay = delay
    const [v, s] = [net.host(), net.host()]
    v.set(`${F}/24`)
    s.set(`${B}/24`)
    v.flows.push({ local: F, foreign: B })
    const flood = (n: number): void => {
      for (; n > 0; n--) v.machine.handleMessage(HEADER, { local: F, foreign: '192.0.2.1' }, 0, net.now)
    }
    flood(400)
    s.flow(B, 40002, F, 80)
    const from = net.now
    while (![...v.machine.hosts()].some((h) => h.state === 'peer') && net.now < from + 2_000) {
      flood(2)
      net.run(net.now + 1)
    }
    assert.ok(net.now - from <= 200, `greeted after ${net.now - from} ms`)
  })

test('NAT_ENTRY: an older word about a connection, or a repeated one, changes nothing; nor one from elsewhere', () => {
  const nat = generateOwnKey()
  const N = '203.0.113.9'
  const { net, v, m } = peers({ nats: [nat.publicKey] })
  const up = signed(m.key!, {
    control: Control.ADDR_UP,
    options: Option.NS,
    hostId: bytesOf(A),
    newAddress: bytesOf(B),
    challenge: new Uint8Array(16),
  })
  net.hosts.splice(net.hosts.indexOf(m), 1)
  v.machine.handleMessage(up, { local: F, foreign: N }, 0, net.now)
  peerOf(v).row.active.add(N)
  let at = 100
  const entry = (natPort: number, hostPort = 40001): Uint8Array =>
    signed(nat, {
      control: Control.NAT_ENTRY,
      options: Option.NS,
      counter: at++,
      hostId: bytesOf(N),
      mapping: { protocol: 6, host: bytesOf(B), hostPort, nat: bytesOf(N), natPort, remotePort: 80 },
    })
  const say = (bytes: Uint8Array, from = N): number[] => {
    v.machine.handleMessage(bytes, { local: F, foreign: from }, 0, net.now)
    net.run(net.now + 1_000)
    return peerOf(v).row.ports.map((p) => p.natPort)
  }
  const [first, second, late, third] = [entry(1000), entry(2000), entry(2500), entry(3000)]
  assert.deepEqual(say(first), [1000])
  assert.deepEqual(say(second, '198.51.100.1'), [1000], 'not from the NAT')
  const forged = signed(m.key!, {
    control: Control.NAT_ENTRY,
    options: Option.NS,
    counter: at++,
    hostId: bytesOf(N),
    mapping: { protocol: 6, host: bytesOf(B), hostPort: 40001, nat: bytesOf(N), natPort: 9, remotePort: 80 },
  })
  assert.deepEqual(say(forged), [1000], 'signed with a key that no trusted NAT has')
  assert.deepEqual(say(second), [2000])
  assert.deepEqual(say(first), [2000], 'replayed')
  assert.deepEqual(say(third), [3000])
  assert.deepEqual(say(late), [3000], 'delivered late')
  const others = [entry(4000, 40002), entry(5000, 40003)].map((each) => say(each))
  assert.deepEqual(others.at(-1), [3000, 4000, 5000], 'of each connection its own')
  assert.deepEqual(say(entry(4001, 40002)), [3000, 5000, 4001])
  const [saved] = v.machine.save()
  const fresh = net.host({ nats: [nat.publicKey] })
  fresh.key = v.key
  fresh.machine.restore(saved!)
  fresh.set(`${F}/24`)
  fresh.machine.handleMessage(second, { local: F, foreign: N }, 0, net.now)
  assert.deepEqual(peerOf(fresh).row.ports, peerOf(v).row.ports, 'replayed after a restart')
})

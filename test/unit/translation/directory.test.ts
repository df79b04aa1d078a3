/** Keys from the DNS (DI-39; translation/directory/): the record, answers of resolvers, what is kept and for how long. */
import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { test } from 'node:test'
import { encode } from 'dns-packet'
import fc from 'fast-check'
import { KeyDirectory, resolverAsker } from '../../../src/translation/directory/directory.ts'
import { isLoopback } from '../../../src/translation/directory/keys.ts'
import {
  decodeAnswer,
  encodeQuestion,
  keyIn,
  reverseName,
  type Word,
  zoneLine,
} from '../../../src/translation/directory/record.ts'

const IP = '10.3.0.2'
const NAME = '2.0.3.10.in-addr.arpa'
const KEY = Uint8Array.from({ length: 32 }, (_, i) => i + 1)
const AD = 0x20

const rdata = (key: Uint8Array, algorithm = 4): Buffer => Buffer.from([10, 0, algorithm, ...key])

interface Record {
  readonly name?: string
  readonly type?: string
  readonly ttl?: number
  readonly data: unknown
}

function answer(records: readonly Record[], flags = AD, authorities: readonly Record[] = []): Uint8Array {
  const full = (record: Record) => ({ name: NAME, type: 'IPSECKEY', ttl: 600, class: 'IN', ...record })
  return encode({
    type: 'response',
    id: 7,
    flags,
    questions: [{ type: 'IPSECKEY', name: NAME }],
    answers: records.map(full),
    authorities: authorities.map(full),
  } as never)
}

const word = (bytes: Uint8Array): Word | string => {
  const decoded = decodeAnswer(bytes, 7, IP)
  return decoded.ok ? decoded.value : decoded.reason
}

test('DI-39: names of the reverse tree, and the line of a zone file', () => {
  assert.equal(reverseName(IP), NAME)
  assert.equal(
    reverseName('2001:db8::567:89ab'),
    'b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa',
  )
  assert.equal(zoneLine(IP, KEY), `${NAME}. IN TYPE45 \\# 35 0a0004${Buffer.from(KEY).toString('hex')}`)
})

test('DI-39: the question asks whether the answer is authentic, and takes 1,232 bytes', () => {
  assert.equal(
    Buffer.from(encodeQuestion(7, IP)).toString('hex'),
    // id, RD and AD, one question, one additional; 2.0.3.10.in-addr.arpa, type 45, IN; OPT 1232
    '00070120000100000000000101320130013302313007696e2d61646472046172706100002d0001' +
      '00002904d0000000000000',
  )
})

test('DI-39: IPSECKEY with EdDSA (RFC 9373), gateway of each kind but a name; other algorithms and lengths are none', () => {
  assert.deepEqual(keyIn(rdata(KEY)), KEY)
  assert.deepEqual(keyIn(Buffer.from([0, 1, 4, 1, 2, 3, 4, ...KEY])), KEY)
  assert.deepEqual(keyIn(Buffer.from([0, 2, 4, ...new Uint8Array(16), ...KEY])), KEY)
  for (const wrong of [
    rdata(KEY, 2),
    rdata(KEY).subarray(0, 34),
    Buffer.concat([rdata(KEY), Buffer.from([0])]),
    Buffer.from([0, 3, 4, 0, ...KEY]),
    Buffer.from([0, 9, 4, ...KEY]),
    Buffer.alloc(0),
  ])
    assert.equal(keyIn(wrong), undefined)
})

test('DI-39: keys count only with the AD bit; a failure, bogus or not, is no answer', () => {
  const other = KEY.map((byte) => byte ^ 255)
  assert.deepEqual(word(answer([{ data: rdata(KEY) }, { data: rdata(other), ttl: 90 }])), {
    kind: 'keys',
    keys: [KEY, other],
    ttl: 90,
  })
  assert.equal((word(answer([{ data: rdata(KEY) }], 0)) as Word).kind, 'unsigned')
  assert.equal((word(answer([{ data: rdata(KEY) }], AD | 2)) as Word).kind, 'failed')
  assert.equal((word(answer([], AD | 5)) as Word).kind, 'failed')
  assert.deepEqual(word(answer([], 3)), { kind: 'none', ttl: 300 })
  const soa = { mname: 'a', rname: 'b', serial: 1, refresh: 1, retry: 1, expire: 1, minimum: 120 }
  assert.deepEqual(word(answer([], 0, [{ name: 'arpa', type: 'SOA', ttl: 500, data: soa }])), {
    kind: 'none',
    ttl: 120,
  })
})

test('DI-39: an alias (RFC 2317) is followed; the keys of other names are not its own', () => {
  const name = '2.0-25.0.3.10.in-addr.arpa'
  const alias = { type: 'CNAME', data: name }
  assert.equal((word(answer([alias, { name, data: rdata(KEY) }])) as Word).kind, 'keys')
  assert.equal((word(answer([{ name, data: rdata(KEY) }])) as Word).kind, 'none')
  assert.equal((word(answer([{ type: 'CNAME', data: NAME }])) as Word).kind, 'none', 'a circle')
})

test('DI-39: answers to other questions, cut ones and any bytes: never a key, never an exception', () => {
  const good = answer([{ data: rdata(KEY) }])
  assert.equal(decodeAnswer(good, 8, IP).ok, false)
  assert.equal(decodeAnswer(good, 7, '10.3.0.3').ok, false)
  assert.equal(decodeAnswer(encodeQuestion(7, IP), 7, IP).ok, false, 'a question is no answer')
  for (let length = 0; length < good.length; length++) {
    const decoded = decodeAnswer(good.slice(0, length), 7, IP)
    assert.ok(!decoded.ok || decoded.value.kind !== 'keys')
  }
  const cut = Uint8Array.from(good)
  cut[2] = cut[2]! | 0x02
  assert.equal((word(cut) as Word).kind, 'failed')
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), fc.nat(200), (bytes, at) => {
      const mixed = Uint8Array.from(good)
      mixed.set(bytes.subarray(0, Math.max(0, mixed.length - at)), Math.min(at, mixed.length))
      decodeAnswer(mixed, 7, IP)
      decodeAnswer(bytes, 7, IP)
    }),
  )
})

/** A directory whose answers come when they are given. */
function asked() {
  let now = 0
  const open = new Map<string, (word: Word) => void>()
  const questions: string[] = []
  const changed: string[] = []
  const warnings: string[] = []
  const directory = new KeyDirectory({
    ask: (ip) => {
      questions.push(ip)
      return new Promise((resolve) => open.set(ip, resolve))
    },
    now: () => now,
    changed: (ip) => changed.push(ip),
    warn: (text) => warnings.push(text),
  })
  const tell = async (ip: string, word: Word): Promise<void> => {
    open.get(ip)!(word)
    await new Promise((done) => setImmediate(done))
  }
  return { directory, questions, changed, warnings, tell, pass: (ms: number) => (now += ms) }
}

test('DI-39: an answer is kept for as long as it says; keys whose time is over stay bound until there is another', async () => {
  const { directory, questions, changed, tell, pass } = asked()
  assert.equal(directory.awaits(IP), true)
  assert.equal(directory.awaits(IP), true)
  assert.deepEqual(questions, [IP], 'asked once')
  await tell(IP, { kind: 'keys', keys: [KEY], ttl: 600 })
  assert.deepEqual(directory.keys(IP), [KEY])
  pass(599_000)
  assert.equal(directory.awaits(IP), false)
  assert.equal(questions.length, 1)
  pass(2_000)
  assert.equal(directory.awaits(IP), false, 'asked anew, and bound meanwhile')
  assert.equal(questions.length, 2)
  await tell(IP, { kind: 'failed', reason: 'silence' })
  assert.deepEqual(directory.keys(IP), [KEY], 'who keeps the answer away gains nothing')
  pass(6_000)
  directory.look(IP)
  await tell(IP, { kind: 'keys', keys: [KEY], ttl: 60 })
  assert.deepEqual(changed, [IP], 'the same again is no news')
  pass(61_000)
  directory.look(IP)
  await tell(IP, { kind: 'none', ttl: 1 })
  assert.equal(directory.keys(IP), undefined)
  assert.deepEqual(changed, [IP, IP])
  pass(59_000)
  directory.look(IP)
  assert.equal(questions.length, 4, 'no sooner than after a minute')
})

test('DI-39: what cannot be found out, or is bogus, is awaited, asked for ever more rarely, and said once', async () => {
  const { directory, questions, warnings, tell, pass } = asked()
  for (const wait of [5_000, 10_000, 20_000]) {
    assert.equal(directory.awaits(IP), true)
    await tell(IP, { kind: 'failed', reason: 'bogus' })
    pass(wait - 1)
    assert.equal(directory.awaits(IP), true)
    pass(1)
  }
  assert.equal(questions.length, 3)
  assert.equal(warnings.length, 1)
  directory.look(IP)
  await tell(IP, { kind: 'unsigned', ttl: 600 })
  assert.equal(directory.awaits(IP), false)
  assert.equal(directory.keys(IP), undefined, 'without DNSSEC it binds nothing')
})

test('DI-39: however many addresses are named: few questions at once, and the oldest answers make room', async () => {
  const { directory, questions, tell, pass } = asked()
  const ip = (i: number): string => `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`
  for (let i = 0; i < 5_000; i++) directory.look(ip(i))
  assert.equal(questions.length, 16)
  for (let i = 0; i < 40; i++) await tell(ip(i), { kind: 'keys', keys: [KEY], ttl: 600 })
  assert.ok(questions.length <= 50, `${questions.length} in a second`)
  assert.deepEqual(directory.keys(ip(0)), [KEY])
  for (let i = 0; i < 4_500; i++) {
    pass(100)
    directory.look(`11.${i >> 16}.${(i >> 8) & 255}.${i & 255}`)
    await tell(questions.at(-1)!, { kind: 'none', ttl: 600 })
  }
  assert.equal(directory.keys(ip(0)), undefined)
})

test('DI-39: only the loopback is asked, and only from there an answer counts', async (t) => {
  for (const ip of ['127.0.0.1', '127.0.0.53', '::1']) assert.equal(isLoopback(ip), true)
  for (const ip of ['10.0.0.1', '128.0.0.1', '::', 'resolver', '']) assert.equal(isLoopback(ip), false)
  const server = createSocket('udp4')
  server.bind(0, '127.0.0.1')
  t.after(() => server.close())
  await once(server, 'listening')
  server.on('message', (bytes, from) => {
    const reply = answer([{ data: rdata(KEY) }])
    reply.set(bytes.subarray(0, 2))
    server.send(Uint8Array.of(1, 2, 3), from.port, from.address)
    server.send(reply, from.port, from.address)
  })
  const random = (length: number): Uint8Array => new Uint8Array(length).fill(9)
  const word = await resolverAsker(() => '127.0.0.1', random, server.address().port)(IP)
  assert.deepEqual(word, { kind: 'keys', keys: [KEY], ttl: 600 })
  const none = await resolverAsker(() => undefined, random)(IP)
  assert.equal(none.kind, 'failed')
})

test('DI-39: a resolver to which there is no way (no IPv6, the loopback is down) fails, and ends nothing', async () => {
  const random = (length: number): Uint8Array => new Uint8Array(length)
  // connect(2) refuses a broadcast address, as it does ::1 on a host without IPv6.
  const word = await resolverAsker(() => '255.255.255.255', random)(IP)
  assert.equal(word.kind, 'failed')
})

/** Names over an access: messages, hostile answers, which servers are asked, NAT64. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { encode, type Packet } from 'dns-packet'
import fc from 'fast-check'
import { AccessResolver, SystemServers } from '../../../src/access/names/index.ts'
import { decodeAnswer, encodeQuestion, isName } from '../../../src/access/names/message.ts'
import { prefixesIn, synthesise } from '../../../src/access/names/nat64.ts'
import { type AskServer, askFirst } from '../../../src/access/names/query.ts'
import { parseAddress } from '../../../src/core/address.ts'

const question = { id: 0x1234, name: 'anchor.example', type: 'A' } as const

function answer(parts: Partial<Packet>, flags = 0x0180): Uint8Array {
  const { id, name, type } = question
  return encode({ type: 'response', id, flags, questions: [{ name, type }], ...parts })
}

const a = (name: string, data: string, ttl = 300) => ({ type: 'A', name, data, ttl }) as const
const bytesOf = (text: string) => {
  const parsed = parseAddress(text)
  assert.ok(parsed.ok)
  return parsed.value
}

test('a question is one of RFC 1035 with recursion and EDNS', () => {
  assert.equal(
    Buffer.from(encodeQuestion(question)).toString('hex'),
    '123401000001000000000001' + '06616e63686f72076578616d706c650000010001' + '00002904d0000000000000',
  )
})

test('an answer: the addresses of the name and of its aliases, for as long as the shortest of them', () => {
  const bytes = answer({
    answers: [
      { type: 'CNAME', name: 'ANCHOR.example', data: 'edge.example', ttl: 60 },
      a('edge.example', '192.0.2.7'),
      a('edge.example', '192.0.2.8', 20),
      a('other.example', '203.0.113.66'),
    ],
  })
  assert.deepEqual(decodeAnswer(bytes, question), {
    ok: true,
    value: { kind: 'addresses', addresses: [bytesOf('192.0.2.7'), bytesOf('192.0.2.8')], ttl: 20 },
  })
})

test('issue 8: what is not the answer to the question is not read: other id, other question, a question, cut anywhere', () => {
  const good = answer({ answers: [a('anchor.example', '192.0.2.7')] })
  const other = Uint8Array.from(good)
  other[0]! ^= 1
  assert.equal(decodeAnswer(other, question).ok, false)
  assert.equal(decodeAnswer(good, { ...question, name: 'anchor.exampld' }).ok, false)
  assert.equal(decodeAnswer(good, { ...question, type: 'AAAA' }).ok, false)
  assert.equal(decodeAnswer(encodeQuestion(question), question).ok, false)
  for (let length = 0; length < good.length; length++) {
    const found = decodeAnswer(good.slice(0, length), question)
    assert.ok(!found.ok || found.value.kind !== 'addresses' || found.value.addresses.length === 0)
  }
})

test('issue 8: hostile answers are bounded: loops of names, a thousand records, pointers onto themselves, random bytes', () => {
  const alias = (name: string, data: string) => ({ type: 'CNAME', name, data, ttl: 1 }) as const
  const loop = decodeAnswer(
    answer({ answers: [alias('anchor.example', 'b.example'), alias('b.example', 'anchor.example')] }),
    question,
  )
  assert.deepEqual(loop, {
    ok: true,
    value: { kind: 'failed', reason: 'a loop of CNAME records' },
  })
  const many = Array.from({ length: 40 }, (_, i) => a('anchor.example', `192.0.2.${i}`, 0))
  const kept = decodeAnswer(answer({ answers: many }), question)
  assert.ok(kept.ok && kept.value.kind === 'addresses')
  assert.deepEqual([kept.value.addresses.length, kept.value.ttl], [8, 5])
  const thousand = Array.from({ length: 1000 }, () => a('anchor.example', '192.0.2.1'))
  // In other sections they cost as much, and nobody looks at them.
  for (const section of ['answers', 'authorities', 'additionals']) {
    const refused = decodeAnswer(answer({ [section]: thousand }), question)
    assert.deepEqual(refused.ok && refused.value, { kind: 'failed', reason: 'too many records' }, section)
  }
  const head = answer({ answers: [a('anchor.example', '192.0.2.7')] }).slice(0, 32)
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (tail) => {
      decodeAnswer(Uint8Array.of(...head, 0xc0, head.length, ...tail), question)
      decodeAnswer(Uint8Array.of(...head, ...tail), question)
    }),
  )
})

test('codes: no such name, refused, cut', () => {
  const kind = (flags: number) => {
    const found = decodeAnswer(answer({}, flags), question)
    return found.ok && found.value.kind
  }
  assert.deepEqual(
    [kind(0x0183), kind(0x0185), kind(0x0182), kind(0x0380), kind(0x0180)],
    ['no name', 'failed', 'failed', 'truncated', 'addresses'],
  )
})

test('what can be a name', () => {
  for (const name of ['a.b', 'a.b.', '_x.example', 'xn--bcher-kva.example']) assert.ok(isName(name), name)
  for (const name of ['', '.', 'a..b', 'ü.example', 'a b.example', 'a'.repeat(64), `${'a.'.repeat(128)}b`])
    assert.ok(!isName(name), name)
})

test('RFC 6052, 2.4 and RFC 7050: 192.0.2.33 behind each length of prefix, and the prefix found', () => {
  const table: [string, 32 | 40 | 48 | 56 | 64 | 96, string][] = [
    ['2001:db8::', 32, '2001:db8:c000:221::'],
    ['2001:db8:100::', 40, '2001:db8:1c0:2:21::'],
    ['2001:db8:122::', 48, '2001:db8:122:c000:2:2100::'],
    ['2001:db8:122:300::', 56, '2001:db8:122:3c0:0:221::'],
    ['2001:db8:122:344::', 64, '2001:db8:122:344:c0:2:2100::'],
    ['2001:db8:122:344::', 96, '2001:db8:122:344::192.0.2.33'],
  ]
  for (const [address, length, made] of table) {
    const prefix = { address: bytesOf(address), length }
    assert.deepEqual(synthesise(prefix, Uint8Array.of(192, 0, 2, 33)), bytesOf(made), made)
    const known = synthesise(prefix, Uint8Array.of(192, 0, 0, 170))
    assert.deepEqual(prefixesIn([known]), [prefix])
  }
  assert.deepEqual(prefixesIn([bytesOf('2001:db8::1'), bytesOf('192.0.0.170')]), [])
})

function files(contents: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), 'godwit-names-'))
  for (const [file, text] of Object.entries(contents)) {
    mkdirSync(dirname(join(root, file)), { recursive: true })
    writeFileSync(join(root, file), text)
  }
  return root
}

test('issue 10, A2: name servers of an access are in what its network manager keeps; those of the host in resolv.conf', () => {
  const root = files({
    'etc/resolv.conf': 'nameserver 127.0.0.53\noptions edns0\n',
    'run/systemd/resolve/resolv.conf': 'nameserver 192.0.2.53\nnameserver 2001:db8::53\n',
    'run/systemd/netif/links/3': 'NETWORK_FILE=x\nDNS=192.0.2.53#dns.example 192.0.2.54:53\n',
    'run/systemd/resolve/netif/4': 'SERVERS=10.1.1.1 [fe80::1%wwan0]:53\n',
    'run/resolvconf/interface/eth0.dhclient': 'nameserver 198.51.100.1\n',
    'run/resolvconf/interface/eth01.dhclient': 'nameserver 198.51.100.2\n',
    'var/lib/dhcp/dhclient.leases':
      'lease {\n interface "usb0";\n option domain-name-servers 203.0.113.1;\n}\n' +
      'lease {\n interface "usb0";\n option domain-name-servers 203.0.113.2, 203.0.113.3;\n}\n',
    'etc/hosts': '127.0.0.1 localhost\n192.0.2.99 home.example Home # mine\n',
  })
  const servers = new SystemServers(root)
  const of = (name: string, ifindex: number) => servers.of({ name, ifindex })
  assert.deepEqual(of('wlan0', 3), ['192.0.2.53', '192.0.2.54'])
  assert.deepEqual(of('wwan0', 4), ['10.1.1.1', 'fe80::1'])
  assert.deepEqual(of('eth0', 9), ['198.51.100.1'])
  assert.deepEqual(of('usb0', 9), ['203.0.113.2', '203.0.113.3'])
  assert.deepEqual(servers.host(), { servers: ['192.0.2.53', '2001:db8::53'], stub: false })
  assert.deepEqual(servers.hosts('home'), ['192.0.2.99'])
  writeFileSync(join(root, 'run/systemd/resolve/resolv.conf'), '')
  assert.deepEqual(servers.host(), { servers: [], stub: true })
  rmSync(root, { recursive: true })
})

const own = (...texts: string[]): Awaited<ReturnType<AskServer>> => ({
  kind: 'addresses',
  addresses: texts.map(bytesOf),
  ttl: 300,
})

test('issue 10, A2: the next server is asked when one refuses; a silent one does not keep the name from being found', async () => {
  const asked: string[] = []
  const ask: AskServer = async (server, _name, _type, over) => {
    asked.push(`${server} ${over}`)
    if (server === '192.0.2.1') return { kind: 'failed', reason: 'refuses to answer' }
    if (server === '192.0.2.2') return new Promise(() => {})
    return own('203.0.113.7')
  }
  const found = await askFirst(ask, ['192.0.2.1', '192.0.2.2', '192.0.2.3'], 'a.example', 'A', 'wlan0')
  assert.deepEqual(found.addresses, [bytesOf('203.0.113.7')])
  assert.deepEqual(asked, ['192.0.2.1 wlan0', '192.0.2.2 wlan0', '192.0.2.3 wlan0'])
  await assert.rejects(
    askFirst(ask, ['192.0.2.1'], 'a.example', 'A', 'wlan0'),
    /192\.0\.2\.1: refuses to answer/,
  )
})

test('issue 10, A2: over an access with IPv6 alone IPv4 addresses are synthesised, those of literal endpoints too', async () => {
  const root = files({
    'etc/resolv.conf': 'nameserver 2001:db8::53\nnameserver 192.0.2.53\n',
    'etc/hosts': '',
  })
  const asked: string[] = []
  let lookedUp = 0
  const resolver = new AccessResolver({
    servers: new SystemServers(root),
    access: (name) => ({ name, ifindex: 2, families: name === 'wwan0' ? [6] : [4, 6], generation: 1 }),
    clock: { now: () => 0 },
    random: { fill: (out) => out },
    mark: 1,
    ask: async (server, name, type, over) => {
      asked.push(`${server} ${name} ${type} ${over}`)
      if (name === 'ipv4only.arpa') return own('64:ff9b::c000:aa', '64:ff9b::c000:ab')
      return type === 'A' ? own('203.0.113.7') : own()
    },
    lookUp: async () => {
      lookedUp++
      return ['192.168.7.7']
    },
  })
  assert.deepEqual(await resolver.resolve('anchor.example', 'wwan0'), {
    addresses: ['203.0.113.7'],
    synthesised: ['64:ff9b::cb00:7107'],
    validMs: 300_000,
  })
  assert.ok(
    asked.every((each) => each.startsWith('2001:db8::53 ')),
    'it reaches no other server',
  )
  assert.deepEqual(await resolver.resolve('198.51.100.1', 'wwan0'), {
    addresses: ['198.51.100.1'],
    synthesised: ['64:ff9b::c633:6401'],
    validMs: 600_000,
  })
  assert.deepEqual((await resolver.resolve('anchor.example', 'eth0')).synthesised, [])
  assert.deepEqual((await resolver.resolve('nas.local', 'eth0')).addresses, ['192.168.7.7'])
  assert.equal(lookedUp, 1, 'the host itself is asked for what no name server knows')
  rmSync(root, { recursive: true })
})

/** The zone's authoritative answers (NT-17): records, RFC 8906's unusual queries, limits of size, hostile bytes. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { decode, encode, type Packet } from 'dns-packet'
import fc from 'fast-check'
import { answerQuery, cutAnswer, type ZoneData } from '../../../src/overlay/servers/zone.ts'

const ip6 = (last: number) => Uint8Array.of(0xfd, 0x67, 1, 2, 3, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, last)
const DATA: ZoneData = {
  zone: 'home.example',
  addresses: [Uint8Array.of(192, 0, 2, 1), Uint8Array.of(0x20, 1, 0xd, 0xb8, ...new Array(11).fill(0), 1)],
  port: 6741,
  coordinatorKey: new Uint8Array(32).fill(1),
  zoneKey: new Uint8Array(32).fill(2),
  serial: 7,
  nodeOf: (name) =>
    name === 'nas.home.example'
      ? [ip6(1), Uint8Array.of(100, 96, 0, 1)]
      : name === 'new.home.example'
        ? []
        : undefined,
}
const OPT = { type: 'OPT', name: '.', udpPayloadSize: 1232, flags: 0, options: [] } as never

function query(name: string, type: string, edns: object | null = {}, rest: object = {}): Uint8Array {
  return encode({
    ...{ type: 'query', id: 99, flags: 0x100 },
    questions: [{ name, type: type as never, class: 'IN' }],
    ...(edns !== null && { additionals: [{ ...(OPT as object), ...edns } as never] }),
    ...rest,
  } as never)
}

function ask(bytes: Uint8Array, transport: 'udp' | 'tcp' = 'tcp') {
  const answer = answerQuery(bytes, DATA, transport)
  assert.ok(answer !== undefined)
  return {
    bytes: answer,
    packet: decode(Buffer.from(answer)) as unknown as Packet & {
      rcode: string
      flag_aa: boolean
      flag_tc: boolean
    },
  }
}

describe('records of the zone', () => {
  const cases: readonly (readonly [string, string, string])[] = [
    ['home.example', 'SOA', '7'],
    ['home.example', 'NS', 'dc.home.example'],
    ['dc.home.example', 'A', '192.0.2.1'],
    ['dc.home.example', 'AAAA', '2001:db8::1'],
    ['nas.home.example', 'AAAA', 'fd67:102:304:1::1'],
    ['NAS.Home.example', 'A', '100.96.0.1'],
    ['_ntm._udp.home.example', 'SRV', '6741'],
    ['_ntm.home.example', 'TXT', 'k=AQEB'],
  ]
  for (const [name, type, expected] of cases)
    it(`${name} ${type}`, () => {
      const { packet } = ask(query(name, type))
      assert.equal(packet.rcode, 'NOERROR')
      assert.equal(packet.flag_aa, true)
      assert.equal(packet.answers![0]!.name, name, 'the name as it was asked')
      const { data } = packet.answers![0] as { data: unknown }
      const text = Array.isArray(data) ? data.join('') : JSON.stringify(data)
      assert.ok(text.includes(expected), text)
    })

  it('names that there are, without the type: no data; names that there are not: NXDOMAIN; both with SOA', () => {
    for (const [name, type, rcode] of [
      ['nas.home.example', 'MX', 'NOERROR'],
      ['new.home.example', 'AAAA', 'NOERROR'],
      ['_udp.home.example', 'A', 'NOERROR'],
      ['nobody.home.example', 'A', 'NXDOMAIN'],
    ] as const) {
      const { packet } = ask(query(name, type))
      assert.equal(packet.rcode, rcode, name)
      assert.equal(packet.flag_aa, true)
      assert.deepEqual([packet.answers!.length, packet.authorities![0]!.type], [0, 'SOA'])
    }
  })

  it('other names are refused, and so are transfers', () => {
    assert.equal(ask(query('example.org', 'A')).packet.rcode, 'REFUSED')
    assert.equal(ask(query('xhome.example', 'A')).packet.rcode, 'REFUSED')
    assert.equal(ask(query('home.example', 'AXFR')).packet.rcode, 'REFUSED')
    assert.equal(ask(query('home.example', 'IXFR')).packet.rcode, 'REFUSED')
  })
})

describe('RFC 8906: unusual queries get an answer', () => {
  it('an unknown type, ANY, unknown flags, options and versions of EDNS', () => {
    assert.equal(ask(query('home.example', 'UNKNOWN_1000')).packet.rcode, 'NOERROR')
    assert.equal(ask(query('nas.home.example', 'ANY')).packet.answers!.length, 1)
    const versioned = query('home.example', 'SOA')
    versioned[versioned.length - 5] = 1
    const { bytes, packet } = ask(versioned)
    const opt = packet.additionals!.at(-1) as unknown as { extendedRcode: number; ednsVersion: number }
    assert.deepEqual([bytes[3]! & 15, opt.extendedRcode, opt.ednsVersion], [0, 1, 0], 'BADVERS')
    const flagged = query('home.example', 'SOA', { flags: 0xffff })
    assert.equal((ask(flagged).packet.additionals!.at(-1) as unknown as { flags: number }).flags, 0x8000)
    const z = query('home.example', 'SOA')
    z[3] = 0x40 | 0x20
    assert.equal(ask(z).bytes[3]! & 0x60, 0)
    const optioned = query('home.example', 'SOA', { options: [{ code: 100, data: Buffer.alloc(8) }] })
    assert.equal(ask(optioned).packet.rcode, 'NOERROR')
  })

  it('other operations are not implemented; no question is a format error; answers get no answer', () => {
    const update = query('home.example', 'SOA')
    update[2] = 5 << 3
    assert.equal(ask(update).bytes[3]! & 15, 4)
    const none = query('home.example', 'SOA', null, { questions: [] })
    assert.equal(ask(none).bytes[3]! & 15, 1)
    const response = query('home.example', 'SOA')
    response[2] = 0x80
    assert.equal(answerQuery(response, DATA, 'udp'), undefined)
  })

  it('without EDNS there is none in the answer', () => {
    assert.deepEqual(ask(query('home.example', 'SOA', null)).packet.additionals, [])
  })
})

it('over UDP no answer is longer than three times its query; cut ones say so', () => {
  for (const name of [
    'home.example',
    'dc.home.example',
    '_ntm.home.example',
    'nas.home.example',
    'x.home.example',
  ])
    for (const type of ['A', 'AAAA', 'SOA', 'NS', 'TXT', 'ANY', 'SRV'])
      for (const edns of [null, {}]) {
        const bytes = query(name, type, edns)
        const answer = answerQuery(bytes, DATA, 'udp')!
        assert.ok(answer.length <= 3 * bytes.length, `${name} ${type}: ${answer.length} of ${bytes.length}`)
      }
  assert.equal(ask(query('_ntm.home.example', 'TXT', null), 'udp').packet.flag_tc, true)
  assert.equal(ask(query('nas.home.example', 'AAAA'), 'udp').packet.flag_tc, false)
})

it('whatever comes: an answer of bounded length or none, never an error', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), fc.boolean(), (bytes, asQuery) => {
      if (asQuery && bytes.length >= 12) bytes.set([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
      const answer = answerQuery(bytes, DATA, 'udp')
      assert.ok(answer === undefined || answer.length <= Math.max(12, 3 * bytes.length))
    }),
    { numRuns: 2000 },
  )
  const good = query('nas.home.example', 'AAAA')
  for (let at = 0; at < good.length; at++)
    for (const value of [0, 0xff, 0xc0]) {
      const bytes = good.slice()
      bytes[at] = value
      answerQuery(bytes, DATA, 'udp')
      answerQuery(bytes.subarray(0, at), DATA, 'tcp')
    }
})

it('a message with thousands of questions, or longer than a query is, costs no decoding: FORMERR, as short as can be', () => {
  const one = query('home.example', 'SOA', null)
  const many = Buffer.concat([one, ...new Array<Buffer>(5000).fill(Buffer.from([0xc0, 12, 0, 1, 0, 1]))])
  many.writeUInt16BE(5001, 4)
  for (const bytes of [many, Buffer.concat([one, Buffer.alloc(2000)])])
    for (const transport of ['udp', 'tcp'] as const) {
      const answer = answerQuery(bytes, DATA, transport)!
      assert.deepEqual([answer.length, answer[3]! & 15], [12, 1])
    }
})

it('NT-17: the word to come over TCP repeats the question, is not longer than the query, and answers nothing that is none', () => {
  for (const edns of [null, {}]) {
    const asked = query('nas.home.example', 'AAAA', edns)
    const cut = cutAnswer(asked)
    assert.ok(cut !== undefined && cut.length <= asked.length)
    const { id, flags, questions, answers, additionals } = decode(Buffer.from(cut))
    const before = decode(Buffer.from(asked))
    assert.deepEqual([id, questions], [before.id, before.questions])
    assert.equal(flags! & 0x0200, 0x0200)
    assert.deepEqual([answers?.length, additionals?.length], [0, edns === null ? 0 : 1])
    for (let length = 0; length < asked.length; length++) {
      const part = cutAnswer(asked.slice(0, length))
      assert.ok(part === undefined || part.length <= length)
    }
    assert.equal(cutAnswer(cut), undefined, 'an answer')
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      const cut = cutAnswer(bytes)
      assert.ok(cut === undefined || cut.length <= bytes.length)
    }),
  )
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  contains,
  formatAddress,
  formatPrefix,
  kindOf,
  LpmTable,
  overlaps,
  type Prefix,
  parseAddress,
  parseInterfaceAddress,
  parsePrefix,
} from '../../../src/core/address.ts'

export function address(text: string): Uint8Array {
  const parsed = parseAddress(text)
  assert.ok(parsed.ok, text)
  return parsed.value
}

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  assert.ok(parsed.ok, text)
  return parsed.value
}

test('text forms follow RFC 5952', () => {
  for (const [input, output] of [
    ['192.0.2.1', '192.0.2.1'],
    ['2001:0db8:0000:0000:0001:0000:0000:0001', '2001:db8::1:0:0:1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['0:0:0:0:0:0:0:0', '::'],
    ['::1', '::1'],
    ['fe80::', 'fe80::'],
    ['::ffff:c000:0201', '::ffff:192.0.2.1'],
    ['64:ff9b::192.0.2.33', '64:ff9b::c000:221'],
    ['ABCD:EF01:2345:6789:ABCD:EF01:2345:6789', 'abcd:ef01:2345:6789:abcd:ef01:2345:6789'],
  ] as const)
    assert.equal(formatAddress(address(input)), output)
})

test('what is not an address is refused', () => {
  for (const text of [
    '',
    '1.2.3',
    '1.2.3.4.5',
    '1.2.3.256',
    '01.2.3.4',
    '1.2.3.4 ',
    ':',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4:5:6:7:8::',
    '::12345',
    '1.2.3.4::',
    '::1.2.3.4:1',
    ':1:2:3:4:5:6:7',
    'fe80::1%eth0',
  ])
    assert.equal(parseAddress(text).ok, false, text)
  for (const text of ['10.0.0.0/33', '::/129', '10.0.0.0/08', '10.0.0.0/', '10.0.0.0/-1', '10.0.0.1/8'])
    assert.equal(parsePrefix(text).ok, false, text)
  assert.equal(parseInterfaceAddress('10.0.0.1/8').ok, true)
})

const anyAddress = fc.oneof(
  fc.uint8Array({ minLength: 4, maxLength: 4 }),
  fc.uint8Array({ minLength: 16, maxLength: 16 }),
  fc
    .array(fc.constantFrom(0, 0, 0, 1, 0xff), { minLength: 16, maxLength: 16 })
    .map((a) => Uint8Array.from(a)),
)

test('format and parse are inverse; parse never throws', () => {
  fc.assert(fc.property(anyAddress, (bytes) => assert.deepEqual(address(formatAddress(bytes)), bytes)))
  fc.assert(fc.property(fc.string(), (text) => void parsePrefix(text)))
})

test('prefixes contain, overlap and print', () => {
  assert.equal(parsePrefix('10.1.0.0/15').ok, false)
  assert.ok(contains(prefix('10.2.0.0/15'), address('10.3.255.255')))
  assert.ok(contains(prefix('::/0'), address('2001:db8::1')))
  assert.equal(contains(prefix('::/0'), address('1.2.3.4')), false)
  assert.ok(overlaps(prefix('192.168.1.0/24'), prefix('192.168.0.0/16')))
  assert.ok(!overlaps(prefix('192.168.1.0/24'), prefix('192.168.2.0/24')))
  assert.equal(formatPrefix(prefix('fd00::/8')), 'fd00::/8')
})

test('kinds of address', () => {
  for (const [text, kind] of [
    ['0.0.0.0', 'unspecified'],
    ['10.9.8.7', 'private'],
    ['100.64.1.1', 'shared'],
    ['127.0.0.53', 'loopback'],
    ['169.254.1.1', 'link-local'],
    ['172.32.0.1', 'global'],
    ['198.19.0.1', 'benchmarking'],
    ['239.1.1.1', 'multicast'],
    ['255.255.255.255', 'broadcast'],
    ['8.8.8.8', 'global'],
    ['::', 'unspecified'],
    ['::1', 'loopback'],
    ['fe80::1', 'link-local'],
    ['fd67:6f64:7769::1', 'unique-local'],
    ['ff02::1', 'multicast'],
    ['2606:4700::1', 'global'],
    ['::ffff:10.0.0.1', 'private'],
  ] as const)
    assert.equal(kindOf(address(text)), kind, text)
})

const smallPrefix = fc
  .tuple(
    fc.constantFrom(4, 16),
    fc.array(fc.constantFrom(0, 0x80, 0xc0, 0xff, 1), { minLength: 16, maxLength: 16 }),
    fc.nat(128),
  )
  .map(([size, bytes, bits]): Prefix => {
    const length = size === 4 ? bits % 33 : bits
    const text = formatAddress(Uint8Array.from(bytes.slice(0, size)))
    const parsed = parseInterfaceAddress(`${text}/${length}`)
    assert.ok(parsed.ok)
    return parsed.value
  })

test('LpmTable agrees with a linear search through inserts, removals and removal of an owner', () => {
  const step = fc.oneof(
    fc.record({ do: fc.constant('insert' as const), prefix: smallPrefix, owner: fc.nat(3) }),
    fc.record({ do: fc.constant('remove' as const), prefix: smallPrefix }),
    fc.record({ do: fc.constant('removeOwner' as const), owner: fc.nat(3) }),
  )
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 60 }),
      fc.array(anyAddress, { maxLength: 20 }),
      (steps, probes) => {
        const table = new LpmTable<number>()
        const model = new Map<string, { prefix: Prefix; owner: number }>()
        const key = (p: Prefix) => `${p.address.length}:${p.length}:${formatPrefix(masked(p))}`
        for (const s of steps) {
          if (s.do === 'insert') {
            table.insert(s.prefix, s.owner)
            model.set(key(s.prefix), { prefix: masked(s.prefix), owner: s.owner })
          } else if (s.do === 'remove') {
            assert.equal(table.remove(masked(s.prefix)), model.delete(key(s.prefix)))
          } else {
            let count = 0
            for (const [k, v] of model) if (v.owner === s.owner && model.delete(k)) count++
            assert.equal(table.removeValue(s.owner), count)
          }
          assert.equal(table.size, model.size)
        }
        for (const probe of [...probes, ...[...model.values()].map((v) => v.prefix.address)]) {
          let best: { prefix: Prefix; owner: number } | undefined
          for (const v of model.values())
            if (contains(v.prefix, probe) && v.prefix.length >= (best?.prefix.length ?? 0)) best = v
          const packet = new Uint8Array(40)
          packet.set(probe, 7)
          assert.equal(table.lookup(packet, 7, probe.length === 4 ? 4 : 6), best?.owner)
        }
        assert.deepEqual(
          [...table.entries()].map(([p, owner]) => `${key(p)} ${owner}`).sort(),
          [...model].map(([k, v]) => `${k} ${v.owner}`).sort(),
        )
      },
    ),
  )
})

function masked(p: Prefix): Prefix {
  const address = p.address.slice()
  for (let bit = p.length; bit < address.length * 8; bit++)
    address[bit >> 3] = address[bit >> 3]! & ~(0x80 >> (bit & 7))
  return { address, length: p.length }
}

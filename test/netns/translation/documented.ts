/**
 * A decoder made of docs/wire/ihmp.md and nothing else: offsets from its drawing, names and numbers from its tables. So a
 * captured message that it reads is one that the document describes. It throws at whatever is not documented.
 */
import assert from 'node:assert/strict'
import { createPublicKey, verify } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { textOf } from './capture.ts'

const text = readFileSync(new URL('../../../../docs/wire/ihmp.md', import.meta.url), 'utf8')
const bare = (cell: string): string => cell.replaceAll('★', '').trim()
const tableRows = (header: string): string[][] => {
  const lines = text.split('\n')
  const first = lines.findIndex((line) => line.startsWith(header))
  assert.ok(first >= 0, `docs/wire/ihmp.md has no table ${header}`)
  const end = lines.findIndex((line, i) => i > first && !line.startsWith('|'))
  return lines.slice(first + 2, end).map((line) => line.slice(1, -1).split('|').map(bare))
}

interface Kind {
  readonly name: string
  /** Names of fields that must be there, may be there more than once, may be missing. */
  readonly needed: readonly string[]
  readonly allowed: readonly string[]
}

/** `| control | name | sent when | fields | from → to |`; `[FIELD]` may be missing, `FIELD…` may come several times. */
const kinds = new Map<number, Kind>()
for (const [control = '', name = '', , fields = ''] of tableRows('| control |')) {
  const names = [...fields.matchAll(/(\[?)([A-Z_]+)…?\]?/g)].map((m) => ({
    optional: m[1] === '[',
    name: m[2]!,
  }))
  kinds.set(Number(control), {
    name,
    needed: [...names.filter((f) => !f.optional).map((f) => f.name), 'RECEIVER'],
    allowed: [...names.map((f) => f.name), 'RECEIVER', 'SIGNATURE', 'MAC'],
  })
}

/** `| field | name | value |`: sizes are the numbers of bytes that the last column names. */
const fields = new Map<
  number,
  { readonly name: string; readonly sizes: readonly number[]; readonly several: boolean }
>()
for (const [numbers = '', names = '', value = ''] of tableRows('| field |')) {
  const sizes = [...(/([\d or]+) bytes/.exec(value)?.[1] ?? '').matchAll(/\d+/g)].map((m) => Number(m[0]))
  assert.ok(sizes.length > 0, `the size of ${names}`)
  for (const [i, name] of names.split(', ').entries())
    fields.set(Number(numbers.split(', ')[i]), {
      name: name.trim(),
      sizes,
      several: value.startsWith('per '),
    })
}

/** `0001` OU, …: bits of the options field. */
const options = new Map<string, number>()
for (const [, bits, name] of text.matchAll(/`([0-9a-f]{4})` ([A-Z]{2})\b/g))
  options.set(name!, Number.parseInt(bits!, 16))

export const documentedKinds: readonly string[] = [...kinds.values()].map((k) => k.name)

export interface Documented {
  readonly kind: string
  readonly options: readonly string[]
  readonly sequence: number
  readonly counter: bigint
  readonly hostId: string
  /** By name, in their order; addresses as text. */
  readonly fields: ReadonlyMap<string, readonly Buffer[]>
  /** The one value of a field that is an address. */
  address(name: string): string | undefined
  addresses(name: string): readonly string[]
  one(name: string): Buffer | undefined
}

export function decodeAsDocumented(bytes: Uint8Array): Documented {
  const b = Buffer.from(bytes)
  assert.ok(b.length >= 36 && b.length <= 1200, `${b.length} bytes`)
  assert.equal(b.subarray(0, 2).toString('latin1'), 'IH')
  assert.equal(b[2], 1, 'version')
  const kind = kinds.get(b[3]!)
  assert.ok(kind !== undefined, `control ${b[3]}`)
  const bits = b.readUInt16BE(4)
  const set = [...options].filter(([, bit]) => (bits & bit) !== 0)
  assert.equal(
    set.reduce((sum, [, bit]) => sum | bit, 0),
    bits,
    `options ${bits.toString(16)}`,
  )
  const family = b[16]
  assert.ok(family === 4 || family === 6, `family ${family}`)
  assert.equal(b[17], 0)
  assert.equal(b.readUInt16BE(18), b.length - 36, 'length of the payload')
  if (family === 4)
    assert.ok(
      b.subarray(24, 36).every((byte) => byte === 0),
      'zero after an IPv4 Host ID',
    )
  const found = new Map<string, Buffer[]>()
  let last = ''
  for (let at = 36; at < b.length; ) {
    const field = fields.get(b[at]!)
    assert.ok(field !== undefined, `${kind.name}: field ${b[at]}`)
    assert.equal(b[at + 1], 0)
    const length = b.readUInt16BE(at + 2)
    const fits = field.several ? length % field.sizes[0]! === 0 : field.sizes.includes(length)
    assert.ok(fits, `${field.name} of ${length} bytes`)
    assert.ok(kind.allowed.includes(field.name), `${kind.name} with ${field.name}`)
    assert.notEqual(last, 'SIGNATURE')
    assert.notEqual(last, 'MAC')
    last = field.name
    found.set(last, [...(found.get(last) ?? []), b.subarray(at + 4, at + 4 + length)])
    at += 4 + length
    assert.ok(at <= b.length, 'a field longer than the payload')
  }
  for (const name of kind.needed) assert.ok(found.has(name), `${kind.name} without ${name}`)
  const addresses = (name: string): string[] => (found.get(name) ?? []).map(textOf)
  return {
    kind: kind.name,
    options: set.map(([name]) => name),
    sequence: b.readUInt16BE(6),
    counter: b.readBigUInt64BE(8),
    hostId: textOf(b.subarray(20, 20 + (family === 4 ? 4 : 16))),
    fields: found,
    address: (name) => addresses(name)[0],
    addresses,
    one: (name) => found.get(name)?.[0],
  }
}

const SPKI_ED25519 = Buffer.from('302a300506032b6570032100', 'hex')

/** Whether the message ends with a SIGNATURE by `key` over everything before that field, NS taken as 0. */
export function signedBy(bytes: Uint8Array, key: Buffer): boolean {
  const covered = Buffer.from(bytes.subarray(0, bytes.length - 68))
  covered.writeUInt16BE(covered.readUInt16BE(4) & ~options.get('NS')!, 4)
  return bytes[bytes.length - 68] === 255 && verified(key, covered, bytes.subarray(bytes.length - 64))
}

/** Whether the signature (Ed25519) of these bytes is by `key`. */
export function verified(key: Buffer, bytes: Uint8Array, signature: Uint8Array): boolean {
  const publicKey = createPublicKey({ key: Buffer.concat([SPKI_ED25519, key]), format: 'der', type: 'spki' })
  return verify(null, bytes, publicKey, signature)
}

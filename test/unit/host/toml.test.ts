/** TOML: every place has its line, and an edit changes nothing but what it adds. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { addTable, isFault, parseToml, removeTable } from '../../../src/host/configuration/toml.ts'

function documentOf(...lines: string[]) {
  const document = parseToml(lines.join('\n'))
  assert.ok(!isFault(document), JSON.stringify(document))
  return document
}

test('each table, key and entry has its own line, however it is written', () => {
  const document = documentOf(
    'plain = 1', // 1
    'a."b.c".d = [', // 2
    '  "x", # one', // 3
    '  { y = 1, z = 2 },', // 4
    ']', // 5
    "text = '''", // 6
    '[not.a.table]', // 7
    "z = 1'''", // 8
    '[[peer]]', // 9
    'name = "a"', // 10
    '[peer.inner] # of the first', // 11
    'k = 1', // 12
    '[[peer]]', // 13
    '  [[peer.deep]]', // 14
    '  "quoted \\u0061" = 2', // 15
  )
  const line = (...path: PropertyKey[]) => document.lineOf(path)
  assert.deepEqual(
    [line('plain'), line('a'), line('a', 'b.c', 'd'), line('a', 'b.c', 'd', 0), line('a', 'b.c', 'd', 1)],
    [1, 2, 2, 3, 4],
  )
  assert.deepEqual([line('a', 'b.c', 'd', 1, 'y'), line('text'), line('not'), line('z')], [4, 6, 1, 1])
  assert.deepEqual([line('peer', 0), line('peer', 0, 'name'), line('peer', 0, 'inner', 'k')], [9, 10, 12])
  assert.deepEqual(
    [line('peer', 1), line('peer', 1, 'deep', 0), line('peer', 1, 'deep', 0, 'quoted a')],
    [13, 14, 15],
  )
  assert.equal(line('peer', 1, 'name'), 13, 'what is missing is looked for in the table around it')
})

test('what is no TOML is a fault with its line and one line of reason', () => {
  const fault = (...lines: string[]) => {
    const result = parseToml(lines.join('\n'))
    assert.ok(isFault(result))
    return [result.line, result.reason]
  }
  assert.deepEqual(fault('[log]', 'level ='), [2, 'Unspecified values are invalid'])
  assert.deepEqual(fault('a = 1', '', 'a = 2'), [3, 'a is there a second time; keep one of them'])
  assert.deepEqual(fault('[a]', '[a]'), [2, '[a] is there a second time; put its keys below the first one'])
})

test('`__proto__` is a key like others', () => {
  const { value } = documentOf('a.__proto__.b = 1', '[__proto__]', 'x = 1', '[t]', '__proto__ = 2')
  assert.equal(({} as { x?: number }).x, undefined)
  assert.deepEqual(Object.keys(value), ['a', '__proto__', 't'])
})

const PEER = { name: 'b "2"\u007f', addresses: ['198.18.0.3/32'], keepalive_s: 25 }

test('a table is added after the last of its array; comments, order and form of the rest stay', () => {
  const text = [
    '# mine',
    '[log] # l',
    'level   =  "info"',
    '',
    '# the first',
    '[[peer]]',
    'name = "a" # here',
    '',
    '[host] # last',
    "address4 = '198.19.0.1'",
    '# bye',
    '',
  ]
  const added = addTable(text.join('\n'), ['peer'], PEER).split('\n')
  const telling = (lines: readonly string[]) => lines.filter((line) => line !== '' && line !== '[[peer]]')
  assert.deepEqual(telling(added.filter((line) => text.includes(line))), telling(text))
  assert.equal(added.filter((line) => line === '[[peer]]').length, 2)
})

test('the first of its array goes to the end; into one that is written inline, it goes inline', () => {
  assert.equal(
    addTable('# head\n', ['peer'], { name: 'a', n: ['x'] }),
    '# head\n\n[[peer]]\nname = "a"\nn = ["x"]\n',
  )
  assert.equal(addTable('', ['router', 'site'], { name: 'a' }), '[[router.site]]\nname = "a"\n')
  assert.equal(
    addTable('[router] # r\nsubnets = ["10.0.0.0/8"]', ['router', 'site'], { name: 'a' }),
    '[router] # r\nsubnets = ["10.0.0.0/8"]\n\n[[router.site]]\nname = "a"\n',
  )
  const inline = addTable('peer = [{ name = "a" }] # mine\n', ['peer'], { name: 'b' })
  assert.match(inline, /^peer = \[\{ name = "a" \}, \{ ?name = "b" ?\}\] # mine\n$/)
})

test('whatever strings are added, they are read back, and again with another after them', () => {
  const table = fc.record(
    { name: fc.string({ unit: 'grapheme' }), list: fc.array(fc.string()) },
    { noNullPrototype: true },
  )
  fc.assert(
    fc.property(fc.array(table, { minLength: 1, maxLength: 4 }), (tables) => {
      let text = '# head\n[log]\nlevel = "info"\n'
      for (const each of tables) text = addTable(text, ['peer'], each)
      assert.deepEqual(JSON.parse(JSON.stringify(documentOf(text).value.peer)), tables)
      assert.ok(text.startsWith('# head\n[log]\nlevel = "info"\n'))
    }),
    { numRuns: 200 },
  )
})

test('an entry of an array of tables goes with what belongs to it; what was written around it stays (issue 14, point 2)', () => {
  const text =
    '# mine\n[host]\n# b\nprefer = ["a"]\n\n[[peer]]\nname = "x"\n\n[[peer]]\nname = "y" # why\n\n[log]\nlevel = "warn"\n'
  assert.equal(removeTable(text, ['peer'], 0), text.replace('[[peer]]\nname = "x"\n\n', ''))
  const none = removeTable(removeTable(text, ['peer'], 0), ['peer'], 0)
  assert.deepEqual(documentOf(none).value, { host: { prefer: ['a'] }, log: { level: 'warn' } })
  assert.match(none, /# mine\n[\s\S]*# b\n/)
  assert.equal(
    removeTable('a = 1\npeer = [{ n = 1 }, { n = 2 }, { n = 3 }]\n', ['peer'], 1),
    'a = 1\npeer = [{ n = 1 }, { n = 3 }]\n',
  )
  assert.equal(removeTable('peer = [{ n = 1 }, { n = 2 }]\n', ['peer'], 1), 'peer = [{ n = 1 }]\n')
  assert.equal(removeTable('peer = [{ n = 1 }]\n', ['peer'], 0), 'peer = []\n')
})

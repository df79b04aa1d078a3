/**
 * TOML with positions, and edits that keep what a user wrote: comments, order and form. The parser returns a tree whose
 * nodes have positions; one walk over it yields the values and the line of each (docs/adr/0055-toml-with-positions.md).
 */
import { isDeepStrictEqual } from 'node:util'
import { type AST, ParseError, parseTOML } from 'toml-eslint-parser'

type Path = readonly PropertyKey[]

export interface TomlDocument {
  readonly value: Record<string, unknown>
  /** The 1-based line of a value, or of the nearest table around it; 1 for the document itself. */
  lineOf(path: Path): number
}

/** A syntax error with its place. */
export interface TomlFault {
  readonly line: number
  readonly reason: string
}

export type TomlValue = string | number | boolean | readonly string[]
export type TomlTable = Readonly<Record<string, TomlValue>>

export function parseToml(text: string): TomlDocument | TomlFault {
  try {
    return new Tree(blocksOf(text))
  } catch (error) {
    if (!(error instanceof ParseError)) throw error
    return { line: error.lineNumber, reason: reasonOf(error, text) }
  }
}

/** The parser's words; of what is there twice, what it is: who appends a table that the file has already is told so. */
function reasonOf({ message, lineNumber }: ParseError, text: string): string {
  if (!/multiple times/.test(message)) return message
  const twice = text.split('\n')[lineNumber - 1]?.trim() ?? ''
  return twice.startsWith('[')
    ? `${twice} is there a second time; put its keys below the first one`
    : `${twice.split('=')[0]!.trim()} is there a second time; keep one of them`
}

export function isFault(result: TomlDocument | TomlFault): result is TomlFault {
  return 'reason' in result
}

/** A TOML basic string. */
export function tomlString(value: string): string {
  return JSON.stringify(value).replace(/\u007f/g, '\\u007f')
}

/**
 * Adds a table at the end of an array of tables, e.g. `['peer']`: after the last one and what belongs to it, within the
 * brackets where the array is written inline, at the end where there is none yet. All else stays, byte for byte. The text
 * must be TOML.
 */
export function addTable(text: string, path: readonly string[], table: TomlTable): string {
  const blocks = blocksOf(text)
  const before = new Tree(blocks)
  const added = insert(text, blocks, before, path, table)
  const after = new Tree(blocksOf(added))
  arrayAt(before.value, path).push(table)
  if (!isDeepStrictEqual(after.value, before.value))
    throw new Error(`a table could not be added to ${path.join('.')}`)
  return added
}

function blocksOf(text: string): AST.TOMLTopLevelTable['body'] {
  return parseTOML(text, { tomlVersion: '1.0' }).body[0].body
}

/** The text without the entry `index` of the array of tables at `path`; comments above it stay. */
export function removeTable(text: string, path: readonly string[], index: number): string {
  const blocks = blocksOf(text)
  const mine = blocks.filter(
    (block): block is AST.TOMLTable =>
      block.type === 'TOMLTable' &&
      path.every((key, i) => block.resolvedKey[i] === key) &&
      block.resolvedKey[path.length] === index,
  )
  if (mine.length > 0)
    return mine
      .reverse()
      .reduce(
        (rest, { range }) => `${rest.slice(0, range[0])}${rest.slice(range[1]).replace(/^\n+/, '')}`,
        text,
      )
      .replace(/\n+$/, '\n')
  const inline = new Tree(blocks).arrays.get(keyOf(path))
  const element = inline?.elements[index]
  if (inline === undefined || element === undefined) return text
  const next = inline.elements[index + 1]
  const before = inline.elements[index - 1]
  const from = next === undefined && before !== undefined ? before.range[1] : element.range[0]
  return text.slice(0, from) + text.slice(next?.range[0] ?? element.range[1])
}

function insert(
  text: string,
  blocks: AST.TOMLTopLevelTable['body'],
  tree: Tree,
  path: readonly string[],
  table: TomlTable,
): string {
  const pairs = Object.entries(table).map(([key, value]) => `${key} = ${format(value)}`)
  const inline = tree.arrays.get(keyOf(path))
  if (inline !== undefined) {
    const last = inline.elements.at(-1)
    const at = last === undefined ? inline.range[0] + 1 : last.range[1]
    return `${text.slice(0, at)}${last === undefined ? '' : ', '}{ ${pairs.join(', ')} }${text.slice(at)}`
  }
  const mine = blocks.filter(
    (block) => block.type === 'TOMLTable' && path.every((key, i) => block.resolvedKey[i] === key),
  )
  const array = mine.findLast(
    (block) => typeof (block as AST.TOMLTable).resolvedKey[path.length] === 'number',
  )
  const lines = `[[${path.join('.')}]]\n${pairs.join('\n')}\n`
  if (array === undefined) return `${text === '' ? '' : text.replace(/\n*$/, '\n\n')}${lines}`
  // A comment on the last line is the last value's.
  const end = text.indexOf('\n', array.range[1])
  if (end < 0) return `${text}\n\n${lines}`
  return `${text.slice(0, end + 1)}\n${lines}${text.slice(end + 1)}`
}

function format(value: TomlValue): string {
  if (typeof value === 'string') return tomlString(value)
  return typeof value === 'object' ? `[${value.map(tomlString).join(', ')}]` : String(value)
}

function arrayAt(root: Record<string, unknown>, path: readonly string[]): unknown[] {
  const table = path.slice(0, -1).reduce((at, key) => child(at, key, {}), root)
  return child(table, path.at(-1)!, [] as unknown[])
}

/** The value at a key, created if absent. `__proto__` is an ordinary key. */
function child<T>(table: object, key: PropertyKey, empty: T): T {
  if (!Object.hasOwn(table, key)) define(table, key, empty)
  return (table as Record<PropertyKey, T>)[key]!
}

function define(table: object, key: PropertyKey, value: unknown): void {
  Object.defineProperty(table, key, { value, enumerable: true, configurable: true, writable: true })
}

function keyOf(path: Path): string {
  return path.map(String).join('\0')
}

/** Values, and the line of each table, key and entry of an array. The parser has refused what is defined twice. */
class Tree implements TomlDocument {
  readonly value: Record<string, unknown> = {}
  /** Arrays that are written as values, by their path. */
  readonly arrays = new Map<string, AST.TOMLArray>()
  readonly #lines = new Map<string, number>()

  constructor(blocks: AST.TOMLTopLevelTable['body']) {
    for (const block of blocks) {
      if (block.type === 'TOMLKeyValue') {
        this.#addPair(this.value, [], block)
        continue
      }
      const table = this.#open(this.value, [], block.resolvedKey, block)
      for (const pair of block.body) this.#addPair(table, block.resolvedKey, pair)
    }
  }

  lineOf(path: Path): number {
    for (let length = path.length; length > 0; length--) {
      const line = this.#lines.get(keyOf(path.slice(0, length)))
      if (line !== undefined) return line
    }
    return 1
  }

  /** The table at `keys` below `table`, which is at `base`. */
  #open(table: object, base: Path, keys: Path, node: AST.TOMLNode): Record<string, unknown> {
    let at = table
    for (const [i, key] of keys.entries()) {
      this.#note([...base, ...keys.slice(0, i + 1)], node)
      at = child<object>(at, key, typeof keys[i + 1] === 'number' ? [] : {})
    }
    return at as Record<string, unknown>
  }

  #addPair(table: object, base: Path, pair: AST.TOMLKeyValue): void {
    const keys = pair.key.keys.map((key) => (key.type === 'TOMLBare' ? key.name : key.value))
    const path = [...base, ...keys]
    const holder = this.#open(table, base, keys.slice(0, -1), pair)
    this.#note(path, pair)
    define(holder, keys.at(-1)!, this.#valueOf(pair.value, path))
  }

  #valueOf(node: AST.TOMLContentNode, path: Path): unknown {
    switch (node.type) {
      case 'TOMLArray':
        this.arrays.set(keyOf(path), node)
        return node.elements.map((element, index) => {
          this.#note([...path, index], element)
          return this.#valueOf(element, [...path, index])
        })
      case 'TOMLInlineTable': {
        const table = {}
        for (const pair of node.body) this.#addPair(table, path, pair)
        return table
      }
      default:
        return node.value
    }
  }

  #note(path: Path, node: AST.TOMLNode): void {
    const key = keyOf(path)
    if (!this.#lines.has(key)) this.#lines.set(key, node.loc.start.line)
  }
}

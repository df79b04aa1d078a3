/**
 * TOML with positions: smol-toml tells the line of a syntax error, but not where a value stands that is well formed and
 * wrong. This finds the line of each table and key, so that every complaint names one.
 */
import { parse, TomlError } from 'smol-toml'

export interface TomlDocument {
  readonly value: Record<string, unknown>
  /** The 1-based line where a value stands, or the nearest table around it; 1 for the document itself. */
  lineOf(path: readonly PropertyKey[]): number
}

/** A syntax error with its place. */
export interface TomlFault {
  readonly line: number
  readonly reason: string
}

export function parseToml(text: string): TomlDocument | TomlFault {
  let value: Record<string, unknown>
  try {
    value = parse(text) as Record<string, unknown>
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const reason = error.message.split('\n')[0]!.replace(/^Invalid TOML document: /, '')
    return { line: error.line, reason }
  }
  const lines = indexLines(text)
  return {
    value,
    lineOf(path) {
      for (let length = path.length; length > 0; length--) {
        const line = lines.get(keyOf(path.slice(0, length)))
        if (line !== undefined) return line
      }
      return 1
    },
  }
}

export function isFault(result: TomlDocument | TomlFault): result is TomlFault {
  return 'reason' in result
}

function keyOf(path: readonly PropertyKey[]): string {
  return path.map(String).join('\0')
}

const BARE_OR_QUOTED = /[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'/g

function parseKeys(text: string): string[] {
  return (text.match(BARE_OR_QUOTED) ?? []).map((part) => (/^["']/.test(part) ? part.slice(1, -1) : part))
}

/**
 * Line of each header and key. The text is known to be valid, so a scan by line is enough; lines inside a value that
 * goes over several are taken as belonging to its key.
 */
function indexLines(text: string): Map<string, number> {
  const lines = new Map<string, number>()
  const counts = new Map<string, number>()
  let table: PropertyKey[] = []
  let open = new OpenValue()
  for (const [index, line] of text.split('\n').entries()) {
    if (!open.closed) {
      open.scan(line)
      continue
    }
    const header = /^\s*(\[\[?)\s*([^\]]+?)\s*\]/.exec(line)
    if (header) {
      table = resolveTable(parseKeys(header[2]!), header[1] === '[[', counts)
      lines.set(keyOf(table), index + 1)
      continue
    }
    const assignment = /^\s*((?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'|\s*\.\s*)+?)\s*=(.*)$/.exec(line)
    if (!assignment) continue
    const keys = parseKeys(assignment[1]!)
    for (let length = 1; length <= keys.length; length++) {
      const key = keyOf([...table, ...keys.slice(0, length)])
      if (!lines.has(key)) lines.set(key, index + 1)
    }
    open = new OpenValue()
    open.scan(assignment[2]!)
  }
  return lines
}

/** The path of a header: names of arrays of tables on the way are followed by the index of their newest table. */
function resolveTable(keys: readonly string[], array: boolean, counts: Map<string, number>): PropertyKey[] {
  const path: PropertyKey[] = []
  for (const [i, key] of keys.entries()) {
    path.push(key)
    const name = keyOf(path)
    if (array && i === keys.length - 1) counts.set(name, (counts.get(name) ?? -1) + 1)
    const count = counts.get(name)
    if (count !== undefined) path.push(count)
  }
  return path
}

/** Follows brackets and strings of one value over lines, until it is complete. */
class OpenValue {
  #depth = 0
  #string: '"""' | "'''" | undefined
  closed = true

  scan(line: string): void {
    let at = 0
    while (at < line.length) {
      if (this.#string !== undefined) {
        const end = line.indexOf(this.#string, at)
        if (end < 0) break
        at = end + 3
        this.#string = undefined
        continue
      }
      const three = line.slice(at, at + 3)
      if (three === '"""' || three === "'''") {
        this.#string = three
        at += 3
        continue
      }
      const character = line[at]!
      if (character === '#') break
      if (character === '"' || character === "'") at = endOfString(line, at)
      else if (character === '[' || character === '{') this.#depth++
      else if (character === ']' || character === '}') this.#depth--
      at++
    }
    this.closed = this.#depth <= 0 && this.#string === undefined
  }
}

function endOfString(line: string, start: number): number {
  const quote = line[start]!
  for (let at = start + 1; at < line.length; at++) {
    if (line[at] === '\\' && quote === '"') at++
    else if (line[at] === quote) return at
  }
  return line.length
}

/** Reads and writes godwit.toml. Errors are reported all at once, each with file, line and how to fix it. */
import { readFileSync } from 'node:fs'
import type * as z from 'zod'
import { GodwitError } from '../../core/errors.ts'
import type { MechanismDescriptor } from '../../mechanism/descriptor.ts'
import { attempt, refuseExposed } from '../../mechanism/files.ts'
import { MECHANISMS } from '../mechanisms.ts'
import { type Config, configSchema } from './schema.ts'
import { isFault, parseToml, type TomlDocument } from './toml.ts'

type List = readonly MechanismDescriptor[]

export interface ConfigFault {
  readonly line: number
  /** Where in the document, e.g. `peer[0].endpoint`. */
  readonly path: string
  readonly reason: string
}

/** Checks the text of a configuration; never throws on what it contains. */
export function parseConfig(
  text: string,
  list: List = MECHANISMS,
): { config: Config } | { faults: readonly ConfigFault[] } {
  const document = parseToml(text)
  if (isFault(document)) return { faults: [{ line: document.line, path: '', reason: document.reason }] }
  const schema = configSchema(list)
  const result = schema.safeParse(document.value)
  if (result.success) return { config: result.data }
  const faults = result.error.issues.flatMap((issue) => explain(issue, document, schema))
  return { faults: faults.sort((a, b) => a.line - b.line) }
}

/** Text of one issue of the schema; unknown keys are reported one by one, with a suggestion. */
function explain(issue: z.core.$ZodIssue, document: TomlDocument, schema: unknown): ConfigFault[] {
  const fault = (path: readonly PropertyKey[], reason: string): ConfigFault => ({
    line: document.lineOf(path),
    path: showPath(path),
    reason,
  })
  switch (issue.code) {
    case 'unrecognized_keys':
      return issue.keys.map((unknown) => {
        const known = knownKeys(issue.path, schema)
        const near = nearest(unknown, known)
        const hint = near ? `did you mean \`${near}\`?` : `known here: ${known.join(', ')}`
        return fault([...issue.path, unknown], `unknown key \`${unknown}\`; ${hint}`)
      })
    case 'invalid_type': {
      const value = issue.path.reduce<unknown>(
        (at, part) => (at as Record<PropertyKey, unknown>)?.[part],
        document.value,
      )
      if (value === undefined) return [fault(issue.path, `\`${String(issue.path.at(-1))}\` is missing`)]
      return [fault(issue.path, `must be ${article(issue.expected)}, not ${article(typeName(value))}`)]
    }
    case 'invalid_value':
      return [
        fault(issue.path, `must be one of ${issue.values.map((value) => `"${String(value)}"`).join(', ')}`),
      ]
    case 'too_small':
      return [
        fault(issue.path, `must be at least ${issue.minimum}${issue.origin === 'array' ? ' entry' : ''}`),
      ]
    case 'too_big':
      return [fault(issue.path, `must be at most ${issue.maximum}`)]
    case 'invalid_key':
      return [fault(issue.path, issue.issues[0]?.message ?? issue.message)]
    default:
      return [fault(issue.path, issue.message)]
  }
}

function showPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === 'number') return `${text}[${part}]`
    return text === '' ? String(part) : `${text}.${String(part)}`
  }, '')
}

function typeName(value: unknown): string {
  if (Array.isArray(value)) return 'array'
  return value instanceof Date ? 'date' : typeof value
}

function article(type: string): string {
  const words: Record<string, string> = {
    string: 'a string in quotes',
    number: 'a number',
    int: 'a whole number',
    boolean: 'true or false',
    array: 'an array [ … ]',
    object: 'a table',
    record: 'a table',
    date: 'a date',
  }
  return words[type] ?? type
}

/** The keys that the schema allows at a place. */
function knownKeys(path: readonly PropertyKey[], root: unknown): string[] {
  let schema = root
  for (const part of path) {
    const definition = definitionOf(schema)
    if (definition.type === 'array') schema = definition.element
    else if (definition.type === 'record') schema = definition.valueType
    else schema = definition.shape?.[String(part)]
  }
  return Object.keys(definitionOf(schema).shape ?? {})
}

interface Definition {
  readonly type: string
  readonly innerType?: unknown
  readonly element?: unknown
  readonly valueType?: unknown
  readonly shape?: Record<string, unknown>
}

/** A schema's definition, below defaults and optionality. */
function definitionOf(schema: unknown): Definition {
  let definition = (schema as { def: Definition }).def
  while (definition.innerType !== undefined) definition = (definition.innerType as { def: Definition }).def
  return definition
}

/** The known word at most two edits away. */
function nearest(word: string, known: readonly string[]): string | undefined {
  const ranked = known.map((candidate) => ({ candidate, distance: edits(word, candidate) }))
  ranked.sort((a, b) => a.distance - b.distance)
  return ranked[0] && ranked[0].distance <= 2 ? ranked[0].candidate : undefined
}

function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)))
    }
    row = next
  }
  return row[b.length]!
}

/** A folder that may not be entered is no missing configuration. */
function readConfig(file: string, begin?: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if (!['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code!))
      return attempt(`read ${file}`, () => {
        throw error
      })
    throw new GodwitError('CONFIG_MISSING', `there is no configuration file ${file}`, {
      kind: 'usage',
      hint:
        begin ??
        'create one: `godwit join INVITATION` on a host, `godwit anchor init` on an anchor, `godwit router init` on a gateway',
    })
  }
}

/** Reads and checks a configuration. Throws `CONFIG_MISSING`, `CONFIG_INVALID`, `SECRET_EXPOSED` (all: usage). */
export function loadConfig(file: string, list: List = MECHANISMS, begin?: string): Config {
  const result = parseConfig(readConfig(file, begin), list)
  if ('faults' in result) {
    const lines = result.faults.map(
      ({ line, path, reason }) => `${file}:${line}: ${path && `${path}: `}${reason}`,
    )
    throw new GodwitError('CONFIG_INVALID', lines.join('\n'), {
      kind: 'usage',
      hint: 'docs/configuration.md lists every key; `godwit config check` checks again',
    })
  }
  const { config } = result
  if (list.some(({ holdsSecrets }) => holdsSecrets?.(config))) refuseExposed(file)
  return config
}

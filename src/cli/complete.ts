/**
 * Completion of the command line, from the same definitions as the help; values come from the daemon and the
 * configuration.
 */
import type { Argument, Command, Option } from 'commander'

export interface Candidate {
  readonly value: string
  readonly summary: string
}

/** Kinds of values that can be completed. */
export type ValueKind =
  | 'access'
  | 'bench'
  | 'class'
  | 'flow'
  | 'host'
  /** Where something is moved to: an access, or `auto`. */
  | 'place'
  | 'policy'
  | 'scenario'
  | 'scheduler'
  | 'shell'
  | 'topology'
  | 'what'

/** By the name of the argument; where one name means different things, after the command. */
const ARGUMENTS: Readonly<Record<string, ValueKind>> = {
  access: 'access',
  'move access': 'place',
  flow: 'flow',
  what: 'what',
  scenario: 'scenario',
  topology: 'topology',
  shell: 'shell',
  class: 'class',
  'scheduler name': 'scheduler',
  'remove name': 'host',
  peer: 'host',
  'bench names': 'bench',
}
const OPTIONS: Readonly<Record<string, ValueKind>> = { '--access': 'access', '--policy': 'policy' }

export interface Completion {
  readonly commands: readonly Candidate[]
  readonly value: ValueKind | undefined
}

/** Candidates for the last of `words`, which come after `godwit`. None: a file, or anything. */
export function completion(program: Command, words: readonly string[]): Completion {
  const before = words.slice(0, -1)
  const current = words.at(-1) ?? ''
  let at = program
  let given = 0
  for (let i = 0; i < before.length; i++) {
    const word = before[i]!
    if (word === '--') return { commands: [], value: undefined }
    if (word.startsWith('-')) {
      const option = at.options.find(({ long }) => long === word)
      if (option?.required !== true) continue
      if (i === before.length - 1) return { commands: [], value: OPTIONS[word] }
      i++
      continue
    }
    const child = at.commands.find((each) => each.name() === word)
    if (child === undefined) given++
    else at = child
  }
  if (current.startsWith('-')) return { commands: options(at, before), value: undefined }
  const children = given > 0 ? [] : at.commands
  const commands = children.map((child) => ({ value: child.name(), summary: child.description() }))
  const argument =
    at.registeredArguments[given] ?? at.registeredArguments.findLast(({ variadic }) => variadic)
  return { commands, value: argument && kindOf(at, argument) }
}

function kindOf(command: Command, argument: Argument): ValueKind | undefined {
  return ARGUMENTS[`${command.name()} ${argument.name()}`] ?? ARGUMENTS[argument.name()]
}

function options(command: Command, before: readonly string[]): Candidate[] {
  const own: Pick<Option, 'long' | 'description'>[] = [...command.options]
  own.push({ long: '--help', description: 'show help' })
  return own
    .filter(({ long }) => !before.includes(long ?? ''))
    .map(({ long, description }) => ({ value: long ?? '', summary: description }))
}

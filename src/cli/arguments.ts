/** Arguments before they are parsed: finds godwit's own, moves shared options, rejects misspelt ones. */
import type { Command } from 'commander'

/** The arguments that are godwit's, not those of the program that `godwit run` starts. */
export function ownArguments(args: readonly string[]): readonly string[] {
  const end = args.indexOf('--')
  return end < 0 ? args : args.slice(0, end)
}

/** Options that may also stand before the command. */
const SHARED_WITH_VALUE = new Set(['--state', '--config'])
const SHARED = new Set(['--json', '--debug', ...SHARED_WITH_VALUE])

/**
 * Moves shared options from before the command to after it. Throws, as commander does, for an unknown option before
 * anything missing is reported.
 */
export function arrange(program: Command, args: readonly string[]): string[] {
  const names: string[] = []
  const early: string[] = []
  let at = program
  let i = 0
  for (; i < args.length && at.commands.length > 0; i++) {
    const word = args[i]!
    if (SHARED.has(word.split('=')[0]!)) {
      early.push(word)
      if (SHARED_WITH_VALUE.has(word) && i + 1 < args.length) early.push(args[++i]!)
      continue
    }
    const child = at.commands.find((each) => each.name() === word)
    if (child === undefined) break
    names.push(word)
    at = child
  }
  const rest = args.slice(i)
  if (at.commands.length > 0) return [...names, ...rest] // commander reports the error, or shows help
  refuseUnknown(at, [...early, ...rest])
  return [...names, ...early, ...rest]
}

function refuseUnknown(command: Command, words: readonly string[]): void {
  const ends = command.name() === 'run' // what comes after the program's name is its own
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!
    if (word === '--' || (ends && !word.startsWith('-'))) return
    if (!/^--?[A-Za-z]/.test(word) || word === '-h' || word === '--help') continue
    const flag = word.split('=')[0]!
    const option = command.options.find(({ long, short }) => long === flag || short === flag)
    // Not in commander's types; it suggests the option that was probably meant.
    if (option === undefined)
      (command as unknown as { unknownOption(flag: string): void }).unknownOption(flag)
    else if (option.required && !word.includes('=')) i++
  }
}

/** How a command is defined: the options that all share, and examples that help, manual page and tests use. */
import type { Command, Option } from 'commander'

/** Options that all commands share. */
export interface CommonOptions {
  readonly state?: string
  readonly config?: string
  readonly json?: boolean
  readonly debug?: boolean
}

interface Definition {
  /** `name <argument> [argument]` */
  readonly use: string
  readonly summary: string
  readonly examples: readonly string[]
  /** Shared options that it lacks; by default it has `state` and `json`. */
  readonly without?: readonly ('state' | 'json')[]
  readonly options?: readonly Option[]
  /** Printed in the help below the options. */
  readonly details?: string
  // biome-ignore lint/suspicious/noExplicitAny: commander hands over arguments as the definition names them
  run(...args: any[]): Promise<void>
}

/** The examples of a command, for the help, the manual page and the tests of the docs. */
const examplesOf = new WeakMap<Command, readonly string[]>()
const detailsOf = new WeakMap<Command, string>()

export function commandExamples(command: Command): readonly string[] {
  return examplesOf.get(command) ?? []
}

export function commandDetails(command: Command): string {
  return detailsOf.get(command) ?? ''
}

export function define(parent: Command, definition: Definition): Command {
  const command = parent.command(definition.use).description(definition.summary)
  for (const option of definition.options ?? []) command.addOption(option)
  if (!definition.without?.includes('state')) {
    command.option('--state <dir>', 'folder with configuration, keys and socket of one instance')
    command.option(
      '--config <file>',
      'configuration file (default: godwit.toml in --state, or /etc/godwit/godwit.toml)',
    )
  }
  if (!definition.without?.includes('json')) command.option('--json', 'print one JSON object')
  command.option('--debug', 'print more when something fails')
  examplesOf.set(command, definition.examples)
  if (definition.details !== undefined) detailsOf.set(command, definition.details)
  const examples = definition.examples.map((example) => `  ${example}`).join('\n')
  const details = definition.details === undefined ? '' : `\n${definition.details}\n`
  command.addHelpText('after', `${details}\nExamples:\n${examples}`)
  command.action((...args) => definition.run(...args))
  return command
}

/** Lists of commands without `[options]`, which all have: so the summaries fit beside the names on 80 columns. */
export function subcommandTerm(command: Command): string {
  const args = command.registeredArguments.map((each) => {
    const name = `${each.name()}${each.variadic ? '...' : ''}`
    return each.required ? ` <${name}>` : ` [${name}]`
  })
  return `${command.name()}${args.join('')}`
}

export function group(parent: Command, name: string, summary: string): Command {
  return parent.command(name).description(summary)
}

/** Every command below `command`, depth first. */
export function forEachCommand(command: Command, visit: (command: Command) => void): void {
  for (const child of command.commands) {
    visit(child)
    forEachCommand(child, visit)
  }
}

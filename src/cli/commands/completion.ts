/** `completion`: scripts for bash, zsh and fish, made from the same definitions as the help. */
import type { Command } from 'commander'
import { usageError } from '../../core/errors.ts'
import { forEachCommand } from '../definition.ts'

interface Entry {
  /** Words after `godwit`, e.g. `anchor invite`; empty for godwit itself. */
  readonly path: string
  readonly summary: string
  readonly children: readonly { name: string; summary: string }[]
  readonly options: readonly { long: string; summary: string }[]
}

function entries(program: Command): Entry[] {
  const found: Entry[] = []
  const add = (command: Command): void => {
    const names: string[] = []
    for (let at: Command | null = command; at?.parent; at = at.parent) names.unshift(at.name())
    found.push({
      path: names.join(' '),
      summary: command.description(),
      children: command.commands.map((child) => ({ name: child.name(), summary: child.description() })),
      options: command.options.map((option) => ({ long: option.long ?? '', summary: option.description })),
    })
  }
  add(program)
  forEachCommand(program, add)
  return found
}

export async function completion(shell: string, program: Command): Promise<void> {
  const makers: Record<string, (list: Entry[]) => string> = { bash, zsh, fish }
  const make = makers[shell]
  if (!make) throw usageError(`no completion for ${shell}`, { hint: 'bash, zsh or fish' })
  process.stdout.write(make(entries(program)))
}

/** The words typed so far that are commands; options are skipped. */
function bash(list: Entry[]): string {
  const cases = list.map(({ path, children, options }) => {
    const words = [...children.map(({ name }) => name), ...options.map(({ long }) => long)]
    return `    '${path}') words='${words.join(' ')}' ;;`
  })
  return `# bash completion for godwit
_godwit() {
  local word path= words= current=\${COMP_WORDS[COMP_CWORD]}
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
      --) COMPREPLY=(); return ;;
      -*) ;;
      *)
        case " ${list
          .map(({ path }) => path)
          .filter((path) => path !== '')
          .map((path) => path.replace(' ', '/'))
          .join(' ')} " in
          *" \${path:+$path/}$word "*) path=\${path:+$path/}$word ;;
        esac ;;
    esac
  done
  case \${path/\\// } in
${cases.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _godwit godwit
`
}

function zsh(list: Entry[]): string {
  return `#compdef godwit
autoload -U +X bashcompinit && bashcompinit
${bash(list)}`
}

function fish(list: Entry[]): string {
  const quote = (text: string): string => `'${text.replace(/\\/g, '\\\\').replace(/'/g, "\\'")}'`
  const groups = list
    .filter(({ path, children }) => path !== '' && children.length > 0)
    .map(({ path }) => path)
  const lines = list.flatMap(({ path, children, options }) => {
    const words = path.split(' ').filter((word) => word !== '')
    const seen = words.map((word) => `__fish_seen_subcommand_from ${word}`)
    const names = children.map(({ name }) => name).join(' ')
    const none = words.length === 0 ? '__fish_use_subcommand' : `not __fish_seen_subcommand_from ${names}`
    const here = [...seen, ...(children.length > 0 ? [none] : [])].join('; and ')
    return [
      ...children.map(
        ({ name, summary }) => `complete -c godwit -n ${quote(here)} -a ${name} -d ${quote(summary)}`,
      ),
      ...options.map(({ long, summary }) => {
        const condition = here === '' ? '' : ` -n ${quote(here)}`
        return `complete -c godwit${condition} -l ${long.replace(/^--/, '')} -d ${quote(summary)}`
      }),
    ]
  })
  return `# fish completion for godwit; groups: ${groups.join(', ')}\n${lines.join('\n')}\n`
}

/**
 * `completion`: scripts for bash, zsh and fish. Each calls `godwit completion words -- WORDS…` at every TAB, which prints
 * candidates, one per line: the value, a tab, its description. No candidate: the shell offers files.
 */
import type { Command } from 'commander'
import { usageError } from '../../core/errors.ts'
import { ControlClient } from '../../host/control/client.ts'
import type { Status } from '../../host/daemon/daemon.ts'
import { State } from '../../host/stores/state.ts'
import { type Candidate, completion as next, type ValueKind } from '../complete.ts'

export const SHELLS: Readonly<Record<string, string>> = {
  bash: `# bash completion for godwit
_godwit() {
  local IFS=$' \\t\\n' typed="\${COMP_LINE:0:COMP_POINT}" words prefix
  read -ra words <<< "$typed"
  [[ "$typed" == *[[:space:]] ]] && words+=('')
  local current="\${words[-1]}"
  IFS=$'\\n'
  COMPREPLY=($(compgen -W "$("\${words[0]/#\\~/$HOME}" completion words -- "\${words[@]:1}" 2>/dev/null | cut -f1)" -- "$current"))
  # bash has split the word at its colons.
  if [[ "$current" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
    prefix="\${current%"\${current##*:}"}"
    COMPREPLY=("\${COMPREPLY[@]#"$prefix"}")
  fi
}
complete -o default -F _godwit godwit
`,
  zsh: `#compdef godwit
_godwit() {
  local line
  local -a lines values
  lines=("\${(@f)$(_call_program godwit "\${(q)words[1]}" completion words -- "\${(@q)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -z "$lines[1]" ]]; then _files; return; fi
  for line in "$lines[@]"; do values+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}"); done
  _describe -t values godwit values
}
if [[ "$funcstack[1]" == _godwit ]]; then _godwit "$@"; else compdef _godwit godwit; fi
`,
  fish: `# fish completion for godwit
function __godwit_next
    set -l words (commandline -opc)
    set -g __godwit_offered ($words[1] completion words -- $words[2..-1] (commandline -ct) 2>/dev/null)
    test -n "$__godwit_offered[1]"
end
complete -c godwit -f -n __godwit_next -a '$__godwit_offered'
`,
}

export async function completion(shell: string, words: readonly string[], program: Command): Promise<void> {
  if (shell === 'words') {
    for (const { value, summary } of await offered(program, words))
      process.stdout.write(`${value}\t${summary}\n`)
    return
  }
  const script = Object.hasOwn(SHELLS, shell) ? SHELLS[shell] : undefined
  if (script === undefined) throw usageError(`no completion for ${shell}`, { hint: 'bash, zsh or fish' })
  process.stdout.write(script)
}

async function offered(program: Command, words: readonly string[]): Promise<Candidate[]> {
  const { commands, value } = next(program, words)
  const current = words.at(-1) ?? ''
  const values = value === undefined ? [] : await valuesOf(value, words).catch(() => [])
  // A tab or a newline would be another column or line of the answer.
  return [...commands, ...values].filter(
    (each) => each.value.startsWith(current) && !/[\t\n]/.test(each.value),
  )
}

const plain = (values: readonly string[], summary: string): Candidate[] =>
  [...new Set(values)].filter((value) => value !== '').map((value) => ({ value, summary }))

/** Values known to the daemon; none if it does not answer. */
async function valuesOf(kind: ValueKind, words: readonly string[]): Promise<Candidate[]> {
  const at = words.indexOf('--state')
  const options = at < 0 ? {} : { state: words[at + 1] ?? '' }
  const status = () => new ControlClient(new State(options).socket).get<Status>('/v1/status')
  switch (kind) {
    case 'place':
      return [
        ...(await valuesOf('access', words)),
        { value: 'auto', summary: 'undo moves by hand: the policy decides again' },
      ]
    case 'access':
      return (await status()).accesses.map(({ name, state, addresses }) => ({
        value: name,
        summary: [state, ...addresses].join(' '),
      }))
    case 'flow':
      return (await status()).flows.map(flowCandidate)
    case 'what': {
      const flows = await status().then(
        (now) => now.flows,
        () => [],
      )
      const applications = flows.flatMap(({ app }) => (app === '' ? [] : [`app:${app}`]))
      return [
        { value: 'all', summary: 'everything' },
        ...plain(applications, 'an application'),
        ...flows.map(flowCandidate),
      ]
    }
    case 'class':
      return plain(
        (await status()).classes.map(({ name }) => name),
        'a class of traffic',
      )
    case 'host':
      return plain(
        (await status()).peers.map(({ name }) => name),
        'a host',
      )
    case 'policy': {
      const { loadConfig } = await import('../../host/configuration/config.ts')
      return plain(
        loadConfig(new State(options).configFile).policy.map(({ name }) => name),
        'a policy',
      )
    }
    case 'scheduler': {
      const { jsonSchema } = await import('../../host/configuration/schema.ts')
      const schema = JSON.stringify(jsonSchema())
      const found = /"scheduler":\{[^{}]*"enum":(\[[^\]]*\])/.exec(schema)
      return plain(found === null ? [] : JSON.parse(found[1]!), 'a scheduler')
    }
    case 'scenario': {
      const { scenarios } = await import('../../../lab/scenarios/index.ts')
      return scenarios.map(({ name, summary }) => ({ value: name, summary }))
    }
    case 'topology': {
      const { topologies } = await import('../../../lab/topologies/index.ts')
      return topologies.map(({ name, summary }) => ({ value: name, summary }))
    }
    case 'bench': {
      const { listBenches } = await import('../../../bench/index.ts')
      return listBenches().map(({ name, summary }) => ({ value: name, summary }))
    }
    case 'shell':
      return plain(Object.keys(SHELLS), 'a shell')
  }
}

function flowCandidate({ id, app, dst, access }: Status['flows'][number]): Candidate {
  return { value: id, summary: `${app || 'a flow'} to ${dst} on ${access || 'no access'}` }
}

/** man/godwit.1, made from the definitions of the commands. */
import type { Command } from 'commander'
import { commandDetails, commandExamples, forEachCommand } from './definition.ts'

/** The manual page in man(7). */
export function manualPage(program: Command): string {
  const commands: Command[] = []
  forEachCommand(program, (command) => {
    if (command.commands.length === 0) commands.push(command)
  })
  return [
    `.TH GODWIT 1 "" "godwit ${program.version()}" "User Commands"`,
    '.SH NAME',
    'godwit \\- keeps connections alive while a host moves between networks',
    '.SH SYNOPSIS',
    '.B godwit',
    '.I command',
    '[\\fIoptions\\fR] [\\fIarguments\\fR]',
    '.SH DESCRIPTION',
    'A host with several networks (Wi-Fi, mobile data, Ethernet) runs \\fBgodwit up\\fR and reaches the Internet through an',
    'anchor, \\fBgodwit anchor up\\fR, over all of them. Connections move from one network to another without',
    'interruption, one by one or all at once.',
    '.SH COMMANDS',
    ...commands.flatMap(describe),
    '.SH SHARED OPTIONS',
    '.TP\n.B \\-\\-state \\fIdir\\fR\nFolder with configuration, keys and socket of one instance; with several, several instances can run.',
    '.TP\n.B \\-\\-config \\fIfile\\fR\nConfiguration file.',
    '.TP\n.B \\-\\-json\nPrint one JSON object and nothing else on standard output.',
    '.TP\n.B \\-\\-debug\nPrint more when something fails.',
    '.SH EXIT STATUS',
    '.TP\n.B 0\nDone.',
    '.TP\n.B 1\nIt ran and failed.',
    '.TP\n.B 2\nThe call or the configuration was wrong; one line names the error, the place, and the fix.',
    '.TP\n.B 3\nThis machine lacks something; the error names it, with the command that installs it.',
    '.PP\n\\fBgodwit run\\fR exits with the status of the program.',
    '.SH FILES',
    '.TP\n.I /etc/godwit/godwit.toml\nConfiguration, unless \\fB\\-\\-config\\fR or \\fB\\-\\-state\\fR says otherwise.',
    '.TP\n.I /var/lib/godwit\nKeys, store and control socket, unless \\fB\\-\\-state\\fR says otherwise.',
    '.SH SEE ALSO',
    '.BR wg (8),\n.BR ip (8)',
    '',
  ].join('\n')
}

function describe(command: Command): string[] {
  const names: string[] = []
  for (let at: Command | null = command; at?.parent; at = at.parent) names.unshift(at.name())
  const usage = command.usage().replace('[options] ', '').replace('[options]', '')
  const details = commandDetails(command)
  return [
    `.SS godwit ${roff(`${names.join(' ')} ${usage}`.trim())}`,
    `${roff(command.description())}.`,
    ...(details === '' ? [] : [roff(details)]),
    ...command.options
      .filter((option) => !SHARED.has(option.long ?? ''))
      .flatMap((option) => ['.TP', `.B ${roff(option.flags)}`, roff(option.description)]),
    '.PP\nExamples:',
    '.nf',
    ...commandExamples(command).map((example) => `    ${roff(example)}`),
    '.fi',
  ]
}

/** Options that nearly all commands have are not repeated with each. */
const SHARED = new Set(['--state', '--config', '--json', '--debug'])

function roff(text: string): string {
  return text
    .replace(/\\/g, '\\e')
    .replace(/-/g, '\\-')
    .replace(/^(['.])/gm, '\\&$1')
}

/** One call of the command: from its arguments to its exit status. */
import { arrange, ownArguments } from './arguments.ts'
import { report } from './errors.ts'
import { buildProgram } from './program.ts'

/** Runs it; what goes wrong is reported. Returns the exit status; undefined: as the command has left it in `process.exitCode`. */
export async function runCommand(args: readonly string[]): Promise<number | undefined> {
  const own = ownArguments(args)
  try {
    const program = buildProgram()
    await program.parseAsync(arrange(program, args), { from: 'user' })
    return undefined
  } catch (error) {
    return report(error, { debug: own.includes('--debug'), json: own.includes('--json') })
  }
}

/** The entry point of the command: parses, runs, and turns every error into one line and an exit status. */
import { ownArguments } from './arguments.ts'
import { report } from './errors.ts'
import { buildProgram } from './program.ts'

// A reader that has seen enough (`| head`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  throw error
})

const own = ownArguments(process.argv.slice(2))
try {
  await buildProgram().parseAsync(process.argv)
} catch (error) {
  process.exitCode = report(error, { debug: own.includes('--debug'), json: own.includes('--json') })
}

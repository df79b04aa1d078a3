/** The entry point of the command: parses, runs, and turns every error into one line and an exit status. */
import { GodwitError } from '../core/errors.ts'
import { ownArguments } from './arguments.ts'
import { runCommand } from './command.ts'
import { reasonOf, report } from './errors.ts'

const debug = ownArguments(process.argv.slice(2)).includes('--debug')

// One that was removed: relative paths lead nowhere, and Node's threads cannot start in it.
try {
  process.cwd()
} catch {
  process.chdir('/')
}

let isEnding = false
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // What has something to remove listens: a lab.
  if (process.listenerCount('SIGTERM') > 0) {
    if (!isEnding) process.kill(process.pid, 'SIGTERM')
    isEnding = true
    return
  }
  // A reader that has seen enough (`| head`) is no error.
  if (error.code === 'EPIPE') process.exit(0)
  const failure = new GodwitError('OUTPUT_FAILED', `standard output cannot be written: ${reasonOf(error)}`, {
    cause: error,
    hint: 'free some space, or write somewhere else',
  })
  process.exit(report(failure, { debug, json: false }))
})
// Nobody may read what goes wrong.
process.stderr.on('error', () => {})

const status = await runCommand(process.argv.slice(2))
if (status !== undefined) process.exitCode = status

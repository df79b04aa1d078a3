/** From an error to what a user reads and the exit status: 0 done, 1 failed, 2 wrong call, 3 something is missing. */
import { CommanderError } from 'commander'
import { GodwitError } from '../core/errors.ts'
import { printableJson, printableLines } from '../core/printable.ts'

export const EXIT = { failed: 1, usage: 2, missing: 3 } as const

/** Prints the error as one line (errors of a configuration: one line each) and returns the exit status. */
export function report(error: unknown, options: { debug: boolean; json: boolean }): number {
  if (error instanceof CommanderError && error.exitCode === 0) return 0
  if (error instanceof CommanderError && error.code === 'commander.help') return EXIT.usage // it has been shown
  const { code, message, hint, kind } = describe(error)
  const text = hint === undefined ? message : `${message}; ${hint}`
  process.stderr.write(`godwit: ${printableLines(text)}\n`)
  if (options.debug && error instanceof Error) process.stderr.write(`${printableLines(error.stack ?? '')}\n`)
  if (options.debug && error instanceof Error && error.cause instanceof Error) {
    process.stderr.write(`cause: ${printableLines(error.cause.stack ?? '')}\n`)
  }
  if (options.json)
    process.stdout.write(`${printableJson(JSON.stringify({ error: { code, message, hint } }))}\n`)
  return EXIT[kind]
}

/** Hints for system errors that reach this place. */
const MENDS: Readonly<Record<string, string>> = {
  EACCES: 'run it as root (sudo)',
  EPERM: 'run it as root (sudo)',
  ENOSPC: 'free some space on that file system',
  EDQUOT: 'free some space on that file system',
  EROFS: 'choose a writable place',
  EMFILE: 'close programs, or raise the limit: ulimit -n',
}

/** Turns `ENOSPC: no space left on device, write` into `no space left on device`. */
export function reasonOf({ message }: Error): string {
  return message.replace(/^E[A-Z0-9]+: /, '').replace(/, \w+( '.*')?$/, '')
}

function describe(error: unknown): Pick<GodwitError, 'code' | 'message' | 'hint' | 'kind'> {
  if (error instanceof GodwitError) return error
  if (error instanceof CommanderError) {
    const text = error.message.replace(/^error: /, '').replace(/\n/g, ' ')
    return { code: 'USAGE', message: text, hint: 'see --help', kind: 'usage' }
  }
  const message = error instanceof Error ? error.message : String(error)
  const system = (error as NodeJS.ErrnoException)?.code
  if (typeof system === 'string' && /^E[A-Z0-9]+$/.test(system)) {
    const { path } = error as NodeJS.ErrnoException
    const where = path === undefined ? '' : `${path}: `
    return {
      code: system,
      message: `${where}${reasonOf(error as Error)}`,
      hint: MENDS[system],
      kind: 'failed',
    }
  }
  const hint = 'this is a bug in godwit; run it again with --debug and report the output'
  return { code: 'INTERNAL', message, hint, kind: 'failed' }
}

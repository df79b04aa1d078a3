/** A process that runs one call of the command after the other, for tests of many: loading its modules takes most of a call. */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { runCommand } from '../../src/cli/command.ts'

export interface CommandResult {
  readonly status: number | null
  readonly output: string
  readonly errors: string
}

/** In the child: what the command writes is caught and sent back. */
async function serve(args: readonly string[]): Promise<void> {
  const caught = { output: '', errors: '' }
  const into = (which: keyof typeof caught) =>
    ((text: string) => {
      caught[which] += text
      return true
    }) as typeof process.stdout.write
  process.stdout.write = into('output')
  process.stderr.write = into('errors')
  process.exitCode = 0
  const status = (await runCommand(args)) ?? Number(process.exitCode)
  process.send!({ status, ...caught } satisfies CommandResult)
}

if (process.send !== undefined && process.argv[1] === fileURLToPath(import.meta.url))
  process.on('message', (args: string[]) => void serve(args))

export class CommandHost {
  readonly #child: ChildProcess = fork(fileURLToPath(import.meta.url), { stdio: 'inherit' })

  /** One at a time. */
  run(args: readonly string[]): Promise<CommandResult> {
    return new Promise((done, fail) => {
      const ended = (status: number | null) =>
        fail(new Error(`godwit ${args.join(' ')} ended the process with ${status}`))
      this.#child.once('exit', ended)
      this.#child.once('message', (result) => {
        this.#child.off('exit', ended)
        done(result as CommandResult)
      })
      this.#child.send(args)
    })
  }

  close(): void {
    this.#child.disconnect()
  }
}

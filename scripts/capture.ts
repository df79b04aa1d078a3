/** Runs a command and collects what it says. */
import { spawn } from 'node:child_process'

export interface Captured {
  /** The exit status; 1 when it could not be started or was ended by a signal. */
  readonly status: number
  /** Standard output and standard error, as they came. */
  readonly text: string
}

export interface CaptureOptions {
  readonly cwd?: string
  readonly env?: NodeJS.ProcessEnv
  /** Milliseconds after which it is ended. */
  readonly timeout?: number
  /** Whether standard error is also written to this process's as it comes. */
  readonly echoErrors?: boolean
}

export function capture(
  command: string,
  args: readonly string[],
  options: CaptureOptions = {},
): Promise<Captured> {
  return new Promise((done) => {
    const child = spawn(command, [...args], { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
    let text = ''
    const collect = (chunk: Buffer): void => {
      text += chunk.toString()
    }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    if (options.echoErrors === true) child.stderr.on('data', (chunk: Buffer) => process.stderr.write(chunk))
    child.on('error', (error) => done({ status: 1, text: error.message }))
    child.on('close', (code, signal) =>
      done({ status: code ?? 1, text: signal === null ? text : `${text}\nended by ${signal}` }),
    )
  })
}

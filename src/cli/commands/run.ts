/**
 * `run`: the program's process waits until the daemon has put it into its own cgroup and the mechanisms know it, so that
 * its first connection already follows the policy. The process keeps its id; terminal, standard streams and exit status
 * are the program's.
 */
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { GodwitError, usageError } from '../../core/errors.ts'
import { printable } from '../../core/printable.ts'
import { ControlClient } from '../../host/control/client.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'

interface RunOptions extends CommonOptions {
  readonly access?: string
  readonly policy?: string
  readonly direct?: boolean
  readonly bestEffort?: boolean
}

/** Waits for a line on descriptor 3, then becomes the program; without the line it ends. */
const STARTER = 'IFS= read -r go <&3 || exit 125; exec 3<&-; exec "$@"'

/** Passed on. SIGINT and SIGQUIT of a terminal reach the program by themselves. */
const FORWARDED: readonly NodeJS.Signals[] = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGCONT']

export async function run(command: string, args: readonly string[], options: RunOptions): Promise<void> {
  const daemon = new ControlClient(new State(options).socket)
  const child = spawn('/bin/sh', ['-c', STARTER, 'sh', command, ...args], {
    stdio: ['inherit', 'inherit', 'inherit', 'pipe'],
  })
  const ended = new Promise<number>((done, fail) => {
    child.once('error', fail)
    child.once('exit', (code, signal) => done(code ?? 128 + constants.signals[signal ?? 'SIGTERM']))
  })
  for (const signal of FORWARDED) process.on(signal, () => child.kill(signal))
  for (const signal of ['SIGINT', 'SIGQUIT'] as const) {
    process.on(signal, () => {
      if (!process.stdin.isTTY) child.kill(signal)
    })
  }
  const gate = child.stdio[3] as NodeJS.WritableStream
  gate.on('error', () => {}) // the program has ended before it began
  let id: string | undefined
  try {
    id = await adopt(daemon, child.pid!, command, options)
  } catch (error) {
    gate.end()
    await ended
    throw error
  }
  gate.end('go\n')
  process.exitCode = await ended
  // The daemon may be gone by now, and detects the end by itself in any case.
  if (id !== undefined) await daemon.post('/v1/run/end', { id }).catch(() => {})
}

async function adopt(
  daemon: ControlClient,
  pid: number,
  command: string,
  options: RunOptions,
): Promise<string | undefined> {
  const { access, policy, direct } = options
  if (direct === true && policy !== undefined)
    throw usageError(
      '--direct and --policy exclude each other: policies do not apply to traffic that bypasses godwit',
    )
  try {
    return (await daemon.post<{ id: string }>('/v1/run', { pid, command, access, policy, direct })).id
  } catch (error) {
    if (!options.bestEffort || !(error instanceof GodwitError) || error.kind === 'usage') throw error
    process.stderr.write(
      `godwit: ${printable(error.message)}; running ${printable(command)} under the general rules\n`,
    )
    return undefined
  }
}

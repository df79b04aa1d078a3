/** How a daemon is told to stop: by a signal, or by a fault of its own. */
import type { Recorder } from '../../core/mechanism.ts'

/** Who passes a signal on, a wrapper or the terminal, may send a second one for the same Ctrl-C. */
const SAME_MS = 500

/** Resolves with the first signal to stop, or fault. After it another one ends the process at once. */
export function untilStopped(
  recorder: Pick<Recorder, 'log'>,
  onHangup = () => recorder.log('warn', 'SIGHUP: this daemon cannot reload; restart it to apply changes'),
): Promise<void> {
  return new Promise((done) => {
    let askedAt: number | undefined
    const stop = (signal: NodeJS.Signals): void => {
      const now = performance.now()
      if (askedAt !== undefined && now - askedAt < SAME_MS) return
      if (askedAt !== undefined) endAtOnce(recorder)
      askedAt = now
      recorder.log('info', `${signal}: stopping`)
      done()
    }
    process.on('SIGINT', stop)
    process.on('SIGTERM', stop)
    process.on('SIGHUP', onHangup)
    // For uncaught exceptions: cleans up, then fails.
    const fault = (error: unknown): void => {
      recorder.log(
        'error',
        `fault: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
      )
      process.exitCode = 1
      if (askedAt !== undefined) endAtOnce(recorder)
      askedAt = performance.now()
      done()
    }
    process.on('uncaughtException', fault)
    process.on('unhandledRejection', fault)
  })
}

/** `process.exit` would wait for the packet engine's thread, which sleeps in `poll` for up to a minute. */
function endAtOnce(recorder: Pick<Recorder, 'log'>): void {
  recorder.log('warn', 'ended before everything was removed; `godwit down` removes what is left')
  process.kill(process.pid, 'SIGKILL')
}

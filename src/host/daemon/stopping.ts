/** How a daemon is told to stop: by a signal, or by a fault of its own. */
import type { Recorder } from '../../core/mechanism.ts'

/** For one Ctrl-C a wrapper and the terminal may send a signal each, and one cause may raise several faults. */
const SAME_MS = 500

/** Resolves with the first signal to stop, or fault. One that comes later than that ends the process at once. */
export function untilStopped(
  recorder: Pick<Recorder, 'log'>,
  onHangup = () => recorder.log('warn', 'SIGHUP: this daemon cannot reload; restart it to apply changes'),
): Promise<void> {
  return new Promise((done) => {
    let askedAt: number | undefined
    const stop = (): void => {
      const now = performance.now()
      askedAt ??= now
      if (now - askedAt >= SAME_MS) endAtOnce(recorder)
      done()
    }
    const onSignal = (signal: NodeJS.Signals): void => {
      if (askedAt === undefined) recorder.log('info', `${signal}: stopping`)
      stop()
    }
    process.on('SIGINT', onSignal)
    process.on('SIGTERM', onSignal)
    process.on('SIGHUP', onHangup)
    // For uncaught exceptions: cleans up, then fails.
    const fault = (error: unknown): void => {
      recorder.log(
        'error',
        `fault: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
      )
      process.exitCode = 1
      stop()
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

/** The engine worker of a TunnelHost, as a test plays it: what was posted, events of its own, and its end. */
import type { GodwitError } from '../../src/core/errors.ts'
import type { Recorder } from '../../src/core/mechanism.ts'
import type { EngineWorkerEvents } from '../../src/tunnel/engine/thread.ts'
import type { StartEngine } from '../../src/tunnel/engine/tunnel-host.ts'

export class FakeEngine {
  readonly commands: { readonly type: string; readonly request?: number }[] = []
  setup: unknown
  stopped = 0
  /** What building the engine throws. */
  refusal: GodwitError | undefined
  #events: EngineWorkerEvents | undefined

  readonly start: StartEngine = async (_entry, setup, events) => {
    if (this.refusal !== undefined) throw this.refusal
    this.setup = setup
    this.#events = events
    return {
      post: (command) => {
        this.commands.push(command as FakeEngine['commands'][number])
      },
      stop: async () => {
        this.stopped++
      },
    }
  }

  emit(event: object): void {
    this.#events?.onEvent(event)
  }

  /** The worker ends by itself. */
  end(error?: GodwitError): void {
    this.#events?.onEnd(error)
  }

  get types(): string[] {
    return this.commands.map(({ type }) => type)
  }
}

export function recorderTo(lines: string[]): Recorder {
  return {
    log: (level, message) => lines.push(`${level} ${message}`),
    decision: () => {},
    handover: () => {},
  }
}

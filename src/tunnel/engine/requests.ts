/** Questions to an engine worker: numbered, answered by an event with that number, given up after a while. */
import { GodwitError } from '../../core/errors.ts'
import type { AnswerEvent } from './events.ts'
import { errorOf } from './outcome.ts'

const ANSWER_MS = 5000

interface Pending {
  readonly timer: NodeJS.Timeout
  readonly resolve: (answer: unknown) => void
  readonly reject: (error: GodwitError) => void
}

export class Requests {
  readonly #pending = new Map<number, Pending>()
  #last = 0

  /**
   * Sends the message that `post` makes with a new number; resolves to the answer. Rejects with the engine's failure,
   * with ENGINE_SILENT, or with the error given to `end`.
   */
  ask(post: (request: number) => void): Promise<unknown> {
    const request = ++this.#last
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(request)
        reject(new GodwitError('ENGINE_SILENT', 'the packet engine does not answer'))
      }, ANSWER_MS)
      this.#pending.set(request, { timer, resolve, reject })
      post(request)
    })
  }

  answered({ request, outcome }: AnswerEvent): void {
    const pending = this.#settle(request)
    if (outcome.ok) pending?.resolve(outcome.value)
    else pending?.reject(errorOf(outcome.failure))
  }

  /** No more answers come. */
  end(error: GodwitError): void {
    for (const request of [...this.#pending.keys()]) this.#settle(request)?.reject(error)
  }

  #settle(request: number): Pending | undefined {
    const pending = this.#pending.get(request)
    this.#pending.delete(request)
    clearTimeout(pending?.timer)
    return pending
  }
}

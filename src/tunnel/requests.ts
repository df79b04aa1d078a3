/** Questions to an engine worker: numbered, answered by an event with that number, given up after a while. */
import { GodwitError } from '../core/errors.ts'

const ANSWER_MS = 5000

interface Pending<Answer> {
  readonly timer: NodeJS.Timeout
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: GodwitError) => void
}

export class Requests<Answer extends { readonly request: number }> {
  readonly #pending = new Map<number, Pending<Answer>>()
  #last = 0

  /** Sends what `post` makes of a new number; resolves to the answer. Rejects with ENGINE_SILENT, or as `end` says. */
  ask(post: (request: number) => void): Promise<Answer> {
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

  answered(answer: Answer): void {
    this.#settle(answer.request)?.resolve(answer)
  }

  /** No more answers come. */
  end(error: GodwitError): void {
    for (const request of [...this.#pending.keys()]) this.#settle(request)?.reject(error)
  }

  #settle(request: number): Pending<Answer> | undefined {
    const pending = this.#pending.get(request)
    this.#pending.delete(request)
    clearTimeout(pending?.timer)
    return pending
  }
}

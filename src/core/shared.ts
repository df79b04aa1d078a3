/**
 * Shares one execution of work among concurrent callers. A caller that arrives while the work runs shares the next
 * execution with all others that do, so its result is newer than its call.
 */
export class Shared<T> {
  #running: Promise<unknown> = Promise.resolve()
  #next: Promise<T> | undefined

  ask(work: () => Promise<T>): Promise<T> {
    this.#next ??= this.#running.then(() => {
      this.#next = undefined
      const done = work()
      this.#running = done.catch(() => {})
      return done
    })
    return this.#next
  }
}

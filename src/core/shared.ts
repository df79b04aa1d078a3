/**
 * Work that many may ask for at the same time is done once for all of them: who asks while it is being done shares the next
 * time with all others who do, and so gets what is true after the question.
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

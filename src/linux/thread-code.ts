/**
 * The code of a thread that may start long after the process began, read when the process begins. An upgrade removes the files
 * of a running daemon, or puts those of another version in their place (ADR 0468).
 */
import { readFileSync } from 'node:fs'
import { Worker, type WorkerOptions } from 'node:worker_threads'

/** What a build leaves of such an entry (scripts/bundle.ts). */
const BUNDLED = /^import '(\S+\.cjs)'\n$/

export class ThreadCode {
  readonly #entry: URL
  /** Undefined where nothing is bundled: the thread is then read as modules, when it starts. */
  readonly #code: string | undefined

  /** Reads what `entry` is now. */
  constructor(entry: URL) {
    this.#entry = entry
    const bundled = BUNDLED.exec(readFileSync(entry, 'utf8'))?.[1]
    if (bundled === undefined) return
    const file = new URL(bundled, entry)
    const place = JSON.stringify(file.href)
    // In one line, so that lines in stack traces are those of the file.
    this.#code =
      `'use strict'; globalThis.godwitThread = ${place}; ` +
      `globalThis.require = require('node:module').createRequire(${place}); ${readFileSync(file, 'utf8')}`
  }

  /** Starts a thread of what was read. Packages that are not bundled (koffi, drivers) are looked for now. */
  start(options: WorkerOptions): Worker {
    if (this.#code === undefined) return new Worker(this.#entry, options)
    return new Worker(this.#code, { ...options, eval: true })
  }
}

/**
 * Where a host may be that has moved at the same moment as this one (D3): the addresses of its names, asked for again and
 * again while it is needed. Who is at an address has to show with its key that it is the host.
 */
import { lookup } from 'node:dns/promises'
import type { Ip } from './tables.ts'

const INTERVAL_MS = 5_000

export interface SeekerInit {
  readonly names: readonly string[]
  needed(): boolean
  found(addresses: readonly Ip[]): void
}

export class Seeker {
  readonly #init: SeekerInit
  #timer: NodeJS.Timeout | undefined

  constructor(init: SeekerInit) {
    this.#init = init
  }

  start(): void {
    if (this.#init.names.length > 0) this.#timer = setInterval(() => void this.#seek(), INTERVAL_MS)
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  async #seek(): Promise<void> {
    if (!this.#init.needed()) return
    const answers = this.#init.names.map((name) => lookup(name, { all: true }).catch(() => []))
    const found = new Set<Ip>((await Promise.all(answers)).flat().map(({ address }) => address))
    if (this.#timer !== undefined && found.size > 0) this.#init.found([...found])
  }
}

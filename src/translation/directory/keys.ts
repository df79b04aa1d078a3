/** Keys from files, and where these name none for an address, from the directory (DI-39). */
import { readFileSync } from 'node:fs'
import { kindOf, parseAddress } from '../../core/address.ts'
import { equal } from '../../core/bytes.ts'
import type { FileKeyStore } from '../keys.ts'
import type { OwnKey } from '../machine/host.ts'
import type { KeyStore } from '../machine/types.ts'
import type { Ip } from '../tables.ts'
import type { KeyDirectory } from './directory.ts'

export class DirectoryKeyStore implements KeyStore {
  readonly #files: FileKeyStore
  readonly #directory: KeyDirectory

  constructor(files: FileKeyStore, directory: KeyDirectory) {
    this.#files = files
    this.#directory = directory
  }

  own(local: Ip): OwnKey | undefined {
    return this.#files.own(local)
  }

  known(foreign: Ip, shown?: Uint8Array): Uint8Array | undefined {
    const file = this.#files.known(foreign)
    if (file !== undefined) return file
    const keys = this.#directory.keys(foreign)
    return keys?.find((key) => shown !== undefined && equal(key, shown)) ?? keys?.[0]
  }

  awaits(foreign: Ip): boolean {
    return this.#files.known(foreign) === undefined && this.#directory.awaits(foreign)
  }

  look(foreign: Ip): void {
    if (this.#files.known(foreign) === undefined) this.#directory.look(foreign)
  }

  reload(): void {
    this.#files.reload()
  }
}

/** Whether this is an address of the loopback: nobody but this machine answers there. */
export function isLoopback(text: string): boolean {
  const address = parseAddress(text)
  return address.ok && kindOf(address.value) === 'loopback'
}

/** The first resolver of this machine that resolv.conf(5) names; undefined: none. Read anew each time. */
export function localResolver(path = '/etc/resolv.conf'): Ip | undefined {
  try {
    const lines = readFileSync(path, 'utf8').split('\n')
    return lines
      .map((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1])
      .find((server) => server !== undefined && isLoopback(server))
  } catch {
    return undefined
  }
}

/**
 * Where an instance lives: its configuration, private key, store, lock and control socket. With `--state DIR` all of it
 * is in DIR; by default the configuration is in /etc/godwit and the rest in /var/lib/godwit.
 */
import { existsSync, ftruncateSync, readFileSync, writeSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { GodwitError } from '../../core/errors.ts'
import { encodeKey, generatePrivateKey } from '../../crypto/keys.ts'
import { tryLock, unlock } from '../../linux/file-lock.ts'
import {
  attempt,
  makeFolder,
  readPrivateKey,
  refuseForeign,
  removeHalfWritten,
  writeSecret,
} from '../../mechanism/files.ts'

export interface StateOptions {
  /** `--state DIR` */
  readonly state?: string | undefined
  /** `--config FILE` */
  readonly config?: string | undefined
}

/** The paths of one instance. Nothing is made before it is needed. */
export class State {
  readonly folder: string
  readonly configFile: string
  readonly keyFile: string
  /** Addresses that names of peers had. */
  readonly endpointsFile: string
  readonly socket: string
  /** Of the machine: neither its folder nor its configuration was named. */
  readonly isMachine: boolean
  #lock: number | undefined

  constructor(options: StateOptions = {}) {
    this.isMachine = options.state === undefined && options.config === undefined
    this.folder = resolve(options.state ?? '/var/lib/godwit')
    const configFolder = options.state === undefined ? '/etc/godwit' : this.folder
    this.configFile = resolve(options.config ?? join(configFolder, 'godwit.toml'))
    this.keyFile = join(this.folder, 'private.key')
    this.endpointsFile = join(this.folder, 'endpoints.json')
    this.socket = join(this.folder, 'control.sock')
  }

  file(name: string): string {
    return join(this.folder, name)
  }

  /** Makes the state's folder, for its owner and group. Throws `STATE_EXPOSED` when it is another user's. */
  prepare(): void {
    makeFolder(this.folder)
    refuseForeign(this.folder)
  }

  /** Makes this process the only daemon on this state, until it ends. Throws `STATE_BUSY`. */
  lock(): void {
    this.prepare()
    const path = this.file('lock')
    const fd = attempt(`open ${path}`, () => tryLock(path))
    if (fd === undefined) {
      const pid = readFileSync(path, 'utf8').trim()
      throw new GodwitError(
        'STATE_BUSY',
        `another godwit${pid && ` (process ${pid})`} runs on ${this.folder}`,
        {
          hint: `stop it (kill ${pid || 'PID'}), or give this one a state of its own with --state DIR`,
        },
      )
    }
    ftruncateSync(fd)
    writeSync(fd, `${process.pid}\n`)
    this.#lock = fd
    attempt(`clean up ${this.folder}`, () => removeHalfWritten(this.folder))
  }

  /** Whether a daemon runs on this state. */
  busy(): boolean {
    const path = this.file('lock')
    if (!existsSync(path)) return false
    const fd = tryLock(path)
    if (fd === undefined) return true
    unlock(fd)
    return false
  }

  unlock(): void {
    if (this.#lock !== undefined) unlock(this.#lock)
    this.#lock = undefined
  }

  /** The private key of this machine; made when there is none yet. */
  ensurePrivateKey(path: string = this.keyFile): Uint8Array {
    this.prepare()
    if (!existsSync(path)) writeSecret(path, `${encodeKey(generatePrivateKey())}\n`)
    return readPrivateKey(path)
  }
}

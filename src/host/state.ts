/**
 * Where an instance lives: its configuration, private key, store, lock and control socket. With `--state DIR` all of it
 * is in DIR; by default the configuration is in /etc/godwit and the rest in /var/lib/godwit.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { GodwitError } from '../core/errors.ts'
import { decodeKey, encodeKey, generatePrivateKey } from '../crypto/keys.ts'
import { tryLock, unlock } from '../linux/file-lock.ts'
import { refuseExposed } from './config.ts'

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
  readonly socket: string
  #lock: number | undefined

  constructor(options: StateOptions = {}) {
    this.folder = resolve(options.state ?? '/var/lib/godwit')
    const configFolder = options.state === undefined ? '/etc/godwit' : this.folder
    this.configFile = resolve(options.config ?? join(configFolder, 'godwit.toml'))
    this.keyFile = join(this.folder, 'private.key')
    this.socket = join(this.folder, 'control.sock')
  }

  file(name: string): string {
    return join(this.folder, name)
  }

  /** Makes the state's folder, for its owner and group. */
  prepare(): void {
    makeFolder(this.folder)
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
    if (!existsSync(path)) writeSecret(path, `${encodeKey(generatePrivateKey())}\n`)
    return readPrivateKey(path)
  }
}

/** Reads a private key. Throws `KEY_MISSING`, `KEY_INVALID` or `SECRET_EXPOSED` (usage). */
export function readPrivateKey(path: string): Uint8Array {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw ioError(`read ${path}`, error)
    throw new GodwitError('KEY_MISSING', `there is no private key ${path}`, {
      kind: 'usage',
      hint: `godwit keygen > ${path}; chmod 600 ${path}`,
    })
  }
  refuseExposed(path)
  const key = decodeKey(text.trim())
  if (key.ok) return key.value
  throw new GodwitError('KEY_INVALID', `${path}: ${key.reason}`, {
    kind: 'usage',
    hint: 'godwit keygen makes one',
  })
}

/** Writes a file that only its owner can read; atomic. */
export function writeSecret(path: string, text: string): void {
  writeAtomic(path, text, 0o600)
}

/**
 * Replaces a file as a whole: whoever reads it, also after a power cut, sees the old text or the new. A full disk leaves
 * the old one in place and throws `DISK_FULL`.
 */
export function writeAtomic(path: string, text: string, mode = 0o644): void {
  makeFolder(dirname(path))
  const temporary = `${path}.${process.pid}.new`
  attempt(`write ${path}`, () => {
    rmSync(temporary, { force: true })
    const fd = openSync(temporary, 'wx', mode)
    try {
      writeWhole(fd, Buffer.from(text))
      fsyncSync(fd)
    } catch (error) {
      rmSync(temporary, { force: true })
      throw error
    } finally {
      closeSync(fd)
    }
    renameSync(temporary, path)
    const folder = openSync(dirname(path), 'r')
    try {
      fsyncSync(folder)
    } finally {
      closeSync(folder)
    }
  })
}

function writeWhole(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
}

function makeFolder(path: string): void {
  attempt(`make ${path}`, () => mkdirSync(path, { recursive: true, mode: 0o750 }))
}

function attempt<T>(op: string, action: () => T): T {
  try {
    return action()
  } catch (error) {
    throw ioError(op, error)
  }
}

function ioError(op: string, error: unknown): unknown {
  switch ((error as NodeJS.ErrnoException).code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new GodwitError('DISK_FULL', `${op}: no space left`, {
        op,
        cause: error,
        hint: 'free some space on that file system, then try again; nothing was changed',
      })
    case 'EACCES':
    case 'EPERM':
      return new GodwitError('NO_PERMISSION', `${op}: permission denied`, {
        op,
        cause: error,
        hint: 'run it as root (sudo), or give it a folder of yours with --state DIR',
      })
    case 'EROFS':
    case 'ENOTDIR':
    case 'EISDIR':
      return new GodwitError('STATE_UNUSABLE', `${op}: ${(error as Error).message}`, {
        op,
        cause: error,
        kind: 'usage',
        hint: 'give it another folder with --state DIR',
      })
    default:
      return error
  }
}

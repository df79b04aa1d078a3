/** Files of an instance: written atomically, secrets readable only by their owner, errors with hints for users. */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { GodwitError } from '../core/errors.ts'
import { decodeKey } from '../crypto/keys.ts'

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
 * Replaces a file atomically: readers, also after a power cut, see the old text or the new. A full disk leaves the old
 * one in place and throws `DISK_FULL`.
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

/** Removes what processes that were killed as they wrote into this folder have left there. */
export function removeHalfWritten(folder: string): void {
  for (const name of readdirSync(folder)) {
    const pid = /\.([1-9]\d*)\.new$/.exec(name)?.[1]
    if (pid !== undefined && !runs(Number(pid))) rmSync(join(folder, name), { force: true })
  }
}

function runs(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

function writeWhole(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
}

export function makeFolder(path: string): void {
  attempt(`make ${path}`, () => {
    // Not `recursive`: Node.js tries for ever where the file system makes none, as /proc.
    const missing: string[] = []
    for (let at = resolve(path); !existsSync(at); at = dirname(at)) missing.unshift(at)
    for (const each of missing) mkdirSync(each, { mode: 0o750 })
    if (!statSync(path).isDirectory()) throw Object.assign(new Error('no folder'), { code: 'ENOTDIR' })
  })
}

export function attempt<T>(op: string, action: () => T): T {
  try {
    return action()
  } catch (error) {
    throw ioError(op, error)
  }
}

const UNUSABLE: Readonly<Record<string, string>> = {
  ENOENT: 'files cannot be created there',
  EEXIST: 'there is a dangling symbolic link',
  EROFS: 'the file system is read-only',
  ENOTDIR: 'a part of the path is a file, not a folder',
  EISDIR: 'it is a folder, not a file',
  ELOOP: 'there is a loop of symbolic links',
  ENAMETOOLONG: 'the path is too long',
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
        hint: 'run it as root (sudo), or choose a folder of your own with --state DIR',
      })
    case 'ENOENT':
    case 'EEXIST':
    case 'EROFS':
    case 'ENOTDIR':
    case 'EISDIR':
    case 'ELOOP':
    case 'ENAMETOOLONG':
      return new GodwitError('STATE_UNUSABLE', `${op}: ${UNUSABLE[(error as NodeJS.ErrnoException).code!]}`, {
        op,
        cause: error,
        kind: 'usage',
        hint: 'choose another place with --state DIR or --config FILE',
      })
    default:
      return error
  }
}

/** Throws `SECRET_EXPOSED` when others than the owner can read the file. */
export function refuseExposed(file: string): void {
  const { mode } = statSync(file)
  if ((mode & 0o077) === 0) return
  throw new GodwitError(
    'SECRET_EXPOSED',
    `${file} contains a secret and others can read it (mode ${(mode & 0o777).toString(8).padStart(4, '0')})`,
    { kind: 'usage', hint: `chmod 600 ${file}` },
  )
}

/**
 * Throws `STATE_EXPOSED` when another user can put files into the folder: links that lead what is written to elsewhere, or
 * keys, a configuration and a control socket of their own. The own group may write.
 */
export function refuseForeign(folder: string): void {
  const { uid, gid, mode } = attempt(`look at ${folder}`, () => statSync(folder))
  const open = (mode & 0o002) !== 0 || ((mode & 0o020) !== 0 && gid !== process.getegid?.())
  if (!open && (uid === 0 || uid === process.geteuid?.())) return
  const [why, hint] = open
    ? ['others can write to it', `chmod go-w ${folder}`]
    : [`it belongs to user ${uid}`, `choose another --state DIR, or: sudo chown root ${folder}`]
  throw new GodwitError('STATE_EXPOSED', `${folder} is not safe for keys and sockets: ${why}`, {
    kind: 'usage',
    hint,
  })
}

/** A path of the configuration, relative to the configuration's folder. */
export function resolveBeside(configFile: string, path: string): string {
  return resolve(dirname(configFile), path)
}

/**
 * The file that a killed daemon's connections are taken over from: machine/record.ts in memory that outlives the process. It holds
 * their keys, so only its owner can read it, and it is gone when the daemon was stopped. Records of another boot or network
 * namespace are worth nothing.
 *
 *   0 what wrote it, and where · 256 times of the last takeovers (8 × f64) · 4096 records
 */
import { createHash } from 'node:crypto'
import { readFileSync, rmdirSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { MappedFile } from '../linux/mapped-file.ts'
import { namespaceId } from '../linux/netns.ts'
import { makeFolder } from '../mechanism/files.ts'
import { type KeptConnection, Records } from './machine/record.ts'

const RUNTIME_FOLDER = '/run/godwit'
/** Changes with the layout. */
const FORMAT = 'godwit mptcp 3'
const TIMES_AT = 256
const TIMES = 8
const HEADER = 4096
/**
 * So many takeovers within so short a time (ms): what is taken over ends the daemon, or stops it until the watchdog of its unit does,
 * half a minute later each time.
 */
const TOO_OFTEN = 360_000

/** Where the daemon whose state is in `folder` keeps it: no disk if possible, and nowhere that others can put something. */
export function keptPath(folder: string, runtime = RUNTIME_FOLDER): string {
  try {
    makeFolder(runtime)
    const { uid, mode } = statSync(runtime)
    if (uid === process.getuid!() && (mode & 0o022) === 0) {
      const name = createHash('sha256').update(folder).digest('hex').slice(0, 16)
      return join(runtime, `mptcp-${name}`)
    }
  } catch {
    // There is none.
  }
  return join(folder, 'mptcp-connections')
}

/** Removes the file, and its folder if nothing else is in there. */
export function removeKept(path: string): void {
  rmSync(path, { force: true })
  if (dirname(path) !== RUNTIME_FOLDER) return
  try {
    rmdirSync(RUNTIME_FOLDER)
  } catch {
    // Another daemon's file is in it.
  }
}

export class KeptFile {
  readonly records: Records
  /** What an earlier process left. */
  readonly kept: readonly KeptConnection[]
  readonly #file: MappedFile
  readonly #path: string

  /** `now`: wall clock (ms). Throws when there is no place for it. */
  constructor(path: string, now: number) {
    this.#path = path
    let file = begin(path)
    if (!isOurs(file) || ends(file, now)) {
      file.remove()
      file = begin(path)
      file.bytes.set(label())
    }
    const { bytes, view } = file
    this.#file = file
    this.records = new Records({
      view: new DataView(view.buffer, HEADER),
      bytes: bytes.subarray(HEADER),
      room: (at, length) => file.room(HEADER + at, length),
    })
    this.kept = this.records.load().kept
    if (this.kept.length === 0) return
    bytes.copyWithin(TIMES_AT + 8, TIMES_AT, TIMES_AT + 8 * (TIMES - 1))
    view.setFloat64(TIMES_AT, now, true)
  }

  /** The connections have ended. */
  remove(): void {
    this.#file.remove()
    removeKept(this.#path)
  }
}

/** The file, with memory for what is before the records. */
function begin(path: string): MappedFile {
  const file = new MappedFile(path, HEADER + Records.byteLength())
  if (file.room(0, HEADER + Records.RECORDS_AT)) return file
  file.remove()
  throw new Error(`no space is left for ${path}`)
}

function label(): Uint8Array {
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  return new TextEncoder().encode(`${FORMAT} ${boot} ${namespaceId()}\n`).subarray(0, TIMES_AT)
}

function isOurs({ bytes }: MappedFile): boolean {
  return label().every((byte, i) => bytes[i] === byte)
}

/** Whether every takeover so far was the end of the daemon soon after. */
function ends({ view }: MappedFile, now: number): boolean {
  const oldest = view.getFloat64(TIMES_AT + 8 * (TIMES - 1), true)
  return oldest > 0 && now - oldest < TOO_OFTEN
}

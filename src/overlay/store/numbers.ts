/**
 * Numbers of nodes, which determine their virtual addresses. Each number is assigned once, also after an older copy of
 * the database was restored: a file beside it records up to which number blocks may have been assigned, and is written
 * before the first number of a block is used. A database that does not know the last block continues after it.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { GodwitError } from '../../core/errors.ts'

/** Numbers of a block, at least; and at least this part of those before: each block costs two fsyncs. */
const BLOCK = 256
const BLOCK_PART = 1 / 16

export class Numbers {
  readonly #file: string
  #next: number
  #reserved: number
  /** Less than this is never given out: an older copy of the database does not know the last block. */
  readonly #floor: number
  /** In the file. */
  #recorded: number
  /** The file recorded more than the database. */
  readonly wereMore: boolean

  /** `next` and `reserved` as the database has them; both 1 for a new one. */
  constructor(file: string, next: number, reserved: number) {
    this.#file = file
    const kept = readReserved(file)
    this.#next = kept !== undefined && kept > reserved ? kept : next
    this.#floor = this.#next
    this.wereMore = kept !== undefined && kept > reserved
    this.#recorded = kept ?? 1
    this.#reserved = Math.max(this.#recorded, reserved)
    // From now on it shows that there was a database.
    if (kept === undefined) this.#record(this.#reserved)
  }

  /** As the database has them now: another coordinator has given out some. What this file recorded was read at the start. */
  seen(next: number, reserved: number): void {
    if (next < this.#floor) return
    this.#next = next
    if (reserved > this.#recorded) this.#record(reserved)
    this.#reserved = reserved
  }

  get next(): number {
    return this.#next
  }

  get reserved(): number {
    return this.#reserved
  }

  take(): number {
    const number = this.#next
    this.note(number)
    return number
  }

  /** The number is a node's: none up to it is given out any more. */
  note(number: number): void {
    if (number >= this.#reserved) this.#reserve(number + Math.max(BLOCK, Math.floor(number * BLOCK_PART)))
    this.#next = Math.max(this.#next, number + 1)
  }

  #reserve(reserved: number): void {
    if (reserved > this.#recorded) this.#record(reserved)
    this.#reserved = reserved
  }

  #record(reserved: number): void {
    writeDurably(this.#file, `${reserved}\n`)
    this.#recorded = reserved
  }
}

function readReserved(file: string): number | undefined {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  if (!/^[1-9][0-9]{0,14}\n$/.test(text))
    throw new GodwitError('STORE_FAILED', `${file} does not contain a number`, {
      hint: 'write a number into it that is higher than that of every node',
    })
  return Number(text)
}

/** The file has the new content after a power cut, or the old one; when this returns, the new one. */
export function writeDurably(file: string, text: string): void {
  const fresh = `${file}.new`
  const fd = openSync(fresh, 'w', 0o600)
  try {
    writeSync(fd, text)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  renameSync(fresh, file)
  const folder = openSync(dirname(file), 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}

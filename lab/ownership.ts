/**
 * Which namespaces and programs are this lab's. A record under /run/godwit-lab names them before they are made, so that
 * the next lab can remove what a killed one left, and nothing else. One lab runs at a time per mount namespace: names are
 * fixed by the contract.
 */
import {
  accessSync,
  constants,
  mkdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { GodwitError } from '../src/core/errors.ts'
import { createNamespace, deleteNamespace, namespaceExists, namespaceId } from '../src/linux/netns.ts'

const DIRECTORY = '/run/godwit-lab'
const SCRATCH = 'godwit-lab-'

interface Process {
  readonly pid: number
  /** Ticks after boot when it started: process ids come again, this does not. */
  readonly started: string
}

interface LabRecord {
  readonly owner: Process
  /** Inode by name; 0 for one that was about to be made. */
  readonly namespaces: Record<string, number>
  readonly programs: Process[]
  /** Folders for what is not part of a result. */
  readonly scratch: string[]
}

/** What one running lab owns. */
export class Ownership {
  readonly #path: string
  readonly #record: LabRecord = { owner: identify(process.pid)!, namespaces: {}, programs: [], scratch: [] }

  /**
   * Claims the lab's names, after removing what a dead owner left. LAB_BUSY when its owner lives; NETNS_EXISTS when one
   * of `names` is somebody else's.
   */
  constructor(names: readonly string[]) {
    mkdirSync(DIRECTORY, { recursive: true })
    const mountNamespace = readlinkSync('/proc/self/ns/mnt').replace(/\D/g, '')
    this.#path = `${DIRECTORY}/${mountNamespace}.json`
    for (;;) {
      try {
        writeFileSync(this.#path, JSON.stringify(this.#record), { flag: 'wx' })
        break
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
        heal(this.#path)
      }
    }
    const foreign = names.find(namespaceExists)
    if (foreign !== undefined) {
      unlinkSync(this.#path)
      throw new GodwitError('NETNS_EXISTS', `network namespace ${foreign} exists and is not the lab's`, {
        hint: `if nothing needs it: ip netns delete ${foreign}`,
      })
    }
  }

  createNamespace(name: string): void {
    this.#record.namespaces[name] = 0
    this.#write()
    createNamespace(name)
    this.#record.namespaces[name] = namespaceId(name)
    this.#write()
  }

  /** An empty folder, in memory where the machine allows it: a disk that stalls would look like a network that does. */
  createScratch(): string {
    const path = join(memoryFolder(), `${SCRATCH}${process.pid}-${this.#record.scratch.length}`)
    this.#record.scratch.push(path)
    this.#write()
    rmSync(path, { recursive: true, force: true })
    mkdirSync(path, { mode: 0o700 })
    return path
  }

  addProgram(pid: number): void {
    const program = identify(pid)
    if (program === undefined) return
    this.#record.programs.push(program)
    this.#write()
  }

  removeProgram(pid: number): void {
    const index = this.#record.programs.findIndex((program) => program.pid === pid)
    if (index < 0) return
    this.#record.programs.splice(index, 1)
    this.#write()
  }

  /** Removes all of it. Repeatable. */
  release(): void {
    remove(this.#record)
    this.#record.programs.length = 0
    this.#record.scratch.length = 0
    for (const name of Object.keys(this.#record.namespaces)) delete this.#record.namespaces[name]
    rmSync(this.#path, { force: true })
  }

  #write(): void {
    writeFileSync(`${this.#path}.new`, JSON.stringify(this.#record))
    renameSync(`${this.#path}.new`, this.#path)
  }
}

/** Removes what a dead lab recorded. The rename makes sure that only one healer works on it. */
function heal(path: string): void {
  let record: LabRecord
  try {
    record = JSON.parse(readFileSync(path, 'utf8')) as LabRecord
  } catch {
    // Being written this moment, or cut short by a full disk: whoever wrote it has made nothing yet.
    rmSync(path, { force: true })
    return
  }
  if (alive(record.owner))
    throw new GodwitError('LAB_BUSY', `a lab is running already, process ${record.owner.pid}`, {
      hint: `stop it: kill ${record.owner.pid}`,
    })
  const mine = `${path}.${process.pid}`
  try {
    renameSync(path, mine)
  } catch {
    return
  }
  remove(record)
  unlinkSync(mine)
}

function remove(record: LabRecord): void {
  for (const program of record.programs) {
    if (!alive(program)) continue
    try {
      process.kill(-program.pid, 'SIGKILL')
    } catch {
      // It ended between the two lines.
    }
  }
  for (const path of record.scratch)
    if (path.includes(SCRATCH)) rmSync(path, { recursive: true, force: true })
  for (const [name, inode] of Object.entries(record.namespaces)) {
    if (!namespaceExists(name)) continue
    if (inode === 0 || namespaceId(name) === inode) deleteNamespace(name)
  }
}

function memoryFolder(): string {
  try {
    accessSync('/dev/shm', constants.W_OK)
    return '/dev/shm'
  } catch {
    return tmpdir()
  }
}

function identify(pid: number): Process | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // Fields after the command, which may hold spaces and parentheses: field 22 is the start time.
    return { pid, started: stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]! }
  } catch {
    return undefined
  }
}

function alive(program: Process): boolean {
  return identify(program.pid)?.started === program.started
}

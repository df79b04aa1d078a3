/**
 * Control groups, version 2. godwit puts each program it controls into a group of its own, a child of the group in which
 * it found the program: limits, and what ends the program's session or service, keep holding, and where it came from is
 * one step up. A flow's group is recognised by the id that sock_diag reports; sockets made in a group are marked (bpf.ts).
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { usageError } from '../core/errors.ts'
import { setCgroupMark } from './cgroup-mark.ts'

/** Names of the groups of any instance. */
const OURS = /^godwit-.+-run-\d+-\d+$/
const NAME = /^run-\d+-\d+$/
const BUSY_RETRIES = 50
const BUSY_MS = 10

/**
 * Where the version 2 hierarchy is mounted (beside version 1 on hybrid systems); undefined when it is not. Of several
 * mounts the one at the usual place: others (of containers, of a chroot) may go at any time.
 */
export function cgroupMount(mounts: string = readFileSync('/proc/self/mounts', 'utf8')): string | undefined {
  const paths = mounts.split('\n').flatMap((line) => {
    const [, path, type] = line.split(' ')
    if (type !== 'cgroup2' || path === undefined) return []
    // Octal escapes stand for spaces and the like.
    return [path.replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)))]
  })
  return paths.find((path) => path.startsWith('/sys/fs/cgroup')) ?? paths[0]
}

/** The groups of one instance. A group is named by its directory. */
export interface Cgroups {
  /**
   * Creates the group `godwit-<instance>-<name>` below the group with this path (as in /proc/PID/cgroup), or below its
   * parent if it is one of godwit's. Throws when a group of that name exists.
   */
  createIn(path: string, name: string): Cgroup
  /** Its processes go up to the group around it. False when there is no such group. */
  remove(directory: string): boolean
  /** Every group of this instance. */
  list(): string[]
  /** Its id, which sock_diag reports for sockets made in it; undefined when there is no such group. */
  id(directory: string): number | undefined
  /** Moves a process, with what it starts from then on, into a group. */
  add(directory: string, pid: number): void
  /** Marks the sockets that are made in the group from now on; 0 ends it. */
  setMark(directory: string, mark: number): void
  /** The same for any group, by its path below the mount (`system.slice/x.service`); false when there is none. */
  setMarkAt(path: string, mark: number): boolean
  /** Path below the mount of any group by its id (`user.slice/…`); undefined when unknown. */
  pathOf(id: number): string | undefined
}

export interface Cgroup {
  readonly directory: string
  readonly id: number
}

export class KernelCgroups implements Cgroups {
  readonly #mount: string
  readonly #prefix: string
  readonly #paths = new Map<number, string>()

  /** `mount` as `cgroupMount` found it. */
  constructor(mount: string, instance: string) {
    this.#mount = mount
    this.#prefix = `godwit-${checked(instance)}-`
  }

  createIn(path: string, name: string): Cgroup {
    if (path.split('/').includes('..')) throw new Error(`${path} is outside of what is mounted here`)
    let parent = join(this.#mount, path)
    while (OURS.test(basename(parent))) parent = dirname(parent)
    const directory = join(parent, `${this.#prefix}${checked(name)}`)
    // A group that existed before is refused: its maker could put processes into it.
    mkdirSync(directory)
    return { directory, id: idOf(directory) }
  }

  remove(directory: string): boolean {
    if (this.id(directory) === undefined) return false
    try {
      retryBusy(() => {
        for (const pid of pidsIn(directory)) move(pid, dirname(directory))
        rmdirSync(directory)
      })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error // somebody else was faster
    }
    return true
  }

  list(): string[] {
    const found: string[] = []
    this.#walk('', (path) => {
      const name = basename(path)
      if (name.startsWith(this.#prefix) && NAME.test(name.slice(this.#prefix.length)))
        found.push(this.#mount + path)
    })
    return found
  }

  id(directory: string): number | undefined {
    return tryId(directory)
  }

  /** Process ids in the group itself. */
  processes(directory: string): number[] {
    return pidsIn(directory)
  }

  /** Moves a process, if it still exists, into any group by its path, as in /proc/PID/cgroup. */
  moveTo(path: string, pid: number): void {
    move(pid, join(this.#mount, path))
  }

  add(directory: string, pid: number): void {
    writeFileSync(join(directory, 'cgroup.procs'), String(pid))
  }

  setMark(directory: string, mark: number): void {
    setCgroupMark(directory, mark)
  }

  setMarkAt(path: string, mark: number): boolean {
    const directory = `${this.#mount}/${path}`
    if (path.split('/').includes('..') || tryId(directory) === undefined) return false
    setCgroupMark(directory, mark)
    return true
  }

  pathOf(id: number): string | undefined {
    const known = this.#paths.get(id)
    if (known !== undefined && tryId(`${this.#mount}${known}`) === id) return known.slice(1)
    this.#paths.clear()
    this.#walk('', (path, found) => this.#paths.set(found, path))
    return this.#paths.get(id)?.slice(1)
  }

  /** Every group with its path below the mount (`''` for the root of it), those around others first. */
  #walk(path: string, visit: (path: string, id: number) => void): void {
    const id = tryId(`${this.#mount}${path}`)
    if (id === undefined) return
    visit(path, id)
    for (const name of childrenOf(`${this.#mount}${path}`)) this.#walk(`${path}/${name}`, visit)
  }
}

/** Names of the groups in a group; none when it is gone. */
function childrenOf(directory: string): string[] {
  try {
    const entries = readdirSync(directory, { withFileTypes: true })
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
  } catch {
    return []
  }
}

function checked(name: string): string {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,100}$/.test(name))
    throw usageError(`not a name for a control group: ${name}`)
  return name
}

function idOf(directory: string): number {
  return statSync(directory).ino
}

function tryId(directory: string): number | undefined {
  try {
    return idOf(directory)
  } catch {
    return undefined
  }
}

function pidsIn(directory: string): number[] {
  return readFileSync(join(directory, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number)
}

function move(pid: number, directory: string): void {
  try {
    writeFileSync(join(directory, 'cgroup.procs'), String(pid))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error // it ended meanwhile
  }
}

/** A group is busy for a moment after its last process has ended, and while processes fork faster than they are moved. */
function retryBusy(work: () => void): void {
  for (let attempt = 0; ; attempt++) {
    try {
      work()
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || attempt === BUSY_RETRIES) throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, BUSY_MS)
    }
  }
}

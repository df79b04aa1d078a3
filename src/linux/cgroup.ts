/**
 * Control groups, version 2: godwit puts the programs it controls into groups of its own, `godwit/<instance>/<name>`,
 * recognises a flow's group by the id that sock_diag tells, and marks the sockets made in a group (bpf.ts).
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs'
import { usageError } from '../core/errors.ts'
import { setCgroupMark } from './bpf.ts'

const ROOT = 'godwit'

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

/** The groups of one instance, relative to `godwit/<instance>`. */
export interface Cgroups {
  /** Makes a group (repeatable) and returns its id, which sock_diag reports for sockets made in it. */
  create(name: string): number
  /** Processes in it go up to the instance's parent. False when there was none. */
  remove(name: string): boolean
  list(): string[]
  /** Its id; undefined when there is no such group. */
  id(name: string): number | undefined
  /** Moves a process, with what it starts from then on, into a group. */
  add(name: string, pid: number): void
  /** Marks the sockets that are made in the group from now on; 0 ends it. */
  setMark(name: string, mark: number): void
  /** The same for any group, by its path below the mount (`system.slice/x.service`); false when there is none. */
  setMarkAt(path: string, mark: number): boolean
  /** Path below the mount of any group by its id (`user.slice/…`); undefined when unknown. */
  pathOf(id: number): string | undefined
  /** Removes the instance's directory once no group is in it. */
  prune(): void
}

export class KernelCgroups implements Cgroups {
  readonly #mount: string
  readonly #base: string
  readonly #paths = new Map<number, string>()

  /** `mount` as `cgroupMount` found it. */
  constructor(mount: string, instance: string) {
    this.#mount = mount
    this.#base = `${mount}/${ROOT}/${checked(instance)}`
  }

  /** The directory of a group. */
  directory(name: string): string {
    return `${this.#base}/${checked(name)}`
  }

  create(name: string): number {
    mkdirSync(this.directory(name), { recursive: true })
    return idOf(this.directory(name))
  }

  remove(name: string): boolean {
    const directory = this.directory(name)
    if (this.id(name) === undefined) return false
    try {
      for (const pid of pidsIn(directory)) move(pid, this.#mount)
      retryBusy(() => rmdirSync(directory))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error // somebody else was faster
    }
    return true
  }

  list(): string[] {
    try {
      const entries = readdirSync(this.#base, { withFileTypes: true })
      return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name)
    } catch {
      return []
    }
  }

  id(name: string): number | undefined {
    try {
      return idOf(this.directory(name))
    } catch {
      return undefined
    }
  }

  add(name: string, pid: number): void {
    writeFileSync(`${this.directory(name)}/cgroup.procs`, String(pid))
  }

  setMark(name: string, mark: number): void {
    setCgroupMark(this.directory(name), mark)
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
    this.#walk('')
    return this.#paths.get(id)?.slice(1)
  }

  #walk(path: string): void {
    const id = tryId(`${this.#mount}${path}`)
    if (id === undefined) return
    this.#paths.set(id, path)
    for (const entry of readdirSync(`${this.#mount}${path}`, { withFileTypes: true }))
      if (entry.isDirectory()) this.#walk(`${path}/${entry.name}`)
  }

  prune(): void {
    for (const directory of [this.#base, `${this.#mount}/${ROOT}`]) {
      try {
        rmdirSync(directory)
      } catch {
        return // absent, or not empty
      }
    }
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
  return readFileSync(`${directory}/cgroup.procs`, 'utf8').split('\n').filter(Boolean).map(Number)
}

function move(pid: number, directory: string): void {
  try {
    writeFileSync(`${directory}/cgroup.procs`, String(pid))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error // it ended meanwhile
  }
}

/** A group is busy for a moment after its last process has ended. */
function retryBusy(work: () => void): void {
  for (let attempt = 0; ; attempt++) {
    try {
      work()
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || attempt === 50) throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
    }
  }
}

/**
 * Programs that `godwit run` starts. Each gets a cgroup of its own before it runs a single instruction; the mechanisms
 * are told, and put its traffic under the policy asked for. A cgroup goes once its last process has ended, so children
 * that outlive the program keep its policy.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { GodwitError, missingError, usageError } from '../core/errors.ts'
import type { Application, Mechanism, Recorder } from '../core/mechanism.ts'
import { writeAtomic } from './state.ts'

/** How often ended programs are looked for whose `godwit run` did not say goodbye. */
const SWEEP_MS = 5000

export interface ApplicationRequest {
  readonly pid: number
  readonly command: string
  readonly access?: string
  readonly policy?: string
}

/** Where cgroup v2 is mounted, alone or beside version 1; undefined when it is not. */
export function cgroupRoot(mountinfo = readFileSync('/proc/self/mountinfo', 'utf8')): string | undefined {
  for (const line of mountinfo.split('\n')) {
    const [mount, filesystem] = line.split(' - ')
    if (filesystem?.startsWith('cgroup2 ')) return mount!.split(' ')[4]
  }
  return undefined
}

export interface ApplicationsInit {
  /** Part of the cgroups' path, so that several daemons run side by side. */
  readonly instance: string
  readonly mechanisms: readonly Mechanism[]
  readonly recorder: Recorder
  /** Remembers what runs, for the daemon that comes after a killed one. */
  readonly file: string
}

export class Applications {
  readonly #folder: string | undefined
  readonly #mechanisms: readonly Mechanism[]
  readonly #recorder: Recorder
  readonly #file: string
  readonly #running = new Map<string, Application>()
  #count = 0
  #timer: NodeJS.Timeout | undefined

  constructor(init: ApplicationsInit) {
    const root = cgroupRoot()
    this.#folder = root === undefined ? undefined : join(root, 'godwit', init.instance)
    this.#mechanisms = init.mechanisms
    this.#recorder = init.recorder
    this.#file = init.file
  }

  list(): Application[] {
    return [...this.#running.values()]
  }

  /** Takes back under control what still runs of a daemon that was killed. */
  async start(): Promise<void> {
    for (const application of this.#remembered()) {
      if (isEmpty(application.cgroup)) {
        removeCgroup(application.cgroup)
        continue
      }
      for (const mechanism of this.#mechanisms) await mechanism.adopt?.(application)
      this.#running.set(application.id, application)
    }
    this.#remember()
    this.#timer = setInterval(() => void this.#sweep(), SWEEP_MS)
    this.#timer.unref()
  }

  /** Puts a process that waits to be started under control. */
  async adopt(request: ApplicationRequest): Promise<{ id: string; cgroup: string }> {
    if (!Number.isSafeInteger(request.pid) || request.pid <= 1) throw usageError('not a process id')
    const able = this.#mechanisms.filter((mechanism) => mechanism.adopt !== undefined)
    if (able.length === 0) {
      throw new GodwitError('NO_APPLICATIONS', 'no mechanism here can control single programs', {
        hint: '`godwit run` works on a host, not on an anchor',
      })
    }
    if (this.#folder === undefined) {
      throw missingError('cgroup v2 is not mounted', 'mount -t cgroup2 none /sys/fs/cgroup/unified')
    }
    const id = `run-${process.pid}-${++this.#count}`
    const cgroup = join(this.#folder, id)
    try {
      mkdirSync(cgroup, { recursive: true })
    } catch (error) {
      throw missingError(
        `a cgroup cannot be made: ${(error as Error).message}`,
        'the daemon needs to be root outside of a container, or in one with a cgroup it may write to',
        { cause: error },
      )
    }
    const { access, policy } = request
    const application: Application = {
      id,
      cgroup,
      cgroupId: statSync(cgroup, { bigint: true }).ino,
      ...(access === undefined ? {} : { access }),
      ...(policy === undefined ? {} : { policy }),
    }
    try {
      for (const mechanism of able) await mechanism.adopt!(application)
      writeFileSync(join(cgroup, 'cgroup.procs'), String(request.pid))
    } catch (error) {
      await this.#release(application)
      if ((error as NodeJS.ErrnoException).code === 'ESRCH')
        throw usageError(`there is no process ${request.pid}`)
      throw error
    }
    this.#running.set(id, application)
    this.#remember()
    this.#recorder.log('info', `run: ${request.command} (process ${request.pid}) as ${id}`)
    return { id, cgroup }
  }

  /** The program has ended; what it started may go on and is swept up later. */
  async end(id: string): Promise<void> {
    const application = this.#running.get(id)
    if (application !== undefined && isEmpty(application.cgroup)) await this.#release(application)
  }

  /** Removes empty cgroups. Programs that still run stay where they are, out of control. */
  cleanUp(): void {
    if (this.#folder === undefined) return
    for (const name of folders(this.#folder)) removeCgroup(join(this.#folder, name))
    removeCgroup(this.#folder)
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    for (const application of this.list()) await this.#release(application)
    this.cleanUp()
  }

  #remember(): void {
    const list = this.list().map((application) => ({
      ...application,
      cgroupId: String(application.cgroupId),
    }))
    try {
      writeAtomic(this.#file, `${JSON.stringify(list)}\n`, 0o600)
    } catch (error) {
      this.#recorder.log(
        'warn',
        `${(error as Error).message}; running programs are forgotten if this daemon is killed`,
      )
    }
  }

  /** The cgroup is still the one it was: ids are not used twice. */
  #remembered(): Application[] {
    try {
      const list = JSON.parse(readFileSync(this.#file, 'utf8')) as Remembered[]
      return list
        .map((application) => ({ ...application, cgroupId: BigInt(application.cgroupId) }))
        .filter(
          ({ cgroup, cgroupId }) =>
            statSync(cgroup, { bigint: true, throwIfNoEntry: false })?.ino === cgroupId,
        )
    } catch {
      return []
    }
  }

  async #sweep(): Promise<void> {
    for (const application of this.list()) {
      if (isEmpty(application.cgroup)) await this.#release(application)
    }
  }

  async #release(application: Application): Promise<void> {
    if (this.#running.delete(application.id)) this.#remember()
    for (const mechanism of this.#mechanisms) {
      try {
        await mechanism.release?.(application)
      } catch (error) {
        this.#recorder.log(
          'warn',
          `${mechanism.name}: releasing ${application.id}: ${(error as Error).message}`,
        )
      }
    }
    removeCgroup(application.cgroup)
  }
}

interface Remembered extends Omit<Application, 'cgroupId'> {
  readonly cgroupId: string
}

function isEmpty(cgroup: string): boolean {
  try {
    return !/^populated 1$/m.test(readFileSync(join(cgroup, 'cgroup.events'), 'utf8'))
  } catch {
    return true
  }
}

function folders(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
  } catch {
    return []
  }
}

/** The kernel refuses while processes are in it, and that is right. */
function removeCgroup(path: string): void {
  try {
    rmdirSync(path)
  } catch {
    // in use or gone
  }
}

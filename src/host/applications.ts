/**
 * Programs that `godwit run` starts. Each gets a cgroup of its own before it runs a single instruction; the mechanisms
 * are told, and put its traffic under the policy asked for. A cgroup goes once its last process has ended, so children
 * that outlive the program keep its policy.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { GodwitError, missingError, usageError } from '../core/errors.ts'
import type { Application, Mechanism, Recorder } from '../core/mechanism.ts'
import { cgroupMount, KernelCgroups } from '../linux/cgroup.ts'
import { writeAtomic } from './state.ts'

/** How often ended programs are looked for whose `godwit run` did not say goodbye. */
const SWEEP_MS = 5000

export interface ApplicationRequest {
  readonly pid: number
  readonly command: string
  readonly access?: string
  readonly policy?: string
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
  readonly #cgroups: KernelCgroups | undefined
  readonly #mechanisms: readonly Mechanism[]
  readonly #recorder: Recorder
  readonly #file: string
  readonly #running = new Map<string, Application>()
  #count = 0
  #timer: NodeJS.Timeout | undefined

  constructor(init: ApplicationsInit) {
    const mount = cgroupMount()
    this.#cgroups = mount === undefined ? undefined : new KernelCgroups(mount, init.instance)
    this.#mechanisms = init.mechanisms
    this.#recorder = init.recorder
    this.#file = init.file
  }

  list(): Application[] {
    return [...this.#running.values()]
  }

  /** Takes back under control what still runs of a daemon that was killed, on the same state. */
  async start(): Promise<void> {
    for (const application of this.#remembered()) {
      if (isEmpty(application.cgroup)) {
        this.#cgroups?.remove(application.id)
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
    if (this.#cgroups === undefined) {
      throw missingError('cgroup v2 is not mounted', 'mount -t cgroup2 none /sys/fs/cgroup/unified')
    }
    const id = `run-${process.pid}-${++this.#count}`
    let cgroupId: number
    try {
      cgroupId = this.#cgroups.create(id)
    } catch (error) {
      throw missingError(
        `a cgroup cannot be made: ${(error as Error).message}`,
        'the daemon has to be root outside of a container, or in one with a cgroup it may write to',
        { cause: error },
      )
    }
    const { access, policy } = request
    const application: Application = {
      id,
      cgroup: this.#cgroups.directory(id),
      cgroupId,
      ...(access === undefined ? {} : { access }),
      ...(policy === undefined ? {} : { policy }),
    }
    try {
      for (const mechanism of able) await mechanism.adopt!(application)
      this.#cgroups.add(id, request.pid)
    } catch (error) {
      await this.#release(application)
      if ((error as NodeJS.ErrnoException).code === 'ESRCH')
        throw usageError(`there is no process ${request.pid}`)
      throw error
    }
    this.#running.set(id, application)
    this.#remember()
    this.#recorder.log('info', `run: ${request.command} (process ${request.pid}) as ${id}`)
    return { id, cgroup: application.cgroup }
  }

  /** The program has ended; what it started may go on and is swept up later. */
  async end(id: string): Promise<void> {
    const application = this.#running.get(id)
    if (application !== undefined && isEmpty(application.cgroup)) await this.#release(application)
  }

  /**
   * Removes the cgroups of this state, those that a killed daemon left too; programs that still run go on, out of control.
   * Groups of other daemons stay: cgroups are one for all network namespaces of a machine.
   */
  async stop(): Promise<void> {
    clearInterval(this.#timer)
    for (const application of [...this.list(), ...this.#remembered()]) await this.#release(application)
    const cgroups = this.#cgroups
    for (const id of cgroups?.list() ?? []) {
      // Made by a daemon that was killed before it could note it.
      const [, pid] = /^run-(\d+)-\d+$/.exec(id) ?? []
      if (pid !== undefined && !existsSync(`/proc/${pid}`) && isEmpty(cgroups!.directory(id)))
        cgroups!.remove(id)
    }
    cgroups?.prune()
    rmSync(this.#file, { force: true })
  }

  #remember(): void {
    try {
      writeAtomic(this.#file, `${JSON.stringify(this.list())}\n`, 0o600)
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
      const list = JSON.parse(readFileSync(this.#file, 'utf8')) as Application[]
      return list.filter(({ id, cgroupId }) => this.#cgroups?.id(id) === cgroupId)
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
    this.#cgroups?.remove(application.id)
  }
}

function isEmpty(cgroup: string): boolean {
  try {
    return !/^populated 1$/m.test(readFileSync(join(cgroup, 'cgroup.events'), 'utf8'))
  } catch {
    return true
  }
}

/**
 * Programs started by `godwit run`. Each gets its own cgroup before it runs a single instruction; the mechanisms are
 * notified and apply the requested policy to its traffic. A cgroup is removed after its last process has ended, so
 * children that outlive the program keep its policy. Users other than root can control only processes of their own
 * (docs/adr/0054-members-act-on-their-own-processes.md).
 */

import { existsSync, readFileSync, rmSync } from 'node:fs'
import { basename, join } from 'node:path'
import * as z from 'zod'
import { GodwitError, missingError, usageError } from '../../core/errors.ts'
import type { Application, Caller, Mechanism, Recorder } from '../../core/mechanism.ts'
import { type Cgroup, cgroupMount, KernelCgroups } from '../../linux/cgroup.ts'
import { OpenProcess } from '../../linux/proc.ts'
import { writeAtomic } from '../../mechanism/files.ts'

/** Interval for finding ended programs whose `godwit run` did not report the end. */
const SWEEP_MS = 5000
/** Max programs under control at once: each costs a cgroup, and an eBPF program on it. */
const MAX_APPLICATIONS = 1024

/** An application and the user who started it. */
const RUNNING = z.object({
  id: z.string(),
  cgroup: z.string(),
  cgroupId: z.number(),
  access: z.string().optional(),
  policy: z.string().optional(),
  direct: z.boolean().optional(),
  uid: z.int(),
})
type Running = Application & { readonly uid: number }

export interface ApplicationRequest {
  readonly pid: number
  readonly command: string
  readonly access?: string
  readonly policy?: string
  readonly direct?: boolean
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
  readonly #running = new Map<string, Running>()
  #count = 0
  #timer: NodeJS.Timeout | undefined

  constructor(init: ApplicationsInit) {
    const mount = cgroupMount()
    this.#cgroups = mount === undefined ? undefined : new KernelCgroups(mount, init.instance)
    this.#mechanisms = init.mechanisms
    this.#recorder = init.recorder
    this.#file = init.file
  }

  list(): Running[] {
    return [...this.#running.values()]
  }

  /** Takes back under control what still runs of a daemon that was killed, on the same state. */
  async start(): Promise<void> {
    for (const application of this.#remembered()) {
      if (isEmpty(application.cgroup)) {
        this.#cgroups?.remove(application.cgroup)
        continue
      }
      for (const mechanism of this.#mechanisms) await mechanism.adopt?.(application)
      this.#running.set(application.id, application)
    }
    this.#remember()
    this.#timer = setInterval(() => void this.#sweep(), SWEEP_MS)
    this.#timer.unref()
  }

  /** Puts a process of the caller that waits to be started under control; any process for root. */
  async adopt(request: ApplicationRequest, caller: Caller): Promise<{ id: string; cgroup: string }> {
    const able = this.#mechanisms.filter((mechanism) => mechanism.adopt !== undefined)
    if (able.length === 0) {
      throw new GodwitError('NO_APPLICATIONS', 'no mechanism of this daemon can control single programs', {
        hint: '`godwit run` works on a host, not on an anchor',
      })
    }
    if (this.#running.size >= MAX_APPLICATIONS) {
      throw new GodwitError('TOO_MANY', `${MAX_APPLICATIONS} programs are under control`, {
        hint: 'end some of them first; `godwit status` shows their flows',
      })
    }
    const target = OpenProcess.open(request.pid)
    if (target === undefined) throw usageError(`there is no process ${request.pid}`)
    try {
      return await this.#adopt(request, caller, target, able)
    } finally {
      target.close()
    }
  }

  async #adopt(
    request: ApplicationRequest,
    caller: Caller,
    target: OpenProcess,
    able: readonly Mechanism[],
  ): Promise<{ id: string; cgroup: string }> {
    const { pid, command, access, policy, direct } = request
    needOwn(target, caller)
    const id = `run-${process.pid}-${++this.#count}`
    const { cgroups, group } = this.#makeGroup(target, id)
    const application: Running = {
      id,
      cgroup: group.directory,
      cgroupId: group.id,
      ...(access === undefined ? {} : { access }),
      ...(policy === undefined ? {} : { policy }),
      ...(direct === undefined ? {} : { direct }),
      uid: caller.uid,
    }
    try {
      for (const mechanism of able) await mechanism.adopt!(application)
      // Again, after what was waited for: it may have become another user's program.
      needOwn(target, caller)
      cgroups.add(group.directory, pid)
      // The kernel moves whichever process has the number.
      if (!target.exists()) throw usageError(`process ${pid} has ended`)
    } catch (error) {
      if (!target.exists()) sendHome(cgroups, group.directory)
      await this.#release(application)
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') throw usageError(`there is no process ${pid}`)
      throw error
    }
    this.#running.set(id, application)
    this.#remember()
    this.#recorder.log('info', `run: ${command} (process ${pid} of user ${caller.uid}) as ${id}`)
    return { id, cgroup: application.cgroup }
  }

  #makeGroup(target: OpenProcess, id: string): { cgroups: KernelCgroups; group: Cgroup } {
    if (this.#cgroups === undefined) {
      throw missingError('cgroup v2 is not mounted', 'mount -t cgroup2 none /sys/fs/cgroup/unified')
    }
    const path = target.cgroup()
    if (path === undefined) throw usageError(`there is no process ${target.pid}`)
    try {
      return { cgroups: this.#cgroups, group: this.#cgroups.createIn(path, id) }
    } catch (error) {
      throw missingError(
        `a cgroup cannot be made: ${(error as Error).message}`,
        'the daemon must be root outside of a container, or in one with a writable cgroup',
        { cause: error },
      )
    }
  }

  /** The program has ended; its children may continue and are found later. */
  async end(id: string, caller: Caller): Promise<void> {
    const application = this.#running.get(id)
    if (application === undefined) return
    if (caller.uid !== 0 && caller.uid !== application.uid) throw notYours(id)
    if (isEmpty(application.cgroup)) await this.#release(application)
  }

  /**
   * Removes the cgroups of this state, including those of a killed daemon; running programs continue, no longer
   * controlled, in the cgroup that they came from. Cgroups of other daemons stay: all network namespaces of a machine
   * share the cgroups.
   */
  async stop(): Promise<void> {
    clearInterval(this.#timer)
    for (const application of [...this.list(), ...this.#remembered()]) await this.#release(application)
    const cgroups = this.#cgroups
    for (const directory of cgroups?.list() ?? []) {
      // Made by a daemon that was killed before it could note it.
      const [, pid] = /-run-(\d+)-\d+$/.exec(basename(directory)) ?? []
      if (pid !== undefined && !existsSync(`/proc/${pid}`) && isEmpty(directory)) cgroups!.remove(directory)
    }
    rmSync(this.#file, { force: true })
  }

  #remember(): void {
    try {
      writeAtomic(this.#file, `${JSON.stringify(this.list())}\n`, 0o600)
    } catch (error) {
      this.#recorder.log(
        'warn',
        `${(error as Error).message}; if this daemon is killed, it will not know the running programs again`,
      )
    }
  }

  /** The cgroup is still the one it was: ids are not used twice. */
  #remembered(): Running[] {
    try {
      const list = z.array(RUNNING).parse(JSON.parse(readFileSync(this.#file, 'utf8')))
      return list
        .filter(({ cgroup, cgroupId }) => this.#cgroups?.id(cgroup) === cgroupId)
        .map(({ access, policy, direct, ...rest }) => ({
          ...rest,
          ...(access === undefined ? {} : { access }),
          ...(policy === undefined ? {} : { policy }),
          ...(direct === undefined ? {} : { direct }),
        }))
    } catch {
      return []
    }
  }

  async #sweep(): Promise<void> {
    for (const application of this.list()) {
      if (isEmpty(application.cgroup)) await this.#release(application)
    }
  }

  async #release(application: Running): Promise<void> {
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
    this.#cgroups?.remove(application.cgroup)
  }
}

/** Throws unless the process belongs to the caller alone; root may act on all. */
function needOwn(target: OpenProcess, { uid }: Caller): void {
  if (uid === 0) return
  const owner = target.soleUser()
  if (owner === undefined && !target.exists()) throw usageError(`there is no process ${target.pid}`)
  if (owner !== uid) throw notYours(`process ${target.pid}`)
}

function notYours(what: string): GodwitError {
  return new GodwitError('NOT_YOURS', `${what} is not yours`, {
    hint: 'only root can control programs of other users: sudo godwit run …',
  })
}

/** The processes in the group were never to be there: each goes where the one is that started it. */
function sendHome(cgroups: KernelCgroups, directory: string): void {
  for (const pid of cgroups.processes(directory)) {
    const parent = OpenProcess.open(parentOf(pid))
    const path = parent?.cgroup()
    parent?.close()
    if (path !== undefined) cgroups.moveTo(path, pid)
  }
}

function parentOf(pid: number): number {
  const stranger = OpenProcess.open(pid)
  const parent = stranger?.parent() ?? 1
  stranger?.close()
  return parent
}

function isEmpty(cgroup: string): boolean {
  try {
    return !/^populated 1$/m.test(readFileSync(join(cgroup, 'cgroup.events'), 'utf8'))
  } catch {
    return true
  }
}

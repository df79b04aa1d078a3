/**
 * /proc and the user database: which process holds a socket, its name, names of users. Results may be outdated when they
 * are returned: processes come and go.
 */
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  constants as files,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
} from 'node:fs'
import { constants, setPriority } from 'node:os'
import { setFlagsFromString } from 'node:v8'
import { declare } from './libc.ts'
import { findProgram } from './packages.ts'

export interface ProcessInfo {
  readonly pid: number
  /** Path of the program; empty when it may not be read (another user's process). A replaced file keeps its name. */
  readonly executable: string
  /** The kernel's name for it: 15 bytes of the program's name, or what it calls itself. */
  readonly command: string
}

/**
 * Lets this thread be chosen before programs that compute, for short work that others wait for. Without the right to do so
 * nothing happens.
 */
export function raisePriority(): void {
  attempt(() => setPriority(0, constants.priority.PRIORITY_HIGH))
}

/**
 * Delays optimization by the compiler to thirty times as much execution, still only milliseconds. A daemon that works for
 * a tenth of a second once in a while would spend as much again on optimizing code that then does not run for minutes.
 * Also keeps parsed code. Applies to the whole process and all its threads. Only Node.js 20 can delay it: V8 12 and newer
 * have no such flag, and would report an unknown one to the user.
 */
export function optimizeLate(): void {
  if (Number.parseInt(process.versions.v8, 10) < 12) setFlagsFromString('--interrupt-budget=2000000')
  keepCode()
}

/**
 * Keeps code that was parsed once, however long it does not run: the first packet after a quiet minute runs it again. For
 * the whole process and all its threads.
 */
export function keepCode(): void {
  setFlagsFromString('--no-flush-bytecode')
}

const setrlimit = declare<(resource: number, limits: Buffer) => number>(
  'int setrlimit(int resource, void *limits)',
)
const RLIMIT_CORE = 4

/**
 * No core dumps of this process and its children: keys are in its memory. The limit is one byte instead of zero, because
 * at zero the kernel still starts a program that collects dumps (core(5)). A lower limit that may not be raised stays.
 */
export function forbidCoreDumps(): void {
  const limits = Buffer.alloc(16)
  limits.writeBigUInt64LE(1n, 0)
  limits.writeBigUInt64LE(1n, 8)
  setrlimit(RLIMIT_CORE, limits)
}

/** The process, or undefined when there is none (any more). */
export function processInfo(pid: number): ProcessInfo | undefined {
  const command = attempt(() => readFileSync(`/proc/${pid}/comm`, 'utf8').trimEnd())
  if (command === undefined) return undefined
  const executable = attempt(() => readlinkSync(`/proc/${pid}/exe`)) ?? ''
  return { pid, executable: executable.replace(/ \(deleted\)$/, ''), command }
}

/** Those of RFC 4022 that change with a connection. */
const COUNTED = ['ActiveOpens', 'PassiveOpens', 'AttemptFails', 'EstabResets', 'CurrEstab', 'RetransSegs']

/**
 * What the kernel counts of TCP in this thread's namespace: connections opened, refused, reset and standing, segments repeated.
 * While the text is the same nothing of that has happened. Undefined if it does not tell.
 */
export function tcpCounts(): string | undefined {
  const text = attempt(() => readFileSync('/proc/thread-self/net/snmp', 'utf8'))
  const [names, values] = (text ?? '').split('\n').filter((line) => line.startsWith('Tcp: '))
  if (names === undefined || values === undefined) return undefined
  const places = names.split(' ')
  const counts = values.split(' ')
  return COUNTED.map((name) => counts[places.indexOf(name)]).join(' ')
}

/**
 * One process, not whichever has its number later: its folder in /proc, held open, is of that process alone. Close it.
 */
export class OpenProcess {
  readonly pid: number
  readonly #fd: number

  private constructor(pid: number, fd: number) {
    this.pid = pid
    this.#fd = fd
  }

  /** Undefined when there is no such process. */
  static open(pid: number): OpenProcess | undefined {
    const fd = attempt(() => openSync(`/proc/${pid}`, files.O_RDONLY | files.O_DIRECTORY))
    return fd === undefined ? undefined : new OpenProcess(pid, fd)
  }

  /**
   * The only user whose rights the process has: real, effective, saved and file-system user id are one, and it has not
   * gained rights from its program's file (then its folder belongs to root). Undefined otherwise, and when it has ended.
   */
  soleUser(): number | undefined {
    const ids = /^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$/m
      .exec(this.#read('status') ?? '')
      ?.slice(1)
      .map(Number)
    const [uid] = ids ?? []
    return ids?.every((id) => id === uid) && fstatSync(this.#fd).uid === uid ? uid : undefined
  }

  /** Process id of the one that started it, or has adopted it. */
  parent(): number | undefined {
    const [, pid] = /^PPid:\t(\d+)$/m.exec(this.#read('status') ?? '') ?? []
    return pid === undefined ? undefined : Number(pid)
  }

  /** Path of its control group of version 2. */
  cgroup(): string | undefined {
    return /^0::(\/.*)$/m.exec(this.#read('cgroup') ?? '')?.[1]
  }

  /** False once it has ended and its parent has taken note: only then its number can be another's. */
  exists(): boolean {
    return this.#read('status') !== undefined
  }

  close(): void {
    closeSync(this.#fd)
  }

  #read(name: string): string | undefined {
    return attempt(() => readFileSync(`/proc/self/fd/${this.#fd}/${name}`, 'utf8'))
  }
}

/** Inodes of the sockets that this process holds, all its threads. About 2 µs for each of its descriptors. */
export function ownSockets(): Set<number> {
  const inodes = new Set<number>()
  for (const fd of attempt(() => readdirSync('/proc/self/fd')) ?? []) {
    const target = attempt(() => readlinkSync(`/proc/self/fd/${fd}`))
    const [, inode] = /^socket:\[(\d+)\]$/.exec(target ?? '') ?? []
    if (inode !== undefined) inodes.add(Number(inode))
  }
  return inodes
}

interface Holder {
  readonly pid: number
  readonly fd: string
}

export interface SocketOwnersOptions {
  /** Remembered sockets; the oldest are forgotten. */
  readonly capacity?: number
  /** One search looks at no more descriptors than this. Each costs about 2 µs. */
  readonly maxDescriptors?: number
  /** Default /proc; another one in tests. */
  readonly root?: string
}

/**
 * Finds the process that holds a socket by looking through the descriptors of processes, those of the socket's user
 * first that have been met before, then from the youngest: a socket asked about is mostly new. What was found is
 * remembered, and checked with one readlink when asked again.
 */
export class SocketOwners {
  readonly #capacity: number
  readonly #maxDescriptors: number
  readonly #root: string
  readonly #holders = new Map<number, Holder>()
  /** Processes that have held a socket, most recent last. */
  readonly #met = new Set<number>()

  constructor(options: SocketOwnersOptions = {}) {
    this.#capacity = options.capacity ?? 4096
    this.#maxDescriptors = options.maxDescriptors ?? 20_000
    this.#root = options.root ?? '/proc'
  }

  /** The pid of a process that holds the socket with this inode; `uid` narrows the search to one user's processes. */
  find(inode: number, uid?: number): number | undefined {
    if (inode === 0) return undefined // a socket in TIME_WAIT has no process
    const wanted = `socket:[${inode}]`
    const known = this.#holders.get(inode)
    if (known !== undefined) {
      if (this.#link(known.pid, known.fd) === wanted) return known.pid
      this.#holders.delete(inode)
    }
    let budget = this.#maxDescriptors
    for (const pid of this.#candidates()) {
      if (budget <= 0) return undefined
      if (uid !== undefined && uid !== 0 && attempt(() => statSync(`${this.#root}/${pid}`).uid) !== uid)
        continue
      const fds = attempt(() => readdirSync(`${this.#root}/${pid}/fd`)) ?? []
      // Sockets of interest are young: high descriptors first.
      for (let i = fds.length - 1; i >= 0; i--) {
        if (--budget < 0) return undefined
        const fd = fds[i]!
        const link = this.#link(pid, fd)
        if (link === wanted) return this.#remember(inode, { pid, fd })
      }
    }
    return undefined
  }

  #candidates(): number[] {
    const pids = (attempt(() => readdirSync(this.#root)) ?? [])
      .filter((name) => name.charCodeAt(0) >= 48 && name.charCodeAt(0) <= 57)
      .map(Number)
      .sort((a, b) => b - a)
    const living = new Set(pids)
    for (const pid of this.#met) if (!living.has(pid)) this.#met.delete(pid)
    return [...[...this.#met].reverse(), ...pids.filter((pid) => !this.#met.has(pid))]
  }

  #remember(inode: number, holder: Holder): number {
    this.#met.delete(holder.pid)
    this.#met.add(holder.pid)
    if (this.#holders.size >= this.#capacity) {
      const [oldest] = this.#holders.keys()
      if (oldest !== undefined) this.#holders.delete(oldest)
    }
    this.#holders.set(inode, holder)
    return holder.pid
  }

  #link(pid: number, fd: string): string | undefined {
    return attempt(() => readlinkSync(`${this.#root}/${pid}/fd/${fd}`))
  }
}

const userNames = new Map<number, string | undefined>()
const userIds = new Map<string, number | undefined>()

/** The name of a user id, from /etc/passwd or whatever else the system asks (getent). Remembered. */
export function userName(uid: number): string | undefined {
  if (!userNames.has(uid))
    userNames.set(uid, passwdEntry((entry) => entry[2] === String(uid), String(uid))?.[0])
  return userNames.get(uid)
}

/** The id of a user name or of a number in text. Remembered. */
export function userId(name: string): number | undefined {
  if (/^\d+$/.test(name)) return Number(name)
  if (!userIds.has(name)) {
    const id = passwdEntry((entry) => entry[0] === name, name)?.[2]
    userIds.set(name, id === undefined ? undefined : Number(id))
  }
  return userIds.get(name)
}

function passwdEntry(matches: (entry: string[]) => boolean, key: string): string[] | undefined {
  const search = (text: string) =>
    text
      .split('\n')
      .map((line) => line.split(':'))
      .find(matches)
  const local = search(attempt(() => readFileSync('/etc/passwd', 'utf8')) ?? '')
  if (local !== undefined) return local
  const getent = findProgram('getent')
  if (getent === undefined) return undefined
  return search(spawnSync(getent, ['passwd', key], { encoding: 'utf8', timeout: 2000 }).stdout ?? '')
}

function attempt<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch {
    return undefined
  }
}

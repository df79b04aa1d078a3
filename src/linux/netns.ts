/**
 * Network namespaces by name, as `ip netns` keeps them: bind mounts under /run/netns. A namespace belongs to a thread:
 * `inNamespace` moves the calling thread there, runs a synchronous function and moves it back, so that what the
 * function opens or starts stays there. Nothing here needs the `ip` program.
 */

import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readdirSync, statSync, unlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { EINVAL } from '../core/errno.ts'
import { GodwitError, usageError } from '../core/errors.ts'
import { check, declare, errno, KernelError } from './libc.ts'

const setns = declare<(fd: number, type: number) => number>('int setns(int fd, int type)')
const unshare = declare<(flags: number) => number>('int unshare(int flags)')
const mount = declare<(source: string, target: string, type: string, flags: number, data: null) => number>(
  'int mount(const char *source, const char *target, const char *type, unsigned long flags, void *data)',
)
const umount2 = declare<(target: string, flags: number) => number>(
  'int umount2(const char *target, int flags)',
)

const CLONE_NEWNS = 0x00020000
const CLONE_NEWNET = 0x40000000
const MS_BIND = 0x1000
const MS_REC = 0x4000
const MS_PRIVATE = 1 << 18
const MS_SHARED = 1 << 20
const MNT_DETACH = 2

/** Where `ip netns` looks. */
export const NETNS_DIRECTORY = '/run/netns'
const OWN = '/proc/thread-self/ns/net'

/** The file of a namespace: a name becomes /run/netns/NAME, a path (`/proc/123/ns/net`) stays. */
export function namespacePath(netns: string): string {
  return netns.startsWith('/') ? netns : `${NETNS_DIRECTORY}/${netns}`
}

/** The inode that identifies a namespace; of the calling thread when no name is given. */
export function namespaceId(netns?: string): number {
  return statSync(netns === undefined ? OWN : namespacePath(netns)).ino
}

export function namespaceExists(name: string): boolean {
  return listNamespaces().includes(name)
}

/** Names under /run/netns, sorted. */
export function listNamespaces(): string[] {
  try {
    return readdirSync(NETNS_DIRECTORY).sort()
  } catch {
    return []
  }
}

/** Creates a namespace under a name that is free. Its loopback is down, as the kernel makes it. Needs CAP_SYS_ADMIN. */
export function createNamespace(name: string): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,200}$/.test(name))
    throw usageError(`not a name for a namespace: ${name}`)
  const path = namespacePath(name)
  shareDirectory()
  try {
    closeSync(openSync(path, 'ax', 0o444))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    throw new GodwitError('NETNS_EXISTS', `network namespace ${name} exists already`, {
      hint: `ip netns delete ${name}`,
      cause: error,
    })
  }
  try {
    staying(() => {
      check(unshare(CLONE_NEWNET), `create network namespace ${name}`, NEEDS_ROOT)
      check(mount(OWN, path, 'none', MS_BIND, null), `mount ${path}`, NEEDS_ROOT)
    })
  } catch (error) {
    unlinkSync(path)
    throw error
  }
}

const NEEDS_ROOT = { hint: 'run as root, or in a user namespace (unshare -Urnm)' }

/** Like iproute2: a shared mount, so that deleting a name works from every mount namespace that saw it made. */
function shareDirectory(): void {
  mkdirSync(NETNS_DIRECTORY, { recursive: true, mode: 0o755 })
  const share = () => mount('', NETNS_DIRECTORY, 'none', MS_SHARED | MS_REC, null)
  if (share() === 0) return
  if (errno() !== EINVAL) throw new KernelError(`share ${NETNS_DIRECTORY}`, errno(), NEEDS_ROOT)
  check(mount(NETNS_DIRECTORY, NETNS_DIRECTORY, 'none', MS_BIND | MS_REC, null), `mount ${NETNS_DIRECTORY}`)
  check(share(), `share ${NETNS_DIRECTORY}`)
}

/**
 * From now on the calling thread, and threads and programs that it starts, have a private, empty /run, and with it an
 * empty /run/netns; it disappears with the last of them. Call it before anything else runs: existing threads keep the old
 * one. Needs CAP_SYS_ADMIN, also that of a user namespace.
 */
export function usePrivateNames(): void {
  check(unshare(CLONE_NEWNS), 'make a private mount namespace', NEEDS_ROOT)
  check(mount('none', '/', 'none', MS_REC | MS_PRIVATE, null), 'make mounts private', NEEDS_ROOT)
  const run = dirname(NETNS_DIRECTORY)
  check(mount('tmpfs', run, 'tmpfs', 0, null), `mount a private ${run}`, NEEDS_ROOT)
}

/** Removes the name; the namespace itself ends with its last process, socket and mount. False when there was none. */
export function deleteNamespace(name: string): boolean {
  const path = namespacePath(name)
  if (!namespaceExists(name)) return false
  // EINVAL: a file that was never mounted on, left by an interrupted creation.
  if (umount2(path, MNT_DETACH) < 0 && errno() !== EINVAL) throw new KernelError(`unmount ${path}`, errno())
  unlinkSync(path)
  return true
}

/**
 * Runs `work` with the calling thread inside a namespace, and returns to where the thread was whatever happens.
 * `work` must be synchronous: what it starts later would run outside. Undefined: where the thread is.
 */
export function inNamespace<T>(netns: string | undefined, work: () => T): T {
  if (netns === undefined) return work()
  return staying(() => {
    let fd: number
    try {
      fd = openSync(namespacePath(netns), 'r')
    } catch (error) {
      throw new GodwitError('NETNS_MISSING', `no network namespace ${netns}`, { cause: error })
    }
    try {
      check(setns(fd, CLONE_NEWNET), `enter network namespace ${netns}`, NEEDS_ROOT)
    } finally {
      closeSync(fd)
    }
    const result = work()
    if (result instanceof Promise) throw usageError('inNamespace takes a synchronous function')
    return result
  })
}

/** Runs `work`, which may move the thread to another namespace, and moves it back. */
function staying<T>(work: () => T): T {
  const home = openSync(OWN, 'r')
  try {
    return work()
  } finally {
    const result = setns(home, CLONE_NEWNET)
    const failure = errno()
    closeSync(home)
    // biome-ignore lint/correctness/noUnsafeFinally: a thread lost in a foreign namespace outweighs any other error
    if (result < 0) throw new KernelError('return from a network namespace', failure)
  }
}

/** Starts a program inside a namespace (undefined: here). Its files and mounts are those of this process. */
export function spawnIn(
  netns: string | undefined,
  command: string,
  args: readonly string[],
  options: SpawnOptions = {},
): ChildProcess {
  return inNamespace(netns, () => spawn(command, [...args], options))
}

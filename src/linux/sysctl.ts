/** Kernel settings under /proc/sys, of a namespace where they have one, and putting back what was there. */
import { readFileSync, writeFileSync } from 'node:fs'
import { usageError } from '../core/errors.ts'
import { KernelError, koffi } from './libc.ts'
import { inNamespace } from './netns.ts'

/** `net.ipv4.ip_forward`; an interface name with dots is written with `/` as separators: `net/ipv4/conf/eth0.5/mtu`. */
function pathOf(key: string): string {
  const parts = key.includes('/') ? key.split('/') : key.split('.')
  if (parts.some((part) => part === '' || part === '..' || part === '.'))
    throw usageError(`not a sysctl: ${key}`)
  return `/proc/sys/${parts.join('/')}`
}

/** `setting`: KEY=VALUE of what was to be written. */
function failure(op: string, error: unknown, setting?: string): KernelError {
  const code = (error as NodeJS.ErrnoException).code ?? ''
  const hint =
    code === 'EROFS' && setting !== undefined
      ? { hint: fromOutside(setting) }
      : code === 'EACCES' || code === 'EPERM'
        ? { hint: 'run as root' }
        : {}
  return new KernelError(op, (koffi.os.errno as Record<string, number>)[code] ?? 5, { ...hint, cause: error })
}

function fromOutside(setting: string): string {
  return `/proc/sys cannot be written here, as in a container: give it the setting when it starts (docker run --sysctl ${setting})`
}

/**
 * Lets in what has its way back over another device, which strict filters drop (RFC 3704). Where settings cannot be written, as in a
 * container, a filter that is not strict does no harm. Returns what is wrong and how to mend it.
 */
export function loosenReversePath(sysctls: Pick<Sysctls, 'get' | 'set'>, device: string): string | undefined {
  const key = `net/ipv4/conf/${device}/rp_filter`
  const before = sysctls.get(key)
  if (before === undefined) return undefined
  try {
    sysctls.set(key, 2)
    return undefined
  } catch (error) {
    if (!(error instanceof KernelError)) throw error
    // The kernel takes the greater number; 2 is not strict.
    const filter = Math.max(Number(before), Number(sysctls.get('net/ipv4/conf/all/rp_filter') ?? 0))
    if (filter !== 1) return undefined
    const mend = fromOutside('net.ipv4.conf.all.rp_filter=2')
    return `what comes out of ${device} may be dropped: its reverse-path filter is strict; ${mend}`
  }
}

/** False when IPv6 is turned off for the device: the kernel then refuses its addresses and routes of IPv6 (EACCES). */
export function mayHaveIpv6(sysctls: Pick<Sysctls, 'get'>, device: string): boolean {
  return sysctls.get(`net/ipv6/conf/${device}/disable_ipv6`) !== '1'
}

/** The settings of one namespace. */
export interface Sysctls {
  /** Undefined when the kernel has no such setting. */
  get(key: string): string | undefined
  /** Sets, and remembers what was there before the first change. Throws KernelError. */
  set(key: string, value: string | number): void
  /**
   * Restores everything that was changed through this object; settings that no longer exist (of a deleted link) are
   * skipped.
   */
  restore(): void
  /** Original values, for a daemon that must survive a crash. */
  readonly saved: ReadonlyMap<string, string>
}

/** Whether a setting is not to go back to this value, because another program needs what it is now. */
export type Keeps = (key: string, value: string) => boolean

export class KernelSysctls implements Sysctls {
  readonly #netns: string | undefined
  readonly #saved: Map<string, string>
  readonly #keeps: Keeps

  /** `saved`: what an earlier object had remembered. */
  constructor(netns?: string, saved: Iterable<readonly [string, string]> = [], keeps: Keeps = () => false) {
    this.#netns = netns
    this.#saved = new Map(saved)
    this.#keeps = keeps
  }

  get saved(): ReadonlyMap<string, string> {
    return this.#saved
  }

  get(key: string): string | undefined {
    const path = pathOf(key)
    try {
      return inNamespace(this.#netns, () => readFileSync(path, 'utf8')).trimEnd()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error instanceof KernelError ? error : failure(`read ${key}`, error)
    }
  }

  set(key: string, value: string | number): void {
    const before = this.get(key)
    if (before === undefined) throw new KernelError(`set ${key}`, 2)
    if (before === String(value)) return
    this.#write(key, String(value))
    if (!this.#saved.has(key)) this.#saved.set(key, before)
  }

  restore(): void {
    for (const [key, value] of this.#saved) {
      const now = this.get(key)
      if (now !== undefined && now !== value && !this.#keeps(key, value)) this.#write(key, value)
    }
    this.#saved.clear()
  }

  #write(key: string, value: string): void {
    const path = pathOf(key)
    try {
      inNamespace(this.#netns, () => writeFileSync(path, value === '' ? '\n' : value)) // an empty write is none
    } catch (error) {
      const setting = `${key.includes('.') ? key : key.replaceAll('/', '.')}=${value}`
      throw error instanceof KernelError ? error : failure(`set ${key}`, error, setting)
    }
  }
}

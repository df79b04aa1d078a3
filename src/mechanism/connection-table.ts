/**
 * The kernel's table of tracked connections, which NAT and most firewalls rest on. When it is full, the kernel drops the first
 * packet of each new connection and says so in its own log alone: connections that are there go on, nothing new begins.
 */
import type { Sysctls } from '../linux/sysctl.ts'

export interface TableUse {
  readonly used: number
  readonly room: number
}

/** Shares of the room at which it is short, and is not any more. */
const SHORT = 0.95
const AMPLE = 0.85

/** Undefined: nothing is tracked on this machine. */
export function connectionTable(sysctls: Pick<Sysctls, 'get'>): TableUse | undefined {
  const used = Number(sysctls.get('net.netfilter.nf_conntrack_count'))
  const room = Number(sysctls.get('net.netfilter.nf_conntrack_max'))
  // A limit of 0 is none.
  return used >= 0 && room > 0 ? { used, room } : undefined
}

export function isShort({ used, room }: TableUse): boolean {
  return used >= SHORT * room
}

export function describeUse({ used, room }: TableUse): string {
  return `${used} of ${room} entries in use`
}

export function moreRoom({ room }: TableUse): string {
  return `sudo sysctl -w net.netfilter.nf_conntrack_max=${4 * room}`
}

/** Reports once when it is short, and when it is not any more. */
export class ConnectionTableWatch {
  readonly #sysctls: Pick<Sysctls, 'get'>
  readonly #report: (level: 'warn' | 'info', message: string) => void
  #short = false

  constructor(sysctls: Pick<Sysctls, 'get'>, report: (level: 'warn' | 'info', message: string) => void) {
    this.#sysctls = sysctls
    this.#report = report
  }

  /** To be called now and then. */
  check(): void {
    const use = connectionTable(this.#sysctls)
    if (use === undefined) return
    if (!this.#short && isShort(use)) {
      this.#short = true
      this.#report(
        'warn',
        `the kernel's table of connections is full (${describeUse(use)}): it drops new connections of hosts, those that are there go on. More room: ${moreRoom(use)}`,
      )
    } else if (this.#short && use.used < AMPLE * use.room) {
      this.#short = false
      this.#report('info', `the kernel's table of connections has room again (${describeUse(use)})`)
    }
  }
}

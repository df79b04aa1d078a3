/**
 * Changes the name servers of this host through the program that manages them, for a device and for as long as it wants
 * them. systemd-resolved drops them with the device; resolvconf keeps a record, which `giveBack` removes, whoever made
 * it.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { GodwitError } from '../core/errors.ts'
import { findProgram } from './packages.ts'

/** `none`: no program sets them. */
export type DnsKeeper = 'resolved' | 'resolvconf' | 'none'

const RESOLVED = '/run/systemd/resolve'
const RECORDS = ['/run/resolvconf/interface', '/run/resolvconf/interfaces', '/run/resolvconf/keys']

/** The program that manages the host's name servers here. */
export function dnsKeeper(): DnsKeeper {
  if (existsSync(RESOLVED) && findProgram('resolvectl') !== undefined) return 'resolved'
  return findProgram('resolvconf') === undefined ? 'none' : 'resolvconf'
}

export class SystemDns {
  readonly #device: string

  constructor(device: string) {
    this.#device = device
  }

  /**
   * Sends all queries to these servers from now on, or, if the manager supports it, only those for `domains`. False: all
   * queries go there although only the domains were meant. Throws DNS_NOT_SET.
   */
  set(keeper: DnsKeeper, servers: readonly string[], domains?: readonly string[]): boolean {
    const device = this.#device
    if (keeper === 'resolved') {
      run('resolvectl', ['dns', device, ...servers])
      run('resolvectl', ['domain', device, ...(domains ?? ['.']).map((domain) => `~${domain}`)])
      run('resolvectl', ['default-route', device, String(domains === undefined)])
      return true
    }
    if (keeper === 'resolvconf') {
      const lines = servers.map((server) => `nameserver ${server}\n`).join('')
      // First of all (-m 0), and alone (-x) where it can; the name puts it first where order goes by names.
      run('resolvconf', ['-a', this.#record, '-m', '0', '-x'], lines)
    }
    return domains === undefined
  }

  /** As it was before. Repeatable, also after a run that was killed. */
  giveBack(): void {
    const device = this.#device
    if (existsSync(RESOLVED) && existsSync(`/sys/class/net/${device}`) && findProgram('resolvectl'))
      run('resolvectl', ['revert', device])
    if (RECORDS.some((folder) => has(folder, this.#record))) run('resolvconf', ['-d', this.#record])
  }

  get #record(): string {
    return `tun.${this.#device}`
  }
}

/** Folders of keys have subfolders, whose files begin with a metric. */
function has(folder: string, record: string): boolean {
  try {
    return readdirSync(folder).some((file) => file === record || file.endsWith(` ${record}`))
  } catch {
    return false
  }
}

function run(program: 'resolvectl' | 'resolvconf', args: readonly string[], input = ''): void {
  const path = findProgram(program)
  const { status, stderr, error } =
    path === undefined
      ? { status: null, stderr: '', error: new Error(`${program} is not installed`) }
      : spawnSync(path, args, { input, encoding: 'utf8', timeout: 10_000 })
  if (status === 0) return
  const reason = error?.message ?? stderr.trim()
  throw new GodwitError('DNS_NOT_SET', `${program} ${args[0]}: ${reason || `status ${status}`}`, {
    op: program,
  })
}

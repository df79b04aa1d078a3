/**
 * Programs of the system that something needs, and how they get there: what is missing is named before it is installed,
 * with apt-get, as root or through sudo. Never silently, and never an error here: the caller decides what a missing
 * program means.
 */
import { spawnSync } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

/** A program and where it comes from. */
export interface Tool {
  readonly command: string
  /** Debian's and Ubuntu's package. */
  readonly package: string
  /** What it is needed for, a few words. */
  readonly purpose: string
}

/** System folders that a user's PATH often lacks; programs there still run as root. */
const SYSTEM_FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/sbin']

/** The path of a program, or undefined. */
export function findProgram(command: string): string | undefined {
  for (const folder of [...(process.env.PATH ?? '').split(delimiter), ...SYSTEM_FOLDERS]) {
    const path = join(folder, command)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // the next folder
    }
  }
  return undefined
}

export interface EnsureOptions {
  /** False: only look. */
  readonly install?: boolean
  /** Where to say what is done. Default: standard error. */
  readonly say?: (line: string) => void
}

/**
 * Installs what is missing, if that can be done here, and returns what is still missing. Says before it starts what it
 * installs and why. sudo is used only where it needs no password, or where someone sits at a terminal to type it.
 */
export function ensureTools(tools: readonly Tool[], options: EnsureOptions = {}): Tool[] {
  const say = options.say ?? ((line: string) => process.stderr.write(`godwit: ${line}\n`))
  const missing = tools.filter((tool) => findProgram(tool.command) === undefined)
  if (missing.length === 0 || options.install === false) return missing
  const packages = [...new Set(missing.map((tool) => tool.package))]
  const command = `apt-get install -y --no-install-recommends ${packages.join(' ')}`
  const prefix = aptPrefix()
  if (prefix === undefined) {
    say(`missing: ${list(missing)}; to install: sudo ${command}`)
    return missing
  }
  say(`installing system packages: ${list(missing)}`)
  // Lists first: a bare machine has none. A package that cannot be had must not keep the others away.
  if (!apt(prefix, ['install', '-y', '--no-install-recommends', ...packages])) {
    apt(prefix, ['update'])
    if (!apt(prefix, ['install', '-y', '--no-install-recommends', ...packages])) {
      for (const name of packages) apt(prefix, ['install', '-y', '--no-install-recommends', name])
    }
  }
  const still = tools.filter((tool) => findProgram(tool.command) === undefined)
  if (still.length > 0) say(`could not be installed: ${list(still)}`)
  return still
}

function list(tools: readonly Tool[]): string {
  return tools.map((tool) => `${tool.package} (${tool.purpose})`).join(', ')
}

/** How apt-get can be run here: as it is, through sudo, or not at all. */
function aptPrefix(): readonly string[] | undefined {
  if (findProgram('apt-get') === undefined) return undefined
  if (process.getuid?.() === 0) return []
  if (findProgram('sudo') === undefined) return undefined
  if (spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0) return ['sudo', '-n']
  return process.stdin.isTTY && process.stderr.isTTY ? ['sudo'] : undefined
}

function apt(prefix: readonly string[], args: readonly string[]): boolean {
  const [command, ...rest] = [...prefix, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-qq', ...args]
  // apt-get writes to standard output, which belongs to the caller's result.
  return spawnSync(command!, rest, { stdio: ['inherit', 2, 2] }).status === 0
}

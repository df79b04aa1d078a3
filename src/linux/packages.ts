/**
 * Programs that godwit calls, the Debian and Ubuntu packages they come in, and installing them: never silently, never
 * when all are there.
 */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, readdirSync } from 'node:fs'
import { missingError } from '../core/errors.ts'

const PACKAGES = {
  nft: 'nftables',
  iptables: 'iptables',
  'iptables-legacy': 'iptables',
  'iptables-legacy-save': 'iptables',
  'ip6tables-legacy-save': 'iptables',
  ufw: 'ufw',
  dockerd: 'docker.io',
  containerd: 'containerd',
  runc: 'runc',
  firewalld: 'firewalld',
  ip: 'iproute2',
  ss: 'iproute2',
  unshare: 'util-linux',
  ipcrm: 'util-linux',
  setpriv: 'util-linux',
  wg: 'wireguard-tools',
  'wireguard-go': 'wireguard-go',
  openvpn: 'openvpn',
  nebula: 'nebula',
  iperf3: 'iperf3',
  curl: 'curl',
  mptcpize: 'mptcpize',
  gcc: 'build-essential',
  xz: 'xz-utils',
  nstat: 'iproute2',
  tshark: 'tshark',
  rsync: 'rsync',
  ssh: 'openssh-client',
  sshd: 'openssh-server',
  tcpdump: 'tcpdump',
  ping: 'iputils-ping',
  dnsmasq: 'dnsmasq-base',
  dig: 'bind9-dnsutils',
  unbound: 'unbound',
  'ldns-keygen': 'ldnsutils',
  'ldns-signzone': 'ldnsutils',
  tayga: 'tayga',
  turnserver: 'coturn',
  radvd: 'radvd',
  'wg-quick': 'wireguard-tools',
  nginx: 'nginx-light',
  tinyproxy: 'tinyproxy-bin',
  openssl: 'openssl',
  socat: 'socat',
  'dbus-daemon': 'dbus',
  'python3-dbusmock': 'python3-dbusmock',
  'nebula-cert': 'nebula',
  'ssh-keygen': 'openssh-client',
  initdb: 'postgresql',
  postgres: 'postgresql',
  pg_basebackup: 'postgresql',
  'nats-server': 'nats-server',
  zsh: 'zsh',
  fish: 'fish',
  script: 'bsdutils',
  'apt-get': 'apt',
  git: 'git',
  debootstrap: 'debootstrap',
  lintian: 'lintian',
  getent: 'libc-bin',
  man: 'man-db',
  'dpkg-deb': 'dpkg',
  strace: 'strace',
  'systemd-analyze': 'systemd',
  'systemd-networkd': 'systemd',
  'qemu-aarch64-static': 'qemu-user-static',
  'libc6:arm64': 'libc6-arm64-cross',
  'libstdc++6:arm64': 'libstdc++6-arm64-cross',
  'libatomic1:arm64': 'libatomic1-arm64-cross',
  libatomic1: 'libatomic1',
} as const

export type Program = keyof typeof PACKAGES

/** Whether a package is known for it. */
export function isKnownProgram(name: string): name is Program {
  return Object.hasOwn(PACKAGES, name)
}

/**
 * Says which programs the calling file starts. `npm test` reads these calls in test/, lab/ and scripts/ and installs what
 * they name; a test fails on a file that starts a program without saying so.
 */
export function usesPrograms(...programs: Program[]): readonly Program[] {
  return programs
}

/** Those that are no program of their own, or in no folder of programs, by a file that shows them. */
const LIBRARIES: Readonly<Record<string, string>> = {
  'python3-dbusmock': '/usr/lib/python3/dist-packages/dbusmock/__init__.py',
  'libc6:arm64': '/usr/aarch64-linux-gnu/lib/libc.so.6',
  'libstdc++6:arm64': '/usr/aarch64-linux-gnu/lib/libstdc++.so.6',
  'libatomic1:arm64': '/usr/aarch64-linux-gnu/lib/libatomic.so.1',
  'systemd-networkd': '/lib/systemd/systemd-networkd',
  // The Node.js 26 of npm's packages is linked with it.
  libatomic1: `/usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu/libatomic.so.1`,
}

/** System programs are often outside a user's PATH. */
const SYSTEM_DIRECTORIES = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin']
/** Debian keeps the programs of each version of PostgreSQL in a folder of its own. */
const POSTGRESQL = '/usr/lib/postgresql'
const found = new Map<string, string>()

/** The path of a program, on PATH or in the system's directories. */
export function findProgram(name: string): string | undefined {
  const known = found.get(name)
  if (known !== undefined) return known
  const library = LIBRARIES[name]
  if (library !== undefined) return existsSync(library) ? library : undefined
  const directories = (process.env.PATH ?? '').split(':').filter((each) => each.startsWith('/'))
  for (const directory of [...directories, ...SYSTEM_DIRECTORIES, ...postgresqlFolders()]) {
    const path = `${directory}/${name}`
    try {
      accessSync(path, constants.X_OK)
    } catch {
      continue
    }
    found.set(name, path)
    return path
  }
  return undefined
}

/** The newest version first. */
function postgresqlFolders(): string[] {
  try {
    const versions = readdirSync(POSTGRESQL).sort((a, b) => Number(b) - Number(a))
    return versions.map((version) => `${POSTGRESQL}/${version}/bin`)
  } catch {
    return []
  }
}

/** The path of a program, or a `missing` error with the command that installs it. */
export function needProgram(name: Program): string {
  const path = findProgram(name)
  if (path === undefined) throw missingError(`${name} is not installed`, installHint([name]))
  return path
}

/** The command that installs these programs, as a user would type it. */
export function installHint(programs: readonly Program[]): string {
  return `sudo apt-get install ${packagesOf(programs).join(' ')}`
}

function packagesOf(programs: readonly Program[]): string[] {
  return [...new Set(programs.map((program) => PACKAGES[program]))].sort()
}

export interface InstallOptions {
  /** Told what is about to be installed and how, before it is. */
  readonly say: (line: string) => void
  /** Replaces the real system in tests. */
  readonly system?: InstallSystem
}

export interface InstallSystem {
  find(program: string): string | undefined
  readonly uid: number
  /** Someone can type a password. */
  readonly terminal: boolean
  /** Runs a command; its errors, and not its progress, go to this process's stderr. Returns the exit status. */
  run(command: string, args: readonly string[]): number
}

/** This machine. */
export const realSystem: InstallSystem = {
  find: findProgram,
  get uid() {
    return process.getuid?.() ?? 0
  },
  get terminal() {
    return process.stdin.isTTY === true && process.stderr.isTTY === true
  },
  run: (command, args) => spawnSync(command, [...args], { stdio: ['ignore', 'ignore', 2] }).status ?? 1,
}

/** What godwit writes there answers for as long as this process runs, and allows everything afterwards. */
const POLICY = '/usr/sbin/policy-rc.d'
/**
 * Runs apt-get so that no service of a package is started (Debian's policy-rc.d) and none is enabled that was not before: somebody who runs
 * tests wants no firewalld, name server or database. Parameters: where the policy is written, then the command.
 */
export const WITHOUT_SERVICES = `
policy=$1
shift
ours=no
if [ ! -e "$policy" ] || grep -q godwit "$policy"; then
  ours=yes
  printf '#!/bin/sh\\n# godwit installs programs and wants no services of theirs\\n[ ! -d /proc/%s ] || exit 101\\n' $$ > "$policy"
  chmod 755 "$policy"
fi
enabled() {
  systemctl list-unit-files --state=enabled --no-legend --plain 2>/dev/null | cut -d ' ' -f 1
}
before=" $(enabled | tr '\\n' ' ') "
keep_back() {
  trap '' INT TERM
  for unit in $(enabled); do
    case "$before" in
      *" $unit "*) ;;
      *) systemctl disable --quiet "$unit" ;;
    esac
  done
  if [ "$ours" = yes ]; then rm -f "$policy"; fi
}
trap keep_back EXIT
trap 'exit 130' INT TERM
DEBIAN_FRONTEND=noninteractive "$@"
`

/**
 * Installs the packages of those programs that are not there, without their services, with apt-get as root or through sudo, which may ask
 * for a password where someone sits at a terminal. Returns the packages installed; a second call installs nothing and needs no network. Throws a `missing`
 * error with the command to type where it cannot.
 */
export function ensurePackages(programs: readonly Program[], options: InstallOptions): string[] {
  const system = options.system ?? realSystem
  const absent = programs.filter((program) => system.find(program) === undefined)
  if (absent.length === 0) return []
  const packages = packagesOf(absent)
  const missing = (why: string) =>
    missingError(`${absent.join(', ')} not installed; ${why}`, installHint(absent))
  const apt = system.find('apt-get')
  if (apt === undefined) throw missing('this system has no apt-get')
  const prefix = ['sh', '-c', WITHOUT_SERVICES, 'godwit', POLICY, apt]
  if (system.uid !== 0) {
    const sudo = system.find('sudo')
    const silent = sudo !== undefined && system.run(sudo, ['-n', 'true']) === 0
    if (sudo === undefined || !(silent || system.terminal)) throw missing('installing needs root')
    prefix.unshift(...(silent ? [sudo, '-n'] : [sudo]))
  }
  const runApt = (...args: string[]) => {
    const [command, ...rest] = [...prefix, ...args]
    return system.run(command!, rest)
  }
  options.say(
    `installing ${packages.join(', ')} (apt-get install, for ${absent.join(', ')}); their services are neither started nor enabled`,
  )
  const install = ['install', '-y', '--no-install-recommends', ...packages]
  // A fresh machine has no package lists, and old lists may name files that no longer exist: then the lists are updated.
  if (runApt(...install) !== 0 && (runApt('update') !== 0 || runApt(...install) !== 0))
    throw missing('apt-get could not install it')
  const still = absent.filter((program) => system.find(program) === undefined)
  if (still.length > 0) throw missing('apt-get succeeded, but the program is missing')
  return packages
}

/** What this machine has and lacks for each part of godwit, with the way to get what is missing. */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync } from 'node:fs'
import { release } from 'node:os'
import { cgroupMount } from '../linux/cgroup.ts'
import { findProgram, installHint, type Program } from '../linux/packages.ts'
import { tcxObstacle } from '../linux/tcx.ts'
import { udpBatchObstacle } from '../linux/udp-probe.ts'

export type Part = 'host' | 'anchor' | 'router' | 'dime' | 'run' | 'demo' | 'bench' | 'tests'

export interface Finding {
  readonly name: string
  readonly ok: boolean
  /** What was found. */
  readonly value: string
  /** The parts that need it, or are better with it. */
  readonly parts: readonly Part[]
  /** False: these parts work without it, with less. */
  readonly required: boolean
  /** How to get it, when it is not there. */
  readonly mend?: string
}

/** Looks; changes nothing. */
export function examine(): Finding[] {
  return [
    node(),
    kernel(),
    capability(),
    tun(),
    udpBatches(),
    userNamespaces(),
    cgroups(),
    devicePrograms(),
    program('nft', ['anchor', 'demo', 'tests'], true),
    program('curl', ['demo', 'tests'], true),
    program('rsync', ['demo', 'tests'], true),
    program('iperf3', ['tests'], false),
    program('wg', ['tests'], false),
    program('wireguard-go', ['bench', 'tests'], false),
    program('openvpn', ['bench'], false),
    program('nebula', ['bench'], false),
  ]
}

const ALL: readonly Part[] = ['host', 'anchor', 'router', 'dime', 'run', 'demo', 'bench', 'tests']

/** The major versions of Node.js on which `npm test` runs the tests. package.json, README.md and scripts/setup.sh name them. */
export const TESTED_NODES: readonly number[] = [20, 22, 24, 26]

export function node(version: string = process.version): Finding {
  const major = Number(/^v(\d+)/.exec(version)?.[1])
  const listed = TESTED_NODES.join(', ')
  return {
    name: `Node.js ${TESTED_NODES[0]} or newer`,
    ok: major >= TESTED_NODES[0]!,
    value: TESTED_NODES.includes(major) ? version : `${version} (not tested; these are: ${listed})`,
    parts: ALL,
    required: true,
    mend: 'https://nodejs.org',
  }
}

function kernel(): Finding {
  const [major = 0, minor = 0] = release().split('.').map(Number)
  // UDP_SEGMENT 4.18, UDP_GRO 5.0, TUN USO 6.2 (the last only makes UDP faster).
  const ok = major >= 5
  return {
    name: 'Linux 5.0 or newer',
    ok,
    value: `${release()}${major > 6 || (major === 6 && minor >= 2) ? '' : ' (6.2 or newer is faster with UDP)'}`,
    parts: ALL,
    required: true,
    mend: 'a newer kernel',
  }
}

/** Whether this process may change the network: the capability CAP_NET_ADMIN. */
export function mayChangeNetwork(): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'
  return ((BigInt(`0x${effective}`) >> 12n) & 1n) === 1n
}

function capability(): Finding {
  const ok = mayChangeNetwork()
  return {
    name: 'right to change the network',
    ok,
    value: ok ? 'yes' : 'no, not as this user',
    parts: ['host', 'anchor', 'router', 'dime'],
    required: true,
    mend: 'run godwit with sudo',
  }
}

function tun(): Finding {
  let value = 'usable'
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
  } catch (error) {
    value = (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'missing' : 'no permission'
  }
  return {
    name: '/dev/net/tun',
    ok: value === 'usable',
    value,
    parts: ['host', 'anchor', 'router', 'dime', 'demo', 'bench', 'tests'],
    required: true,
    mend: 'sudo modprobe tun; in a container: --device /dev/net/tun',
  }
}

/** What the tunnel's throughput rests on; a device that refuses batches shows in the daemon's log and /metrics only. */
function udpBatches(): Finding {
  let obstacle: string | undefined
  try {
    obstacle = udpBatchObstacle()
  } catch (error) {
    obstacle = (error as Error).message
  }
  return {
    name: 'UDP in batches (UDP_SEGMENT, UDP_GRO)',
    ok: obstacle === undefined,
    value: obstacle ?? 'usable',
    parts: ['host', 'anchor', 'router'],
    required: false,
    mend: 'Linux 5.0 or newer',
  }
}

function userNamespaces(): Finding {
  const root = process.getuid?.() === 0
  const probe = spawnSync('unshare', ['-Urnm', 'true'], { encoding: 'utf8' })
  const ok = root || probe.status === 0
  return {
    name: 'network namespaces',
    ok,
    value: root ? 'as root' : ok ? 'in a user namespace' : probe.stderr?.trim() || 'unshare is not installed',
    parts: ['demo', 'bench', 'tests'],
    required: true,
    mend: 'run it with sudo, or: sudo sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0',
  }
}

function cgroups(): Finding {
  const mount = existsSync('/proc/self/mounts') ? cgroupMount() : undefined
  return {
    name: 'cgroup version 2',
    ok: mount !== undefined,
    value: mount ?? 'not mounted',
    parts: ['run'],
    required: true,
    mend: 'sudo mkdir -p /sys/fs/cgroup/unified && sudo mount -t cgroup2 none /sys/fs/cgroup/unified',
  }
}

/** What DIME carries connections of one family over the other with; without it they wait for their own. */
function devicePrograms(): Finding {
  const obstacle = tcxObstacle()
  return {
    name: 'eBPF on devices (Linux 6.6)',
    ok: obstacle === undefined,
    value: obstacle ?? 'usable',
    parts: ['dime'],
    required: false,
    mend: 'a newer kernel, and sudo',
  }
}

function program(name: Program, parts: readonly Part[], required: boolean): Finding {
  const path = findProgram(name)
  return {
    name,
    ok: path !== undefined,
    value: path ?? 'not installed',
    parts,
    required,
    mend: installHint([name]),
  }
}

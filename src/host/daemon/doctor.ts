/** What this machine has and lacks for each part of godwit, with the command that provides what is missing. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { release } from 'node:os'
import { cgroupMount } from '../../linux/cgroup.ts'
import { findProgram, installHint, type Program } from '../../linux/packages.ts'
import { type Need, TUN } from '../../mechanism/needs.ts'
import type { MechanismList } from '../configuration/plan.ts'
import { MECHANISMS } from '../mechanisms.ts'

export interface Finding {
  readonly name: string
  readonly ok: boolean
  /** Text of the result. */
  readonly value: string
  /** The parts that need it, or are better with it: roles of mechanisms, `run`, `demo`, `bench`, `tests`. */
  readonly parts: readonly string[]
  /** False: these parts work without it, with less. */
  readonly required: boolean
  /** How to get it, when it is not there. */
  readonly mend?: string
}

const REHEARSALS = ['demo', 'bench', 'tests']
/** Parts beside the mechanisms, by what they need too. */
const OTHERS: Readonly<Record<string, readonly string[]>> = { [TUN.name]: REHEARSALS, nft: ['demo', 'tests'] }

/** Looks; changes nothing. */
export function examine(list: MechanismList = MECHANISMS): Finding[] {
  const roles = list.map(({ role }) => role)
  const all = [...roles, 'run', ...REHEARSALS]
  return [
    node(process.version, all),
    kernel(all),
    ...needsOf(list),
    userNamespaces(),
    cgroups(),
    program('curl', ['demo', 'tests'], true),
    program('rsync', ['demo', 'tests'], true),
    program('iperf3', ['tests'], false),
    program('wg', ['tests'], false),
    program('wireguard-go', ['bench', 'tests'], false),
    program('openvpn', ['bench'], false),
    program('nebula', ['bench'], false),
  ]
}

/** The needs of all mechanisms, each once, with the mechanisms that have it. */
function needsOf(list: MechanismList): Finding[] {
  const needs = new Map<string, { readonly need: Need; readonly roles: string[] }>()
  for (const { role, needs: own } of list)
    for (const need of own) {
      const known = needs.get(need.name)
      if (known === undefined) needs.set(need.name, { need, roles: [role] })
      else known.roles.push(role)
    }
  return [...needs.values()].map(({ need, roles }) => ({
    name: need.name,
    mend: need.mend,
    ...need.look(),
    parts: [...roles, ...(OTHERS[need.name] ?? [])],
    required: need.required,
  }))
}

/** The major versions of Node.js on which `npm test` runs the tests. package.json, README.md and scripts/setup.sh name them. */
export const TESTED_NODES: readonly number[] = [20, 22, 24, 26]

export function node(version: string = process.version, parts: readonly string[] = []): Finding {
  const major = Number(/^v(\d+)/.exec(version)?.[1])
  const listed = TESTED_NODES.join(', ')
  return {
    name: `Node.js ${TESTED_NODES[0]} or newer`,
    ok: major >= TESTED_NODES[0]!,
    value: TESTED_NODES.includes(major) ? version : `${version} (not tested; these are: ${listed})`,
    parts,
    required: true,
    mend: 'https://nodejs.org',
  }
}

function kernel(parts: readonly string[]): Finding {
  const [major = 0, minor = 0] = release().split('.').map(Number)
  // UDP_SEGMENT 4.18, UDP_GRO 5.0, TUN USO 6.2 (the last only makes UDP faster).
  const ok = major >= 5
  return {
    name: 'Linux 5.0 or newer',
    ok,
    value: `${release()}${major > 6 || (major === 6 && minor >= 2) ? '' : ' (6.2 or newer is faster with UDP)'}`,
    parts,
    required: true,
    mend: 'a newer kernel',
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

function program(name: Program, parts: readonly string[], required: boolean): Finding {
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

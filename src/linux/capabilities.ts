/**
 * Capabilities of this machine that godwit uses, found by trying, in a namespace of its own if trying leaves traces.
 * Listings, skip reasons of tests and error messages all come from here.
 */
import { accessSync, constants, readFileSync } from 'node:fs'
import { cgroupMount } from './cgroup.ts'
import { bpfObstacle } from './cgroup-mark.ts'
import { KernelError } from './libc.ts'
import { createNamespace, deleteNamespace } from './netns.ts'
import { nftVersion } from './nft.ts'
import { findProgram, installHint, type Program } from './packages.ts'
import { Rtnetlink } from './rtnetlink/index.ts'
import { SockDiag, TCP } from './sockdiag.ts'
import { userNamespaceObstacle } from './userns.ts'

export type CapabilityName =
  | 'net-admin'
  | 'namespaces'
  | 'user-namespaces'
  | 'tun'
  | 'nft'
  | 'cgroup2'
  | 'cgroup-bpf'
  | 'sock-diag'
  | 'tbf'
  | 'netem'
  | 'udp-tunnel-offload'
  | 'unshare'
  | 'wg'
  | 'wireguard-go'
  | 'openvpn'
  | 'nebula'
  | 'curl'

export interface Capability {
  readonly name: CapabilityName
  /** What godwit uses it for. */
  readonly use: string
  readonly available: boolean
  /** A version, or why it is not available. */
  readonly detail: string
  /** How to get it; empty when available or when there is no way. */
  readonly hint: string
}

export type Capabilities = Readonly<Record<CapabilityName, Capability>>

const CAP_NET_ADMIN = 12

/** Checks everything in about 20 ms. Never throws. */
export function capabilities(): Capabilities {
  const list = [
    probe('net-admin', 'interfaces, routes and rules', () => {
      if (!hasCapability(CAP_NET_ADMIN)) return no('no CAP_NET_ADMIN', 'run with sudo')
    }),
    probe(
      'tun',
      'the virtual interface',
      () => {
        accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
      },
      'sudo modprobe tun; in a container, pass --device /dev/net/tun',
    ),
    probe('nft', 'masquerading and marks', () => {
      const version = nftVersion()
      return version === undefined ? no('nftables is not installed', installHint(['nft'])) : version.join('.')
    }),
    probe('cgroup2', 'control by application', () => {
      return (
        cgroupMount() ??
        no('cgroup version 2 is not mounted', 'sudo mount -t cgroup2 none /sys/fs/cgroup/unified')
      )
    }),
    probe('cgroup-bpf', 'marking the sockets of an application', () => {
      const obstacle = bpfObstacle()
      if (obstacle !== undefined) return no(obstacle, 'run with sudo')
    }),
    probe(
      'sock-diag',
      'finding the application of a flow',
      () => {
        const diag = new SockDiag()
        try {
          diag.sockets({ protocols: [TCP], families: [4], states: ['listen'] })
        } finally {
          diag.close()
        }
      },
      'sudo modprobe inet_diag tcp_diag udp_diag',
    ),
    probe('udp-tunnel-offload', 'UDP super-packets through TUN (USO, Linux 6.2)', () => {
      const [major = 0, minor = 0] = kernelVersion()
      if (major < 6 || (major === 6 && minor < 2)) return no(`Linux ${major}.${minor}`, '')
    }),
    probe('user-namespaces', 'the lab without root', () => {
      const obstacle = userNamespaceObstacle()
      if (obstacle !== undefined) return no(obstacle.reason, obstacle.hint)
    }),
    ...namespaceProbes(),
    ...(['unshare', 'wg', 'wireguard-go', 'openvpn', 'nebula', 'curl'] as const).map(programProbe),
  ]
  return Object.fromEntries(list.map((each) => [each.name, each])) as unknown as Capabilities
}

/** Kernel version as numbers. */
export function kernelVersion(): readonly number[] {
  return readFileSync('/proc/sys/kernel/osrelease', 'utf8').split('-')[0]!.split('.').map(Number)
}

function hasCapability(bit: number): boolean {
  const line = /^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))
  return ((BigInt(`0x${line?.[1] ?? '0'}`) >> BigInt(bit)) & 1n) === 1n
}

/** Checks that need a namespace: creates one, and removes it afterwards. */
function namespaceProbes(): Capability[] {
  const name = `godwit-probe-${process.pid}`
  let made = false
  const namespaces = probe(
    'namespaces',
    'the lab and tests',
    () => {
      createNamespace(name)
      made = true
    },
    'run with sudo',
  )
  const qdisc = (kind: 'tbf' | 'netem', use: string) =>
    probe(
      kind,
      use,
      () => {
        if (!made) return no('cannot be tried without network namespaces', 'run with sudo')
        const rtnl = new Rtnetlink(name)
        try {
          if (rtnl.link('p0') === undefined)
            rtnl.createLink({ kind: 'veth', name: 'p0', peer: { name: 'p1' } })
          if (kind === 'tbf') rtnl.setQdisc('p0', { kind, rate: 1e6, burst: 10_000, limit: 100_000 })
          else rtnl.setQdisc('p0', { kind, delay: 1 })
        } finally {
          rtnl.close()
        }
      },
      `sudo modprobe sch_${kind}`,
    )
  try {
    return [
      namespaces,
      qdisc('tbf', 'limiting the rate of emulated links'),
      qdisc('netem', 'emulating links'),
    ]
  } finally {
    if (made) deleteNamespace(name)
  }
}

function programProbe(program: Program & CapabilityName): Capability {
  const use =
    program === 'unshare'
      ? 'the lab without root'
      : program === 'curl'
        ? 'the demo'
        : 'comparison and interoperation'
  return probe(program, use, () => findProgram(program) ?? no('not installed', installHint([program])))
}

interface No {
  readonly reason: string
  readonly hint: string
}

function no(reason: string, hint: string): No {
  return { reason, hint }
}

/** `attempt` returns a detail (or nothing) on success; a `No`, or an exception, on failure. */
function probe(
  name: CapabilityName,
  use: string,
  attempt: () => string | No | undefined,
  hint = '',
): Capability {
  try {
    const result = attempt()
    if (typeof result === 'object')
      return { name, use, available: false, detail: result.reason, hint: result.hint }
    return { name, use, available: true, detail: result ?? '', hint: '' }
  } catch (error) {
    const detail =
      error instanceof KernelError && error.kernel !== undefined ? error.kernel : (error as Error).message
    return { name, use, available: false, detail, hint }
  }
}

/** Needs of mechanisms: `doctor` looks for them, a daemon demands them before it starts. */
import { accessSync, constants, existsSync, readFileSync } from 'node:fs'
import { AccessMonitor } from '../access/index.ts'
import { missingError } from '../core/errors.ts'
import { RealClock } from '../linux/clock.ts'
import { OUR_DEVICES } from '../linux/ledger.ts'
import { Nft } from '../linux/nft.ts'
import { findProgram, installHint, needProgram, type Program } from '../linux/packages.ts'
import type { Accept } from '../linux/passage/chains.ts'
import { Passage } from '../linux/passage/passage.ts'
import { Rtnetlink } from '../linux/rtnetlink/index.ts'
import { KernelSysctls } from '../linux/sysctl.ts'
import { tcxObstacle } from '../linux/tcx.ts'
import { udpBatchObstacle } from '../linux/udp-probe.ts'
import { connectionTable, describeUse, isShort, moreRoom } from './connection-table.ts'

export interface Need {
  readonly name: string
  /** False: it works without, with less. */
  readonly required: boolean
  /** Looks; changes nothing. */
  look(): { readonly ok: boolean; readonly value: string; readonly mend?: string }
  /** How to get it. */
  readonly mend: string
  /** Throws when a daemon cannot start without it. */
  demand?(): void
}

/** Whether this process may change the network: the capability CAP_NET_ADMIN. */
export function mayChangeNetwork(): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'
  return ((BigInt(`0x${effective}`) >> 12n) & 1n) === 1n
}

export const NETWORK_ADMIN: Need = {
  name: 'right to configure the network',
  required: true,
  look: () => {
    const ok = mayChangeNetwork()
    return { ok, value: ok ? 'yes' : 'no, not as this user' }
  },
  mend: 'run godwit with sudo',
  demand: () => {
    if (!mayChangeNetwork())
      throw missingError(
        'the right to configure the network (CAP_NET_ADMIN) is missing',
        'run it as root: sudo godwit …',
      )
  },
}

const MAKE_TUN = 'sudo modprobe tun; in a container: --device /dev/net/tun'

export const TUN: Need = {
  name: '/dev/net/tun',
  required: true,
  look: () => {
    try {
      accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
      return { ok: true, value: 'usable' }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { ok: false, value: 'missing' }
      return {
        ok: false,
        value: 'no permission',
        mend: process.getuid?.() === 0 ? 'in a container: --device /dev/net/tun' : 'run godwit with sudo',
      }
    }
  },
  mend: MAKE_TUN,
  demand: () => {
    if (!existsSync('/dev/net/tun')) throw missingError('/dev/net/tun does not exist', MAKE_TUN)
  },
}

/** Needed for the tunnel's throughput. A device that refuses batches shows only in the daemon's log and /metrics. */
export const UDP_BATCHES: Need = {
  name: 'UDP in batches (UDP_SEGMENT, UDP_GRO)',
  required: false,
  look: () => {
    let obstacle: string | undefined
    try {
      obstacle = udpBatchObstacle()
    } catch (error) {
      obstacle = (error as Error).message
    }
    return { ok: obstacle === undefined, value: obstacle ?? 'usable' }
  },
  mend: 'Linux 5.0 or newer',
}

/** Needed by DIME to carry connections of one family over the other; without it they wait for their own. */
export const DEVICE_PROGRAMS: Need = {
  name: 'eBPF on devices (Linux 6.6)',
  required: false,
  look: () => {
    const obstacle = tcxObstacle()
    return { ok: obstacle === undefined, value: obstacle ?? 'usable' }
  },
  mend: 'a newer kernel, and sudo',
}

/** A program that is installed; asked for before a daemon starts when it is required. */
export function programNeed(name: Program, required: boolean): Need {
  return {
    name,
    required,
    look: () => {
      const path = findProgram(name)
      return { ok: path !== undefined, value: path ?? 'not installed' }
    },
    mend: installHint([name]),
    demand: () => {
      if (required) needProgram(name)
    },
  }
}

/** It makes the certificates of the overlay's servers and of an anchor's WebSockets; nothing else needs it. */
export const OPENSSL: Need = {
  ...programNeed('openssl', false),
  mend: `${installHint(['openssl'])} (for an overlay's servers, an anchor's WebSockets)`,
}

/** Rules and routes of other programs that stop what leaves over an access. */
export const WAY_OUT: Need = {
  name: 'a way out of each access',
  required: false,
  look: () => {
    const rtnl = new Rtnetlink()
    const monitor = new AccessMonitor({ rtnl, clock: new RealClock() }, { routing: false, ours: OUR_DEVICES })
    try {
      monitor.start()
      const found = monitor
        .accesses()
        .flatMap(({ name }) => monitor.obstacles(name).map((obstacle) => ({ name, ...obstacle })))
      if (found.length === 0) return { ok: true, value: 'no rule of another program stops what leaves' }
      return {
        ok: false,
        value: found.map(({ name, what }) => `${what} stops what leaves over ${name}`).join('; '),
        mend: `if nothing needs it: ${[...new Set(found.map(({ mend }) => mend))].join('; ')}`,
      }
    } finally {
      monitor.stop()
      rtnl.close()
    }
  },
  mend: '',
}

/** New connections need room in the kernel's table of connections. */
export const CONNECTION_TABLE: Need = {
  name: 'room for connections (nf_conntrack_max)',
  required: false,
  look: () => {
    const use = connectionTable(new KernelSysctls())
    if (use === undefined) return { ok: true, value: 'none are tracked' }
    return isShort(use)
      ? { ok: false, value: `${describeUse(use)}: new ones are dropped`, mend: moreRoom(use) }
      : { ok: true, value: describeUse(use) }
  },
  mend: '',
}

/** Whether the packet filters of other programs accept the packets that this device forwards. */
export function forwardingNeed(device: string, accepts: readonly Accept[]): Need {
  return {
    name: `forwarding for ${device}`,
    required: false,
    look: () => {
      if (!mayChangeNetwork()) return { ok: true, value: 'not checked: only root can read packet filters' }
      const rtnl = new Rtnetlink()
      try {
        const nft = findProgram('nft') === undefined ? undefined : new Nft()
        const passage = new Passage(
          { nft, rtnl, report: () => {} },
          { comment: 'godwit', accepts, change: false },
        )
        const obstacles = passage.obstacles()
        if (obstacles.length === 0) return { ok: true, value: 'no packet filter drops it' }
        const value = obstacles.map(({ chain, because }) => `${chain} (${because}) drops it`).join('; ')
        const mend = obstacles.map((each) => each.mend).join('; ')
        return {
          ok: false,
          value,
          mend: `the daemon does this when it starts (key \`firewall\`), or: ${mend}`,
        }
      } finally {
        rtnl.close()
      }
    },
    mend: '',
  }
}

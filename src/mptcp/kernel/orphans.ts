/**
 * Programs whose network namespace is gone: its daemon was killed there, and nobody can clean up after it any more, since the control
 * group that they hang on is everybody's. The next daemon that starts anywhere does.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { closeFd } from '../../linux/libc.ts'
import { detachSockOps, findSockOps, mapsOf, sockOpsPrograms } from '../../linux/sock-ops.ts'
import { readElement } from '../../linux/tcx.ts'
import { OWNER, SLOT, SLOTS } from './layout.ts'

/** The process namespace that sees every process (linux/proc_ns.h). */
const FIRST_PROCESSES = 'pid:[4026531836]'

/** Detaches programs whose names begin so and whose namespace has no process and no name; `but`: not these. */
export function removeOrphans(cgroup: string, prefix: string, but: string): void {
  // Elsewhere a namespace that seems empty may have processes.
  if (readlinkSync('/proc/self/ns/pid') !== FIRST_PROCESSES) return
  const others = sockOpsPrograms(cgroup).filter((name) => name.startsWith(prefix) && name !== but)
  if (others.length === 0) return
  const living = namespaces()
  for (const name of new Set(others)) {
    const owners = findSockOps(cgroup, name).map((program) => {
      try {
        return ownerOf(program)
      } finally {
        closeFd(program)
      }
    })
    // None: its daemon is putting another in its place.
    const isOrphan = owners.length > 0 && owners.every((owner) => owner !== undefined && !living.has(owner))
    if (isOrphan) detachSockOps(cgroup, name)
  }
}

/** Inode of its network namespace; undefined when its maps are not as here. */
function ownerOf(program: number): number | undefined {
  const maps = mapsOf(program)
  try {
    const slots = maps.find(({ valueLength, elements }) => valueLength === SLOT && elements === SLOTS + 1)
    const value = slots && readElement(slots, Uint8Array.of(SLOTS & 0xff, SLOTS >> 8, 0, 0))
    return value && new DataView(value.buffer).getUint32(OWNER, true)
  } finally {
    for (const { fd } of maps) closeFd(fd)
  }
}

/** Inodes of the network namespaces that a process is in, or that are mounted somewhere here. */
function namespaces(): ReadonlySet<number> {
  const found = new Set<number>()
  const add = (text: string) => {
    for (const [, inode] of text.matchAll(/net:\[(\d+)\]/g)) found.add(Number(inode))
  }
  add(readFileSync('/proc/self/mountinfo', 'utf8'))
  for (const pid of readdirSync('/proc'))
    if (/^\d+$/.test(pid))
      try {
        add(readlinkSync(`/proc/${pid}/ns/net`))
      } catch {
        // It has ended.
      }
  return found
}

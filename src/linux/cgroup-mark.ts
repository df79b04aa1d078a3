/**
 * The smallest eBPF: a program on a cgroup that marks each socket its processes create, before the first packet, so that
 * the route look-up at connect() already goes by the mark.
 *
 *   r2 = mark; *(u32 *)(r1 + 16) = r2; r0 = 1; exit        r1: struct bpf_sock, mark at 16; r0 = 1: allowed
 *
 * The kernel holds an attached program as long as its cgroup lives: closing the descriptor changes nothing.
 */
import { closeSync, openSync } from 'node:fs'
import { EPERM } from '../core/errno.ts'
import {
  attachedPrograms,
  attachProgram,
  detachProgram,
  loadProgram,
  nameOf,
  programById,
  type Target,
  withProgram,
} from './bpf.ts'
import { Ebpf } from './ebpf.ts'
import { closeFd, KernelError } from './libc.ts'

const PROG_TYPE_CGROUP_SOCK = 9
const ATTACH_INET_SOCK_CREATE = 2
/** Programs of others on the cgroup and above it run too. */
const ALLOW_MULTI = 2
const NAME = 'godwit_mark'
/** struct bpf_sock */
const SOCK_MARK = 16
const ALLOWED = 1

/**
 * From now on sockets made in this cgroup (its directory) start with `mark`; 0 ends it. Replaces the programs that this
 * or an earlier process left on the directory without a gap; those of others stay.
 */
export function setCgroupMark(cgroup: string, mark: number): void {
  const directory = openSync(cgroup, 'r')
  try {
    const where = target(directory, cgroup)
    const old = attachedPrograms(where)
    if (mark !== 0) withProgram(load(mark), (program) => attachProgram(where, program, ALLOW_MULTI))
    for (const id of old) {
      withProgram(programById(id), (program) => {
        if (nameOf(program) === NAME) detachProgram(where, program)
      })
    }
  } finally {
    closeSync(directory)
  }
}

/** How many programs that run at the making of a socket are attached to the directory itself. */
export function cgroupPrograms(cgroup: string): number {
  const directory = openSync(cgroup, 'r')
  try {
    return attachedPrograms(target(directory, cgroup)).length
  } finally {
    closeSync(directory)
  }
}

/** Why programs cannot be loaded here; undefined when they can. Loads one and drops it. */
export function bpfObstacle(): string | undefined {
  try {
    closeFd(load(1))
    return undefined
  } catch (error) {
    if (!(error instanceof KernelError)) throw error
    return error.errno === EPERM ? 'not permitted (needs CAP_BPF and CAP_NET_ADMIN)' : error.message
  }
}

function load(mark: number): number {
  const code = new Ebpf().set(2, mark).store(4, 1, SOCK_MARK, 2).set(0, ALLOWED).exit().finish()
  return loadProgram(NAME, code, PROG_TYPE_CGROUP_SOCK, ATTACH_INET_SOCK_CREATE)
}

function target(directory: number, cgroup: string): Target {
  return { target: directory, attachType: ATTACH_INET_SOCK_CREATE, name: cgroup }
}

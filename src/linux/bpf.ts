/**
 * The smallest eBPF: a program on a cgroup that marks each socket its processes create, before the first packet, so that
 * the route look-up at connect() already goes by the mark. bpf(2) by number, as libc has no wrapper.
 *
 *   r2 = mark; *(u32 *)(r1 + 16) = r2; r0 = 1; exit        r1: struct bpf_sock, mark at 16; r0 = 1: allowed
 *
 * The kernel holds an attached program as long as its cgroup lives: closing the descriptor changes nothing.
 */
import { closeSync, openSync } from 'node:fs'
import { Arena } from './arena.ts'
import { check, closeFd, declare, KernelError } from './libc.ts'

const syscall = declare<(number: number, command: number, attributes: number, size: number) => number>(
  'long syscall(long number, long command, size_t attributes, long size)',
)
const SYS_BPF = process.arch === 'arm64' ? 280 : 321

export const BPF_PROG_LOAD = 5
export const BPF_PROG_ATTACH = 8
export const BPF_PROG_DETACH = 9
const BPF_PROG_GET_FD_BY_ID = 13
const BPF_OBJ_GET_INFO_BY_FD = 15
export const BPF_PROG_QUERY = 16
const PROG_TYPE_CGROUP_SOCK = 9
const ATTACH_INET_SOCK_CREATE = 2
/** Programs of others on the cgroup and above it run too. */
const ALLOW_MULTI = 2
/** What our programs are called: 15 bytes at most. */
const NAME = 'godwit_mark'
const EPERM = 1

export const NEEDS_BPF = { hint: 'run as root; in a container, grant CAP_BPF and CAP_NET_ADMIN' }

/** bpf(2) with attributes at this address; negative when it failed. */
export function bpf(command: number, attributes: number, size: number): number {
  return syscall(SYS_BPF, command, attributes, size)
}

/**
 * From now on sockets made in this cgroup (its directory) start with `mark`; 0 ends it. Replaces the programs that this
 * or an earlier process left on the directory without a gap; those of others stay.
 */
export function setCgroupMark(cgroup: string, mark: number): void {
  const directory = openSync(cgroup, 'r')
  try {
    const old = query(directory, cgroup)
    if (mark !== 0) withProgram(load(mark), (program) => attach(directory, program, cgroup))
    for (const id of old) {
      withProgram(programById(id), (program) => {
        if (nameOf(program) === NAME) detach(directory, program, cgroup)
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
    return query(directory, cgroup).length
  } finally {
    closeSync(directory)
  }
}

export function withProgram(program: number, work: (program: number) => void): void {
  try {
    work(program)
  } finally {
    closeFd(program)
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
  const memory = attributes()
  const { view, base } = memory
  const code = CODE
  // Instruction: opcode u8, registers u8 (source high, destination low), offset s16, immediate s32.
  const instruction = (n: number, opcode: number, registers: number, offset: number, immediate: number) => {
    view.setUint8(code + 8 * n, opcode)
    view.setUint8(code + 8 * n + 1, registers)
    view.setInt16(code + 8 * n + 2, offset, true)
    view.setUint32(code + 8 * n + 4, immediate >>> 0, true)
  }
  instruction(0, 0xb4, 0x02, 0, mark) // w2 = mark: 32 bits, not sign-extended
  instruction(1, 0x63, 0x21, 16, 0) // *(u32 *)(r1 + 16) = r2
  instruction(2, 0xb7, 0x00, 0, 1) // r0 = 1
  instruction(3, 0x95, 0, 0, 0) // exit
  memory.u8.set(new TextEncoder().encode('GPL\0'), LICENSE)
  // type u32, instruction count u32, instructions u64, license u64, log level u32, log size u32, log u64,
  // kernel version u32, flags u32, name 16, interface u32, expected attach type u32
  view.setUint32(0, PROG_TYPE_CGROUP_SOCK, true)
  view.setUint32(4, 4, true)
  memory.setUint64(8, base + code)
  memory.setUint64(16, base + LICENSE)
  memory.u8.set(new TextEncoder().encode(NAME), 48)
  view.setUint32(68, ATTACH_INET_SOCK_CREATE, true)
  return check(bpf(BPF_PROG_LOAD, base, 72), 'load an eBPF program', NEEDS_BPF)
}

function attach(directory: number, program: number, cgroup: string): void {
  const { base } = attachment(directory, program, ALLOW_MULTI)
  check(bpf(BPF_PROG_ATTACH, base, 16), `attach a program to ${cgroup}`, NEEDS_BPF)
}

function detach(directory: number, program: number, cgroup: string): void {
  const { base } = attachment(directory, program, 0)
  check(bpf(BPF_PROG_DETACH, base, 16), `detach a program from ${cgroup}`, NEEDS_BPF)
}

/** target u32, program u32, attach type u32, flags u32 */
function attachment(directory: number, program: number, flags: number): Arena {
  const memory = attributes()
  memory.view.setUint32(0, directory, true)
  memory.view.setUint32(4, program, true)
  memory.view.setUint32(8, ATTACH_INET_SOCK_CREATE, true)
  memory.view.setUint32(12, flags, true)
  return memory
}

/** Ids of the programs attached to the directory itself (not those inherited). */
function query(directory: number, cgroup: string): number[] {
  const memory = attributes()
  const { view } = memory
  // target u32, attach type u32, query flags u32, attach flags u32, ids u64, count u32
  view.setUint32(0, directory, true)
  view.setUint32(4, ATTACH_INET_SOCK_CREATE, true)
  memory.setUint64(16, memory.base + CODE)
  view.setUint32(24, MAX_IDS, true)
  check(bpf(BPF_PROG_QUERY, memory.base, 32), `list the programs of ${cgroup}`, NEEDS_BPF)
  return Array.from({ length: view.getUint32(24, true) }, (_, i) => view.getUint32(CODE + 4 * i, true))
}

/** A descriptor of a loaded program. */
export function programById(id: number): number {
  const memory = attributes()
  memory.view.setUint32(0, id, true)
  return check(bpf(BPF_PROG_GET_FD_BY_ID, memory.base, 16), `open program ${id}`, NEEDS_BPF)
}

/** From struct bpf_prog_info, where the name stands at 64. */
export function nameOf(program: number): string {
  const memory = attributes()
  const info = CODE
  memory.u8.fill(0, info, info + 80)
  // descriptor u32, length u32, info u64
  memory.view.setUint32(0, program, true)
  memory.view.setUint32(4, 80, true)
  memory.setUint64(8, memory.base + info)
  check(bpf(BPF_OBJ_GET_INFO_BY_FD, memory.base, 16), 'read about a program', NEEDS_BPF)
  const name = memory.u8.subarray(info + 64, info + 80)
  return new TextDecoder().decode(name.subarray(0, name.indexOf(0)))
}

const ATTRIBUTES_SIZE = 128
const CODE = ATTRIBUTES_SIZE
const MAX_IDS = 64
const LICENSE = CODE + 4 * MAX_IDS
let memory: Arena | undefined

/** The memory all calls share, zeroed: attributes, then code or ids, then the license. */
function attributes(): Arena {
  memory ??= new Arena(4096)
  memory.u8.fill(0, 0, LICENSE + 8)
  return memory
}

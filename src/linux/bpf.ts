/**
 * bpf(2), by number as libc has no wrapper: loading, attaching and listing eBPF programs. All calls share one memory for
 * attributes and what they point to, so it is for the main thread.
 */
import { ENOENT } from '../core/errno.ts'
import { Arena } from './arena.ts'
import { check, closeFd, declare, KernelError } from './libc.ts'

const syscall = declare<(number: number, command: number, attributes: number, size: number) => number>(
  'long syscall(long number, long command, size_t attributes, long size)',
)
const SYS_BPF = process.arch === 'arm64' ? 280 : 321

const BPF_PROG_LOAD = 5
const BPF_PROG_ATTACH = 8
const BPF_PROG_DETACH = 9
const BPF_PROG_GET_FD_BY_ID = 13
const BPF_OBJ_GET_INFO_BY_FD = 15
const BPF_PROG_QUERY = 16
const NAME_AT = 64
const INFO_LENGTH = 80
const MAX_IDS = 64
const LOG_LENGTH = 65_536
const ATTRIBUTES = 128
const MEMORY = 1 << 17

export const NEEDS_BPF = { hint: 'run as root; in a container, grant CAP_BPF and CAP_NET_ADMIN' }

let arena: Arena | undefined

/** Attributes of a call, zeroed, to be filled in; and where in memory the copies of `extra` lie, as addresses. */
export interface Attributes {
  readonly view: DataView
  /** Writes an address. */
  setUint64(at: number, value: number): void
  /** Writes an object name for the kernel, at most 15 bytes. */
  setName(at: number, name: string): void
  readonly extra: readonly number[]
  /** Bytes at an address of `extra`. */
  at(address: number, length: number): Uint8Array
}

export function attributes(...extra: readonly Uint8Array[]): Attributes {
  arena ??= new Arena(MEMORY)
  const memory = arena
  memory.u8.fill(0, 0, ATTRIBUTES)
  let end = ATTRIBUTES
  const addresses = extra.map((bytes) => {
    const start = end
    memory.u8.set(bytes, start)
    end += (bytes.length + 7) & ~7
    return memory.base + start
  })
  return {
    view: memory.view,
    setUint64: (at, value) => memory.setUint64(at, value),
    setName: (at, name) => memory.u8.set(new TextEncoder().encode(name), at),
    extra: addresses,
    at: (address, length) => memory.u8.subarray(address - memory.base, address - memory.base + length),
  }
}

/** Room for `extra` beside the attributes, bytes. */
export const EXTRA_ROOM = MEMORY - ATTRIBUTES

/** The call, with the attributes that were filled in last; negative when it failed. */
export function bpf(command: number, size: number): number {
  return syscall(SYS_BPF, command, arena!.base, size)
}

/**
 * Returns the program's descriptor; a refusal carries the last lines of the verifier. `attachType`: where it will run.
 */
export function loadProgram(name: string, code: Uint8Array, type: number, attachType: number): number {
  const call = attributes(code, new TextEncoder().encode('GPL\0'), new Uint8Array(LOG_LENGTH))
  const [codeAt, licenseAt, logAt] = call.extra
  // type u32, instruction count u32, instructions u64, license u64, log level u32, log size u32, log u64,
  // kernel version u32, flags u32, name 16, interface u32, expected attach type u32
  call.view.setUint32(0, type, true)
  call.view.setUint32(4, code.length / 8, true)
  call.setUint64(8, codeAt!)
  call.setUint64(16, licenseAt!)
  call.setName(48, name)
  call.view.setUint32(68, attachType, true)
  const fd = bpf(BPF_PROG_LOAD, 72)
  if (fd >= 0) return fd
  // Once more, for what the verifier has against it.
  call.view.setUint32(24, 1, true)
  call.view.setUint32(28, LOG_LENGTH, true)
  call.setUint64(32, logAt!)
  const refused = bpf(BPF_PROG_LOAD, 72)
  const log = call.at(logAt!, LOG_LENGTH)
  const lines = new TextDecoder()
    .decode(log.subarray(0, log.indexOf(0)))
    .trim()
    .split('\n')
  const said = lines.slice(-3).join('; ')
  return check(refused, `load the eBPF program ${name}${said === '' ? '' : ` (${said})`}`, NEEDS_BPF)
}

/** Where programs are attached: a cgroup's directory or a device, and what `op` calls it. */
export interface Target {
  /** Descriptor or index. */
  readonly target: number
  readonly attachType: number
  readonly name: string
}

export function attachProgram(where: Target, program: number, flags = 0): void {
  fillTarget(where, program, flags)
  check(bpf(BPF_PROG_ATTACH, 32), `attach an eBPF program to ${where.name}`, NEEDS_BPF)
}

export function detachProgram(where: Target, program: number): void {
  fillTarget(where, program, 0)
  check(bpf(BPF_PROG_DETACH, 32), `detach an eBPF program from ${where.name}`, NEEDS_BPF)
}

/** target u32, program u32, attach type u32, flags u32 */
function fillTarget({ target, attachType }: Target, program: number, flags: number): void {
  const { view } = attributes()
  view.setUint32(0, target, true)
  view.setUint32(4, program, true)
  view.setUint32(8, attachType, true)
  view.setUint32(12, flags, true)
}

/** Ids of the programs attached there itself (not those inherited). */
export function attachedPrograms({ target, attachType, name }: Target): number[] {
  const call = attributes(new Uint8Array(4 * MAX_IDS))
  const [ids] = call.extra
  // target u32, attach type u32, query flags u32, attach flags u32, ids u64, count u32
  call.view.setUint32(0, target, true)
  call.view.setUint32(4, attachType, true)
  call.setUint64(16, ids!)
  call.view.setUint32(24, MAX_IDS, true)
  check(bpf(BPF_PROG_QUERY, 64), `list the eBPF programs of ${name}`, NEEDS_BPF)
  const list = call.at(ids!, 4 * MAX_IDS)
  const view = new DataView(list.buffer, list.byteOffset, list.length)
  return Array.from({ length: call.view.getUint32(24, true) }, (_, i) => view.getUint32(4 * i, true))
}

/** Closes the program's descriptor afterwards; it stays where it is attached. */
export function withProgram(program: number, work: (program: number) => void): void {
  try {
    work(program)
  } finally {
    closeFd(program)
  }
}

/** What others have taken away meanwhile is not there: undefined. */
export function ignoreMissing<T>(action: () => T): T | undefined {
  try {
    return action()
  } catch (error) {
    if (!(error instanceof KernelError) || error.errno !== ENOENT) throw error
    return undefined
  }
}

/** A descriptor of a loaded program. */
export function programById(id: number): number {
  attributes().view.setUint32(0, id, true)
  return check(bpf(BPF_PROG_GET_FD_BY_ID, 16), `open program ${id}`, NEEDS_BPF)
}

export function programName(id: number): string {
  const program = programById(id)
  try {
    return nameOf(program)
  } finally {
    closeFd(program)
  }
}

/** From struct bpf_prog_info. */
export function nameOf(program: number): string {
  const call = attributes(new Uint8Array(INFO_LENGTH))
  const [info] = call.extra
  // descriptor u32, length u32, info u64
  call.view.setUint32(0, program, true)
  call.view.setUint32(4, INFO_LENGTH, true)
  call.setUint64(8, info!)
  check(bpf(BPF_OBJ_GET_INFO_BY_FD, 16), 'read about a program', NEEDS_BPF)
  const name = call.at(info!, INFO_LENGTH).subarray(NAME_AT)
  return new TextDecoder().decode(name.subarray(0, name.indexOf(0)))
}

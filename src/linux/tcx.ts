/**
 * eBPF programs on network devices (tcx, Linux 6.6 or newer) and the hash maps that they read. A program stays on its device
 * after its descriptor is closed, and the maps with it, until it is detached or the device goes.
 */
import { Arena } from './arena.ts'
import {
  BPF_PROG_ATTACH,
  BPF_PROG_DETACH,
  BPF_PROG_LOAD,
  BPF_PROG_QUERY,
  bpf,
  NEEDS_BPF,
  nameOf,
  programById,
  withProgram,
} from './bpf.ts'
import { check, closeFd, KernelError } from './libc.ts'

const BPF_MAP_CREATE = 0
const BPF_MAP_UPDATE_ELEM = 2
const BPF_MAP_DELETE_ELEM = 3
const BPF_MAP_UPDATE_BATCH = 26
const MAP_TYPE_HASH = 1
const NO_PREALLOC = 1
const PROG_TYPE_SCHED_CLS = 3
const ENOENT = 2
const LOOPBACK = 1

/** Where on a device a program runs. */
export const Tcx = { INGRESS: 46, EGRESS: 47 } as const
export type Tcx = (typeof Tcx)[keyof typeof Tcx]

/** What a program on a device may answer. */
export const Verdict = { NEXT: -1, DROP: 2 } as const

export interface BpfMap {
  readonly fd: number
  readonly keyLength: number
  readonly valueLength: number
}

const ATTRIBUTES = 128
const MOST_IDS = 64
const LOG_LENGTH = 65_536
const memory = new Arena(1 << 17)

/** Zeroed attributes and after them copies of `extra`, whose addresses come back. */
function attributes(...extra: readonly Uint8Array[]): number[] {
  memory.u8.fill(0, 0, ATTRIBUTES)
  let end = ATTRIBUTES
  return extra.map((bytes) => {
    const start = end
    memory.u8.set(bytes, start)
    end += (bytes.length + 7) & ~7
    return memory.base + start
  })
}

/** Why there can be no programs on devices here; undefined when there can. */
export function tcxObstacle(): string | undefined {
  try {
    tcxPrograms(LOOPBACK, Tcx.INGRESS)
    closeFd(createHash('godwit_probe', 4, 4, 1).fd)
    return undefined
  } catch (error) {
    if (!(error instanceof KernelError)) throw error
    return error.message
  }
}

/** An empty map; elements take memory as they come. */
export function createHash(name: string, keyLength: number, valueLength: number, most: number): BpfMap {
  attributes()
  // type, key size, value size, entries, flags, inner map, node: u32 each; then the name
  for (const [i, value] of [MAP_TYPE_HASH, keyLength, valueLength, most, NO_PREALLOC].entries())
    memory.view.setUint32(4 * i, value, true)
  memory.u8.set(new TextEncoder().encode(name), 28)
  const fd = check(bpf(BPF_MAP_CREATE, memory.base, 72), `make the eBPF map ${name}`, NEEDS_BPF)
  return { fd, keyLength, valueLength }
}

/** Adds an element, or replaces its value. */
export function putElement(map: BpfMap, key: Uint8Array, value: Uint8Array): void {
  if (key.length !== map.keyLength || value.length !== map.valueLength) throw new RangeError('element')
  const [keyAt, valueAt] = attributes(key, value)
  memory.view.setUint32(0, map.fd, true)
  memory.setUint64(8, keyAt!)
  memory.setUint64(16, valueAt!)
  check(bpf(BPF_MAP_UPDATE_ELEM, memory.base, 32), 'write into an eBPF map', NEEDS_BPF)
}

/** Nothing happens where there is none. */
export function removeElement(map: BpfMap, key: Uint8Array): void {
  const [keyAt] = attributes(key)
  memory.view.setUint32(0, map.fd, true)
  memory.setUint64(8, keyAt!)
  ignoreMissing(() => check(bpf(BPF_MAP_DELETE_ELEM, memory.base, 32), 'remove from an eBPF map'))
}

/** Adds many elements, or replaces their values: keys and values each one after the other. */
export function putElements(map: BpfMap, keys: Uint8Array, values: Uint8Array): void {
  const { keyLength, valueLength } = map
  const most = Math.floor((memory.size - ATTRIBUTES - 16) / (keyLength + valueLength))
  for (let at = 0; at * keyLength < keys.length; at += most) {
    const some = keys.subarray(at * keyLength, (at + most) * keyLength)
    const [keysAt, valuesAt] = attributes(some, values.subarray(at * valueLength, (at + most) * valueLength))
    // where to begin u64, where it ended u64, keys u64, values u64, count u32, map u32, flags u64 twice
    memory.setUint64(16, keysAt!)
    memory.setUint64(24, valuesAt!)
    memory.view.setUint32(32, some.length / keyLength, true)
    memory.view.setUint32(36, map.fd, true)
    check(bpf(BPF_MAP_UPDATE_BATCH, memory.base, 56), 'write into an eBPF map', NEEDS_BPF)
  }
}

/** The descriptor of a program for devices; a refusal carries the last lines of the verifier. */
export function loadProgram(name: string, code: Uint8Array, where: Tcx): number {
  const [codeAt, licenseAt, logAt] = attributes(
    code,
    new TextEncoder().encode('GPL\0'),
    new Uint8Array(LOG_LENGTH),
  )
  const { view } = memory
  // type u32, instruction count u32, instructions u64, license u64, log level u32, log size u32, log u64,
  // kernel version u32, flags u32, name 16, interface u32, expected attach type u32
  view.setUint32(0, PROG_TYPE_SCHED_CLS, true)
  view.setUint32(4, code.length / 8, true)
  memory.setUint64(8, codeAt!)
  memory.setUint64(16, licenseAt!)
  memory.u8.set(new TextEncoder().encode(name), 48)
  view.setUint32(68, where, true)
  const fd = bpf(BPF_PROG_LOAD, memory.base, 72)
  if (fd >= 0) return fd
  view.setUint32(24, 1, true)
  view.setUint32(28, LOG_LENGTH, true)
  memory.setUint64(32, logAt!)
  const refused = bpf(BPF_PROG_LOAD, memory.base, 72)
  const log = memory.u8.subarray(logAt! - memory.base, logAt! - memory.base + LOG_LENGTH)
  const lines = new TextDecoder()
    .decode(log.subarray(0, log.indexOf(0)))
    .trim()
    .split('\n')
  return check(refused, `load the eBPF program ${name} (${lines.slice(-3).join('; ')})`, NEEDS_BPF)
}

/** Puts a program on a device of this thread's network namespace, after those that are there. */
export function attachTcx(index: number, where: Tcx, program: number): void {
  target(index, where, program)
  check(bpf(BPF_PROG_ATTACH, memory.base, 32), 'attach an eBPF program to a device', NEEDS_BPF)
}

/** Takes the programs of this name off a device, or those among `ids`, whoever put them there. */
export function detachTcx(index: number, where: Tcx, name: string, ids = tcxPrograms(index, where)): void {
  for (const id of ids)
    ignoreMissing(() =>
      withProgram(programById(id), (program) => {
        if (nameOf(program) !== name) return
        target(index, where, program)
        check(bpf(BPF_PROG_DETACH, memory.base, 32), 'detach an eBPF program')
      }),
    )
}

/** Ids of the programs on a device of this thread's network namespace. */
export function tcxPrograms(index: number, where: Tcx): number[] {
  const [ids] = attributes(new Uint8Array(4 * MOST_IDS))
  const { view } = memory
  // device u32, attach type u32, query flags u32, attach flags u32, ids u64, count u32
  view.setUint32(0, index, true)
  view.setUint32(4, where, true)
  memory.setUint64(16, ids!)
  view.setUint32(24, MOST_IDS, true)
  check(bpf(BPF_PROG_QUERY, memory.base, 64), 'list the eBPF programs of a device', NEEDS_BPF)
  return Array.from({ length: view.getUint32(24, true) }, (_, i) => view.getUint32(ATTRIBUTES + 4 * i, true))
}

/** device u32, program u32, attach type u32 */
function target(index: number, where: Tcx, program: number): void {
  attributes()
  memory.view.setUint32(0, index, true)
  memory.view.setUint32(4, program, true)
  memory.view.setUint32(8, where, true)
}

function ignoreMissing(action: () => void): void {
  try {
    action()
  } catch (error) {
    if (!(error instanceof KernelError) || error.errno !== ENOENT) throw error
  }
}

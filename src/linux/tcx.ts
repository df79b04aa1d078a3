/**
 * eBPF programs on network devices (tcx, Linux 6.6 or newer) and the hash maps that they read. A program stays on its device
 * after its descriptor is closed, and the maps with it, until it is detached or the device goes.
 */
import {
  attachedPrograms,
  attachProgram,
  attributes,
  bpf,
  detachProgram,
  EXTRA_ROOM,
  ignoreMissing,
  loadProgram as load,
  NEEDS_BPF,
  nameOf,
  programById,
  type Target,
  withProgram,
} from './bpf.ts'
import { check, closeFd, KernelError } from './libc.ts'

const BPF_MAP_CREATE = 0
const BPF_MAP_LOOKUP_ELEM = 1
const BPF_MAP_UPDATE_ELEM = 2
const BPF_MAP_DELETE_ELEM = 3
const BPF_PROG_TEST_RUN = 10
const BPF_MAP_LOOKUP_AND_DELETE_ELEM = 21
const BPF_MAP_UPDATE_BATCH = 26
const BPF_LINK_CREATE = 28
const MAP_TYPE_HASH = 1
const NO_PREALLOC = 1
const BEFORE = 1 << 3
const PROG_TYPE_SCHED_CLS = 3
const LOOPBACK = 1

/** Where on a device a program runs. */
export const Tcx = { INGRESS: 46, EGRESS: 47 } as const
export type Tcx = (typeof Tcx)[keyof typeof Tcx]

/** Return values of a program on a device. */
export const TcxAction = { NEXT: -1, DROP: 2 } as const

export interface BpfMap {
  readonly fd: number
  readonly keyLength: number
  readonly valueLength: number
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

/** An empty map; memory is allocated per element. */
export function createHash(name: string, keyLength: number, valueLength: number, most: number): BpfMap {
  const call = attributes()
  // type, key size, value size, entries, flags, inner map, node: u32 each; then the name
  for (const [i, value] of [MAP_TYPE_HASH, keyLength, valueLength, most, NO_PREALLOC].entries())
    call.view.setUint32(4 * i, value, true)
  call.setName(28, name)
  const fd = check(bpf(BPF_MAP_CREATE, 72), `make the eBPF map ${name}`, NEEDS_BPF)
  return { fd, keyLength, valueLength }
}

/** Adds an element, or replaces its value. */
export function putElement(map: BpfMap, key: Uint8Array, value: Uint8Array): void {
  if (key.length !== map.keyLength || value.length !== map.valueLength) throw new RangeError('element')
  const call = attributes(key, value)
  call.view.setUint32(0, map.fd, true)
  call.setUint64(8, call.extra[0]!)
  call.setUint64(16, call.extra[1]!)
  check(bpf(BPF_MAP_UPDATE_ELEM, 32), 'write into an eBPF map', NEEDS_BPF)
}

/** Nothing happens where there is none. */
export function removeElement(map: BpfMap, key: Uint8Array): void {
  const call = attributes(key)
  call.view.setUint32(0, map.fd, true)
  call.setUint64(8, call.extra[0]!)
  ignoreMissing(() => check(bpf(BPF_MAP_DELETE_ELEM, 32), 'remove from an eBPF map'))
}

/** A copy of the value; undefined when there is none. */
export function readElement(map: BpfMap, key: Uint8Array): Uint8Array | undefined {
  return lookUp(BPF_MAP_LOOKUP_ELEM, map, key)
}

/** Removes an element and returns its last value (Linux 5.14); undefined when there is none. */
export function takeElement(map: BpfMap, key: Uint8Array): Uint8Array | undefined {
  return lookUp(BPF_MAP_LOOKUP_AND_DELETE_ELEM, map, key)
}

function lookUp(command: number, map: BpfMap, key: Uint8Array): Uint8Array | undefined {
  const call = attributes(key, new Uint8Array(map.valueLength))
  const at = call.extra[1]!
  call.view.setUint32(0, map.fd, true)
  call.setUint64(8, call.extra[0]!)
  call.setUint64(16, at)
  const done = ignoreMissing(() => check(bpf(command, 32), 'read an eBPF map', NEEDS_BPF))
  return done === undefined ? undefined : call.at(at, map.valueLength).slice()
}

/** Adds many elements, or replaces their values: keys and values each one after the other. */
export function putElements(map: BpfMap, keys: Uint8Array, values: Uint8Array): void {
  const { keyLength, valueLength } = map
  const most = Math.floor((EXTRA_ROOM - 16) / (keyLength + valueLength))
  for (let at = 0; at * keyLength < keys.length; at += most) {
    const some = keys.subarray(at * keyLength, (at + most) * keyLength)
    const call = attributes(some, values.subarray(at * valueLength, (at + most) * valueLength))
    // where to begin u64, where it ended u64, keys u64, values u64, count u32, map u32, flags u64 twice
    call.setUint64(16, call.extra[0]!)
    call.setUint64(24, call.extra[1]!)
    call.view.setUint32(32, some.length / keyLength, true)
    call.view.setUint32(36, map.fd, true)
    check(bpf(BPF_MAP_UPDATE_BATCH, 56), 'write into an eBPF map', NEEDS_BPF)
  }
}

/** The descriptor of a program for devices; a refusal carries the last lines of the verifier. */
export function loadProgram(name: string, code: Uint8Array, where: Tcx): number {
  return load(name, code, PROG_TYPE_SCHED_CLS, where)
}

/** Runs a program once on a frame in this thread's network namespace, attached or not; what it wrote is in the frame then. */
export function testRun(program: number, frame: Uint8Array): number {
  const call = attributes(frame)
  const at = call.extra[0]!
  // program u32, result u32, length in u32, length out u32, data in u64, data out u64
  call.view.setUint32(0, program, true)
  call.view.setUint32(8, frame.length, true)
  call.view.setUint32(12, frame.length, true)
  call.setUint64(16, at)
  call.setUint64(24, at)
  check(bpf(BPF_PROG_TEST_RUN, 80), 'run an eBPF program', NEEDS_BPF)
  frame.set(call.at(at, frame.length))
  return call.view.getUint32(4, true)
}

/** Puts a program on a device of this thread's network namespace, after those that are there, or before them. */
export function attachTcx(index: number, where: Tcx, program: number, before = false): void {
  attachProgram(device(index, where), program, before ? BEFORE : 0)
}

/**
 * Puts a program on a device for as long as the returned descriptor is open: it is gone with this process, however that
 * ends.
 */
export function linkTcx(index: number, where: Tcx, program: number): number {
  const { view } = attributes()
  // program u32, device u32, attach type u32, flags u32, relative to u32, padding, revision u64
  for (const [i, value] of [program, index, where].entries()) view.setUint32(4 * i, value, true)
  return check(bpf(BPF_LINK_CREATE, 32), `attach an eBPF program to device ${index}`, NEEDS_BPF)
}

/** Detaches the programs of this name from a device, or those among `ids`, whoever attached them. */
export function detachTcx(index: number, where: Tcx, name: string, ids = tcxPrograms(index, where)): void {
  for (const id of ids)
    ignoreMissing(() =>
      withProgram(programById(id), (program) => {
        if (nameOf(program) === name) detachProgram(device(index, where), program)
      }),
    )
}

/** Ids of the programs on a device of this thread's network namespace. */
export function tcxPrograms(index: number, where: Tcx): number[] {
  return attachedPrograms(device(index, where))
}

function device(index: number, where: Tcx): Target {
  return { target: index, attachType: where, name: `device ${index}` }
}

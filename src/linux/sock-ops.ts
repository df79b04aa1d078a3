/**
 * eBPF programs that the kernel asks about TCP connections (BPF_PROG_TYPE_SOCK_OPS). One stays on its control group after its
 * descriptor is closed, and its maps with it, until it is detached; those of others run too.
 */
import { closeSync, openSync } from 'node:fs'
import {
  attachedPrograms,
  attachProgram,
  attributes,
  bpf,
  detachProgram,
  ignoreMissing,
  loadProgram,
  NEEDS_BPF,
  nameOf,
  programById,
  programName,
  type Target,
  withProgram,
} from './bpf.ts'
import { check, closeFd, declare } from './libc.ts'

const socket = declare<(family: number, type: number, protocol: number) => number>(
  'int socket(int family, int type, int protocol)',
)
const getsockopt = declare<
  (fd: number, level: number, option: number, value: Uint8Array, length: Uint8Array) => number
>('int getsockopt(int fd, int level, int option, void *value, void *length)')

const PROG_TYPE_SOCK_OPS = 13
const ATTACH_SOCK_OPS = 3
const ALLOW_MULTI = 2
const AF_UNIX = 1
const SOCK_DGRAM = 2
const SOL_SOCKET = 1
const SO_NETNS_COOKIE = 71

export function loadSockOps(name: string, code: Uint8Array): number {
  return loadProgram(name, code, PROG_TYPE_SOCK_OPS, ATTACH_SOCK_OPS)
}

/** For all groups below this directory too. */
export function attachSockOps(cgroup: string, program: number): void {
  at(cgroup, (where) => attachProgram(where, program, ALLOW_MULTI))
}

/** Descriptors of the programs of this name there; the caller closes them. */
export function findSockOps(cgroup: string, name: string): number[] {
  return at(cgroup, (where) =>
    attachedPrograms(where).flatMap((id) => {
      const program = ignoreMissing(() => programById(id))
      if (program === undefined) return []
      if (nameOf(program) === name) return [program]
      closeFd(program)
      return []
    }),
  )
}

/** Names of all programs there. */
export function sockOpsPrograms(cgroup: string): string[] {
  return at(cgroup, (where) =>
    attachedPrograms(where).flatMap((id) => ignoreMissing(() => programName(id)) ?? []),
  )
}

export function detachSockOps(cgroup: string, name: string): void {
  at(cgroup, (where) => {
    for (const program of findSockOps(cgroup, name))
      withProgram(program, () => ignoreMissing(() => detachProgram(where, program)))
  })
}

/** Identifies the network namespace of this thread, as programs see it (Linux 5.14). */
export function namespaceCookie(): bigint {
  const fd = check(socket(AF_UNIX, SOCK_DGRAM, 0), 'open a socket')
  try {
    const value = new Uint8Array(8)
    const length = Uint8Array.of(8, 0, 0, 0)
    check(getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, value, length), 'ask for the cookie of the namespace')
    return new DataView(value.buffer).getBigUint64(0, true)
  } finally {
    closeFd(fd)
  }
}

const BPF_MAP_GET_FD_BY_ID = 14
const BPF_OBJ_GET_INFO_BY_FD = 15
const INFO_LENGTH = 80
const MAPS = 8

/** A map that a program uses. */
export interface ProgramMap {
  readonly fd: number
  readonly keyLength: number
  readonly valueLength: number
  readonly elements: number
}

/** The maps of a program; the caller closes them. */
export function mapsOf(program: number): ProgramMap[] {
  const call = attributes(new Uint8Array(INFO_LENGTH), new Uint8Array(4 * MAPS))
  const [info, ids] = call.extra
  const bytes = call.at(info!, INFO_LENGTH)
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  view.setUint32(52, MAPS, true)
  view.setBigUint64(56, BigInt(ids!), true)
  call.view.setUint32(0, program, true)
  call.view.setUint32(4, INFO_LENGTH, true)
  call.setUint64(8, info!)
  check(bpf(BPF_OBJ_GET_INFO_BY_FD, 16), 'read about a program', NEEDS_BPF)
  const list = call.at(ids!, 4 * MAPS).slice()
  const count = Math.min(MAPS, view.getUint32(52, true))
  return Array.from({ length: count }, (_, i) => mapById(new DataView(list.buffer).getUint32(4 * i, true)))
}

function mapById(id: number): ProgramMap {
  attributes().view.setUint32(0, id, true)
  const fd = check(bpf(BPF_MAP_GET_FD_BY_ID, 16), `open map ${id}`, NEEDS_BPF)
  const call = attributes(new Uint8Array(INFO_LENGTH))
  const [info] = call.extra
  call.view.setUint32(0, fd, true)
  call.view.setUint32(4, INFO_LENGTH, true)
  call.setUint64(8, info!)
  check(bpf(BPF_OBJ_GET_INFO_BY_FD, 16), 'read about a map', NEEDS_BPF)
  const bytes = call.at(info!, INFO_LENGTH)
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  return {
    fd,
    keyLength: view.getUint32(8, true),
    valueLength: view.getUint32(12, true),
    elements: view.getUint32(16, true),
  }
}

function at<T>(cgroup: string, work: (where: Target) => T): T {
  const directory = openSync(cgroup, 'r')
  try {
    return work({ target: directory, attachType: ATTACH_SOCK_OPS, name: cgroup })
  } finally {
    closeSync(directory)
  }
}

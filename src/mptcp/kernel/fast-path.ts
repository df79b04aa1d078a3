/** The fast path in the kernel: programs, maps, and a slot for each connection that it takes (layout.ts). */
import { createHash as digest } from 'node:crypto'
import { cgroupMount } from '../../linux/cgroup.ts'
import type { Ledger } from '../../linux/ledger.ts'
import { closeFd, declare, KernelError } from '../../linux/libc.ts'
import { namespaceId } from '../../linux/netns.ts'
import { SharedArray } from '../../linux/shared-array.ts'
import {
  attachSockOps,
  detachSockOps,
  findSockOps,
  loadSockOps,
  mapsOf,
  namespaceCookie,
} from '../../linux/sock-ops.ts'
import {
  attachTcx,
  type BpfMap,
  createHash,
  detachTcx,
  loadProgram,
  putElement,
  readElement,
  removeElement,
  Tcx,
} from '../../linux/tcx.ts'
import type { Connection } from '../machine/connection.ts'
import type { FastNumbers, FastPath, FastSlot } from '../machine/fast.ts'
import { type Tuple, tupleKey } from '../machine/segment.ts'
import type { Run } from '../tables.ts'
import {
  ARMED_AT,
  IN,
  NO_SLOT,
  OUT,
  OWNER,
  RING,
  RING_AT,
  SLOT,
  SLOT_AT,
  SLOTS,
  TUPLE,
  TUPLE_VALUE,
  USER,
} from './layout.ts'
import { removeOrphans } from './orphans.ts'
import { inProgram, outProgram } from './programs.ts'

const usleep = declare<(microseconds: number) => number>('int usleep(unsigned int microseconds)')

/** Of the names of all its programs. */
const PREFIX = 'gwmptcp'
/** Changes with what lies in the maps. */
const FORMAT = 1
/** A slot is not given to another connection for so long (ms): a run of a program that found it before has ended then. */
const REST = 1000
/** Waiting for runs of a program (in steps of 50 µs); they take a few. */
const STEPS = 200
const STEP_US = 50
/** More mappings under way than this when it begins leave too little room for those to come. */
const MAPPINGS = RING / 2

export interface FastPathOptions {
  readonly ledger: Ledger
  /** False: only what a killed process left is taken back. */
  readonly enabled: boolean
  /** Connections whose sockets are prepared. */
  readonly connections: number
  /** Monotonic milliseconds. */
  readonly now: () => number
}

export class KernelFastPath implements FastPath {
  readonly mappings = MAPPINGS
  #enabled: boolean
  readonly #name: string
  readonly #cgroup: string
  readonly #now: () => number
  /** The machine's clock less the kernel's (ms). */
  readonly #clock: number
  readonly #tuples: BpfMap
  readonly #slots: SharedArray
  readonly #in: number
  readonly #out: number
  readonly #free: { readonly slot: number; readonly since: number }[] = []
  readonly #devices = new Map<number, string>()
  readonly #armed = new Set<string>()
  #old: { readonly tuples: BpfMap; readonly slots: SharedArray } | undefined

  /** Throws a KernelError where the kernel has none of it, or lets us have none. Nothing is attached before `attach`. */
  constructor({ ledger, enabled, connections, now }: FastPathOptions) {
    const cookie = namespaceCookie()
    this.#cgroup = cgroupOf()
    this.#name = nameIn(ledger, cookie)
    this.#enabled = enabled
    this.#now = now
    this.#clock = now() - Number(process.hrtime.bigint()) / 1e6
    this.#old = this.#findOld()
    this.#tuples = createHash('godwit_mptcp', TUPLE, TUPLE_VALUE, connections)
    this.#slots = SharedArray.create('godwit_mptcp', SLOT, SLOTS + 1)
    this.#slots.view.setUint32(SLOTS * SLOT + OWNER, namespaceId(), true)
    const maps = { tuples: this.#tuples.fd, slots: this.#slots.fd }
    this.#out = loadSockOps(this.#name, outProgram(maps, cookie))
    this.#in = loadProgram(this.#name, inProgram(maps), Tcx.INGRESS)
    for (let slot = 0; slot < SLOTS; slot++) this.#free.push({ slot, since: Number.NEGATIVE_INFINITY })
  }

  /** What a killed process left: its connections go on until `left` asks for them. */
  #findOld(): { readonly tuples: BpfMap; readonly slots: SharedArray } | undefined {
    const programs = findSockOps(this.#cgroup, this.#name)
    try {
      for (const program of programs) {
        const maps = mapsOf(program)
        const tuples = maps.find(({ keyLength }) => keyLength === TUPLE)
        const slots = maps.find(({ valueLength, elements }) => valueLength === SLOT && elements === SLOTS + 1)
        if (tuples?.valueLength === TUPLE_VALUE && slots !== undefined)
          return { tuples, slots: new SharedArray(slots.fd, SLOT, SLOTS + 1) }
        for (const { fd } of maps) closeFd(fd)
      }
      return undefined
    } finally {
      for (const program of programs) closeFd(program)
    }
  }

  left(tuple: Tuple): ReturnType<FastSlot['end']> | undefined {
    if (this.#old === undefined) return undefined
    const { tuples, slots } = this.#old
    const value = readElement(tuples, keyOf(tuple))
    if (value === undefined) return undefined
    const view = new DataView(value.buffer)
    if (view.getUint32(ARMED_AT, true) === 1) this.#armed.add(tupleKey(tuple))
    const slot = view.getUint32(SLOT_AT, true)
    if (slot >= SLOTS || slots.view.getUint32(slot * SLOT + USER.mode, true) !== 1) return undefined
    return new Slot(slots.view, slot * SLOT, this.#clock, () => {}).end()
  }

  /** The programs run from now on, in place of those that a killed process left. Says why not, if they do not. */
  attach(): string | undefined {
    this.#old?.slots.close()
    if (this.#old !== undefined) closeFd(this.#old.tuples.fd)
    this.#old = undefined
    try {
      detachSockOps(this.#cgroup, this.#name)
      removeOrphans(this.#cgroup, PREFIX, this.#name)
      if (this.#enabled) attachSockOps(this.#cgroup, this.#out)
      return undefined
    } catch (error) {
      // Another program is on the group and allows none beside it.
      if (!(error instanceof KernelError)) throw error
      this.#enabled = false
      return error.message
    }
  }

  /** The devices by which packets of connections arrive; those without an Ethernet header are left out. */
  setDevices(devices: readonly { readonly name: string; readonly index: number }[]): void {
    for (const index of this.#devices.keys())
      if (!devices.some((each) => each.index === index)) this.#devices.delete(index)
    for (const { name, index } of devices) {
      if (this.#devices.has(index)) continue
      try {
        detachTcx(index, Tcx.INGRESS, this.#name)
        if (!this.#enabled) continue
        attachTcx(index, Tcx.INGRESS, this.#in)
        this.#devices.set(index, name)
      } catch (error) {
        // It is gone already, or its driver has none of it: packets that come by it are queued.
        if (!(error instanceof KernelError)) throw error
      }
    }
  }

  /** Before the socket is established, so that it asks about its options. */
  watch(tuple: Tuple, on: boolean): void {
    const key = keyOf(tuple)
    if (!on) {
      this.#armed.delete(tupleKey(tuple))
      removeElement(this.#tuples, key)
      return
    }
    if (!this.#enabled) return
    try {
      putElement(this.#tuples, key, elementOf(NO_SLOT, this.#armed.has(tupleKey(tuple))))
    } catch (error) {
      // No room: it stays with user space.
      if (!(error instanceof KernelError)) throw error
    }
  }

  begin(connection: Connection): FastSlot | undefined {
    const { tuple, first } = connection
    const access = first?.access
    if (!this.#enabled || first === undefined || ![...this.#devices.values()].some((name) => name === access))
      return undefined
    const key = keyOf(tuple)
    const value = readElement(this.#tuples, key)
    if (value === undefined || new DataView(value.buffer).getUint32(ARMED_AT, true) !== 1) return undefined
    const free = this.#free[0]
    const now = this.#now()
    if (free === undefined || now - free.since < REST) return undefined
    this.#free.shift()
    const at = free.slot * SLOT
    fill(this.#slots.view, at, connection, (time) => this.#kernelTime(time))
    const slot = new Slot(this.#slots.view, at, this.#clock, () => {
      this.#free.push({ slot: free.slot, since: this.#now() })
    })
    slot.advance(connection.sndMax, connection.rcvMax, [])
    this.#slots.view.setUint32(at + USER.mode, 1, true)
    putElement(this.#tuples, key, elementOf(free.slot, true))
    return slot
  }

  #kernelTime(time: number): bigint {
    return Number.isFinite(time) ? BigInt(Math.max(0, Math.round((time - this.#clock) * 1e6))) : 0n
  }

  close(): void {
    detachSockOps(this.#cgroup, this.#name)
    for (const index of this.#devices.keys()) detachTcx(index, Tcx.INGRESS, this.#name)
    for (const fd of [this.#in, this.#out, this.#tuples.fd]) closeFd(fd)
    this.#slots.close()
  }
}

/** Removes what a killed process left; `devices`: of all devices of this namespace. */
export function removeFastPath(ledger: Ledger, devices: readonly number[]): void {
  const mount = cgroupMount()
  try {
    const name = nameIn(ledger, namespaceCookie())
    if (mount !== undefined) detachSockOps(mount, name)
    for (const index of devices) detachTcx(index, Tcx.INGRESS, name)
  } catch (error) {
    // Where there can be no programs, none were left.
    if (!(error instanceof KernelError)) throw error
  }
}

/** Why the kernel cannot take connections here; undefined when it can. Changes nothing. */
export function fastPathObstacle(): string | undefined {
  try {
    const mount = cgroupOf()
    findSockOps(mount, '')
    const none = { tuples: createHash('godwit_probe', TUPLE, TUPLE_VALUE, 1).fd, slots: -1 }
    try {
      const slots = SharedArray.create('godwit_probe', SLOT, 1)
      try {
        closeFd(loadSockOps('godwit_probe', outProgram({ ...none, slots: slots.fd }, namespaceCookie())))
        closeFd(loadProgram('godwit_probe', inProgram({ ...none, slots: slots.fd }), Tcx.INGRESS))
      } finally {
        slots.close()
      }
    } finally {
      closeFd(none.tuples)
    }
    return undefined
  } catch (error) {
    if (!(error instanceof KernelError)) throw error
    return error.message
  }
}

function cgroupOf(): string {
  const mount = cgroupMount()
  if (mount === undefined) throw new KernelError('find control groups of version 2', 2)
  return mount
}

/** At most 15 characters; others for every instance, network namespace and format. */
function nameIn({ instance, base }: Ledger, cookie: bigint): string {
  const whose = digest('sha256').update(`${instance} ${base} ${cookie} ${FORMAT}`).digest('hex')
  return PREFIX + whose.slice(0, 8)
}

function keyOf({ local, localPort, remote, remotePort }: Tuple): Uint8Array {
  const key = new Uint8Array(TUPLE)
  for (const [at, address] of [
    [0, local],
    [16, remote],
  ] as const) {
    if (address.length === 4) key.set([0xff, 0xff], at + 10)
    key.set(address, at + 16 - address.length)
  }
  const view = new DataView(key.buffer)
  view.setUint16(32, localPort)
  view.setUint16(34, remotePort)
  return key
}

function elementOf(slot: number, armed: boolean): Uint8Array {
  const value = new Uint8Array(TUPLE_VALUE)
  const view = new DataView(value.buffer)
  view.setUint32(SLOT_AT, slot, true)
  view.setUint32(ARMED_AT, armed ? 1 : 0, true)
  return value
}

function fill(view: DataView, at: number, connection: Connection, time: (ms: number) => bigint): void {
  const { first, localKey, remoteKey, localSyn, remoteSyn } = connection
  const u32 = (field: number, value: number) => view.setUint32(at + field, value, true)
  const u64 = (field: number, value: number | bigint) => view.setBigUint64(at + field, BigInt(value), true)
  const idsn = ({ idsnHigh, idsnLow }: { idsnHigh: number; idsnLow: number }) =>
    (BigInt(idsnHigh) << 32n) | BigInt(idsnLow)
  for (let i = 0; i < RING_AT; i += 4) u32(i, 0)
  // Places that nothing was written to yet are of data that are acknowledged.
  for (let i = 0; i < RING; i++) {
    u32(RING_AT + 8 * i, connection.dataUna >>> 0)
    u32(RING_AT + 8 * i + 4, 0)
  }
  u32(USER.tcpIsn, connection.tcpIsn)
  u32(USER.peerIsn, connection.peerIsn)
  u64(USER.localIdsn, idsn(localKey))
  u64(USER.remoteIdsn, idsn(remoteKey!))
  u32(USER.scale, remoteSyn.scale < 0 ? 0 : Math.max(0, localSyn.scale))
  u64(OUT.tan, connection.tan)
  u32(OUT.window, connection.window)
  u64(OUT.asked, time(first!.askedAt))
  u64(IN.heard, time(first!.heardAt))
  u64(IN.dataUna, connection.dataUna)
  u64(IN.una, first!.una)
  u32(IN.window, connection.remoteWindow / 2 ** first!.remoteScale)
}

class Slot implements FastSlot {
  readonly #view: DataView
  readonly #at: number
  readonly #clock: number
  readonly #ended: () => void

  constructor(view: DataView, at: number, clock: number, ended: () => void) {
    this.#view = view
    this.#at = at
    this.#clock = clock
    this.#ended = ended
  }

  #u32(field: number): number {
    return this.#view.getUint32(this.#at + field, true)
  }

  #u64(field: number): number {
    return Number(this.#view.getBigUint64(this.#at + field, true))
  }

  #time(field: number): number {
    const nanoseconds = this.#u64(field)
    return nanoseconds === 0 ? Number.NEGATIVE_INFINITY : nanoseconds / 1e6 + this.#clock
  }

  read(): FastNumbers {
    return {
      sends: this.#u32(OUT.on) === 1,
      receives: this.#u32(IN.on) === 1,
      sndMax: this.#u64(OUT.sndMax),
      rcvMax: this.#u64(IN.rcvMax),
      tan: this.#u64(OUT.tan),
      dataUna: this.#u64(IN.dataUna),
      una: this.#u64(IN.una),
      window: this.#u32(OUT.window),
      remoteWindow: this.#u32(IN.window),
      srtt: this.#u32(OUT.srtt) / 8000,
      heardAt: this.#time(IN.heard),
      askedAt: this.#time(OUT.asked),
      expectedAt: this.#time(OUT.expected),
      dataAt: this.#time(IN.dataAt),
      burst: this.#u32(IN.burst),
    }
  }

  /** Each number after what it stands for is there. */
  advance(sndMax: number, rcvMax: number, sent: readonly Run[]): void {
    const view = this.#view
    let tail = this.#u32(USER.ringTail)
    for (const { ssn, length } of sent) {
      const at = this.#at + RING_AT + 8 * (tail & (RING - 1))
      view.setUint32(at, ssn >>> 0, true)
      view.setUint32(at + 4, length, true)
      tail = (tail + 1) >>> 0
    }
    view.setUint32(this.#at + USER.ringTail, tail, true)
    view.setBigUint64(this.#at + USER.rcvMax, BigInt(rcvMax), true)
    view.setBigUint64(this.#at + USER.sndMax, BigInt(sndMax), true)
  }

  end(): ReturnType<FastSlot['end']> {
    this.#view.setUint32(this.#at + USER.mode, 0, true)
    for (let i = 0; i < STEPS; i++) {
      // A system call at least: the kernel has to have seen it before what it did is looked at.
      usleep(i === 0 ? 0 : STEP_US)
      if (this.#u64(OUT.busy) === 0 && this.#u64(IN.busy) === 0) break
    }
    const numbers = this.read()
    const sent = numbers.sends ? this.#sent(numbers) : []
    this.#ended()
    return { numbers, sent }
  }

  /** From the newest back to what is acknowledged. */
  #sent({ sndMax, dataUna }: FastNumbers): Run[] {
    const sent: Run[] = []
    const tail = this.#u32(OUT.ringTail)
    let end = sndMax
    for (let i = 1; i <= RING && end > dataUna; i++) {
      const at = RING_AT + 8 * ((tail - i) & (RING - 1))
      const length = this.#u32(at + 4)
      const begin = end - length
      if (length === 0 || begin < 1 || begin >>> 0 !== this.#u32(at)) break
      sent.push({ ssn: begin, dsn: begin, length })
      end = begin
    }
    return sent.reverse()
  }
}

/** The fast path in the kernel: programs, maps, and a slot for each connection that it takes (layout.ts). */
import { createHash as digest } from 'node:crypto'
import { ENOENT } from '../../core/errno.ts'
import { Protocol } from '../../core/ip.ts'
import { cgroupMount } from '../../linux/cgroup.ts'
import { KernelConnTracker } from '../../linux/conntrack.ts'
import { Ledger } from '../../linux/ledger.ts'
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
import type { Connection, FastPath } from '../machine/connection.ts'
import type { FastLeft, FastSlot, FastWay } from '../machine/fast-slot.ts'
import { type Tuple, tupleKey } from '../machine/segment.ts'
import { Differs, OWNER, SLOT, SLOTS, TUPLE, TUPLE_VALUE } from './layout.ts'
import { removeOrphans } from './orphans.ts'
import { awayProgram, inProgram, outProgram } from './programs.ts'
import { differsOf, MAPPINGS, SlotTable, type TupleMap } from './slots.ts'

const usleep = declare<(microseconds: number) => number>('int usleep(unsigned int microseconds)')

/** Of the names of all its programs. */
const PREFIX = 'gwmptcp'
/** Changes with what lies in the maps. */
const FORMAT = 2
/** Programs of earlier ones are removed; what they carried goes on as the record says. */
const FORMER = [1]
/** Waiting for runs of a program (in steps of 50 µs); they take a few. */
const STEPS = 200
const STEP_US = 50

export interface FastPathOptions {
  readonly ledger: Ledger
  /** False: only what a killed process left is taken back. */
  readonly enabled: boolean
  /** Connections whose sockets are prepared. */
  readonly connections: number
  /** Monotonic milliseconds. */
  readonly now: () => number
  /** What the local TCP sends of a connection, and has a DSS, gets this mark, which routes it; for as long as its tuple is watched. */
  readonly send: (tuple: Tuple, mark: number) => void
}

/** A device by which packets of connections come and leave. */
export interface FastDevice {
  readonly name: string
  readonly index: number
  /** Of packets that are to leave by it; undefined while it has no routing table. */
  readonly mark: number | undefined
}

const DIRECTIONS = [Tcx.INGRESS, Tcx.EGRESS] as const

export class KernelFastPath implements FastPath {
  readonly mappings = MAPPINGS
  #enabled: boolean
  readonly #name: string
  readonly #former: readonly string[]
  readonly #cgroup: string
  readonly #tuples: BpfMap
  readonly #array: SharedArray
  readonly #slots: SlotTable
  readonly #in: number
  readonly #out: number
  readonly #away: number
  readonly #send: FastPathOptions['send']
  /** Connections whose packets have one. */
  readonly #marked = new Set<string>()
  readonly #devices = new Map<number, FastDevice>()
  /** Those that have our programs: one that is no access just now may have packets for it still. */
  readonly #attached = new Set<number>()
  #tracker: KernelConnTracker | undefined
  #old: { readonly tuples: BpfMap; readonly slots: SharedArray } | undefined

  /** Throws a KernelError where the kernel has none of it, or lets us have none. Nothing is attached before `attach`. */
  constructor({ ledger, enabled, connections, now, send }: FastPathOptions) {
    const cookie = namespaceCookie()
    this.#cgroup = cgroupOf()
    this.#name = nameIn(ledger, cookie)
    this.#former = FORMER.map((format) => nameIn(ledger, cookie, format))
    this.#enabled = enabled
    this.#send = send
    this.#old = this.#findOld()
    this.#tuples = createHash('godwit_mptcp', TUPLE, TUPLE_VALUE, connections + SLOTS)
    this.#array = SharedArray.create('godwit_mptcp', SLOT, SLOTS + 1)
    this.#array.view.setUint32(SLOTS * SLOT + OWNER, namespaceId(), true)
    this.#slots = new SlotTable({
      tuples: tupleMap(this.#tuples),
      view: this.#array.view,
      now,
      clock: now() - Number(process.hrtime.bigint()) / 1e6,
      settle,
    })
    const maps = { tuples: this.#tuples.fd, slots: this.#array.fd }
    this.#out = loadSockOps(this.#name, outProgram(maps, cookie))
    this.#in = loadProgram(this.#name, inProgram(maps), Tcx.INGRESS)
    this.#away = loadProgram(this.#name, awayProgram(maps, ledger.mptcp.marks), Tcx.EGRESS)
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

  left(tuple: Tuple): FastLeft | undefined {
    if (this.#old === undefined) return undefined
    const { tuples, slots } = this.#old
    return this.#slots.left({ tuples: tupleMap(tuples), view: slots.view }, tuple)
  }

  /** The programs run from now on, in place of those that a killed process left. Says why not, if they do not. */
  attach(): string | undefined {
    this.#old?.slots.close()
    if (this.#old !== undefined) closeFd(this.#old.tuples.fd)
    this.#old = undefined
    try {
      for (const name of [this.#name, ...this.#former]) detachSockOps(this.#cgroup, name)
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

  /** The accesses that work; those without an Ethernet header are left out. */
  setDevices(devices: readonly FastDevice[]): void {
    for (const index of this.#devices.keys())
      if (!devices.some((each) => each.index === index)) this.#devices.delete(index)
    for (const device of devices) {
      const { index } = device
      try {
        if (!this.#devices.has(index)) {
          this.#detach(index)
          if (!this.#enabled) continue
          attachTcx(index, Tcx.INGRESS, this.#in)
          this.#attached.add(index)
          // Before those of others: what one accepts by itself would leave as the local TCP sent it.
          attachTcx(index, Tcx.EGRESS, this.#away, true)
        }
        this.#devices.set(index, device)
      } catch (error) {
        // It is gone already, or its driver has none of it: packets that come by it are queued.
        if (!(error instanceof KernelError)) throw error
      }
    }
  }

  #detach(index: number): void {
    for (const name of [this.#name, ...this.#former])
      for (const where of DIRECTIONS) detachTcx(index, where, name)
    this.#attached.delete(index)
  }

  watch(tuple: Tuple, on: boolean): void {
    if (!on) this.#marked.delete(tupleKey(tuple))
    if (on && !this.#enabled) return
    try {
      this.#slots.watch(tuple, on)
    } catch (error) {
      // No room: it stays with user space.
      if (!on || !(error instanceof KernelError)) throw error
    }
  }

  begin(connection: Connection, way: FastWay): FastSlot | undefined {
    const { access, tuple } = way.subflow
    const device = [...this.#devices.values()].find(({ name }) => name === access)
    if (!this.#enabled || device === undefined || !this.#slots.hasRoom(connection.tuple)) return undefined
    // What has a mark is translated, whatever the numbers.
    if (differsOf(connection, way) !== Differs.NOTHING || this.#marked.has(connection.key)) {
      if (device.mark === undefined || !this.#loosen(connection.tuple) || !this.#loosen(tuple))
        return undefined
      this.#send(connection.tuple, device.mark)
      this.#marked.add(connection.key)
    }
    return this.#slots.begin(connection, way)
  }

  /** Connection tracking accepts any numbers of a tuple from now on: it sees the wire's or the local TCP's. False when that is not to be had. */
  #loosen({ local, localPort, remote, remotePort }: Tuple): boolean {
    try {
      this.#tracker ??= new KernelConnTracker()
      this.#tracker.loosen({
        protocol: Protocol.TCP,
        ...{ localAddress: local, localPort, remoteAddress: remote, remotePort },
      })
      return true
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      return error.errno === ENOENT
    }
  }

  close(): void {
    detachSockOps(this.#cgroup, this.#name)
    for (const index of [...this.#attached])
      try {
        this.#detach(index)
      } catch (error) {
        // The device is gone.
        if (!(error instanceof KernelError)) throw error
      }
    for (const fd of [this.#in, this.#out, this.#away, this.#tuples.fd]) closeFd(fd)
    this.#array.close()
    this.#tracker?.close()
  }
}

/** Removes what a killed process left; `devices`: of all devices of this namespace. */
export function removeFastPath(ledger: Ledger, devices: readonly number[]): void {
  const mount = cgroupMount()
  try {
    for (const format of [FORMAT, ...FORMER]) {
      const name = nameIn(ledger, namespaceCookie(), format)
      if (mount !== undefined) detachSockOps(mount, name)
      for (const index of devices) for (const where of DIRECTIONS) detachTcx(index, where, name)
    }
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
        const { marks } = new Ledger().mptcp
        closeFd(loadProgram('godwit_probe', awayProgram({ ...none, slots: slots.fd }, marks), Tcx.EGRESS))
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
function nameIn({ instance, base }: Ledger, cookie: bigint, format = FORMAT): string {
  const whose = digest('sha256').update(`${instance} ${base} ${cookie} ${format}`).digest('hex')
  return PREFIX + whose.slice(0, 8)
}

function tupleMap(map: BpfMap): TupleMap {
  return {
    get: (key) => readElement(map, key),
    put: (key, value) => putElement(map, key, value),
    remove: (key) => removeElement(map, key),
  }
}

function settle(done: () => boolean): void {
  for (let i = 0; i < STEPS; i++) {
    // A system call at least: the kernel has to have seen what was written before what it did is looked at.
    usleep(i === 0 ? 0 : STEP_US)
    if (done()) return
  }
}
